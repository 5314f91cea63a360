"""Runs a command of a resource manager: within a time limit, with bounded output, and with errors that help."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from throughway.providers.interface import SchedulerError

MAX_OUTPUT = 64 << 20
"""Bytes of output that a command may write before it is taken to have gone wild."""

QUOTED = 2000
"""Characters of a command's output that an error quotes."""

SECONDS_TO_DIE = 2.0
"""How long a killed command may take to be gone: one that hangs in a file system can take for ever."""

_CHUNK = 1 << 16

_undead: list[subprocess.Popen[bytes]] = []
"""Killed commands that were not gone in time; each later call looks after them."""


class CommandResult(NamedTuple):
    """What a command said. ``exit_code`` is as a shell has it: 128 + n for one that signal n ended."""

    command: Sequence[str]
    exit_code: int
    stdout: str
    stderr: str

    def described(self) -> str:
        """The command, its exit code and what it said, in one line where that is short."""
        said = "\n".join(text.strip() for text in (self.stderr, self.stdout) if text.strip())
        if len(said) > QUOTED:
            said = f"{said[: QUOTED // 2]} [...] {said[-QUOTED // 2 :]}"
        return f"{shlex.join(self.command)} (exit code {self.exit_code}) said: {said or 'nothing'}"


class CommandMissing(SchedulerError):
    """There is no such command here."""


class CommandTimedOut(SchedulerError):
    """A command took more than its time and was killed. What it was to do may have been done."""


class CommandFailed(SchedulerError):
    """A command could not be run, or said what makes no sense or that it failed."""


def run(
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
    max_output: int = MAX_OUTPUT,
) -> CommandResult:
    """Run ``command`` without input and wait for its end, for ``timeout`` seconds at most.

    It has a session of its own, so that Ctrl-C does not end it half way; after ``timeout`` its whole process group
    is killed. What it leaves running in the background is left alone, and not waited for. ``environment`` replaces
    the process's own, also to find the command; ``folder`` is where it runs.

    Raises:
        CommandMissing: there is no such command.
        CommandTimedOut: it took too long.
        CommandFailed: it could not be started, or wrote more than ``max_output`` bytes.
    """
    _look_after_the_undead()
    argv = list(command)
    variables = os.environ if environment is None else environment
    path = variables.get("PATH", os.defpath)
    program = shutil.which(argv[0], path=path)
    if program is None:
        raise CommandMissing(
            f"the command {argv[0]} was not found: PATH is {path}. Run on a host of the cluster that has it, "
            "load the module that brings it, or add its folder to PATH"
        )
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(variables),
            cwd=folder,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{shlex.join(argv)} could not be started: {error}") from error
    outputs = _Outputs(process, max_output)
    try:
        ended = outputs.read(time.monotonic() + timeout)
    except BaseException:
        _kill(process)
        raise
    finally:
        outputs.close()
    if not ended:
        _kill(process)
        result = CommandResult(argv, 137, *outputs.texts())
        if outputs.left < 0:
            raise CommandFailed(f"{shlex.join(argv)} wrote more than {max_output} bytes and was killed")
        raise CommandTimedOut(
            f"{shlex.join(argv)} did not end within cmd_timeout={timeout:g} s and was killed; it said: "
            f"{_said(result)}. The resource manager is overloaded, down or out of reach: "
            "try the command by hand, or give a greater cmd_timeout"
        )
    code = process.wait()
    return CommandResult(argv, 128 - code if code < 0 else code, *outputs.texts())


def _said(result: CommandResult) -> str:
    said = f"{result.stderr.strip()} {result.stdout.strip()}".strip()
    return said[:QUOTED] or "nothing"


class _Outputs:
    """Both outputs of a process, read while it runs; ``left`` are the bytes that it may still write."""

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.left = limit
        self._process = process
        self._streams: tuple[IO[bytes], IO[bytes]] = (process.stdout, process.stderr)
        self._parts: dict[IO[bytes], list[bytes]] = {stream: [] for stream in self._streams}
        self._ending = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ending, selectors.EVENT_READ)
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)

    def read(self, deadline: float) -> bool:
        """Read until the process ends; False where that takes longer than ``deadline`` or it writes too much."""
        while (wait := deadline - time.monotonic()) > 0:
            ended = False
            for key, _ in self._selector.select(wait):
                if key.fileobj == self._ending:
                    ended = True
                else:
                    self._read_some(key.fileobj)  # type: ignore[arg-type]
            if self.left < 0:
                return False
            if ended:
                # What it wrote is in the pipes by now; whoever else holds their ends is not waited for.
                for stream in self._streams:
                    while self._read_some(stream):
                        pass
                return self.left >= 0
        return False

    def _read_some(self, stream: IO[bytes]) -> bool:
        try:
            data = os.read(stream.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        self._parts[stream].append(data)
        self.left -= len(data)
        if not data and stream in self._selector.get_map():
            self._selector.unregister(stream)
        return bool(data) and self.left >= 0

    def texts(self) -> tuple[str, str]:
        """What was read, as text."""
        stdout, stderr = (
            b"".join(self._parts[stream]).decode("utf-8", "replace") for stream in self._streams
        )
        return stdout, stderr

    def close(self) -> None:
        """Give the descriptors back."""
        self._selector.close()
        os.close(self._ending)
        for stream in self._streams:
            stream.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process's group, which it leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(SECONDS_TO_DIE)
    except subprocess.TimeoutExpired:
        _undead.append(process)


def _look_after_the_undead() -> None:
    for process in list(_undead):
        if process.poll() is not None:
            with contextlib.suppress(ValueError):  # another thread looked, too
                _undead.remove(process)
