"""The standard library's multiprocessing.Pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contenders.interface import Contender


class MultiprocessingPool(Contender):
    """`multiprocessing.Pool.apply_async` with two workers and Python's own start method."""

    _class: Any
    _pool: Any

    def load(self) -> None:
        from multiprocessing import Pool

        self._class = Pool

    def start(self) -> None:
        self._pool = self._class(2)

    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        apply_async = self._pool.apply_async
        return [apply_async(function, (argument,)) for argument in arguments]

    def collect(self, pending: list[Any]) -> list[Any]:
        return [result.get() for result in pending]

    def stop(self) -> None:
        self._pool.close()
        self._pool.join()
