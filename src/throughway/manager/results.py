"""What has ended at a manager: the results of this turn, and all that the executor has not acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from throughway.manager.actions import Buffer
from throughway.protocol import codec
from throughway.protocol import messages as m

_HEADER_BYTES = 64
"""What a result costs beside its payload while it is kept, about."""


class Kept(msgspec.Struct, gc=False):
    """A message of results that the executor has not acknowledged."""

    message: m.Results
    frames: Sequence[Buffer]
    size: int


class ResultLog:
    """Results in the order in which tasks ended. The lists of this turn are public: filling them is a hot loop."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        """tasks that ended in this turn; the other lists go along with it"""
        self.outcomes = bytearray()
        self.workers: list[int] = []
        self.payloads: list[bytes] = []
        self.frames: list[Buffer] = []
        self.frame_counts: dict[int, int] = {}
        self.busy = 0.0
        self.kept: deque[Kept] = deque()
        self.kept_bytes = 0
        self._number = 0

    def add(self, task: int, outcome: m.Outcome, worker: int, payload: bytes) -> None:
        """A task that has ended without a word of its worker."""
        self.ended.append(task)
        self.outcomes.append(outcome)
        self.workers.append(worker)
        self.payloads.append(payload)

    def close_turn(self, manager: str, capacity: int, *, waiting: bool) -> Kept:
        """The message of this turn's results, which is kept from now on; see `messages.Results` for ``waiting``."""
        self._number += 1
        message = m.Results(
            manager,
            capacity,
            self.ended,
            bytes(self.outcomes),
            self.workers,
            self.frame_counts,
            self.busy,
            self._number,
            waiting,
        )
        frames = [codec.encode(self.payloads), *self.frames]
        kept = Kept(message, frames, sum(map(len, frames)) + _HEADER_BYTES * len(self.ended))
        self.kept.append(kept)
        self.kept_bytes += kept.size
        self.ended = []
        self.outcomes = bytearray()
        self.workers = []
        self.payloads = []
        self.frames = []
        self.frame_counts = {}
        self.busy = 0.0
        return kept

    def acknowledged(self, number: int) -> None:
        """The executor has all messages up to this number."""
        kept = self.kept
        while kept and kept[0].message.number <= number:
            self.kept_bytes -= kept.popleft().size

    def after(self, number: int) -> Iterator[Kept]:
        """What is kept of later numbers."""
        return (kept for kept in self.kept if kept.message.number > number)

    def sanity_check(self) -> None:
        """What is kept adds up. For tests and simulations."""
        numbers = [kept.message.number for kept in self.kept]
        last = self._number
        assert numbers == list(range(last - len(numbers) + 1, last + 1)), (
            "what is kept are the last, in order"
        )
        assert self.kept_bytes == sum(kept.size for kept in self.kept)
        assert len(self.ended) == len(self.outcomes) == len(self.workers) == len(self.payloads)
