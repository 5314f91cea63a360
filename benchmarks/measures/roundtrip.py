"""The time from submitting one no-op to its result, one after the other."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.measures.warm import see_all_workers, tasks_for
from benchmarks.processes import CpuMeter
from benchmarks.tasks import echo

_AT_LEAST = 300


def measure(contender: Contender, root: int, *, seconds: float) -> dict[str, Any]:
    """Make round trips for about ``seconds``; median and 99th percentile in seconds."""
    call = contender.call
    clock = time.perf_counter

    def trips(count: int) -> list[float]:
        times = []
        for value in range(count):
            began = clock()
            result = call(echo, value)
            times.append(clock() - began)
            if result != value:
                raise RuntimeError(f"task {value} gave {result!r}")
        return times

    workers = see_all_workers(contender)
    count = max(_AT_LEAST, tasks_for(seconds, lambda some: sum(trips(some)), first=32, enough=0.2))
    gc.collect()
    meter = CpuMeter(root, workers)
    began = clock()
    times = trips(count)
    wall = clock() - began
    cpu = meter.read()
    cuts = statistics.quantiles(times, n=100)
    return {
        "round_trips": count,
        "median": statistics.median(times),
        "p99": cuts[98],
        "largest": max(times),
        "cpu_per_task": cpu.total / count,
        "foreign_cpu": cpu.foreign / wall,
    }
