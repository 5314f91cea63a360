"""A fake scheduler for a test: its commands on a PATH, and what it does told by files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until

_PROGRAM = Path(__file__).with_name("scheduler.py")

COMMANDS = (
    "qsub", "qstat", "qselect", "qdel", "bsub", "bjobs", "bkill",
    "condor_submit", "condor_q", "condor_history", "condor_rm",
)  # fmt: skip


class FakeCluster:
    """The commands of all schedulers that `tests.providers.fakes.scheduler` stands for, in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, dialect: str = "") -> None:
        self.folder = folder
        self.state = folder / "state"
        self.bin = folder / "bin"
        self.state.mkdir()
        self.bin.mkdir()
        for name in COMMANDS:
            program = self.bin / name
            program.write_text(f"#!{sys.executable} -IS\n{_PROGRAM.read_text()}")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_STATE", str(self.state))
        monkeypatch.setenv("FAKE_DIALECT", dialect)

    def set(self, word: str, on: bool = True) -> None:
        """One of the words that change what it does."""
        path = self.state / word
        path.touch() if on else path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Lose all record of what has ended."""
        self.set("forget")

    def end(self) -> None:
        """Kill what still runs, and wait until all of it is gone."""
        for path in self.state.glob("*.json"):
            facts = json.loads(path.read_text())
            if facts["waiting"]:
                continue
            ended = path.with_suffix(".exit")
            for group in facts["groups"]:
                if not ended.exists():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
            wait_until(ended.exists, what=f"the end of job {path.stem}")
