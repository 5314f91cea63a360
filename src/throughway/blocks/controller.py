"""The thread that keeps an executor's blocks: it does what the plan says, and watches what comes of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from throughway.blocks import failure
from throughway.blocks.inquiries import Ask, Inquiries
from throughway.blocks.managers import Manager, Managers
from throughway.blocks.plan import Plan, Strategy, plan
from throughway.blocks.policy import MAX_IDLETIME, BlockPolicy, policy_for
from throughway.blocks.record import BlocksRecord, Recorder, block_record
from throughway.blocks.state import Block, BlockView, Ledger
from throughway.blocks.strategies import none, strategy_for
from throughway.blocks.submission import Submitter
from throughway.blocks.watchdog import Watchdog
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.providers.interface import JobId, JobStatus, Provider, SubmitFailure

logger = logging.getLogger("throughway.blocks")

STOP_TIMEOUT = 10.0
"""Seconds that jobs have to end by themselves once an executor has given up."""

STOP_TIMEOUT_ELSEWHERE = 30.0
"""The same, at least, for jobs of a batch scheduler, which takes its time to notice."""

KILL_TIMEOUT = {True: 3.0, False: 15.0}
"""Seconds that killed jobs have to be gone: on this machine, and elsewhere."""

_LONGEST_SILENCE = 600.0
_FIRST_LOOK = {True: 0.002, False: 1.0}
_LAST_LOOK = {True: 0.05, False: 10.0}


class ExecutorView:
    """What a user's ``block_error_handler`` sees of the executor."""

    def __init__(self, controller: BlockController) -> None:
        self._controller = controller

    @property
    def label(self) -> str:
        """The executor's label."""
        return self._controller.label

    @property
    def init_blocks(self) -> int:
        """Blocks that it started with."""
        return self._controller.policy.init_blocks

    def blocks(self) -> list[BlockView]:
        """All blocks, as `BlockController.blocks`."""
        return self._controller.blocks()

    def fail(self, error: Exception | str) -> None:
        """Make the executor give up: every future gets ``error``, and all blocks are cancelled."""
        self._controller.fail(error)

    set_bad_state_and_fail_all = fail
    """The same, under the name by which handlers written for HTEX call it."""


ErrorHandler: TypeAlias = Callable[[ExecutorView, dict[str, JobStatus]], object]
"""Called with the state of every block, live or ended not long ago, whenever one of them has changed."""


class _Phase(Enum):
    KEEPING = 1
    ENDING = 2
    ENDED = 3


class BlockController:
    """Keeps the blocks of one executor until `stop`, or until too many fail in a row.

    Args:
        provider: where they come from.
        run: the run's id, which the names of the jobs hold.
        folder: takes scripts and output of the jobs.
        command_for: gives the command of a manager for a block's id.
        on_failure: called once, from the controller's thread, when it gives up.
        block_error_handler: True for the rule of `plan`, False to go on for ever, or the user's `ErrorHandler`, which
            then alone decides.
        strategy: how many blocks are wanted; see `strategies`.
        max_idletime: seconds after which a block that is not needed is scaled in.
        workers_per_node: workers that a manager is expected to have, until the first one shows.
        tasks: gives the number of tasks without an outcome.
        ask: asks the interchange, without waiting; `Told` is called from any thread. None where there is none: then
            only blocks without managers are scaled in.
        notice: told from how many outstanding tasks on `demand` is to be called, inf for never.
        record: folder for the record of the blocks, None for none.
        watchdog: is started before the first job, and ended after the last.

    All methods may be called from any thread, and only `stop` waits. Raises `ConfigurationError` for a strategy, a
    ``block_error_handler`` or a number of blocks that cannot work.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        run: str,
        folder: str,
        command_for: Callable[[str], Sequence[str]],
        on_failure: Callable[[ExecutorFailed], object],
        label: str = "HighThroughputExecutor",
        block_error_handler: bool | ErrorHandler = True,
        environment: Mapping[str, str] | None = None,
        policy: BlockPolicy | None = None,
        strategy: str | Strategy | None = None,
        max_idletime: float = MAX_IDLETIME,
        workers_per_node: float = 1.0,
        tasks: Callable[[], int] = lambda: 0,
        ask: Ask | None = None,
        notice: Callable[[float], None] = lambda count: None,
        record: str | None = None,
        watchdog: Watchdog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(block_error_handler, bool) and not callable(block_error_handler):
            raise ConfigurationError(
                f"block_error_handler={block_error_handler!r} is neither True, False nor callable: give True "
                "to stop after several failures in a row, False to go on for ever, or a function of "
                "(executor, statuses)"
            )
        self.label = label
        self._provider = provider
        self._submitter = Submitter(
            provider, run=run, folder=folder, command_for=command_for, environment=environment or {}
        )
        self._on_failure = on_failure
        self._handler = None if isinstance(block_error_handler, bool) else block_error_handler
        self._strategy = strategy_for(strategy)
        self.policy = policy or policy_for(
            provider,
            max_idletime=max_idletime,
            gives_up=block_error_handler is True,
            follows=self._strategy is not none,
        )
        self._tasks = tasks
        self._notice = notice
        self._recorder = None if record is None else Recorder(record, clock)
        self._watchdog = watchdog
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        # Guarded by the lock.
        self._ledger = Ledger(self.policy)
        self._ledger.workers_per_node = max(1.0, workers_per_node)
        self._managers = Managers()
        self._opened: deque[list[Block]] = deque()
        """blocks that were added by hand, and are to be submitted"""
        self._drains: deque[tuple[str, bool]] = deque()
        """blocks to be scaled in by hand, and whether by force"""
        self._refusals: deque[str] = deque()
        """hosts to be left out"""
        self._phase = _Phase.KEEPING
        self._touched = False
        self._condemned: ExecutorFailed | None = None
        self._failed = False
        self._kill_at = math.inf
        self._silent = ""
        # Of the thread (or whoever steps) alone.
        self._poll_at = math.inf
        self._unanswered = 0
        self._look = 0.0
        self._asked: set[JobId] = set()
        self._killing = False
        self._killed = False
        self._shown = 0
        self._watching = False
        self._inquiries = Inquiries(
            label,
            self._ledger,
            self._lock,
            ask=ask,
            touch=self._touch,
            clock=clock,
            introduced=self._strategy is none,
        )

    # ------------------------------------------------------------------------------------ from other threads

    def start(self) -> None:
        """Start the thread; it starts the first blocks at once."""
        with self._lock:
            if self._thread is not None or self._phase is not _Phase.KEEPING:
                raise RuntimeError(f"the blocks of executor {self.label!r} were started or stopped before")
            self._thread = threading.Thread(target=self._run, name="throughway: blocks", daemon=True)
            self._thread.start()

    def begin_stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Start no more blocks, cancel all jobs, and kill what is still there after ``timeout`` seconds, or after
        `STOP_TIMEOUT_ELSEWHERE` where that is longer and the jobs are a batch scheduler's."""
        timeout = self._patience(timeout)
        with self._wake:
            self._begin_end(timeout)
            if self._thread is None and not self._ledger.live:
                self._phase = _Phase.ENDED
            self._touched = True
            self._wake.notify_all()

    def stop(self, timeout: float = STOP_TIMEOUT) -> list[BlockView]:
        """`begin_stop`, then wait until all jobs and the thread are gone. What is not gone is returned."""
        self.begin_stop(timeout)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # Beyond all that the thread itself waits for, it may be in a command of the provider.
            thread.join(self._patience(timeout) + KILL_TIMEOUT[self._provider.local] + 1.0)
        with self._lock:
            left = self._views(live=True)
        if self._watchdog is not None and (thread is None or thread is not threading.current_thread()):
            self._watchdog.end(left=bool(left))
        return left

    def _patience(self, timeout: float) -> float:
        return timeout if self._provider.local else max(timeout, STOP_TIMEOUT_ELSEWHERE)

    def manager_joined(self, block: str, manager: str = "", host: str = "", workers: int = 1) -> None:
        """A manager has registered, with an id of its own. One of a block that is not one of ours is left alone."""
        with self._wake:
            now = self._clock()
            if not self._managers.joined(manager, Manager(block, host, workers, now)):
                return
            if self._ledger.stranded:
                self._inquiries.wanted = True
            self._ledger.joined(block, workers, now)
            self._touch()

    def manager_left(
        self, block: str, reason: str, lost: bool, manager: str = "", failed: bool = False
    ) -> None:
        """A manager that had registered is gone: drained, or ``lost``; ``failed`` if no worker ever got ready there."""
        with self._wake:
            now = self._clock()
            gone = self._managers.left(manager, block)
            if gone is None and manager:
                return
            ours = self._ledger.live.get(block)
            if gone is not None and gone.host and not self._provider.local:
                asked = lost and ours is not None and (ours.forced or ours.cancelling)
                lived = now - gone.joined_at
                for name in self._managers.hosts.left(gone.host, lost and not asked, reason, lived):
                    logger.warning(
                        "executor %r leaves out host %s: %s",
                        self.label,
                        name,
                        self._managers.hosts.left_out[name],
                    )
                    self._refusals.append(name)
            self._ledger.left(block, 0 if gone is None else gone.workers, reason, lost, now, failed=failed)
            self._touch()

    def manager_refused(self, block: str, reason: str) -> None:
        """The interchange has turned a manager away; the reason is shown with its block."""
        with self._wake:
            self._ledger.turned_away(block, reason)
            self._touch()

    def loads(self, payload: bytes) -> None:
        """What the interchange says its managers have to do (the answer to ``blocks``)."""
        self._inquiries.answered(payload)

    def demand(self) -> None:
        """There are more outstanding tasks than the last `notice` named."""
        with self._wake:
            self._touch()

    def stranded(self) -> None:
        """Tasks wait whose walltime is longer than what any manager with room has left."""
        with self._wake:
            self._inquiries.wanted = True
            self._touch()

    def interchange_restarted(self) -> None:
        """Another interchange has taken over: it has to be told again which blocks and hosts take nothing."""
        with self._wake:
            for block in self._ledger.live.values():
                if block.asked_to_drain or block.scaled_in:
                    self._drains.append((block.id, block.forced))
                if block.gone_at is not None:
                    self._ledger.vacated.append(block.id)
            self._refusals.extend(self._managers.hosts.left_out)
            self._inquiries.forget()
            self._touch()

    def scale_out(self, count: int) -> list[str]:
        """Start ``count`` more blocks, whatever the strategy; their ids. Raises `ValueError` for more than there is
        room for below ``max_blocks``, and `RuntimeError` at the end."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"{count!r} is no number of blocks: give an int of 0 or more")
        with self._wake:
            if self._phase is not _Phase.KEEPING or self._condemned is not None:
                raise RuntimeError(f"executor {self.label!r} ends: no block starts any more")
            live = len(self._ledger.live)
            if live + count > self.policy.max_blocks:
                raise ValueError(
                    f"{count} more blocks cannot be started: {live} live, and max_blocks={self.policy.max_blocks} "
                    "is never exceeded (blocks that start or end count)"
                )
            if not count:
                return []
            blocks = self._ledger.open(count, self._provider.nodes_per_block, self._clock())
            self._ledger.kept += count
            self._opened.append(blocks)
            self._touch()
            return [block.id for block in blocks]

    def scale_in(self, blocks: int | Iterable[str], *, force: bool = False) -> list[str]:
        """Let blocks go: so many, those first that have not begun or are idle, or those with these ids.

        Each takes nothing new from now on, finishes what runs, and ends; with ``force`` it ends at once, and what ran
        there is lost. Returns the ids of those that were not on their way out before. Raises `ValueError` for an id
        that is not a live block's.
        """
        with self._wake:
            live = self._ledger.live
            if isinstance(blocks, int) and not isinstance(blocks, bool):
                if blocks < 0:
                    raise ValueError(f"{blocks} is no number of blocks: give 0 or more")
                staying = [block for block in live.values() if not block.leaving]
                staying.sort(
                    key=lambda block: (block.joined_at is not None, block.idle_since, block.opened_at)
                )
                chosen = [block.id for block in staying[:blocks]]
            else:
                if isinstance(blocks, str | bool) or not isinstance(blocks, Iterable):
                    raise TypeError(f"{blocks!r} is neither a number of blocks nor a list of their ids")
                chosen = list(dict.fromkeys(blocks))
                unknown = [block for block in chosen if block not in live]
                if unknown:
                    known = ", ".join(live) or "none"
                    raise ValueError(f"there are no live blocks {unknown}: give ids of {known}")
                chosen = [
                    block for block in chosen if not live[block].leaving or (force and not live[block].forced)
                ]
            gone = sum(not live[block].leaving for block in chosen)
            self._ledger.kept = max(0, self._ledger.kept - gone)
            self._drains.extend((block, force) for block in chosen)
            for block in chosen:
                # From here on the plan does not count on it.
                self._ledger.ask_to_drain(block, force=force)
            self._touch()
            return chosen

    def left_out(self) -> dict[str, str]:
        """The hosts that are left out, and why."""
        with self._lock:
            return dict(self._managers.hosts.left_out)

    def fail(self, error: Exception | str) -> None:
        """Give up with ``error``: ``on_failure`` is called with it, and all jobs are cancelled."""
        if not isinstance(error, ExecutorFailed):
            cause = error if isinstance(error, Exception) else None
            error = ExecutorFailed(str(error))
            error.__cause__ = cause
        with self._wake:
            self._condemned = self._condemned or error
            self._touch()

    def blocks(self) -> list[BlockView]:
        """The live blocks and the last of those that have ended, in the order of their ids."""
        with self._lock:
            return self._views()

    # -------------------------------------------------------------------------------------------- the thread

    def step(self) -> float | None:
        """Do what is due now; when to call again if nothing happens before (inf for never), None at the end.

        The thread calls it. Without `start`, whoever steps is the thread.
        """
        with self._lock:
            self._touched = False
            if self._phase is _Phase.ENDED:
                return None
            ids = self._ledger.job_ids()
        polled = bool(ids) and self._clock() >= self._poll_at
        if polled:
            self._poll(ids)
        if self._phase is _Phase.ENDING:
            return self._step_to_end(polled)
        with self._lock:
            now = self._clock()
            self._ledger.settle(now)
            hung = self._ledger.hung(now)
        self._cancel(hung, force=True)
        self._act_by_hand()
        todo = self._plan(now)
        if self._handler is not None:
            self._ask_handler(self._handler)
        condemned = self._condemned
        if condemned is not None or todo.give_up:
            self._give_up(condemned or self._failure())
            return self._clock()
        self._inquiries.drain([(block, False) for block in todo.drain], "drain_idle_block")
        self._cancel_empty()
        record_at = self._write_record()
        if todo.start:
            self._start_blocks(todo.start)
            return self._clock()
        look_at = self._inquiries.look() if todo.look or self._inquiries.wanted else math.inf
        self._notice(todo.notice_at)
        if self._tasks() >= todo.notice_at:
            # They came while it was planned, and were not noticed.
            return self._clock()
        with self._lock:
            return min(
                todo.wake_at,
                look_at,
                record_at,
                self._ledger.deadline(),
                self._poll_at if self._ledger.live else math.inf,
            )

    def _plan(self, now: float) -> Plan:
        tasks = self._tasks()
        with self._lock:
            view = self._ledger.view(now, tasks)
        try:
            todo = plan(view, self.policy, now, self._strategy)
        except Exception as error:
            logger.exception("the strategy of executor %r failed", self.label)
            failed = ExecutorFailed(
                f"executor {self.label!r}: its strategy {self._strategy!r} raised {error!r}: correct it, or give "
                "strategy='simple'"
            )
            failed.__cause__ = error
            self.fail(failed)
            return Plan()
        with self._lock:
            self._ledger.note_unneeded(todo.unneeded, now)
        return todo

    def _act_by_hand(self) -> None:
        """What users asked for, and what follows from hosts that are left out."""
        self._inquiries.introduce()
        while True:
            with self._lock:
                opened = self._opened.popleft() if self._opened else None
                drains = list(self._drains)
                self._drains.clear()
                refusals = list(self._refusals)
                self._refusals.clear()
                vacated = list(self._ledger.vacated)
                self._ledger.vacated.clear()
            for host in refusals:
                self._inquiries.refuse(host)
            for block in vacated:
                self._inquiries.vacate(block)
            self._inquiries.drain(drains, "drain_block")
            if opened is None:
                return
            self._submit(opened)

    def _cancel_empty(self) -> None:
        """End the jobs of blocks that were scaled in and have nothing left."""
        with self._lock:
            now = self._clock()
            polite, forced = self._ledger.to_cancel(now)
            if polite or forced:
                # Whether they are gone is looked at soon, and not only at the usual interval.
                soon = now + min(5.0, self._provider.status_polling_interval)
                self._poll_at = min(self._poll_at, soon) if self._poll_at > now else soon
        self._cancel(polite)
        self._cancel(forced, force=True)

    def _run(self) -> None:
        try:
            while (due := self.step()) is not None:
                with self._wake:
                    while not self._touched and (left := due - self._clock()) > 0:
                        self._wake.wait(None if left == math.inf else left)
        except Exception as error:
            # Whatever it is, nobody may wait for blocks that nobody starts.
            logger.exception("the controller of the blocks of executor %r failed", self.label)
            failed = ExecutorFailed(f"executor {self.label!r}: the control of its blocks failed: {error!r}")
            failed.__cause__ = error
            self._report(failed)
            self._cancel(self._ledger.job_ids(), force=True)

    def _poll(self, ids: list[JobId]) -> None:
        interval = self._provider.status_polling_interval
        try:
            statuses = self._provider.status(ids)
        except Exception as error:
            # A scheduler that does not answer says nothing about its jobs.
            self._unanswered += 1
            if self._unanswered == 1:
                logger.warning(
                    "the %s provider gives no status: %s", self._provider.label, error, exc_info=True
                )
            with self._lock:
                self._silent = f"the {self._provider.label} provider gives no status: {error}"
                self._ledger.changes += self._unanswered == 1
            wait = min(interval * 2.0 ** min(self._unanswered, 30), max(interval, _LONGEST_SILENCE))
        else:
            wait = interval
            with self._lock:
                self._ledger.changes += self._unanswered > 0
                self._unanswered = 0
                self._silent = ""
                self._ledger.heard(statuses, self._clock())
        self._poll_at = self._clock() + wait

    def _start_blocks(self, count: int) -> None:
        with self._lock:
            if self._phase is not _Phase.KEEPING:
                return
            # Others may have been added by hand meanwhile.
            count = min(count, self.policy.max_blocks - len(self._ledger.live))
            if count <= 0:
                return
            blocks = self._ledger.open(count, self._provider.nodes_per_block, self._clock())
        self._submit(blocks)

    def _submit(self, blocks: list[Block]) -> None:
        provider = self._provider
        if self._watchdog is not None and not self._watching:
            self._watching = True
            try:
                self._watchdog.start(provider)
            except OSError as error:
                logger.warning(
                    "should this process be killed, nobody cancels its jobs: their watchdog does not start: %s",
                    error,
                )
        with self._lock:
            exclude = sorted(self._managers.hosts.left_out)
        outcomes = self._submitter.submit(blocks, exclude)
        with self._lock:
            for block, outcome in zip(blocks, outcomes, strict=True):
                if isinstance(outcome, SubmitFailure):
                    logger.warning("block %s was not submitted: %s", block.id, outcome.message)
                    self._ledger.not_submitted(
                        block, outcome.message, self._clock(), permanent=outcome.permanent
                    )
                else:
                    logger.info("block %s is job %s of the %s provider", block.id, outcome, provider.label)
                    self._ledger.submitted(block, outcome)
        now = self._clock()
        due = now + provider.status_polling_interval
        self._poll_at = min(self._poll_at, due) if self._poll_at > now else due

    # --------------------------------------------------------------------------------------------- giving up

    def _ask_handler(self, handler: ErrorHandler) -> None:
        with self._lock:
            if self._ledger.changes == self._shown:
                return
            self._shown = self._ledger.changes
            statuses = {block.id: block.report() for block in self._ledger.blocks()}
        try:
            handler(ExecutorView(self), statuses)
        except Exception as error:
            logger.exception("the block_error_handler of executor %r failed", self.label)
            failed = ExecutorFailed(
                f"executor {self.label!r}: its block_error_handler {handler!r} raised {error!r}: correct it, "
                "or give block_error_handler=True"
            )
            failed.__cause__ = error
            self.fail(failed)

    def _failure(self) -> ExecutorFailed:
        with self._lock:
            failures = self._ledger.failures
            blocks = list(self._ledger.failed)
        reports = []
        for block in blocks:
            status = block.report()
            reports.append(failure.FailedBlock(block.id, block.job_id or "", status, status.tail()))
        return ExecutorFailed(failure.message(self.label, self._provider.label, failures, reports))

    def _give_up(self, error: ExecutorFailed) -> None:
        with self._lock:
            self._begin_end(STOP_TIMEOUT)
        self._report(error)

    def _report(self, error: ExecutorFailed) -> None:
        if self._failed:
            return
        self._failed = True
        logger.error("%s", error)
        try:
            self._on_failure(error)
        except Exception:
            logger.exception("executor %r could not be told that its blocks failed", self.label)

    # ------------------------------------------------------------------------------------------------ ending

    def _begin_end(self, timeout: float) -> None:
        if self._phase is _Phase.KEEPING:
            self._phase = _Phase.ENDING
        self._kill_at = min(self._kill_at, self._clock() + timeout)

    def _step_to_end(self, polled: bool) -> float | None:
        with self._lock:
            kill_at = self._kill_at
            ids = self._ledger.job_ids()
            self._ledger.cancelling(ids)
            now = self._clock()
            if not ids or now >= kill_at + KILL_TIMEOUT[self._provider.local]:
                self._phase = _Phase.ENDED
        if self._phase is _Phase.ENDED:
            self._write_record(last=True)
            if ids:
                logger.error("these jobs of the %s provider did not end: %s", self._provider.label, ids)
            return None
        killing = now >= kill_at
        if killing and not self._killing:
            self._killing = True
            self._look = 0.0
        if polled or self._look == 0.0:
            if not killing:
                self._cancel([job_id for job_id in ids if job_id not in self._asked])
            elif not self._killed:
                self._killed = self._cancel(ids, force=True)
            # A job ends at once or takes its time: the looks at it grow rarer.
            local = self._provider.local
            self._look = min(self._look * 2, _LAST_LOOK[local]) if self._look else _FIRST_LOOK[local]
            self._poll_at = self._clock() + self._look
        return min(self._poll_at, kill_at + KILL_TIMEOUT[self._provider.local] if killing else kill_at)

    def _cancel(self, ids: list[JobId], *, force: bool = False) -> bool:
        if not ids:
            return True
        try:
            verdicts = self._provider.cancel(ids, force=force)
        except Exception:
            logger.warning("the %s provider could not cancel %s", self._provider.label, ids, exc_info=True)
            return False
        self._asked.update(job_id for job_id, ends in verdicts.items() if ends)
        return True

    # ------------------------------------------------------------------------------------------------ inside

    def _touch(self) -> None:
        self._touched = True
        self._wake.notify_all()

    def _views(self, *, live: bool = False) -> list[BlockView]:
        blocks = self._ledger.live.values() if live else self._ledger.blocks()
        offset = time.time() - self._clock()
        return [
            BlockView(
                block.id,
                block.job_id or "",
                block.state,
                block.since + offset,
                block.nodes,
                block.managers,
                block.words() or ("" if block.state.terminal else self._silent),
                block.workers,
                block.leaving and not block.state.terminal,
                block.opened_at + offset,
            )
            for block in blocks
        ]

    def _write_record(self, *, last: bool = False) -> float:
        """Write the record of the blocks if anything has changed; when to do it if it is too soon, else inf."""
        if self._recorder is None:
            return math.inf
        with self._lock:
            changes = self._ledger.changes
            due = self._recorder.due(changes, last=last)
            if due > self._clock():
                return due
            record = BlocksRecord(
                provider=self._provider.label,
                written=time.time(),
                blocks=[block_record(view) for view in self._views()],
                left_out=dict(self._managers.hosts.left_out),
                trouble=self._silent,
                wants=self._wants(),
            )
        self._recorder.write(record, changes)
        return math.inf

    def _wants(self) -> str:
        policy = self.policy
        name = getattr(self._strategy, "__name__", repr(self._strategy))
        return f"strategy {name}, {policy.min_blocks} to {policy.max_blocks} blocks of {policy.nodes_per_block} nodes"
