"""``throughway status``: finds this user's runs, and watches one."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from throughway.blocks.record import read_blocks
from throughway.cli import figures
from throughway.cli.observer import ANSWER_SECONDS, Observer, RunEnded
from throughway.cli.status_view import TOTAL_LINES, Rates, document, one_line, screen
from throughway.errors import CommandTimeout, TransportError
from throughway.executors.run_folder import RunRecord, list_runs, runs_folder

if TYPE_CHECKING:
    from rich.console import Console

    from throughway.protocol.views import RunView

NOTHING = 1
"""The exit status where nothing runs, or not what was asked for."""

Show = Callable[["RunView", Rates, str, bool], None]
"""Shows a view with its rates and a note, which may be empty; the bool says whether it was shown before."""


def watch(
    console: Console,
    output: TextIO,
    *,
    run: str | None = None,
    once: bool = False,
    json: bool = False,
    interval: float = 1.0,
    run_dir: str | None = None,
    timeout: float = ANSWER_SECONDS,
) -> int:
    """Show a running executor until it ends, or once; returns the exit status.

    Args:
        console: where people look.
        output: where JSON goes.
        run: beginning of a run's id, or a label; None for the only one that runs.
        interval: seconds between two looks.
        run_dir: where the run folders are; None for the user's state folder.
        timeout: seconds for the interchange to answer.

    Raises:
        ThroughwayError: the run does not answer, or refuses to.
    """
    alive = [record for record in list_runs(run_dir) if record.alive]
    wanted = [record for record in alive if run is None or run == record.label or record.run.startswith(run)]
    if len(wanted) != 1:
        print(_choice(alive, wanted, run, run_dir), file=sys.stderr)
        return NOTHING
    record = wanted[0]
    try:
        observer = Observer(record.socket, timeout=timeout)
    except TransportError as error:
        if any(other.run == record.run and other.alive for other in list_runs(run_dir)):
            raise TransportError(
                f"run {record.run} ({record.label}) of process {record.pid} cannot be watched: {error}: it "
                f"is starting or ending, or its interchange died; its logs are in {record.folder}"
            ) from error
        print(_ended(record), file=sys.stderr)
        return NOTHING
    with observer:
        try:
            if once:
                return _once(observer, record, console, output, json)
            _follow(observer, record, console, output, json, interval)
        except KeyboardInterrupt:
            # The way to leave a live view.
            return 0
        except RunEnded:
            print(_ended(record), file=sys.stderr if json or once else console.file)
            return NOTHING if once else 0
    return 0


def _choice(alive: list[RunRecord], wanted: list[RunRecord], run: str | None, run_dir: str | None) -> str:
    """Why no single run can be shown, and what to do."""
    place = runs_folder(run_dir)
    if not alive:
        return f"nothing is running: no live run of this user in {place} (--run-dir looks elsewhere)"
    listed = wanted or alive
    lines = [
        f"no run {run!r} is running in {place}; these are:"
        if not wanted
        else "several are running; say which one:",
        *(f"  throughway status {record.run}   {record.label}, {_about(record)}" for record in listed),
    ]
    return "\n".join(lines)


def _about(record: RunRecord) -> str:
    return f"process {record.pid}, for {figures.age(max(0.0, time.time() - record.started))}"


def _ended(record: RunRecord) -> str:
    return f"run {record.run} ({record.label}) has ended; its logs are in {record.folder}"


def _once(observer: Observer, record: RunRecord, console: Console, output: TextIO, json: bool) -> int:
    view = observer.run_view()
    rates = Rates.between(None, view)
    if json:
        _print_json(output, record, view, rates)
    else:
        console.print(
            screen(
                record,
                view,
                rates,
                width=console.width,
                note=_since_start(rates),
                blocks=read_blocks(record.folder),
                now=time.time(),
            ),
            highlight=False,
        )
    return 0


def _since_start(rates: Rates) -> str:
    return f"rates are means since the run began, {figures.age(rates.seconds)} ago"


def _follow(
    observer: Observer, record: RunRecord, console: Console, output: TextIO, json: bool, interval: float
) -> None:
    with ExitStack() as stack:
        show = _json_show(output, record) if json else _plain_show(console, record)
        if not json and console.is_terminal:
            show = _live_show(console, record, stack)
        last: RunView | None = None
        rates: Rates | None = None
        while True:
            try:
                view = observer.run_view()
            except CommandTimeout as error:
                if last is None or rates is None:
                    raise
                show(last, rates, str(error), True)
                continue
            rates = Rates.between(last, view)
            show(view, rates, _since_start(rates) if last is None else "", False)
            last = view
            observer.wait(interval)


def _json_show(output: TextIO, record: RunRecord) -> Show:
    def show(view: RunView, rates: Rates, note: str, again: bool) -> None:
        if again:
            print(note, file=sys.stderr)
        else:
            _print_json(output, record, view, rates)

    return show


def _plain_show(console: Console, record: RunRecord) -> Show:
    def show(view: RunView, rates: Rates, note: str, _again: bool) -> None:
        text = one_line(record, view, rates)
        console.print(f"{text} ({note})" if note else text, highlight=False, markup=False, soft_wrap=True)

    return show


def _live_show(console: Console, record: RunRecord, stack: ExitStack) -> Show:
    from rich.live import Live

    live = stack.enter_context(Live(console=console, auto_refresh=False))

    def show(view: RunView, rates: Rates, note: str, _again: bool) -> None:
        rows = console.height - TOTAL_LINES
        shown = screen(
            record,
            view,
            rates,
            width=console.width,
            rows=rows,
            note=note,
            blocks=read_blocks(record.folder),
            now=time.time(),
        )
        live.update(shown, refresh=True)

    return show


def _print_json(output: TextIO, record: RunRecord, view: RunView, rates: Rates) -> None:
    found = document(record, view, rates, read_blocks(record.folder))
    print(jsonlib.dumps(found), file=output, flush=True)
