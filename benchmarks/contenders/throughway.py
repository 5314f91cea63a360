"""Throughway."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders.interface import ExecutorContender


class Throughway(ExecutorContender):
    """`throughway.HighThroughputExecutor` with two workers; ``options`` are further parameters."""

    distribution = "throughway"
    _class: Any

    def version(self) -> str:
        from throughway import __version__

        return __version__

    def load(self) -> None:
        from throughway import HighThroughputExecutor

        self._class = HighThroughputExecutor

    def start(self) -> None:
        self.executor = self._class(max_workers_per_node=2, run_dir=self.folder, **self.options)
