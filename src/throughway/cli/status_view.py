"""A run as it is shown: to people as lines and a table, to scripts as a JSON document. Nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from throughway.blocks.record import BlocksRecord
from throughway.cli import figures
from throughway.executors.run_folder import RunRecord
from throughway.protocol.views import ManagerView, RunView, StatusView
from throughway.providers.interface import JobState

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.table import Table

WIDE = 112
"""Columns of a terminal from which on the table of managers also has their ids, and a column for workers."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tasks in a second, over ``seconds``: those that came to the interchange, and those that ended."""

    seconds: float
    tasks_in: float
    tasks_out: float
    utilisation: float
    """share of the workers' time in which tasks ran, 0 to 1"""
    managers: dict[str, float]
    """manager id → tasks in a second"""

    @classmethod
    def between(cls, earlier: RunView | None, later: RunView) -> Rates:
        """The rates from one view to the next; without an earlier one, from the beginning of the run."""
        before = StatusView("", "", 0.0) if earlier is None else earlier.status
        known = {} if earlier is None else {view.manager: view for view in earlier.managers}
        status = later.status
        seconds = max(1e-9, status.uptime - before.uptime)
        managers: dict[str, float] = {}
        capacity = 0.0
        for view in later.managers:
            was = known.get(view.manager)
            elapsed = view.age - was.age if was is not None else view.age
            done = view.tasks_done - was.tasks_done if was is not None else view.tasks_done
            managers[view.manager] = done / max(1e-9, elapsed)
            capacity += elapsed * view.worker_count
        busy = status.core_seconds - before.core_seconds
        return cls(
            seconds=seconds,
            tasks_in=(status.submitted - before.submitted) / seconds,
            tasks_out=(status.completed - before.completed) / seconds,
            # A task's time counts when it ends, which may be more than passed since the last look.
            utilisation=min(1.0, busy / capacity) if capacity > 0 else 0.0,
            managers=managers,
        )


def state_of(view: ManagerView) -> str:
    """``draining``, ``held`` or ``active``."""
    if view.draining:
        return "draining"
    return "active" if view.active else "held"


def document(
    record: RunRecord, view: RunView, rates: Rates, blocks: BlocksRecord | None = None
) -> dict[str, Any]:
    """All of it, for scripts: ``run``, ``status``, ``rates``, ``managers``, named as in `protocol.views`; ``blocks``
    and ``left_out``, as in `blocks.record`, with the managers' ``tasks`` and ``seconds_left``."""
    return {
        "run": {key: value for key, value in msgspec.structs.asdict(record).items() if key != "ended"},
        "status": {**msgspec.structs.asdict(view.status), "outstanding": _outstanding(view.status)},
        "rates": {
            "seconds": rates.seconds,
            "tasks_in_per_second": rates.tasks_in,
            "tasks_out_per_second": rates.tasks_out,
            "utilisation": rates.utilisation,
        },
        "managers": [
            {
                **msgspec.structs.asdict(manager),
                "state": state_of(manager),
                "tasks_per_second": rates.managers[manager.manager],
            }
            for manager in view.managers
        ],
        "blocks": []
        if blocks is None
        else [
            {
                **msgspec.structs.asdict(block),
                "tasks": sum(manager.tasks for manager in view.managers if manager.block == block.id),
                "seconds_left": _seconds_left(block.id, view.managers),
            }
            for block in blocks.blocks
        ],
        "left_out": {} if blocks is None else blocks.left_out,
    }


def _seconds_left(block: str, managers: list[ManagerView]) -> float | None:
    """Until the first of a block's managers drains by itself."""
    found = [
        manager.seconds_left
        for manager in managers
        if manager.block == block and manager.seconds_left is not None
    ]
    return min(found, default=None)


def one_line(record: RunRecord, view: RunView, rates: Rates) -> str:
    """The gist in one line, for where a screen cannot be drawn anew."""
    status = view.status
    parts = [
        f"{status.label} {record.run}",
        figures.counted(status.managers, "manager"),
        f"{figures.counted(status.workers, 'worker')} ({figures.count(status.idle_workers)} idle)",
        f"{figures.count(status.pending)} queued",
        f"{figures.count(_outstanding(status))} outstanding",
        f"{figures.rate(rates.tasks_in)} tasks/s in",
        f"{figures.rate(rates.tasks_out)} out",
        f"{figures.count(status.completed)} done",
    ]
    return ", ".join(parts)


def screen(
    record: RunRecord,
    view: RunView,
    rates: Rates,
    *,
    width: int,
    rows: int | None = None,
    note: str = "",
    blocks: BlocksRecord | None = None,
    now: float = 0.0,
) -> RenderableType:
    """All of it, to be printed on ``width`` columns.

    Args:
        rows: managers and blocks to show, at most; None for all. How many were left out is said.
        note: a line below everything else.
        blocks: the run's blocks; a single one of this machine is not shown, as its manager says the same.
        now: seconds since the epoch.
    """
    from rich.console import Group
    from rich.text import Text

    status = view.status
    head = Text.assemble((status.label, "bold"), f"  run {record.run}  up {figures.age(status.uptime)}")
    head.append(f"  process {record.pid}  Python {record.python}", style="dim")
    parts: list[RenderableType] = [head, _totals(status, rates), ""]
    if blocks is not None and _tells_more(blocks):
        most = None if rows is None else max(1, rows // 2)
        parts += [blocks_table(blocks, view.managers, now, width=width, rows=most), ""]
        if rows is not None:
            rows -= min(most or 0, len(blocks.blocks)) + BLOCK_LINES
    managers = sorted(view.managers, key=_order)
    if managers:
        shown = managers if rows is None else managers[: max(1, rows)]
        parts.append(_table(shown, rates, width))
        if len(shown) < len(managers):
            parts.append(
                Text(f"and {figures.counted(len(managers) - len(shown), 'more manager')}", style="dim")
            )
    else:
        parts.append(Text("no manager is registered", style="yellow"))
    if note:
        parts += ["", Text(note, style="dim")]
    return Group(*parts)


BLOCK_LINES = 5
"""Lines of a table of blocks beside one for each, at most."""

LEAST_WORDS = 12
"""Columns below which there is no room for what was said of a block."""

SHOWN_ENDED = 3
"""Ended blocks that are shown, the last."""

_BLOCK_STYLES = {
    "running": "green",
    "pending": "yellow",
    "held": "bold yellow",
    "unknown": "yellow",
    "failed": "bold red",
    "timeout": "red",
    "missing": "bold red",
}


def _tells_more(blocks: BlocksRecord) -> bool:
    live = [block for block in blocks.blocks if not JobState(block.state).terminal]
    return blocks.provider != "local" or len(live) != 1 or bool(blocks.left_out or blocks.trouble)


def blocks_table(
    blocks: BlocksRecord, managers: list[ManagerView], now: float, *, width: int, rows: int | None = None
) -> RenderableType:
    """The live blocks and the last that have ended: job, state, age, time left, nodes, workers, tasks.

    Without ``managers`` their tasks and the time left are not known. ``now`` is in seconds since the epoch.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    live = [block for block in blocks.blocks if not JobState(block.state).terminal]
    ended = [block for block in blocks.blocks if JobState(block.state).terminal]
    # What failed is worth a line; what was scaled in has done what it should.
    shown = [*live, *sorted(ended, key=lambda block: block.since)[-SHOWN_ENDED:]]
    cut = len(shown) if rows is None else rows
    lines: list[list[str]] = []
    for block in shown[:cut]:
        over = JobState(block.state).terminal
        mine = [manager for manager in managers if manager.block == block.id]
        left = _seconds_left(block.id, managers)
        lines.append(
            [
                block.id,
                block.job_id or "-",
                "draining" if block.draining and not over else block.state,
                figures.age(max(0.0, now - block.since)),
                "-" if over else figures.age(max(0.0, now - block.submitted)),
                "-" if left is None else figures.age(left),
                str(block.nodes) if over or not mine else f"{len(mine)}/{block.nodes}",
                str(block.workers) if block.workers else "-",
                figures.count(sum(manager.tasks for manager in mine)) if mine else "-",
            ]
        )
    headings = ("block", "job", "state", "since", "age", "left", "nodes", "workers", "tasks")
    widths = [max(map(len, (heading, *column))) for heading, *column in zip(headings, *lines, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, size in zip(headings, widths, strict=True):
        side: JustifyMethod = "left" if heading in ("block", "job", "state") else "right"
        table.add_column(heading, justify=side, no_wrap=True, width=size)
    room = width - sum(widths) - len(widths) - 1
    words = room >= LEAST_WORDS and any(block.message for block in shown[:cut])
    if words:
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=room)
    for block, (number, job, state, *rest) in zip(shown[:cut], lines, strict=True):
        style = _BLOCK_STYLES.get(state, "dim" if JobState(block.state).terminal else "magenta")
        message = [Text(" ".join(block.message.split()), style="dim")] if words else []
        table.add_row(number, job, Text(state, style=style), *rest, *message)
    parts: list[RenderableType] = [table]
    if len(shown) > cut:
        parts.append(Text(f"and {figures.counted(len(shown) - cut, 'more block')}", style="dim"))
    for host, why in blocks.left_out.items():
        parts.append(Text(f"host {host} is left out: {why}", style="red", no_wrap=True, overflow="ellipsis"))
    if blocks.trouble:
        parts.append(Text(blocks.trouble, style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


TOTAL_LINES = 11
"""Lines of `screen` beside one for each manager, at most."""


def _order(view: ManagerView) -> tuple[int, str, str, str]:
    return len(view.block), view.block, view.host, view.manager


def _outstanding(status: StatusView) -> int:
    """Tasks at the interchange or at a manager: all but those that the executor has yet to send."""
    return status.pending + status.assigned


class _Total(NamedTuple):
    name: str
    value: str
    alarming: bool = False


def _totals(status: StatusView, rates: Rates) -> Table:
    from rich.table import Table

    columns = (
        (
            _Total("queued", figures.count(status.pending)),
            _Total("at managers", figures.count(status.assigned)),
            _Total("outstanding", figures.count(_outstanding(status))),
            _Total("done", figures.count(status.completed)),
        ),
        (
            _Total("tasks/s in", figures.rate(rates.tasks_in)),
            _Total("tasks/s out", figures.rate(rates.tasks_out)),
            _Total("utilisation", f"{rates.utilisation:.0%}"),
            _Total("core-hours", f"{status.core_seconds / 3600:,.3f}"),
        ),
        (
            _Total("managers", figures.count(status.managers)),
            _Total("workers", figures.count(status.workers)),
            _Total("idle", figures.count(status.idle_workers)),
            _Total("memory", figures.size(status.memory)),
        ),
        (
            _Total("held", figures.count(status.managers_held), status.managers_held > 0),
            _Total("lost", figures.count(status.lost_managers), status.lost_managers > 0),
            _Total("refused", figures.count(status.refused_managers), status.refused_managers > 0),
            _Total("malformed", figures.count(status.malformed_messages), status.malformed_messages > 0),
        ),
    )
    table = Table.grid(padding=(0, 1))
    for _ in columns:
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(width=1)
    for row in zip(*columns, strict=True):
        cells: list[str] = []
        for total in row:
            cells += [total.name, f"[bold red]{total.value}[/]" if total.alarming else total.value, ""]
        table.add_row(*cells[:-1])
    return table


class _Column(NamedTuple):
    heading: str
    cells: list[str]
    right: bool = True


_STYLES = {"active": "green", "held": "yellow", "draining": "magenta"}


def _table(managers: list[ManagerView], rates: Rates, width: int) -> Table:
    from rich import box
    from rich.table import Table

    wide = width >= WIDE
    columns = _columns(managers, rates, wide=wide)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if wide else 0, pad_edge=False, show_edge=False)
    widths = {column.heading: max(map(len, [column.heading, *column.cells])) for column in columns}
    # Whatever must give way on a narrow terminal, it is the name of the host.
    gaps = (len(columns) - 1) * (2 if wide else 1)
    others = sum(widths.values()) - widths["host"]
    widths["host"] = max(len("host"), min(widths["host"], width - others - gaps))
    for column in columns:
        side: JustifyMethod = "right" if column.right else "left"
        table.add_column(
            column.heading, justify=side, no_wrap=True, overflow="ellipsis", width=widths[column.heading]
        )
    states = [state_of(view) for view in managers]
    for state, *cells in zip(states, *(column.cells for column in columns), strict=True):
        table.add_row(*cells[:-1], f"[{_STYLES[state]}]{cells[-1]}[/]")
    return table


def _columns(managers: list[ManagerView], rates: Rates, *, wide: bool) -> list[_Column]:
    number = figures.count if wide else figures.short_count
    columns = [
        _Column("host", [view.host for view in managers], right=False),
        _Column("block", [view.block for view in managers]),
        _Column("pid", [str(view.pid) for view in managers]),
    ]
    if wide:
        columns.insert(0, _Column("manager", [view.manager for view in managers], right=False))
        columns.append(_Column("workers", [str(view.worker_count) for view in managers]))
        columns.append(_Column("idle", [str(view.idle_workers) for view in managers]))
    else:
        columns.append(_Column("idle", [f"{view.idle_workers}/{view.worker_count}" for view in managers]))
    columns += [
        _Column("tasks", [number(view.tasks) for view in managers]),
        _Column("done", [number(view.tasks_done) for view in managers]),
        _Column("per s", [_short_rate(rates.managers[view.manager], wide) for view in managers]),
        _Column("age", [figures.age(view.age) for view in managers]),
    ]
    if any(view.seconds_left is not None for view in managers):
        left = ["-" if view.seconds_left is None else figures.age(view.seconds_left) for view in managers]
        columns.append(_Column("left", left))
    columns += [
        _Column("silent", [figures.age(view.silence) for view in managers]),
        _Column("state", [state_of(view) for view in managers], right=False),
    ]
    return columns


def _short_rate(per_second: float, wide: bool) -> str:
    return figures.short_count(per_second) if per_second >= 99.95 and not wide else figures.rate(per_second)
