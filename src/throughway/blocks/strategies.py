"""How many blocks are wanted: pure functions, by the names that Parsl's users know.

``none`` keeps what it starts with. ``simple`` follows the load up, and down once nothing is left to do.
``htex_auto_scale`` also lets single blocks go while others work. None of them ever drains a block that has a task,
and none drains what it would start again at the same load: that is what keeps them from oscillating.
"""

from __future__ import annotations

import math
import sys

from throughway.blocks.plan import BlockSight, Strategy, View, Wish
from throughway.blocks.policy import BlockPolicy
from throughway.errors import ConfigurationError

_ROUNDING = 1e-9


def none(view: View, policy: BlockPolicy, now: float) -> Wish:  # noqa: ARG001 - as all strategies
    """Keep the first blocks, and those that were added by hand: what ends is replaced."""
    return Wish(start=max(0, view.kept - len(view.active)))


def simple(view: View, policy: BlockPolicy, now: float) -> Wish:
    """Start blocks for tasks; drain those beyond ``min_blocks`` once nothing at all was left to do for
    ``max_idletime``."""
    return _follow(view, policy, now, partial=False)


def htex_auto_scale(view: View, policy: BlockPolicy, now: float) -> Wish:
    """As `simple`, and drain each block that was idle for ``max_idletime`` while the others suffice for the tasks."""
    return _follow(view, policy, now, partial=True)


STRATEGIES: dict[str, Strategy] = {"none": none, "simple": simple, "htex_auto_scale": htex_auto_scale}


def strategy_for(value: object) -> Strategy:
    """The strategy of this name, or the user's own; None is ``none``. Raises `ConfigurationError`."""
    if value is None:
        return none
    if isinstance(value, str) and value in STRATEGIES:
        return STRATEGIES[value]
    if callable(value) and not isinstance(value, type):
        strategy: Strategy = value
        return strategy
    raise ConfigurationError(
        f"strategy={value!r} is not a strategy: give {', '.join(map(repr, STRATEGIES))}, or a function of "
        "(view, policy, now) that returns a throughway.blocks.Wish"
    )


def missing(view: View, policy: BlockPolicy) -> int:
    """Blocks to start for the tasks that there are, and so that the least number is there."""
    active = view.active
    floor = policy.min_blocks if view.begun else policy.first
    count = floor - len(active)
    unit = max(1.0, view.block_slots)
    if view.tasks and not active:
        count = max(count, 1)
    slots = sum(block.slots for block in active)
    count = max(count, math.ceil((view.tasks * policy.parallelism - slots) / unit - _ROUNDING))
    if view.stranded:
        # Only a block that is yet to begin has the time for them.
        fresh = [block for block in active if block.fresh]
        lacking = view.stranded * policy.parallelism - sum(block.slots for block in fresh)
        count = max(count, math.ceil(lacking / unit - _ROUNDING), 0 if fresh else 1)
    return max(0, count)


def _follow(view: View, policy: BlockPolicy, now: float, *, partial: bool) -> Wish:
    wanted = missing(view, policy)
    if wanted:
        return Wish(start=wanted)
    active = view.active
    slots = sum(block.slots for block in active)
    needed = view.tasks * policy.parallelism
    notice_at = _enough(slots, policy) + 1 if active else 1.0
    spare = len(active) - (policy.min_blocks if view.begun else policy.first)
    if spare <= 0:
        return Wish(notice_at=notice_at)
    if view.tasks and not partial:
        # It cannot be over for so long sooner than this.
        return Wish(notice_at=notice_at, wake_at=now + policy.max_idletime)
    unneeded = tuple(
        block.id
        for block in active
        if block.fresh and not view.stranded and slots - block.slots >= needed - _ROUNDING
    )
    # Without `partial`, what counts is since when the last of them has nothing to do.
    latest = (
        -math.inf
        if partial
        else max((block.idle_since for block in active if not block.fresh), default=-math.inf)
    )
    drain: list[str] = []
    wake_at = math.inf
    look = False
    left = len(active)
    for block in sorted(active, key=_eagerness):
        since = block.idle_since if block.fresh else max(block.idle_since, latest)
        if block.fresh:
            due = (since if since < math.inf else now) + policy.max_idletime
            ready = due <= now and not view.stranded
        else:
            due = (since if since < math.inf else view.looked_at) + policy.max_idletime
            ready = since < math.inf and due <= view.looked_at
        if ready and len(drain) < spare:
            enough = slots - block.slots >= needed - _ROUNDING and (left > 1 or not view.tasks)
            if enough:
                drain.append(block.id)
                slots -= block.slots
                left -= 1
            else:
                # Needed for now. How many tasks are left is looked at again in a while.
                wake_at = min(wake_at, now + policy.max_idletime)
        elif ready:
            continue
        elif due <= now:
            look = True
        else:
            wake_at = min(wake_at, due)
    if drain:
        # What remains suffices for fewer tasks.
        notice_at = _enough(slots, policy) + 1 if left else 1.0
    return Wish(0, tuple(drain), wake_at, notice_at, look, unneeded)


def _enough(slots: float, policy: BlockPolicy) -> float:
    """For how many tasks so many slots suffice."""
    if slots >= policy.parallelism * sys.maxsize:
        return math.inf
    return math.floor(slots / policy.parallelism + _ROUNDING)


def _eagerness(block: BlockSight) -> tuple[bool, float, int, str]:
    """What goes first: what has not begun and costs nothing, then what was idle for longest, then the oldest."""
    return not block.fresh, block.idle_since, len(block.id), block.id
