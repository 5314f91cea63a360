"""The blocks of a run as plain data in its folder, for `throughway status` and `throughway blocks`.

The executor's process writes it whenever something has changed, twice a second at most; who reads it may be another
process, long after the run has died.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from throughway.blocks.state import BlockView

logger = logging.getLogger("throughway.blocks")

RECORD_SPACING = 0.5
"""Seconds between two writings of the record of the blocks, at least."""

FILE_NAME = "blocks.json"
"""What it is called in the run's folder."""


class BlockRecord(msgspec.Struct, frozen=True):
    """One block; the fields are those of `state.BlockView`, times in seconds since the epoch."""

    id: str
    job_id: str
    state: str
    since: float
    submitted: float
    nodes: int
    managers: int
    workers: int
    draining: bool
    message: str


class BlocksRecord(msgspec.Struct, frozen=True):
    """All live blocks and the last that have ended. ``left_out`` are hosts that are not used, and why."""

    provider: str
    written: float
    blocks: list[BlockRecord] = []
    left_out: dict[str, str] = {}
    trouble: str = ""
    """what the scheduler last failed to answer, or empty"""
    wants: str = ""
    """how the number of blocks is decided: strategy and limits"""


def write_blocks(record: BlocksRecord, folder: str | os.PathLike[str]) -> None:
    """Write the record, for its owner alone; it is there as a whole or not at all. Raises `OSError`."""
    path = Path(folder) / FILE_NAME
    temporary = path.with_name(f"{FILE_NAME}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(record))
    temporary.replace(path)


def read_blocks(folder: str | os.PathLike[str]) -> BlocksRecord | None:
    """The record in a run's folder; None where there is none that can be read."""
    try:
        return msgspec.json.decode((Path(folder) / FILE_NAME).read_bytes(), type=BlocksRecord)
    except (OSError, msgspec.MsgspecError):
        return None


class Recorder:
    """Writes the record into ``folder`` when something has changed, and not too often; ``clock`` is in seconds."""

    def __init__(self, folder: str, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._changes = -1
        self._written_at = -math.inf

    def due(self, changes: int, *, last: bool = False) -> float:
        """When the record is to be written if there have been so many changes: inf for never, or a moment.

        With ``last`` that is now, if anything has changed at all.
        """
        if changes == self._changes:
            return math.inf
        return -math.inf if last else self._written_at + RECORD_SPACING

    def write(self, record: BlocksRecord, changes: int) -> None:
        """Write it. What goes wrong is logged: nothing depends on it but the view of others."""
        self._changes = changes
        self._written_at = self._clock()
        try:
            write_blocks(record, self._folder)
        except OSError as error:
            logger.warning("the record of the blocks cannot be written into %s: %s", self._folder, error)


def block_record(view: BlockView) -> BlockRecord:
    """A block's view as plain data."""
    return BlockRecord(
        id=view.id,
        job_id=view.job_id,
        state=view.state.value,
        since=view.since,
        submitted=view.submitted,
        nodes=view.nodes,
        managers=view.managers,
        workers=view.workers,
        draining=view.draining,
        message=view.message,
    )
