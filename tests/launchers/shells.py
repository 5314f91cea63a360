"""Runs the text of launchers, with fake commands on the PATH, and managers that say which signals they got."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAKE = Path(__file__).with_name("fake_starter.py")

MANAGER = """\
import os, signal, sys
signals = [signal.SIGUSR1, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
def say(text):
    with open(sys.argv[1], "a") as fifo:
        fifo.write(text + "\\n")
say("ready")
first = True
while (number := signal.sigwait(signals)) != signal.SIGTERM:
    if first:
        say("warned")
    first = False
say("ending")
with open(sys.argv[2], "rb", buffering=0) as go_on:
    assert go_on.read(1)
sys.exit(int(sys.argv[3]))
"""
"""Says when it is ready, when SIGUSR1 comes first, and when SIGTERM comes; then waits for a byte to end."""


def bash(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the text to its end."""
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", text], capture_output=True, env=variables, check=False, text=True)


def read_lines(path: Path, count: int) -> list[str]:
    """The lines that ``count`` processes write to a fifo. It is never without a reader meanwhile."""
    with open(os.open(path, os.O_RDWR), "rb", buffering=0) as file:
        text = b""
        while text.count(b"\n") < count:
            text += file.read(4096)
    return text.decode().splitlines()


class Commands:
    """A folder with fake commands, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.log = folder / "calls.json"
        self.bin.mkdir()
        for name in ("srun", "mpiexec", "mpirun", "aprun", "jsrun", "parallel"):
            program = self.bin / name
            program.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
            program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a shell find them."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE_LOG": str(self.log)}

    def calls(self) -> list[dict[str, Any]]:
        """What was called, in order."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class Managers:
    """``count`` managers behind the text of a launcher, in a shell that is signalled alone."""

    def __init__(self, folder: Path, count: int, status: int = 0) -> None:
        self.count = count
        self._said, self._go_on = folder / "said", folder / "go on"
        os.mkfifo(self._said)
        os.mkfifo(self._go_on)
        program = folder / "manager.py"
        program.write_text(MANAGER)
        self.command = shlex.join(
            [sys.executable, str(program), str(self._said), str(self._go_on), str(status)]
        )
        self.shell: subprocess.Popen[bytes]

    @contextmanager
    def running(self, text: str, **environment: str) -> Iterator[None]:
        """Run the text; at the end nothing of it is left."""
        variables = {**os.environ, **environment}
        self.shell = subprocess.Popen(["bash", "-c", text], start_new_session=True, env=variables)
        try:
            yield
        finally:
            if self.shell.poll() is None:
                os.killpg(self.shell.pid, signal.SIGKILL)
                self.shell.wait()

    def expect(self, what: str) -> None:
        """Wait until each manager has said so."""
        assert read_lines(self._said, self.count) == [what] * self.count

    @contextmanager
    def going(self) -> Iterator[None]:
        """Let the managers end."""
        with open(os.open(self._go_on, os.O_RDWR), "wb", buffering=0) as file:
            file.write(b"." * self.count)
            yield

    def let_go(self) -> int:
        """Let the managers end; the exit status of the text."""
        with self.going():
            return self.shell.wait(20)
