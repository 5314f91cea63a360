"""Keeping workers busy with tasks that wait."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.tasks import hold

_PATIENCE = 60.0


@dataclass
class Holding:
    """Tasks that hold workers until `release`."""

    pids: frozenset[int]
    futures: list[Any]
    gate: Path

    def release(self) -> None:
        """Let the tasks end."""
        with open(self.gate, "wb"):
            pass


def hold_workers(contender: Contender, folder: Path, count: int) -> Holding:
    """Hold ``count`` workers; returns once each has started on its task.

    Raises:
        RuntimeError: they do not all start.
    """
    place = tempfile.mkdtemp(prefix="hold-", dir=folder)
    gate = Path(place, "gate")
    os.mkfifo(gate)
    futures = contender.submit_all(hold, [place] * count)
    deadline = time.monotonic() + _PATIENCE
    while True:
        started = [
            int(name.removeprefix("started-")) for name in os.listdir(place) if name.startswith("started-")
        ]
        if len(started) >= count:
            return Holding(frozenset(started), futures, gate)
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{len(started)} of {count} tasks that hold a worker started within {_PATIENCE:.0f} s"
            )
        time.sleep(0.002)
