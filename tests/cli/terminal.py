"""A command in a pseudo-terminal, and what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Self

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C reaches the process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """Runs ``python -m throughway.cli`` with these words in a terminal of 80 columns and 40 lines."""

    def __init__(self, *words: str) -> None:
        self.screen = ""
        """everything that was written, control sequences left out"""
        self._ours, theirs = pty.openpty()
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 80, 0, 0))
            environment = {
                key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")
            }
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "throughway.cli", *words],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                preexec_fn=_take_terminal,  # noqa: PLW1509 - no other thread is there
                env=environment | {"TERM": "xterm"},
            )
        finally:
            os.close(theirs)

    def read_until(self, text: str, seconds: float = 60) -> None:
        """Read until this is on the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.screen:
            assert self._read(deadline), f"{text!r} did not come: {self.screen}"

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def wait(self, seconds: float = 60) -> int:
        """Read until the end; the exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        assert left > 0, f"out of time: {self.screen}"
        if not select.select([self._ours], [], [], left)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # what a terminal says once nobody has it open
            return False
        self.screen += _CONTROL.sub("", data.decode())
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._ours)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
