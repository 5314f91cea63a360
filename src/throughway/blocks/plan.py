"""How many blocks to start now: a pure function of what there is, what is wanted, and the time."""

from __future__ import annotations

import math
from typing import NamedTuple

from throughway.blocks.policy import BlockPolicy


class View(NamedTuple):
    """What the plan needs to know of the blocks. Times are on the caller's clock, -inf for never."""

    live: int
    """blocks that are started and not known to have ended"""
    managers: int
    """managers that are registered from them"""
    failures: int
    """attempts in a row that failed; the blocks of one attempt fail but once"""
    failed_at: float
    """when the last of these failed"""
    started_at: float
    """when the last attempt was made"""


class Plan(NamedTuple):
    """What to do now, and when to ask again if nothing happens before (inf for never)."""

    start: int = 0
    give_up: bool = False
    wake_at: float = math.inf


def plan(view: View, policy: BlockPolicy, now: float) -> Plan:
    """What to do about the blocks.

    As many blocks start at once as are missing; while attempts fail, one at a time, ever more slowly. It is
    given up after ``max_failures`` attempts in a row, but not as long as any manager is registered.
    """
    if policy.max_failures is not None and view.failures >= policy.max_failures and not view.managers:
        return Plan(give_up=True)
    missing = min(policy.target, policy.max_blocks) - view.live
    if missing <= 0:
        return Plan()
    ready = view.started_at + policy.spacing
    if view.failures:
        wait = policy.wait(view.failures)
        ready = max(ready, view.failed_at + wait, view.started_at + wait)
        missing = 1
    if now < ready:
        return Plan(wake_at=ready)
    return Plan(start=missing)
