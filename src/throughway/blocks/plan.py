"""How many blocks to start and which to drain now: a pure function of what there is, what is wanted, and the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from throughway.blocks.policy import BlockPolicy
from throughway.providers.interface import JobState


class BlockSight(NamedTuple):
    """A live block, as a strategy sees it. Times are on the caller's clock."""

    id: str
    state: JobState = JobState.RUNNING
    slots: float = 1.0
    """tasks that it runs at one time: the workers that are registered, and those still expected"""
    managers: int = 1
    """managers that are registered"""
    fresh: bool = False
    """whether no manager of it has registered yet: its whole walltime is still to come"""
    leaving: bool = False
    """whether it is being drained or cancelled: it takes nothing new, and still counts for ``max_blocks``"""
    idle_since: float = math.inf
    """since when no task is on it; of a fresh block, since when nothing needs it. inf where something does"""


class View(NamedTuple):
    """What a strategy may know. Times are on the caller's clock, -inf for never."""

    blocks: tuple[BlockSight, ...] = ()
    """the live blocks: started, and not known to have ended"""
    tasks: int = 0
    """tasks without an outcome"""
    stranded: int = 0
    """tasks whose walltime is longer than what any registered manager has left"""
    block_slots: float = 1.0
    """tasks that a further block would run at one time, as far as is known"""
    kept: int = 1
    """blocks that are kept where the number does not follow the load"""
    begun: bool = False
    """whether any manager has ever registered"""
    looked_at: float = -math.inf
    """when the managers' idleness was last asked for"""
    failures: int = 0
    """attempts in a row that failed; the blocks of one attempt fail but once"""
    failed_at: float = -math.inf
    """when the last of these failed"""
    started_at: float = -math.inf
    """when the last attempt was made"""
    permanent: bool = False
    """whether the last attempt was refused in a way that every further one would be"""

    @property
    def active(self) -> list[BlockSight]:
        """The blocks that take tasks, or will."""
        return [block for block in self.blocks if not block.leaving]

    @property
    def managers(self) -> int:
        """Registered managers of all blocks."""
        return sum(block.managers for block in self.blocks)


class Wish(NamedTuple):
    """What a strategy wants."""

    start: int = 0
    """blocks to start now"""
    drain: tuple[str, ...] = ()
    """blocks to scale in now; one that has a task by then is left alone"""
    wake_at: float = math.inf
    """when to ask again if nothing happens before"""
    notice_at: float = math.inf
    """number of outstanding tasks from which on to ask again at once"""
    look: bool = False
    """whether to ask for the managers' idleness, and then again"""
    unneeded: tuple[str, ...] = ()
    """fresh blocks that nothing needs at this moment"""


Strategy: TypeAlias = Callable[[View, BlockPolicy, float], Wish]
"""A pure function of what there is, what is wanted, and the time."""


class Plan(NamedTuple):
    """What to do now, and when to ask again if nothing happens before (inf for never); see `Wish`."""

    start: int = 0
    drain: tuple[str, ...] = ()
    give_up: bool = False
    wake_at: float = math.inf
    notice_at: float = math.inf
    look: bool = False
    unneeded: tuple[str, ...] = ()


def plan(view: View, policy: BlockPolicy, now: float, strategy: Strategy) -> Plan:
    """What to do about the blocks: what the strategy wants, as far as it may have it.

    Never more than ``max_blocks`` are alive, whatever a strategy says, and never fewer than ``min_blocks`` remain
    where it drains. As many start at once as it wants; while attempts fail, one at a time, ever more slowly. It is
    given up after ``max_failures`` attempts in a row, or one that can only fail again, but not as long as any manager
    is registered.
    """
    enough = view.permanent or (policy.max_failures is not None and view.failures >= policy.max_failures)
    if policy.max_failures is not None and enough and not view.managers:
        return Plan(give_up=True)
    wish = strategy(view, policy, now)
    active = {block.id for block in view.active}
    room = max(0, len(active) - policy.min_blocks)
    drain = tuple(block for block in dict.fromkeys(wish.drain) if block in active)[:room]
    todo = Plan(
        drain=drain,
        wake_at=wish.wake_at if wish.wake_at > now else now + policy.spacing,
        look=wish.look,
        unneeded=wish.unneeded,
        notice_at=max(wish.notice_at, view.tasks + 1),
    )
    start = min(wish.start, policy.max_blocks - len(view.blocks))
    if len(view.blocks) >= policy.max_blocks:
        # Nothing more can start, however many tasks come.
        todo = todo._replace(notice_at=math.inf)
    if start <= 0:
        return todo
    ready = view.started_at + policy.spacing
    if view.failures:
        wait = policy.wait(view.failures)
        ready = max(ready, view.failed_at + wait, view.started_at + wait)
        start = 1
    if now < ready:
        return todo._replace(wake_at=min(todo.wake_at, ready), notice_at=math.inf)
    return todo._replace(start=start)
