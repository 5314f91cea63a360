"""The state of an executor's blocks: what was started, what the provider says, and who registered.

Registration is the truth, the provider's word explains absence: a block with a registered manager is RUNNING
whatever its job is said to be, and one whose provider says nothing stays as it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from throughway.blocks.failure import QUOTED
from throughway.blocks.plan import BlockSight, View
from throughway.blocks.policy import BlockPolicy
from throughway.protocol.views import BlockLoad
from throughway.providers.interface import JobId, JobState, JobStatus

REMEMBERED = 100
"""Ended blocks that are still shown."""

BARREN_LIVES = 2.0
"""A live block is taken to work after so many times as long as one took on which no worker got ready."""


class BlockView(msgspec.Struct, frozen=True):
    """A block as users see it. ``since`` is when it came into its state, in seconds since the epoch.

    ``draining`` says that it takes nothing new: it is scaled in once what runs on it has ended.
    """

    id: str
    job_id: str
    state: JobState
    since: float
    nodes: int
    managers: int
    message: str
    workers: int = 0
    draining: bool = False
    submitted: float = 0.0
    """when it was submitted, in seconds since the epoch"""


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
        self.opened_at = now
        self.workers = 0
        """of the managers that are registered"""
        self.ever_joined = 0
        """managers that have registered, those included that left since"""
        self.ever_failed = 0
        """those of them that left since none of their workers ever got ready"""
        self.idle_since = math.inf
        """since when no task is on it, as of the last look; inf where one is, or that is not known"""
        self.unneeded_since = math.inf
        """since when nothing needs it, though no manager has registered yet"""
        self.asked_to_drain = False
        """whether the interchange is asked to hold and drain it, and has not answered"""
        self.scaled_in = False
        """whether it is held and drained for good, since it is not needed: its job is cancelled once it is empty"""
        self.forced = False
        """whether its job is to be cancelled at once, whatever runs on it"""
        self.cancel_at = -math.inf
        """when its job is to be cancelled next, should it still be there"""
        self.patience = 0.0
        self.cancelling = False
        self.condemned = False
        """whether its job was cancelled because its managers were lost and it did not end"""
        self.proven = False
        """whether it is known to have worked"""

    @property
    def leaving(self) -> bool:
        """Whether it takes nothing new any more."""
        return self.asked_to_drain or self.scaled_in or self.cancelling or self.condemned

    @property
    def barren(self) -> bool:
        """Whether no worker ever got ready on it, as each of its managers said when it left."""
        return 0 < self.ever_joined == self.ever_failed

    def worked(self, now: float, short_life: float) -> bool:
        """Whether it had managers for ``short_life`` seconds from the first registration on, and is not `barren`."""
        if self.joined_at is None or self.barren:
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
        self.permanent = False
        self.changes = 0
        """counts up with each change of a block's state"""
        self.kept = policy.first
        """blocks to keep where their number does not follow the load"""
        self.begun = False
        """whether any manager has ever registered"""
        self.looked_at = -math.inf
        """when the interchange last told how idle the managers are"""
        self.stranded = 0
        """tasks whose walltime no registered manager has left, as of then, where a fresh one might"""
        self.stranded_since = math.inf
        """since when there are such tasks"""
        self.hopeless = False
        """whether a fresh block has not the time for them either"""
        self.vacated: list[str] = []
        """blocks whose jobs have ended, and of which the interchange has managers: it is to be told"""
        self.workers_per_node = 1.0
        """as managers showed; until then, what their configuration lets expect"""
        self.barren_life = 0.0
        """the longest that a block took to show that no worker gets ready on it, in seconds, since one ended well"""
        self._by_job: dict[JobId, Block] = {}
        self._opened = 0
        self._attempts = 0
        self._failed_attempt = 0

    # ------------------------------------------------------------------------------------------ what is done

    def open(self, count: int, nodes: int, now: float) -> list[Block]:
        """Blocks that are about to be submitted, in one attempt."""
        self._attempts += 1
        self.started_at = now
        if self.looked_at == -math.inf:
            # There is nothing yet that could be idle.
            self.looked_at = now
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
        self.permanent = False

    def not_submitted(self, block: Block, message: str, now: float, *, permanent: bool = False) -> None:
        """The block's job could not be started; if ``permanent``, no other could."""
        self.permanent = permanent
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

    def joined(self, block_id: str, workers: int, now: float) -> None:
        """A manager of the block has registered, with so many workers."""
        block = self.live.get(block_id)
        if block is None:
            return
        self.begun = True
        self.stranded = 0
        self.workers_per_node = float(max(1, workers))
        block.managers += 1
        block.workers += workers
        block.ever_joined += 1
        self.changes += 1
        if block.joined_at is None:
            block.joined_at = now
            block.message = ""
        self._enter(block, JobState.RUNNING, now)

    def left(
        self, block_id: str, workers: int, reason: str, lost: bool, now: float, *, failed: bool = False
    ) -> None:
        """A manager of the block is gone, and its workers with it: drained, or ``lost``.

        ``failed`` says that none of its workers ever got ready.
        """
        block = self.live.get(block_id)
        if block is None or not block.managers:
            return
        block.managers -= 1
        block.workers = max(0, block.workers - workers)
        block.lost = block.lost or lost
        block.ever_failed += failed
        block.message = reason
        self.changes += 1
        if block.managers:
            return
        block.left_at = now
        if block.barren and block.joined_at is not None:
            self.barren_life = max(self.barren_life, now - block.joined_at)
        if block.worked(now, self.policy.short_life):
            # Nobody gave up because of what failed beside it, perhaps long ago: now that it is gone, see what does.
            self._worked()
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
                continue
            if block.managers and block.gone_at is None:
                block.gone_at = now
                self.vacated.append(block.id)
            if block.cancelling or not block.managers:
                self._end(block, now)

    def looked(self, loads: Sequence[BlockLoad], stranded: int, now: float) -> None:
        """The interchange has told what its managers have to do."""
        self.looked_at = now
        if not stranded:
            self.stranded_since = math.inf
        elif self.stranded_since == math.inf:
            self.stranded_since = now
        # A block that began since then has its whole time to come, and it does not suffice: neither would another's.
        self.hopeless = any(
            block.joined_at is not None and block.joined_at > self.stranded_since
            for block in self.live.values()
        )
        self.stranded = 0 if self.hopeless else stranded
        found = {load.block: load for load in loads}
        for block in self.live.values():
            load = found.get(block.id)
            idle = load is not None and not load.tasks
            block.idle_since = now - load.idle_seconds if load is not None and idle else math.inf

    # -------------------------------------------------------------------------------------------- scaling in

    def ask_to_drain(self, block_id: str, *, force: bool = False) -> bool:
        """The interchange is about to be asked to hold and drain the block; False where it leaves already."""
        block = self.live.get(block_id)
        if block is None or (block.leaving and not (force and not block.forced)):
            return False
        block.asked_to_drain = not block.scaled_in
        if force and not block.forced:
            block.forced = True
            block.cancel_at = -math.inf
        self.changes += 1
        return True

    def drain_answered(self, block_id: str, accepted: bool, now: float) -> None:
        """The interchange has drained the block, or has left it alone since a task is on it."""
        block = self.live.get(block_id)
        if block is None or not block.asked_to_drain:
            return
        block.asked_to_drain = False
        if accepted:
            block.scaled_in = True
            block.message = block.message or "scaled in"
        else:
            block.idle_since = math.inf
            self.looked_at = max(self.looked_at, now)
        self.changes += 1

    def note_unneeded(self, blocks: Collection[str], now: float) -> None:
        """Of the blocks without managers, nothing needs these at this moment."""
        for block in self.live.values():
            if block.id not in blocks:
                block.unneeded_since = math.inf
            elif block.unneeded_since == math.inf:
                block.unneeded_since = now

    def to_cancel(self, now: float) -> tuple[list[JobId], list[JobId]]:
        """Jobs of blocks that were scaled in and are empty, to be cancelled now: politely, and by force.

        A job that does not end in time is cancelled by force, again and again, ever more seldom.
        """
        polite: list[JobId] = []
        forced: list[JobId] = []
        for block in self.live.values():
            if self._cancels_at(block) > now or block.job_id is None:
                continue
            (forced if block.forced or block.cancelling else polite).append(block.job_id)
            block.cancelling = True
            block.patience = block.patience * 2 or self.policy.patience
            block.cancel_at = now + block.patience
        return polite, forced

    def _cancels_at(self, block: Block) -> float:
        if not block.scaled_in or block.job_id is None or (block.managers and not block.forced):
            return math.inf
        return block.cancel_at

    # ------------------------------------------------------------------------------------------- conclusions in time

    def settle(self, now: float) -> None:
        """Draw the conclusions that only need time."""
        for block in list(self.live.values()):
            if block.gone_at is not None and now >= block.gone_at + self.policy.linger:
                self._end(block, now)
            elif (proven_at := self._proven_at(block)) <= now:
                # Once only: a block that goes on working says nothing about the others, which go on failing.
                block.proven = True
                if proven_at >= self.failed_at:
                    self._worked()

    def _proven_at(self, block: Block) -> float:
        """When a live block is taken to work, since its managers are still there; inf if that is known, or not near.

        Registered managers may have no worker that gets ready. Where that was so before, it shows by the time in
        which it did: so no row of such blocks is forgiven, however slowly each fails.
        """
        if block.proven or not block.managers or block.joined_at is None:
            return math.inf
        return block.joined_at + max(self.policy.short_life, BARREN_LIVES * self.barren_life)

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
        if block.managers or block.left_at is None or not block.lost or block.condemned:
            return math.inf
        if block.cancelling or block.scaled_in:
            return math.inf
        return block.left_at + self.policy.linger

    # ----------------------------------------------------------------------------------------- what is known

    def deadline(self) -> float:
        """When `settle` is to be called next if nothing happens before, inf for never."""
        earliest = math.inf
        for block in self.live.values():
            earliest = min(earliest, self._hangs_at(block), self._cancels_at(block))
            if block.gone_at is not None:
                earliest = min(earliest, block.gone_at + self.policy.linger)
            if self.failures:
                earliest = min(earliest, self._proven_at(block))
        return earliest

    def job_ids(self) -> list[JobId]:
        """The jobs that are not known to have ended."""
        return list(self._by_job)

    def view(self, now: float = 0.0, tasks: int = 0) -> View:
        """What a plan needs to know, with so many tasks outstanding."""
        return View(
            blocks=tuple(self._sight(block, now) for block in self.live.values()),
            tasks=tasks,
            stranded=min(self.stranded, tasks),
            block_slots=self.workers_per_node * self.policy.nodes_per_block,
            kept=self.kept,
            begun=self.begun,
            looked_at=self.looked_at,
            failures=self.failures,
            failed_at=self.failed_at,
            started_at=self.started_at,
            permanent=self.permanent,
        )

    def _sight(self, block: Block, now: float) -> BlockSight:
        fresh = block.joined_at is None
        expected = max(0, block.nodes - block.ever_joined)
        if block.joined_at is not None and now >= block.joined_at + self.policy.gather:
            expected = 0
        return BlockSight(
            block.id,
            block.state,
            block.workers + expected * self.workers_per_node,
            block.managers,
            fresh,
            block.leaving,
            block.unneeded_since if fresh else block.idle_since,
        )

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
            assert not (block.asked_to_drain and block.scaled_in), f"block {block_id} is drained and asked to"
            assert block.workers >= 0, f"block {block_id} has {block.workers} workers"
            assert block.ever_failed <= block.ever_joined, (
                f"block {block_id} has {block.ever_failed} failed managers"
            )
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
        if block.scaled_in:
            state = JobState.SCALED_IN
        elif block.cancelling:
            state = JobState.CANCELLED
        elif state is JobState.COMPLETED and block.joined_at is None:
            state = JobState.MISSING
            block.message = block.message or "its job ended without an error, but no manager ever registered"
        drained = state is JobState.COMPLETED and not status.exit_code and not block.lost
        if not block.cancelling and not block.scaled_in:
            if (drained and block.joined_at is not None) or block.worked(now, self.policy.short_life):
                self.barren_life = 0.0
                self._worked()
            else:
                self._has_failed(block, now)
        block.managers = 0
        block.workers = 0
        del self.live[block.id]
        if block.job_id is not None:
            del self._by_job[block.job_id]
        self._enter(block, state, now)
        self.ended.append(block)

    def _worked(self) -> None:
        self.permanent = False
        self.failures = 0
        self._failed_attempt = 0
        self.failed.clear()

    def _has_failed(self, block: Block, now: float) -> None:
        self.failed.append(block)
        if block.attempt > self._failed_attempt:
            self._failed_attempt = block.attempt
            self.failures += 1
            self.failed_at = now
