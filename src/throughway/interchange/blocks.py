"""What the interchange knows of blocks: what their managers have to do, and which blocks and hosts take no more."""

from __future__ import annotations

import math

from throughway.interchange.state import InterchangeState, ManagerRecord
from throughway.protocol.messages import ManagerHello
from throughway.protocol.views import BlockLoad, DrainView, LoadView

DRAINED_REMEMBERED = 10_000
"""Drained blocks of which managers may yet register."""

DRAIN_REASON = "its block is scaled in"

ENDED_REASON = "its block's job has ended, as the provider says"

HOST_REASON = "its host is left out, since managers kept dying there"


def loads(state: InterchangeState, now: float) -> LoadView:
    """What the managers of each block have to do."""
    found: dict[str, BlockLoad] = {}
    for manager in state.managers.values():
        load = found.get(manager.block)
        idle = 0.0 if manager.load else now - manager.idle_since
        if load is None:
            load = found[manager.block] = BlockLoad(manager.block, 0, 0, 0, idle)
        load.managers += 1
        load.workers += manager.workers
        load.tasks += manager.load
        load.idle_seconds = min(load.idle_seconds, idle)
        if manager.ends_at < math.inf:
            left = max(0.0, manager.ends_at - now)
            load.seconds_left = left if load.seconds_left is None else min(load.seconds_left, left)
    return LoadView(list(found.values()), stranded(state, now))


def stranded(state: InterchangeState, now: float) -> int:
    """How many waiting tasks have a walltime longer than what any manager that takes tasks has left.

    Tasks of similar walltimes are counted together where there are many of these.
    """
    if not state.queue.waiting:
        return 0
    takers = [manager.ends_at for manager in state.managers.values() if manager.open]
    if not takers:
        return 0
    limit = max(takers) - now
    return state.queue.above(limit) if limit < math.inf else 0


def members(state: InterchangeState, block: str) -> list[ManagerRecord]:
    """The registered managers of a block."""
    return [manager for manager in state.managers.values() if manager.block == block]


def hold(state: InterchangeState, block: str, *, only_idle: bool) -> tuple[DrainView, list[ManagerRecord]]:
    """Let a block take nothing more, also on managers that are yet to register; and its managers, to be drained.

    With ``only_idle`` a block that has a task is left alone.
    """
    managers = members(state, block)
    tasks = sum(manager.load for manager in managers)
    view = DrainView(not (only_idle and tasks), len(managers), tasks)
    if not view.accepted:
        return view, []
    state.drained_blocks[block] = None
    while len(state.drained_blocks) > DRAINED_REMEMBERED:
        del state.drained_blocks[next(iter(state.drained_blocks))]
    return view, managers


def objection(state: InterchangeState, hello: ManagerHello) -> str | None:
    """Why a new manager is not wanted because of where it is, or None."""
    if hello.host in state.refused_hosts:
        return f"host {hello.host} is left out, since managers kept dying there"
    return None
