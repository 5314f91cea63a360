"""Users' programs: scripts that run in processes of their own, with an executor in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import throughway

ROOT = str(Path(__file__).resolve().parents[2])
PACKAGE_PARENT = str(Path(throughway.__file__).resolve().parents[1])


def environment(*import_path: str, **more: str) -> dict[str, str]:
    """This process's environment, with an import path that has Throughway and then just these entries."""
    path = os.pathsep.join((PACKAGE_PARENT, *import_path))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class Script:
    """A program under way, in a session of its own; what is left of it is killed at the end of the `with` block.

    Args:
        arguments: what the interpreter gets, such as ``["-c", code]`` or a path.
        cwd: its working directory.
        env: its environment; None for one in which the modules of the tests can be imported.
        stdin: text for its standard input.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment(ROOT) if env is None else env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stdin = stdin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def line(self) -> str:
        """The next line of its output; fails with what it said where there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            output, errors = self.process.communicate(timeout=20)
            raise AssertionError(f"the script ended with {self.process.returncode}: {output}{errors}")
        return line.rstrip("\n")

    def told(self) -> Any:
        """The next line, which must be JSON."""
        return json.loads(self.line())

    def signal(self, number: signal.Signals) -> None:
        """Signal its whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ended(self, timeout: float = 20) -> tuple[int, str, str]:
        """Wait for it: exit status (negative for a signal), what else it printed, and its errors."""
        output, errors = self.process.communicate(self._stdin, timeout=timeout)
        return self.process.returncode, output, errors


def run(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Run a program that must succeed, and return what it printed."""
    with Script(arguments, cwd=cwd, env=env, stdin=stdin) as script:
        status, output, errors = script.ended(40)
    assert status == 0, f"the script ended with {status}: {output}{errors}"
    return output.strip()
