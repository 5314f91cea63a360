"""Getting a contender to its steady state before anything is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.tasks import whoami

WORKERS = 2
_PATIENCE = 60.0


def see_all_workers(
    contender: Contender, function: Callable[[Any], int] = whoami, argument: Any = 0.05
) -> frozenset[int]:
    """The process ids of both workers, each of which has run something.

    Raises:
        RuntimeError: one worker, or more than two, do all the work.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while len(seen) < WORKERS and time.monotonic() < deadline:
        seen.update(contender.collect(contender.submit_all(function, [argument] * (2 * WORKERS))))
    if len(seen) != WORKERS:
        raise RuntimeError(f"{len(seen)} workers took part instead of {WORKERS}: {sorted(seen)}")
    return frozenset(seen)


def tasks_for(seconds: float, run: Callable[[int], float], *, first: int = 64, enough: float = 0.4) -> int:
    """How many tasks take about so long: ``run(n)`` runs n tasks and gives the seconds that they took.

    Doubles the number until it takes ``enough`` seconds, which also brings everything to its steady state.
    """
    count = first
    while (took := run(count)) < enough:
        count = min(4 * count, max(2 * count, int(count * enough / max(took, 1e-6) * 1.1)))
    return max(first, int(count * seconds / took))
