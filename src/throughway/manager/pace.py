"""How long tasks take here, learnt from those that ended, and what follows: bundle sizes and capacity.

Tiny tasks travel in bundles and are held in depth, so that neither pipes nor wires cost more than the tasks do; tasks
of more than about a millisecond go one by one and are hardly held at all, so that none waits where it could run.
"""

from __future__ import annotations

from collections.abc import Sequence

from throughway.protocol.messages import Task

BUNDLE_SECONDS = 0.001
"""Tasks in one bundle should take about this long together."""

MAX_BUNDLE_TASKS = 256

HOLD_SECONDS = 0.05
"""A manager that adapts holds tasks for about this long beyond those that its workers run."""

MAX_HELD_TASKS = 16_384

OVERHEAD_SECONDS = 2.5e-6
"""What a task costs a worker beside its own running time, about."""

_WEIGHT = 0.2


class Pace:
    """Running estimates of how long tasks take, for each function and over all."""

    def __init__(self) -> None:
        self._functions: dict[int, float] = {}
        self._mean: float | None = None

    def learn(self, function: int, seconds: float, count: int = 1) -> None:
        """``count`` tasks of this function took ``seconds`` together."""
        each = seconds / count
        weight = _WEIGHT if count == 1 else 1.0 - (1.0 - _WEIGHT) ** count
        known = self._functions
        old = known.get(function)
        known[function] = each if old is None else old + weight * (each - old)
        mean = self._mean
        self._mean = each if mean is None else mean + weight * (each - mean)

    def at_least(self, function: int, seconds: float) -> None:
        """A task of this function has been running for so long and has not ended."""
        if self._functions.get(function, 0.0) < seconds:
            self._functions[function] = seconds

    def forget(self, function: int) -> None:
        """No task of this function will come any more."""
        self._functions.pop(function, None)

    def bundle(self, tasks: Sequence[Task]) -> int:
        """How many of these, from the first, should go to a worker as one bundle. At least 1.

        A task with a walltime goes alone, so that it starts when it is given; so does one of a function that is not
        known yet.
        """
        known = self._functions
        total = 0.0
        for index, task in enumerate(tasks):
            seconds = known.get(task.function)
            if seconds is None or task.walltime:
                return max(1, index)
            total += seconds + OVERHEAD_SECONDS
            if total > BUNDLE_SECONDS:
                return max(1, index)
        return len(tasks)

    def depth(self, workers: int) -> int:
        """How many tasks to hold beyond one for each of these workers that get on with their work."""
        if self._mean is None:
            return 0
        return min(MAX_HELD_TASKS, int(workers * HOLD_SECONDS / (self._mean + OVERHEAD_SECONDS)))
