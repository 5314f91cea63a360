"""The standard library's ProcessPoolExecutor."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders.interface import ExecutorContender


class ProcessPool(ExecutorContender):
    """`concurrent.futures.ProcessPoolExecutor` with two workers and Python's own start method."""

    _class: Any

    def load(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._class = ProcessPoolExecutor

    def start(self) -> None:
        self.executor = self._class(max_workers=2, **self.options)
