"""What an executor wants of its blocks: how many there may be, and when it has seen enough failures."""

from __future__ import annotations

import math
from typing import NamedTuple

from throughway.errors import ConfigurationError
from throughway.providers.interface import Provider

MAX_FAILURES = 3
"""Attempts in a row that fail before an executor gives up."""

MAX_IDLETIME = 120.0
"""Seconds after which a block that is not needed is scaled in, unless ``max_idletime`` says otherwise."""


class BlockPolicy(NamedTuple):
    """How many blocks to keep, and how to go on when they fail. Times are in seconds."""

    init_blocks: int
    """blocks to start with"""
    min_blocks: int
    """blocks that are kept whatever the load"""
    max_blocks: int
    """blocks that are alive at one time, never more: those that start or end count"""
    nodes_per_block: int = 1
    parallelism: float = 1.0
    """workers to have for each outstanding task, 0 to 1"""
    max_idletime: float = MAX_IDLETIME
    """how long a block that is not needed is kept"""
    max_failures: int | None = MAX_FAILURES
    """attempts in a row that fail before giving up, None for never"""
    spacing: float = 0.5
    """least time between two attempts; the second retry waits this long, each further one twice as long"""
    longest_wait: float = 60.0
    """most time between two attempts"""
    short_life: float = 10.0
    """a block whose managers all die sooner than this after the first of them registered counts as failed"""
    linger: float = 10.0
    """how long a block whose job is said to have ended is kept for managers that are still registered"""
    gather: float = 120.0
    """how long after the first of a block's managers the others are still expected"""
    patience: float = 10.0
    """how long a cancelled job may take to end before it is cancelled by force; doubles with each time"""

    @property
    def first(self) -> int:
        """Blocks to start with, at least."""
        return max(self.init_blocks, self.min_blocks)

    def wait(self, failures: int) -> float:
        """Seconds to wait after the last of ``failures`` attempts in a row that failed: 0, then doubling."""
        if failures <= 1:
            return 0.0
        return float(min(self.longest_wait, self.spacing * 2.0 ** min(failures - 2, 60)))


def policy_for(
    provider: Provider, *, max_idletime: float = MAX_IDLETIME, gives_up: bool = True, follows: bool = False
) -> BlockPolicy:
    """The policy that a provider's parameters ask for.

    With ``gives_up`` false it tries for ever; ``follows`` says that the number of blocks follows the load. Raises
    `ConfigurationError` where no block would ever start, and for a ``parallelism`` that makes no sense.
    """
    if not follows and max(provider.init_blocks, provider.min_blocks) < 1:
        raise ConfigurationError(
            f"init_blocks={provider.init_blocks} and min_blocks={provider.min_blocks} of the "
            f"{provider.label} provider with strategy='none': no block would ever start; give "
            "strategy='simple', which starts them for tasks, or init_blocks=1 or more"
        )
    parallelism = getattr(provider, "parallelism", 1.0)
    if (
        isinstance(parallelism, bool)
        or not isinstance(parallelism, int | float)
        or not 0 <= parallelism <= 1
        or not math.isfinite(parallelism)
    ):
        raise ConfigurationError(
            f"parallelism={parallelism!r} of the {provider.label} provider is not a share of workers for each "
            "task: give a number from 0 (one block for any number of tasks) to 1 (a worker for each task)"
        )
    interval = provider.status_polling_interval
    return BlockPolicy(
        init_blocks=provider.init_blocks,
        min_blocks=provider.min_blocks,
        max_blocks=provider.max_blocks,
        nodes_per_block=provider.nodes_per_block,
        parallelism=float(parallelism),
        max_idletime=max_idletime,
        max_failures=MAX_FAILURES if gives_up else None,
        # A batch scheduler is shared, and slow to answer: it is not to be asked twice a second.
        spacing=0.5 if provider.local else 5.0,
        longest_wait=60.0 if provider.local else 600.0,
        # One wrong word of a scheduler must not end a block whose managers are there: two more have to
        # follow.
        linger=max(10.0, 2.5 * interval),
        patience=10.0 if provider.local else max(60.0, 2.5 * interval),
    )
