"""How soon the death of a process shows in the futures of the tasks that it had."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.measures.holding import hold_workers
from benchmarks.measures.warm import see_all_workers
from benchmarks.processes import descendants, role
from benchmarks.tasks import echo

_PATIENCE = 150.0


def measure(contender: Contender, root: int, *, victim: str, repeats: int = 1) -> dict[str, Any]:
    """Kill a process while a worker runs a task; seconds until that is noticed.

    Args:
        victim: ``worker``: noticed when the future of its task is done. ``manager``: the same.
            ``interchange``: noticed when a task submitted right after the kill is done, or fails.
        repeats: only a worker can be killed more than once.
    """
    folder = Path(contender.folder)
    times: list[float] = []
    outcomes: list[str] = []
    for _ in range(repeats):
        workers = see_all_workers(contender)
        holding = hold_workers(contender, folder, 1)
        if victim == "worker":
            (pid,) = holding.pids
        else:
            pid = _find(root, victim, workers)
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        outcome = _probe(contender) if victim == "interchange" else _outcome(holding.futures[0])
        times.append(time.perf_counter() - began)
        outcomes.append(outcome)
    return {
        "seconds": times,
        "median": sorted(times)[len(times) // 2],
        "worst": max(times),
        "outcomes": outcomes,
    }


def _find(root: int, victim: str, workers: frozenset[int]) -> int:
    found = [
        process.pid
        for process in descendants(root).values()
        if role(process, client=os.getpid(), workers=workers) == victim
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} processes are called {victim} by their titles, one was expected")
    return found[0]


def _outcome(future: Any) -> str:
    error = future.exception(timeout=_PATIENCE)
    return "result" if error is None else type(error).__name__


def _probe(contender: Contender) -> str:
    try:
        (future,) = contender.submit_all(echo, (1,))
    except Exception as error:
        return type(error).__name__
    return _outcome(future)
