"""When to give up because of blocks that fail: handlers for ``block_error_handler``, by the names that HTEX's have.

Each is called with the executor's view and the state of every block that lives or has ended not long ago. The rule
that ``block_error_handler=True`` stands for is none of these: it counts attempts, in `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from throughway.blocks import failure
from throughway.blocks.failure import FailedBlock
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.providers.interface import JobState, JobStatus

_FAILED = frozenset((JobState.FAILED, JobState.TIMEOUT, JobState.MISSING))


class Failing(Protocol):
    """What a handler needs of the executor."""

    @property
    def label(self) -> str: ...
    @property
    def init_blocks(self) -> int: ...
    def fail(self, error: Exception | str) -> None: ...


def noop_error_handler(executor: Failing, statuses: Mapping[str, JobStatus]) -> None:
    """Never give up."""


def simple_error_handler(executor: Failing, statuses: Mapping[str, JobStatus]) -> None:
    """Give up once all blocks that there are have failed, and at least as many as there were to begin with."""
    if len(statuses) >= max(1, executor.init_blocks) and all(
        status.state in _FAILED for status in statuses.values()
    ):
        _fail(executor, statuses)


def windowed_error_handler(executor: Failing, statuses: Mapping[str, JobStatus], threshold: int = 3) -> None:
    """Give up once the last ``threshold`` blocks have failed; `functools.partial` sets another number.

    Raises `ConfigurationError` for a ``threshold`` below 1.
    """
    if threshold < 1:
        raise ConfigurationError(f"threshold={threshold!r}: give a number of blocks of 1 or more")
    last = dict(sorted(statuses.items(), key=lambda entry: int(entry[0]))[-threshold:])
    if len(last) == threshold and all(status.state in _FAILED for status in last.values()):
        _fail(executor, last)


def _fail(executor: Failing, statuses: Mapping[str, JobStatus]) -> None:
    blocks = [FailedBlock(block, "", status, status.tail()) for block, status in statuses.items()]
    executor.fail(ExecutorFailed(failure.by_handler(executor.label, blocks[-failure.QUOTED :], len(blocks))))
