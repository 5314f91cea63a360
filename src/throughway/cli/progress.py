"""How far a number of tasks has come: a live line on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from throughway.cli import figures

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

REFRESH_SECONDS = 0.1
"""How often a terminal is drawn anew, and thus how often `TaskProgress.update` need be called."""

PLAIN_STEPS = 4
"""Lines that are printed where there is no terminal, at equal steps."""

PLAIN_SECONDS = 10.0
"""After this long a line is printed there in any case."""


class TaskProgress(Protocol):
    """Shows what it is told."""

    def update(self, done: int, *, failures: int = 0, workers: int | None = None) -> None:
        """``done`` tasks have ended, ``failures`` of them without a result; ``workers`` run them."""


def _rate(done: int, elapsed: float) -> str:
    return f"{figures.rate(done / elapsed) if elapsed > 0 and done else 0} tasks/s"


def _parts(done: int, elapsed: float, failures: int, workers: int | None) -> list[str]:
    parts = [_rate(done, elapsed)]
    if workers is not None:
        parts.append(figures.counted(workers, "worker"))
    return [*parts, figures.counted(failures, "failure")]


class LiveProgress:
    """One line of a terminal with a bar; made by `task_progress`."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self._task = progress.add_task(title, total=total, rate=_rate(0, 0), rest="")

    def update(self, done: int, *, failures: int = 0, workers: int | None = None) -> None:
        """See `TaskProgress.update`."""
        rate, *rest = _parts(done, time.monotonic() - self._began, failures, workers)
        if failures:
            rest[-1] = f"[bold red]{rest[-1]}[/]"
        self._progress.update(self._task, completed=done, rate=rate, rest=" · ".join(rest))


class PlainProgress:
    """A few lines of text: at equal steps, and now and then between them."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._began = self._printed = time.monotonic()
        self._step = 0

    def update(self, done: int, *, failures: int = 0, workers: int | None = None) -> None:
        """See `TaskProgress.update`."""
        now = time.monotonic()
        step = done * PLAIN_STEPS // self._total if self._total else PLAIN_STEPS
        if step == self._step and now - self._printed < PLAIN_SECONDS:
            return
        self._step = step
        self._printed = now
        text = ", ".join(_parts(done, now - self._began, failures, workers))
        counts = f"{figures.count(done)} of {figures.counted(self._total, 'task')}"
        self._console.print(f"{self._title}: {counts}, {text}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def task_progress(console: Console, title: str, total: int) -> Iterator[TaskProgress]:
    """Show the progress of ``total`` tasks until the block ends; what was shown last stays."""
    if not console.is_terminal:
        yield PlainProgress(console, title, total)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", justify="right"),
        TextColumn("{task.fields[rate]}", justify="right", style="cyan"),
        TextColumn("{task.fields[rest]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, expand=True, refresh_per_second=1 / REFRESH_SECONDS) as progress:
        yield LiveProgress(progress, title, total)
