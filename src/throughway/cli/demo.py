"""``throughway demo``: the standard library parsed in tasks and, to compare, one file after another."""

from __future__ import annotations

import queue
import sysconfig
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughway.cli import figures
from throughway.cli.complexity import FileReport, examine_file, most_complex, source_files
from throughway.cli.progress import REFRESH_SECONDS, TaskProgress, task_progress
from throughway.errors import ConfigurationError, ThroughwayError
from throughway.protocol.version import python_version

if TYPE_CHECKING:
    from rich.console import Console

    from throughway.executors.high_throughput import HighThroughputExecutor

MOST_COMPLEX = 10
"""Functions in the table."""

_SHOWN = 3
"""Faults and failures that are shown in full."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through all files. ``reports`` are in the order of the paths, without those of failed tasks.

    ``seconds`` counts from the beginning to the last result, ``start_seconds`` to the first: where there are
    workers, that is how long they take to start.
    """

    reports: list[FileReport]
    failures: list[str]
    seconds: float
    start_seconds: float
    workers: int = 1


def demonstrate(
    console: Console,
    *,
    limit: int | None = None,
    workers: int | None = None,
    run_dir: str | None = None,
) -> int:
    """Run the demonstration on ``console``; returns the exit status: 1 where the two results differ.

    Args:
        limit: files, at most; None for all.
        workers: how many; None for one on each core.
        run_dir: see `HighThroughputExecutor`.

    Raises:
        ConfigurationError: the standard library has no source files to parse.
        ThroughwayError: the executor cannot run.
    """
    folder = sysconfig.get_path("stdlib")
    paths = source_files(folder)[:limit]
    if not paths:
        raise ConfigurationError(
            f"the standard library of this interpreter has no source files in {folder}: run the "
            "demonstration with a Python that was installed with them"
        )
    console.print(
        f"Cyclomatic complexity of every function in the standard library: one task for each of "
        f"{figures.counted(len(paths), 'file')} in {folder}.",
        highlight=False,
    )
    console.print()
    parallel = _in_tasks(console, folder, paths, workers, run_dir)
    serial = _serially(console, folder, paths)
    return show_results(console, parallel, serial)


# --------------------------------------------------------------------------------------------- the two passes


def _in_tasks(
    console: Console, folder: str, paths: list[str], workers: int | None, run_dir: str | None
) -> Pass:
    from throughway.executors.high_throughput import HighThroughputExecutor
    from throughway.manager.sizing import cores_available

    # More workers than cores share them.
    share = min(1.0, cores_available() / workers) if workers else 1.0
    began = time.perf_counter()
    with HighThroughputExecutor(
        "demo", cores_per_worker=share, max_workers_per_node=workers, run_dir=run_dir
    ) as executor:
        futures: list[Future[FileReport]] = [executor.submit(examine_file, folder, path) for path in paths]
        with task_progress(console, "in tasks", len(futures)) as progress:
            first, found = _follow(executor, futures, progress)
        took = time.perf_counter() - began
        reports = [future.result() for future in futures if future.exception() is None]
        failures = [
            f"{path}: {error}"
            for path, future in zip(paths, futures, strict=True)
            if (error := future.exception()) is not None
        ]
    return Pass(reports, failures, took, first - began, found)


def _follow(
    executor: HighThroughputExecutor, futures: list[Future[FileReport]], progress: TaskProgress
) -> tuple[float, int]:
    """Show the progress until all are done; when the first one was, and the most workers there were."""
    ended: queue.SimpleQueue[Future[FileReport]] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    first = 0.0
    done = failures = most = 0
    shown = 0.0
    while done < len(futures):
        try:
            future = ended.get(timeout=REFRESH_SECONDS)
        except queue.Empty:
            pass
        else:
            first = first or time.perf_counter()
            done += 1
            failures += future.exception() is not None
        now = time.monotonic()
        if now - shown >= REFRESH_SECONDS or done == len(futures):
            shown = now
            workers = _workers(executor)
            most = max(most, workers)
            progress.update(done, failures=failures, workers=workers)
    return first, most


def _workers(executor: HighThroughputExecutor) -> int:
    try:
        return executor.connected_workers
    except ThroughwayError:
        # The interchange is gone or does not answer: the futures say so, each with the reason.
        return 0


def _serially(console: Console, folder: str, paths: list[str]) -> Pass:
    reports: list[FileReport] = []
    with task_progress(console, "serially", len(paths)) as progress:
        shown = began = time.perf_counter()
        first = 0.0
        for path in paths:
            reports.append(examine_file(folder, path))
            now = time.perf_counter()
            first = first or now
            if now - shown >= REFRESH_SECONDS:
                shown = now
                progress.update(len(reports))
        took = time.perf_counter() - began
        progress.update(len(reports))
    return Pass(reports, [], took, first - began)


# ------------------------------------------------------------------------------------------------- the tables


def show_results(console: Console, parallel: Pass, serial: Pass) -> int:
    """Print the tables and whether both passes found the same; the exit status: 1 where they did not."""
    from rich import box
    from rich.table import Table

    from throughway.manager.sizing import cores_available

    reports = parallel.reports
    faulty = [report for report in reports if report.fault]
    console.print()
    summary = Table(
        title=f"The standard library of Python {python_version()}", title_justify="left", box=box.SIMPLE_HEAD
    )
    figures_of = {
        "files": len(reports),
        "lines": sum(report.lines for report in reports),
        "classes": sum(report.classes for report in reports),
        "functions": sum(len(report.functions) for report in reports),
        "not parseable": len(faulty),
        "failed tasks": len(parallel.failures),
    }
    for heading in figures_of:
        summary.add_column(heading, justify="right")
    summary.add_row(*(figures.count(value) for value in figures_of.values()))
    console.print(summary)

    table = Table(title="The most complex functions", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("complexity", justify="right", style="bold")
    table.add_column("function", style="cyan", overflow="fold")
    table.add_column("module", overflow="fold")
    table.add_column("line", justify="right")
    for function, module in most_complex(reports, MOST_COMPLEX):
        table.add_row(figures.count(function.complexity), function.name, module, str(function.line))
    console.print(table)

    times = Table(title="What it took", title_justify="left", box=box.SIMPLE_HEAD)
    times.add_column("")
    for heading in ("time", "files/s", "first result after"):
        times.add_column(heading, justify="right")
    for name, one in (
        (f"in tasks, {figures.counted(parallel.workers, 'worker')}", parallel),
        ("serially, in one process", serial),
    ):
        speed = figures.rate(len(one.reports) / one.seconds)
        times.add_row(name, figures.seconds(one.seconds), speed, figures.seconds(one.start_seconds))
    speed_up = figures.times(serial.seconds / parallel.seconds)
    times.add_row(
        f"[bold]speed-up on {figures.counted(cores_available(), 'core')}[/]", f"[bold]{speed_up}[/]"
    )
    console.print(times)
    if faulty:
        _print_list(console, "Not parseable: ", [report.module for report in faulty], "dim")
    if parallel.failures:
        _print_list(console, "Failed: ", parallel.failures, "red")
    return _verdict(console, parallel, serial)


def _print_list(console: Console, title: str, entries: list[str], style: str) -> None:
    rest = len(entries) - _SHOWN
    text = title + ", ".join(entries[:_SHOWN]) + (f" and {figures.count(rest)} more" if rest > 0 else "")
    console.print(text, style=style, markup=False, highlight=False)


def _verdict(console: Console, parallel: Pass, serial: Pass) -> int:
    different = [
        one.module for one, other in zip(parallel.reports, serial.reports, strict=False) if one != other
    ]
    if parallel.failures or different or len(parallel.reports) != len(serial.reports):
        places = f", first in {', '.join(different[:_SHOWN])}" if different else ""
        console.print(f"The two results differ{places}.", style="bold red", highlight=False)
        return 1
    functions = sum(len(report.functions) for report in serial.reports)
    console.print(
        f"[green]The two results are equal:[/] {figures.counted(len(serial.reports), 'file')}, "
        f"{figures.counted(functions, 'function')} compared.",
        highlight=False,
    )
    console.print(
        "Next: [bold]throughway bench[/] measures this machine; README.md and docs/ say more.",
        highlight=False,
    )
    return 0
