"""Tasks per second in the steady state, and the CPU time that each costs, by process."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.measures.warm import WORKERS, see_all_workers, tasks_for
from benchmarks.processes import CpuMeter, descendants, role, tcp_connections
from benchmarks.tasks import echo, size_and_first

_BLOCKS = 64


def measure(
    contender: Contender,
    root: int,
    *,
    seconds: float,
    how: str = "submit",
    block_bytes: int = 0,
    limit: int = 0,
    network: bool = False,
) -> dict[str, Any]:
    """Run passes of tasks for about ``seconds``: submit them all, then collect all results.

    Args:
        how: ``submit`` in a loop, or ``map``.
        block_bytes: give each task a bytes object of this size instead of a number.
        limit: tasks in one pass at most, 0 for no limit: then there is one pass.
        network: fail unless the interchange has TCP connections.
    """
    function: Any
    if block_bytes:
        blocks = [os.urandom(block_bytes) for _ in range(_BLOCKS)]
        function = size_and_first
    else:
        blocks = []
        function = echo

    def prepare(count: int) -> tuple[Any, list[int]]:
        arguments: Any = [blocks[k % _BLOCKS] for k in range(count)] if blocks else range(count)
        return arguments, [function(argument) for argument in arguments]

    submitting: list[float] = []

    def one_pass(arguments: Any) -> tuple[float, list[int]]:
        began = time.perf_counter()
        if how == "map":
            results = contender.map(function, arguments)
        else:
            pending = contender.submit_all(function, arguments)
            submitting.append(time.perf_counter() - began)
            results = contender.collect(pending)
            del pending  # the end of so many futures is part of what they cost
        return time.perf_counter() - began, results

    def trial(count: int) -> float:
        arguments, expected = prepare(count)
        took, results = one_pass(arguments)
        _check(results, expected)
        return took

    workers = see_all_workers(contender)
    wanted = tasks_for(seconds, trial)
    in_pass = min(wanted, limit) if limit else wanted
    arguments, expected = prepare(in_pass)
    submitting.clear()
    gc.collect()
    meter = CpuMeter(root, workers)
    began = time.perf_counter()
    passes = [one_pass(arguments) for _ in range(max(1, round(wanted / in_pass)))]
    wall = time.perf_counter() - began
    cpu = meter.read()
    if network:
        _check_network(root, workers)
    for _, results in passes:
        _check(results, expected)
    tasks = in_pass * len(passes)
    took = sum(seconds for seconds, _ in passes)

    gone = [pid for pid in workers if pid not in cpu.by_process]
    if gone:
        raise RuntimeError(f"workers {gone} ended during the run")
    share = min(cpu.by_process[pid] for pid in workers) / max(
        1e-9, sum(cpu.by_process[pid] for pid in workers)
    )
    if share < 0.1 / WORKERS:
        raise RuntimeError(f"one worker did only {share:.1%} of the work")
    return {
        "tasks": tasks,
        "seconds": took,
        "submitting_seconds": sum(submitting),
        "rate": tasks / took,
        "cpu_per_task": cpu.total / tasks,
        "cpu_per_task_by_role": {name: used / tasks for name, used in sorted(cpu.by_role.items())},
        "smaller_worker_share": share,
        "foreign_cpu": cpu.foreign / wall,
        "vanished_processes": cpu.vanished,
    }


def _check_network(root: int, workers: frozenset[int]) -> None:
    """The figure is of the wire between machines, and of no other."""
    connections = sum(
        tcp_connections(process.pid)
        for process in descendants(root).values()
        if role(process, client=os.getpid(), workers=workers) == "interchange"
    )
    if not connections:
        raise RuntimeError("the interchange has no TCP connections: this is not the wire between machines")


def _check(results: list[int], expected: list[int]) -> None:
    if results != expected:
        wrong = sum(a != b for a, b in zip(results, expected, strict=False))
        raise RuntimeError(f"{wrong} of {len(expected)} results are wrong, {len(results)} came")
