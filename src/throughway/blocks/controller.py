"""The thread that keeps an executor's blocks: it does what the plan says, and watches what comes of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from throughway.blocks import failure
from throughway.blocks.plan import plan
from throughway.blocks.policy import BlockPolicy, policy_for
from throughway.blocks.state import Block, BlockView, Ledger
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.providers.interface import JobId, JobSpec, JobStatus, Provider, SubmitFailure

logger = logging.getLogger("throughway.blocks")

STOP_TIMEOUT = 10.0
"""Seconds that jobs have to end by themselves once an executor has given up."""

KILL_TIMEOUT = 3.0
"""Seconds that killed jobs have to be gone."""

_LONGEST_SILENCE = 600.0
_FIRST_LOOK = {True: 0.002, False: 1.0}
_LAST_LOOK = {True: 0.05, False: 60.0}


class ExecutorView:
    """What a user's ``block_error_handler`` sees of the executor."""

    def __init__(self, controller: BlockController) -> None:
        self._controller = controller

    @property
    def label(self) -> str:
        """The executor's label."""
        return self._controller.label

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
    """Keeps the blocks of one executor alive until `stop`, or until too many fail in a row.

    ``command_for`` gives the command of a manager for a block's id; ``folder`` takes scripts and output of
    the jobs, whose names hold ``run``, the run's id. ``on_failure`` is called once, from the controller's
    thread, when it gives up. ``block_error_handler`` is True for the rule of `plan`, False to go on for
    ever, or the user's `ErrorHandler`, which then alone decides.

    All methods may be called from any thread, and only `stop` waits. Raises `ConfigurationError` for a
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
        self._run_id = run
        self._folder = folder
        self._command_for = command_for
        self._on_failure = on_failure
        self._handler = None if isinstance(block_error_handler, bool) else block_error_handler
        self._environment = dict(environment or {})
        self._policy = policy or policy_for(provider, gives_up=block_error_handler is True)
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        # Guarded by the lock.
        self._ledger = Ledger(self._policy)
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

    # ------------------------------------------------------------------------------------ from other threads

    def start(self) -> None:
        """Start the thread; it starts the first blocks at once."""
        with self._lock:
            if self._thread is not None or self._phase is not _Phase.KEEPING:
                raise RuntimeError(f"the blocks of executor {self.label!r} were started or stopped before")
            self._thread = threading.Thread(target=self._run, name="throughway: blocks", daemon=True)
            self._thread.start()

    def begin_stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Start no more blocks, cancel all jobs, and kill what is still there after ``timeout`` seconds."""
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
            thread.join(timeout + KILL_TIMEOUT + 1.0)
        with self._lock:
            return self._views(live=True)

    def manager_joined(self, block: str) -> None:
        """A manager has registered. A manager of a block that is not one of ours is left alone."""
        with self._wake:
            self._ledger.joined(block, self._clock())
            self._touch()

    def manager_left(self, block: str, reason: str, lost: bool) -> None:
        """A manager that had registered is gone: drained, or ``lost``."""
        with self._wake:
            self._ledger.left(block, reason, lost, self._clock())
            self._touch()

    def manager_refused(self, block: str, reason: str) -> None:
        """The interchange has turned a manager away; the reason is shown with its block."""
        with self._wake:
            self._ledger.turned_away(block, reason)
            self._touch()

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
            todo = plan(self._ledger.view(), self._policy, now)
        self._cancel(hung, force=True)
        if self._handler is not None:
            self._ask_handler(self._handler)
        condemned = self._condemned
        if condemned is not None or todo.give_up:
            self._give_up(condemned or self._failure())
            return self._clock()
        if todo.start:
            self._start_blocks(todo.start)
            return self._clock()
        with self._lock:
            return min(
                todo.wake_at, self._ledger.deadline(), self._poll_at if self._ledger.live else math.inf
            )

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
            wait = min(interval * 2.0 ** min(self._unanswered, 30), max(interval, _LONGEST_SILENCE))
        else:
            self._unanswered = 0
            wait = interval
            with self._lock:
                self._silent = ""
                self._ledger.heard(statuses, self._clock())
        self._poll_at = self._clock() + wait

    def _start_blocks(self, count: int) -> None:
        provider = self._provider
        with self._lock:
            if self._phase is not _Phase.KEEPING:
                return
            blocks = self._ledger.open(count, provider.nodes_per_block, self._clock())
        outcomes: list[JobId | SubmitFailure]
        try:
            specs = [self._spec(block) for block in blocks]
            outcomes = self._checked(provider.submit(specs), count)
        except Exception as error:
            logger.warning("no block could be submitted to the %s provider", provider.label, exc_info=True)
            text = str(error) or repr(error)
            outcomes = [SubmitFailure(f"the {provider.label} provider could not submit it: {text}")] * count
        with self._lock:
            for block, outcome in zip(blocks, outcomes, strict=True):
                if isinstance(outcome, SubmitFailure):
                    logger.warning("block %s was not submitted: %s", block.id, outcome.message)
                    self._ledger.not_submitted(block, outcome.message, self._clock())
                else:
                    logger.info("block %s is job %s of the %s provider", block.id, outcome, provider.label)
                    self._ledger.submitted(block, outcome)
        now = self._clock()
        due = now + provider.status_polling_interval
        self._poll_at = min(self._poll_at, due) if self._poll_at > now else due

    def _spec(self, block: Block) -> JobSpec:
        return JobSpec(
            name=f"throughway-{self._run_id}-{block.id}",
            command=list(self._command_for(block.id)),
            nodes=block.nodes,
            folder=self._folder,
            environment=self._environment,
        )

    def _checked(self, outcomes: list[JobId | SubmitFailure], count: int) -> list[JobId | SubmitFailure]:
        if len(outcomes) != count:
            # It can't be told which job is whose: none is kept.
            started = [outcome for outcome in outcomes if not isinstance(outcome, SubmitFailure)]
            self._cancel(started, force=True)
            raise RuntimeError(f"it answered {len(outcomes)} times for {count} jobs")
        return outcomes

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
            if not ids or now >= kill_at + KILL_TIMEOUT:
                self._phase = _Phase.ENDED
        if self._phase is _Phase.ENDED:
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
        return min(self._poll_at, kill_at + KILL_TIMEOUT if killing else kill_at)

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
            )
            for block in blocks
        ]
