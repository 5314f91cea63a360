"""Memory of a queued task, over all processes."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.measures.holding import hold_workers
from benchmarks.measures.warm import see_all_workers
from benchmarks.processes import memory_by_role
from benchmarks.tasks import echo

_PATIENCE = 120.0
_PERIOD = 0.5
_TRIED = 1000
_SETTLED = 0.002
"""The share by which the memory may still change in `_PERIOD` when all tasks have come to rest."""


def measure(contender: Contender, root: int, *, tasks: int) -> dict[str, Any]:
    """Queue so many no-ops behind workers that are all held; bytes of each, from PSS before and after."""
    workers = see_all_workers(contender)
    contender.collect(contender.submit_all(echo, range(1000)))
    holding = hold_workers(contender, Path(contender.folder), len(workers))
    if holding.pids != workers:
        raise RuntimeError(f"workers {sorted(holding.pids)} are held instead of {sorted(workers)}")
    gc.collect()
    before, _ = _at_rest(root, workers)
    began = time.perf_counter()
    pending = contender.submit_all(echo, range(tasks))
    submitted = time.perf_counter() - began
    gc.collect()
    after, waited = _at_rest(root, workers)
    done = sum(bool(future.done()) for future in pending)
    if done:
        raise RuntimeError(f"{done} of {tasks} tasks are done although both workers are held")
    roles = {name: (after.get(name, 0) - before.get(name, 0)) / tasks for name in sorted(before | after)}

    found: dict[str, Any] = {
        "tasks": tasks,
        "bytes_per_task": sum(roles.values()),
        "bytes_per_task_by_role": roles,
        "bytes_before": sum(before.values()),
        "submitted_per_second": tasks / submitted,
        "seconds_to_rest": waited,
    }
    # The figure counts only if the tasks were really queued: let some run, and look at what comes.
    holding.release()
    results = contender.collect(pending[:_TRIED])
    if results != list(range(len(results))) or not results:
        raise RuntimeError("the queued tasks gave wrong results when they ran")
    return found


def _at_rest(root: int, workers: frozenset[int]) -> tuple[dict[str, int], float]:
    """Memory by role once it no longer changes, and how long that took."""
    began = time.monotonic()
    last = memory_by_role(root, workers)
    while True:
        time.sleep(_PERIOD)
        now = memory_by_role(root, workers)
        total = sum(now.values())
        waited = time.monotonic() - began
        if abs(total - sum(last.values())) <= _SETTLED * total:
            return now, waited
        if waited > _PATIENCE:
            raise RuntimeError(f"the memory still changes after {waited:.0f} s (process {os.getpid()})")
        last = now
