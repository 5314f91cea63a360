"""What an executor wants of its blocks, and when it has seen enough failures."""

from __future__ import annotations

from typing import NamedTuple

from throughway.errors import ConfigurationError
from throughway.providers.interface import Provider

MAX_FAILURES = 3
"""Attempts in a row that fail before an executor gives up."""


class BlockPolicy(NamedTuple):
    """How many blocks to keep, and how to go on when they fail. Times are in seconds."""

    target: int
    """blocks to keep alive"""
    max_blocks: int
    """blocks that are alive at one time, never more"""
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

    def wait(self, failures: int) -> float:
        """Seconds to wait after the last of ``failures`` attempts in a row that failed: 0, then doubling."""
        if failures <= 1:
            return 0.0
        return float(min(self.longest_wait, self.spacing * 2.0 ** min(failures - 2, 60)))


def policy_for(provider: Provider, *, gives_up: bool = True) -> BlockPolicy:
    """The policy that a provider's parameters ask for; with ``gives_up`` false it tries for ever.

    Raises `ConfigurationError` where they ask for no block at all.
    """
    target = max(provider.init_blocks, provider.min_blocks)
    if target < 1:
        raise ConfigurationError(
            f"init_blocks={provider.init_blocks} and min_blocks={provider.min_blocks} of the "
            f"{provider.label} provider: no block would ever start; give init_blocks=1 or more"
        )
    interval = provider.status_polling_interval
    return BlockPolicy(
        target=target,
        max_blocks=provider.max_blocks,
        max_failures=MAX_FAILURES if gives_up else None,
        # A batch scheduler is shared, and slow to answer: it is not to be asked twice a second.
        spacing=0.5 if provider.local else 5.0,
        longest_wait=60.0 if provider.local else 600.0,
        # One wrong word of a scheduler must not end a block whose managers are there: two more have to
        # follow.
        linger=max(10.0, 2.5 * interval),
    )
