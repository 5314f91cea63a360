"""The state of an executor's blocks: what was started, what the provider says, and who registered.

Registration is the truth, the provider's word explains absence: a block with a registered manager is RUNNING
whatever its job is said to be, and one whose provider says nothing stays as it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import msgspec

from throughway.blocks.plan import View
from throughway.blocks.policy import BlockPolicy
from throughway.providers.interface import JobId, JobState, JobStatus

REMEMBERED = 100
"""Ended blocks that are still shown."""

QUOTED = 10
"""Failed blocks that are kept for the error."""


class BlockView(msgspec.Struct, frozen=True):
    """A block as users see it. ``since`` is when it came into its state, in seconds since the epoch."""

    id: str
    job_id: str
    state: JobState
    since: float
    nodes: int
    managers: int
    message: str


class Block:
    """One block. Times are on the ledger's clock."""

    def __init__(self, id: str, nodes: int, attempt: int, now: float) -> None:
        self.id = id
        self.nodes = nodes
        self.attempt = attempt
        self.job_id: JobId | None = None
        self.state = JobState.PENDING
        self.since = now
        self.message = ""
        """what the interchange said of its managers, or what is concluded"""
        self.note = ""
        """what the provider last said in words"""
        self.status: JobStatus | None = None
        """the provider's last status that says anything"""
        self.managers = 0
        self.joined_at: float | None = None
        """when the first manager registered"""
        self.left_at: float | None = None
        """when the last of all managers left"""
        self.lost = False
        """whether a manager was lost, not drained"""
        self.gone_at: float | None = None
        """when the provider first said that the job has ended, while managers are still registered"""
        self.cancelling = False
        self.condemned = False
        """whether its job was cancelled because its managers were lost and it did not end"""
        self.proven = False
        """whether it is known to have worked"""

    def worked(self, now: float, short_life: float) -> bool:
        """Whether it had managers for ``short_life`` seconds after the first of them registered."""
        if self.joined_at is None:
            return False
        end = now if self.managers or self.left_at is None else self.left_at
        return end >= self.joined_at + short_life

    def words(self) -> str:
        """Why it is as it is, as far as anybody said, or nothing."""
        return "; ".join(text for text in (self.message, self.note) if text)

    def report(self) -> JobStatus:
        """The block's state in the form of a job's."""
        status = self.status or JobStatus(self.state)
        return JobStatus(self.state, status.exit_code, self.words(), status.stdout, status.stderr)


class Ledger:
    """All blocks of an executor, and how many attempts in a row have failed.

    Blocks that start together are one attempt: a hundred of them that meet the same fault fail once.
    """

    def __init__(self, policy: BlockPolicy) -> None:
        self.policy = policy
        self.live: dict[str, Block] = {}
        self.ended: deque[Block] = deque(maxlen=REMEMBERED)
        self.failed: deque[Block] = deque(maxlen=QUOTED)
        """the last blocks that failed since one worked"""
        self.failures = 0
        self.failed_at = -math.inf
        self.started_at = -math.inf
        self.changes = 0
        """counts up with each change of a block's state"""
        self._by_job: dict[JobId, Block] = {}
        self._opened = 0
        self._attempts = 0
        self._failed_attempt = 0

    # ------------------------------------------------------------------------------------------ what is done

    def open(self, count: int, nodes: int, now: float) -> list[Block]:
        """Blocks that are about to be submitted, in one attempt."""
        self._attempts += 1
        self.started_at = now
        blocks = []
        for _ in range(count):
            block = Block(str(self._opened), nodes, self._attempts, now)
            self._opened += 1
            self.live[block.id] = block
            blocks.append(block)
        self.changes += 1
        return blocks

    def submitted(self, block: Block, job_id: JobId) -> None:
        """The provider has accepted the block's job."""
        block.job_id = job_id
        self._by_job[job_id] = block

    def not_submitted(self, block: Block, message: str, now: float) -> None:
        """The block's job could not be started."""
        block.note = message
        block.status = JobStatus(JobState.FAILED, message=message)
        self._end(block, now)

    def cancelling(self, ids: list[JobId]) -> None:
        """These jobs are being cancelled: their end is no failure, and is not doubted."""
        for job_id in ids:
            block = self._by_job.get(job_id)
            if block is not None:
                block.cancelling = True

    # ----------------------------------------------------------------------------------------- what is heard

    def joined(self, block_id: str, now: float) -> None:
        """A manager of the block has registered."""
        block = self.live.get(block_id)
        if block is None:
            return
        block.managers += 1
        if block.joined_at is None:
            block.joined_at = now
            block.message = ""
        self._enter(block, JobState.RUNNING, now)

    def left(self, block_id: str, reason: str, lost: bool, now: float) -> None:
        """A manager of the block is gone: drained, or ``lost``."""
        block = self.live.get(block_id)
        if block is None or not block.managers:
            return
        block.managers -= 1
        block.lost = block.lost or lost
        block.message = reason
        if block.managers:
            return
        block.left_at = now
        self.changes += 1
        if block.gone_at is not None:
            self._end(block, now)

    def turned_away(self, block_id: str, reason: str) -> None:
        """The interchange has refused a manager of the block."""
        block = self.live.get(block_id)
        if block is not None:
            block.message = reason
            self.changes += 1

    def heard(self, statuses: Mapping[JobId, JobStatus], now: float) -> None:
        """The provider has spoken. Jobs that it leaves out or does not know stay as they are."""
        for job_id, status in statuses.items():
            block = self._by_job.get(job_id)
            if block is None or block.id not in self.live:
                continue
            block.note = status.message
            if status.state is JobState.UNKNOWN:
                continue
            block.status = status
            if not status.state.terminal:
                block.gone_at = None
                self._enter(block, JobState.RUNNING if block.managers else status.state, now)
            elif block.managers and not block.cancelling:
                if block.gone_at is None:
                    block.gone_at = now
            else:
                self._end(block, now)

    def settle(self, now: float) -> None:
        """Draw the conclusions that only need time."""
        for block in list(self.live.values()):
            if block.gone_at is not None and now >= block.gone_at + self.policy.linger:
                self._end(block, now)
            elif not block.proven and block.managers and block.worked(now, self.policy.short_life):
                # Once only: a block that goes on working says nothing about the others, which go on failing.
                block.proven = True
                if block.joined_at is not None and block.joined_at + self.policy.short_life >= self.failed_at:
                    self._worked()

    def hung(self, now: float) -> list[JobId]:
        """Jobs that go on although their managers were lost a while ago: a node or a process that does not answer.

        Each is told once.
        """
        jobs: list[JobId] = []
        for job_id, block in self._by_job.items():
            if self._hangs_at(block) <= now:
                block.condemned = True
                block.message = f"{block.message}; its job did not end by itself and was cancelled"
                self.changes += 1
                jobs.append(job_id)
        return jobs

    def _hangs_at(self, block: Block) -> float:
        if block.managers or block.left_at is None or not block.lost or block.cancelling or block.condemned:
            return math.inf
        return block.left_at + self.policy.linger

    # ----------------------------------------------------------------------------------------- what is known

    def deadline(self) -> float:
        """When `settle` is to be called next if nothing happens before, inf for never."""
        earliest = math.inf
        for block in self.live.values():
            earliest = min(earliest, self._hangs_at(block))
            if block.gone_at is not None:
                earliest = min(earliest, block.gone_at + self.policy.linger)
            if self.failures and not block.proven and block.managers and block.joined_at is not None:
                earliest = min(earliest, block.joined_at + self.policy.short_life)
        return earliest

    def job_ids(self) -> list[JobId]:
        """The jobs that are not known to have ended."""
        return list(self._by_job)

    def view(self) -> View:
        """What the plan needs to know."""
        managers = sum(block.managers for block in self.live.values())
        return View(len(self.live), managers, self.failures, self.failed_at, self.started_at)

    def blocks(self) -> list[Block]:
        """The remembered ended blocks and the live ones, in the order of their ids."""
        return sorted((*self.ended, *self.live.values()), key=lambda block: int(block.id))

    def sanity_check(self) -> None:
        """Raise AssertionError where the parts of the state contradict one another."""
        for block_id, block in self.live.items():
            assert block.id == block_id, f"block {block.id} is filed as {block_id}"
            assert not block.state.terminal, f"live block {block_id} is {block.state}"
            assert block.managers >= 0, f"block {block_id} has {block.managers} managers"
            assert not block.managers or block.state is JobState.RUNNING, f"block {block_id} is {block.state}"
            assert block.job_id is None or self._by_job[block.job_id] is block, f"job of block {block_id}"
        assert all(block.id in self.live for block in self._by_job.values()), "the job of an ended block"
        assert all(block.state.terminal for block in self.ended), "an ended block is not in a last state"
        assert (self.failures == 0) == (not self.failed), f"{self.failures} failures, of {len(self.failed)}"

    # ------------------------------------------------------------------------------------------- conclusions

    def _enter(self, block: Block, state: JobState, now: float) -> None:
        if block.state is not state:
            block.state = state
            block.since = now
            self.changes += 1

    def _end(self, block: Block, now: float) -> None:
        status = block.status or JobStatus(JobState.UNKNOWN)
        state = status.state
        if block.cancelling:
            state = JobState.CANCELLED
        elif state is JobState.COMPLETED and block.joined_at is None:
            state = JobState.MISSING
            block.message = block.message or "its job ended without an error, but no manager ever registered"
        drained = state is JobState.COMPLETED and not status.exit_code and not block.lost
        if not block.cancelling:
            if (drained and block.joined_at is not None) or block.worked(now, self.policy.short_life):
                self._worked()
            else:
                self._has_failed(block, now)
        block.managers = 0
        del self.live[block.id]
        if block.job_id is not None:
            del self._by_job[block.job_id]
        self._enter(block, state, now)
        self.ended.append(block)

    def _worked(self) -> None:
        self.failures = 0
        self._failed_attempt = 0
        self.failed.clear()

    def _has_failed(self, block: Block, now: float) -> None:
        self.failed.append(block)
        if block.attempt > self._failed_attempt:
            self._failed_attempt = block.attempt
            self.failures += 1
            self.failed_at = now
