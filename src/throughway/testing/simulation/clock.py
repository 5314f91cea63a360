"""Time that only moves to the next event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

START = 1000.0
"""Seconds on the clock when a run begins: no core may take 0 for the beginning of time."""


class Clock:
    """Events in the order of their moments; those of one moment in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = START
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def at(self, moment: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call this at that moment, or now where it is over."""
        heapq.heappush(self._heap, (max(moment, self.now), next(self._count), call, arguments))

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call this so many seconds from now."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._count), call, arguments))

    def step(self) -> bool:
        """Have the next event happen; False where there is none."""
        if not self._heap:
            return False
        self.now, _, call, arguments = heapq.heappop(self._heap)
        self.steps += 1
        call(*arguments)
        return True
