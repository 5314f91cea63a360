"""``throughway bench``: what surrounds a task that does nothing, beside the standard library's process pool.

A small benchmark for users; the comparison with other packages, with CPU time and memory, is in the
project's ``benchmarks/``. Both executors take turns, so that a machine that slows down does so for both, and
each starts anew in each round, while the other is not there.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from throughway import __version__
from throughway.cli import figures
from throughway.errors import ConfigurationError, ThroughwayError
from throughway.protocol.version import implementation

if TYPE_CHECKING:
    from rich.console import Console

ROUND_TRIPS = 1000
"""Round trips in one measurement, or as many as there are tasks where that is fewer."""

OURS = "Throughway"
THEIRS = "ProcessPoolExecutor"


class Measure(NamedTuple):
    """A row of the table. Of a rate more is better, of a time less."""

    key: str
    title: str
    is_rate: bool


MEASURES = (
    Measure("submit_rate", "submit, tasks/s", True),
    Measure("map_rate", "map, tasks/s", True),
    Measure("round_trip_median", "round trip, median", False),
    Measure("round_trip_p99", "round trip, 99 %", False),
    Measure("start_seconds", "first result after", False),
)

Figures = dict[str, float]
"""A figure for each key of `MEASURES`, times in seconds."""


def echo(value: int) -> int:
    """The task: nothing to do, and a result that shows which task it was."""
    return value


def measure(make: Callable[[], Executor], tasks: int) -> Figures:
    """All figures of one new executor, which is shut down in the end.

    Raises:
        ThroughwayError: a result is wrong.
    """
    gc.collect()
    began = time.perf_counter()
    with make() as executor:
        _expect([executor.submit(echo, 0).result()], 1)
        started = time.perf_counter() - began
        # Pools that start their workers one by one, as tasks come, have them all after this.
        _expect(_submitted(executor, tasks // 10), tasks // 10)

        gc.collect()
        began = time.perf_counter()
        results = _submitted(executor, tasks)
        submitted = time.perf_counter() - began
        _expect(results, tasks)

        gc.collect()
        began = time.perf_counter()
        results = list(executor.map(echo, range(tasks)))
        mapped = time.perf_counter() - began
        _expect(results, tasks)

        trips = [_round_trip(executor, k) for k in range(min(tasks, ROUND_TRIPS))]
    return {
        "submit_rate": tasks / submitted,
        "map_rate": tasks / mapped,
        "round_trip_median": statistics.median(trips),
        "round_trip_p99": percentile(trips, 0.99),
        "start_seconds": started,
    }


def _submitted(executor: Executor, tasks: int) -> list[int]:
    futures = [executor.submit(echo, k) for k in range(tasks)]
    return [future.result() for future in futures]


def _round_trip(executor: Executor, value: int) -> float:
    began = time.perf_counter()
    result = executor.submit(echo, value).result()
    took = time.perf_counter() - began
    if result != value:
        raise ThroughwayError(f"task {value} gave {result}")
    return took


def _expect(results: list[int], tasks: int) -> None:
    if results != list(range(tasks)):
        wrong = sum(result != k for k, result in enumerate(results))
        raise ThroughwayError(f"{wrong} of {tasks} results are wrong: the figures would be worth nothing")


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    rank = -int(-len(ordered) * share // 1)
    return ordered[max(0, rank - 1)]


def benchmark(
    console: Console,
    *,
    tasks: int,
    workers: int | None,
    rounds: int,
    json_file: str | None = None,
    run_dir: str | None = None,
) -> int:
    """Measure both executors, print the table; returns the exit status.

    Args:
        tasks: tasks in one measurement of throughput.
        workers: workers of each executor; None for one on each core.
        rounds: how often each is measured.
        json_file: where every figure is written as JSON, None for nowhere.
        run_dir: see `HighThroughputExecutor`.

    Raises:
        ConfigurationError: the file cannot be written; this is found out before anything is measured.
    """
    from throughway.executors.high_throughput import HighThroughputExecutor
    from throughway.manager.sizing import cores_available

    if json_file is not None:
        _check_writable(json_file)
    cores = cores_available()
    count = workers or cores
    contenders: dict[str, Callable[[], Executor]] = {
        OURS: lambda: HighThroughputExecutor(
            "bench", cores_per_worker=min(1.0, cores / count), max_workers_per_node=count, run_dir=run_dir
        ),
        THEIRS: lambda: ProcessPoolExecutor(count),
    }
    console.print(
        f"{figures.counted(tasks, 'task')} that do nothing, {figures.counted(count, 'worker')}, "
        f"{figures.counted(rounds, 'round')}; {implementation()}, {figures.counted(cores, 'core')}.",
        highlight=False,
    )
    measured: dict[str, list[Figures]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            # Printed, not animated: a thread that draws would take part in what is measured.
            found = measure(contenders[name], tasks)
            measured[name].append(found)
            console.print(
                f"  round {number + 1}, {name}: {figures.rate(found['submit_rate'])} tasks/s, round trip "
                f"{figures.seconds(found['round_trip_median'])}",
                highlight=False,
                style="dim",
            )
    medians = {name: _medians(rows) for name, rows in measured.items()}
    ratios = {row.key: ratio(row, medians[OURS], medians[THEIRS]) for row in MEASURES}
    _print(console, medians, ratios)
    if json_file is not None:
        document = {
            "throughway": __version__,
            "python": implementation(),
            "platform": platform.platform(),
            "cores": cores,
            "load": os.getloadavg(),
            "start_method": multiprocessing.get_start_method(),
            "parameters": {"tasks": tasks, "workers": count, "rounds": rounds},
            "rounds": measured,
            "medians": medians,
            "ratios": ratios,
        }
        _write(json_file, document)
        console.print(f"Every figure is in {json_file}.", highlight=False, soft_wrap=True)
    return 0


def _medians(rows: list[Figures]) -> Figures:
    return {row.key: statistics.median(found[row.key] for found in rows) for row in MEASURES}


def ratio(row: Measure, ours: Figures, theirs: Figures) -> float:
    """How many times faster ours is; below 1 where it is slower."""
    return ours[row.key] / theirs[row.key] if row.is_rate else theirs[row.key] / ours[row.key]


def _print(console: Console, medians: dict[str, Figures], ratios: dict[str, float]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("median of the rounds")
    table.add_column(OURS, justify="right", style="bold")
    table.add_column(THEIRS, justify="right")
    table.add_column(f"{OURS} is", justify="right")
    for row in MEASURES:
        show = figures.rate if row.is_rate else figures.seconds
        times = ratios[row.key]
        verdict = f"{figures.times(max(times, 1 / times))} {'faster' if times >= 1 else 'slower'}"
        verdict = f"[{'green' if times >= 1 else 'red'}]{verdict}[/]"
        table.add_row(row.title, show(medians[OURS][row.key]), show(medians[THEIRS][row.key]), verdict)
    console.print(table)


def _check_writable(path: str) -> None:
    try:
        with open(path, "a"):
            pass
    except OSError as error:
        raise ConfigurationError(f"--json {path}: it cannot be written: {error.strerror}") from error


def _write(path: str, document: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
