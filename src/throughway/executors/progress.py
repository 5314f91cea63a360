"""How far a `map` has come: a live bar on a terminal or in a notebook, a few plain lines in a log."""

from __future__ import annotations

import contextvars
import functools
import html
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, TextIO

from throughway.executors.futures import FINISHED
from throughway.executors.interrupts import DeferredInterrupt

TERMINAL_SECONDS = 0.1
"""How often a terminal is drawn anew."""

NOTEBOOK_SECONDS = 0.25
"""How often a notebook's output is replaced."""

LOG_SECONDS = 1.0
"""The least time between two lines of a log."""

LOG_PERCENT = 10
"""A line is due at each further tenth of the calls."""

LOG_LONGEST_SECONDS = 30.0
"""After this long without a line one is due in any case."""


@dataclass(frozen=True)
class Reading:
    """A moment of a map: calls that have ended, ``failed`` of them without a result, of ``total`` (None: not known)."""

    done: int
    failed: int
    total: int | None
    seconds: float

    @property
    def rate(self) -> str:
        """Calls per second so far."""
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"

    @property
    def counts(self) -> str:
        """Such as ``1,000 of 4,000 (25%)``."""
        if self.total is None:
            return f"{self.done:,}"
        percent = 100 * self.done // self.total if self.total else 100
        return f"{self.done:,} of {self.total:,} ({percent}%)"

    @property
    def text(self) -> str:
        """All of it in one line."""
        parts = [self.counts, self.rate]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        parts.append(duration(self.seconds))
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"about {duration(self.seconds * (self.total - self.done) / self.done)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Such as ``0:01:05``, or ``2.5 s`` below ten seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class Display(ABC):
    """Where a map's progress is shown."""

    interval: ClassVar[float]
    """seconds between two readings"""

    def __init__(self, title: str) -> None:
        self.title = title

    @abstractmethod
    def show(self, reading: Reading, *, last: bool) -> None:
        """Show how far it is; ``last`` comes once, at the end."""


class LogDisplay(Display):
    """Plain lines, without any control character: for files, pipes and batch jobs."""

    interval = LOG_SECONDS

    def __init__(self, title: str, stream: TextIO) -> None:
        super().__init__(title)
        self._stream = stream
        self._shown = Reading(0, 0, None, 0.0)

    def show(self, reading: Reading, *, last: bool) -> None:
        """A line at each tenth of the calls, every half minute, and at the end."""
        before = self._shown
        step = reading.total is not None and (
            _tenth(reading.done, reading.total) > _tenth(before.done, reading.total)
        )
        if last or step or reading.seconds - before.seconds >= LOG_LONGEST_SECONDS:
            self._shown = reading
            self._stream.write(f"{self.title}: {reading.text}\n")
            self._stream.flush()


def _tenth(done: int, total: int) -> int:
    return done * (100 // LOG_PERCENT) // total if total else 0


class TerminalDisplay(Display):
    """A bar on a terminal; several maps at a time share one place at its end. Needs rich.

    Raises:
        ModuleNotFoundError: rich is not installed; the message says what to do.
    """

    interval = TERMINAL_SECONDS
    _lock = threading.RLock()
    _shared: ClassVar[Any] = None
    _users: ClassVar[int] = 0

    def __init__(self, title: str, stream: TextIO) -> None:
        super().__init__(title)
        try:
            import rich.progress  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"progress= on a terminal needs the package {error.name!r}, which is not installed: "
                "pip install 'throughway[progress]'",
                name=error.name,
            ) from error
        self._stream = stream
        self._bar: Any = None

    def show(self, reading: Reading, *, last: bool) -> None:
        """Draw the bar; the last one stays."""
        cls = TerminalDisplay
        with cls._lock:
            if self._bar is None:
                if cls._shared is None:
                    cls._shared = _bars(self._stream)
                    cls._shared.start()
                cls._users += 1
                self._bar = cls._shared.add_task(self.title, total=reading.total, rate="", failed="")
            cls._shared.update(
                self._bar,
                completed=reading.done,
                total=reading.done if last and reading.total is None else reading.total,
                rate=reading.rate,
                failed=f"{reading.failed:,} failed" if reading.failed else "",
            )
            if last:
                cls._shared.stop_task(self._bar)
            cls._shared.refresh()
            if last:
                cls._users -= 1
                if not cls._users:
                    cls._shared.stop()
                    cls._shared = None


def _bars(stream: TextIO) -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}", justify="right"),
        progress.TextColumn("{task.fields[failed]}", style="red"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(file=stream),
        auto_refresh=False,
    )


class NotebookDisplay(Display):
    """A bar below a notebook's cell: plain HTML, which needs no widgets and stays in the saved notebook."""

    interval = NOTEBOOK_SECONDS

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._handle: Any = None

    def show(self, reading: Reading, *, last: bool) -> None:
        """Replace what the cell shows."""
        from IPython.display import display

        full = "" if reading.total is None else f' value="{reading.done}" max="{max(1, reading.total)}"'
        if last and reading.total is None:
            full = ' value="1" max="1"'
        text = f"{self.title}: {reading.text}"
        bundle = {
            "text/plain": text,
            "text/html": f"<div><progress{full}></progress> {html.escape(text)}</div>",
        }
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def display_for(title: str) -> Display:
    """The display that fits where this process writes its errors to.

    Raises:
        ModuleNotFoundError: it is a terminal, and rich is not installed.
    """
    ipython = sys.modules.get("IPython")
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
        return NotebookDisplay(title)
    stream = sys.stderr
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalDisplay(title, stream)
    return LogDisplay(title, stream)


class MapProgress:
    """Counts the calls of one map as they end, and has a thread of its own that shows it."""

    def __init__(self, display: Display, total: int | None) -> None:
        self._display = display
        self._total = total
        self._done = 0
        self._failed = 0
        self._counting = threading.Lock()
        self._began = time.monotonic()
        self._finished = threading.Event()
        self._finishing = threading.Lock()
        # A notebook knows by the context to which cell an output belongs.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="throughway: progress", daemon=True
        )
        self._thread.start()

    def watch(self, future: Future[Any], calls: int) -> None:
        """Count the ``calls`` of this task once it has ended."""
        future.add_done_callback(self._count if calls == 1 else functools.partial(self._count, calls=calls))

    def _count(self, future: Future[Any], calls: int = 1) -> None:
        # Mostly in the executor's thread; what failed at `submit` counts in that of the user.
        if future._state != FINISHED:
            return  # cancelled, as what is left is when the user leaves early
        with self._counting:
            self._done += calls
            if future._exception is not None:
                self._failed += calls

    def _reading(self) -> Reading:
        return Reading(self._done, self._failed, self._total, time.monotonic() - self._began)

    def _run(self) -> None:
        while not self._finished.wait(self._display.interval):
            self._display.show(self._reading(), last=False)

    def finish(self) -> None:
        """Show it a last time. Whatever ends later is not counted."""
        with DeferredInterrupt():  # a terminal would be left without its cursor
            with self._finishing:
                if self._finished.is_set():
                    return
                self._finished.set()
            if threading.current_thread() is not self._thread:
                self._thread.join()
            self._display.show(self._reading(), last=True)


def known_length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """How many calls a map makes; None where an iterable does not say."""
    lengths = []
    for iterable in iterables:
        try:
            lengths.append(len(iterable))  # type: ignore[arg-type]
        except TypeError:
            return None
    return min(lengths, default=0)
