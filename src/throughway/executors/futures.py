"""The future of a task: a `concurrent.futures.Future` that costs a third as much.

The standard future makes a condition with a lock and two lists when it is made, and takes the lock to complete; for
a million tiny tasks that is most of the time. This one makes them when somebody waits for it, and is completed without
them where nobody does. One thread at a time completes futures: that which reads the wire (`executors.serving`).

Why that is safe: a condition is made, and a future without one is completed, only under one lock of this module. So
whoever looks at a future's state under its condition, as the standard library's code does, either sees the outcome,
or has made the condition before; then the outcome is set under it, and whoever waits is woken.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import _base as base
from typing import TYPE_CHECKING, Any, TypeVar, cast

from throughway.protocol.messages import Task

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor
    from throughway.serialize.functions import Entry
    from throughway.transport.arena import Lease

Result = TypeVar("Result")

PENDING = base.PENDING
RUNNING = base.RUNNING
CANCELLED = base.CANCELLED
CANCELLED_AND_NOTIFIED = base.CANCELLED_AND_NOTIFIED
FINISHED = base.FINISHED

UNDONE = frozenset((PENDING, RUNNING))

SIGNAL_SECONDS = 1.0
"""How long a signal may go unheard by a main thread that waits for a result."""

# Whoever may be in the main thread makes no call while it has this: the handler of a signal could come by there, and
# wait for a future that nobody can complete meanwhile.
_making = threading.Lock()


class _Late:
    """What a future needs only once somebody waits for it."""

    __slots__ = ("callbacks", "cond", "sleepers", "waiters")

    def __init__(self) -> None:
        self.cond: threading.Condition | None = None
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Future[Any]], object]] = []
        self.sleepers: list[threading.Lock] = []

    def wake(self) -> None:
        """Wake those who sleep in `result`. One whose time is over may take itself off the list at any moment."""
        while self.sleepers:
            try:
                self.sleepers.pop().release()
            except IndexError:
                return


class TaskFuture(Future[Result]):
    """What `submit` returns. Everything that `concurrent.futures.Future` promises holds.

    `cancel` asks where the task is, which takes a round trip: True means that it never runs. The attribute ``task_id``
    is the task's number within its executor, as logs and errors name it; ``from_journal`` says that the result was
    there already, in the executor's journal.
    """

    from_journal: bool = False
    # What its journal knows it by is set only where there is one.
    _key: tuple[bytes, str]

    __slots__ = (
        "_entry",
        "_exception",
        "_executor",
        "_frames",
        "_key",
        "_late",
        "_result",
        "_retries",
        "_state",
        "_task",
        "task_id",
    )

    def __init__(
        self,
        executor: HighThroughputExecutor,
        task: Task,
        entry: Entry | None,
        frames: Sequence[memoryview] | Lease,
        retries: int,
    ) -> None:
        # The base's __init__ is left out on purpose: see above.
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._late: _Late | None = None
        self._executor: HighThroughputExecutor | None = executor
        self._task: Task | None = task
        self._entry: Entry | None = entry
        self._frames: Sequence[memoryview] | Lease = frames
        self._retries = retries
        self.task_id: int = task.id

    # ---------------------------------------------------------------- what the standard library's code looks at

    # To type checkers these are what they are in the base: plain attributes.
    if not TYPE_CHECKING:

        @property
        def _condition(self) -> threading.Condition:
            late = self._late
            if late is None or late.cond is None:
                late = _Late()
                cond = threading.Condition()
                with _making:
                    if self._late is None:
                        self._late = late
                    late = self._late
                    if late.cond is None:
                        late.cond = cond
            return late.cond

        # Both are reached only under the condition's lock, so what they belong to is there.
        @property
        def _waiters(self) -> list[Any]:
            return [] if self._late is None else self._late.waiters

        @property
        def _done_callbacks(self) -> list[Callable[[Future[Result]], object]]:
            return [] if self._late is None else self._late.callbacks

    # ----------------------------------------------------------------------------------------------- for users

    def result(self, timeout: float | None = None) -> Result:
        """The task's result; raises its exception, `CancelledError`, or `TimeoutError` after ``timeout`` seconds."""
        if self._state in UNDONE:
            self._wait(timeout)
        if self._state == FINISHED and self._exception is None:
            return cast("Result", self._result)
        return super().result(0)

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end: awake where it may come at once, and then asleep."""
        executor = self._executor
        run = None if executor is None else executor._run
        if run is None:
            self._sleep(timeout)
            return
        serving = run.shell.serving
        began = time.monotonic()
        if timeout is None or timeout > serving.spin.seconds:
            serving.serve(self)
        if self._state in UNDONE:
            # Should it time out, the wait was no short one.
            serving.spin.due = False
            serving.recall()
            self._sleep(timeout)
        serving.spin.waited(began)

    def _sleep(self, timeout: float | None) -> None:
        """A bare lock does: a condition would be made, taken and given back for one waiter."""
        lock = threading.Lock()
        lock.acquire()
        late = _Late()
        with _making:
            if self._state not in UNDONE:
                return
            if self._late is None:
                self._late = late
            late = self._late
            late.sleepers += [lock]
        # In the main thread a signal that comes just before the wait does not end it: look up now and then.
        longest = (
            SIGNAL_SECONDS if threading.current_thread() is threading.main_thread() else threading.TIMEOUT_MAX
        )
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not lock.acquire(timeout=max(0.0, min(longest, deadline - time.monotonic()))):
            if time.monotonic() < deadline and self._state in UNDONE:
                continue
            with contextlib.suppress(ValueError):
                # Else it was taken out to be released.
                late.sleepers.remove(lock)
            if self._state in UNDONE:
                raise TimeoutError
            return

    def cancel(self) -> bool:
        """Cancel the task: True if it never runs, False if it runs or has run. Waits for the answer."""
        state = self._state
        if state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            return True
        executor = self._executor
        if state != PENDING or executor is None:
            return False
        return executor._cancel(self)

    def _cancel_soon(self) -> None:
        """Cancel without waiting for the verdict: for those who do not need to know."""
        executor = self._executor
        if executor is not None and self._state == PENDING:
            executor._cancel_many([self.task_id])

    def done(self) -> bool:
        """Whether the task has ended in any way."""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    # -------------------------------------------------------------- for the executor's thread, and nobody else

    def _set_running(self) -> None:
        if self._state == PENDING:
            self._state = RUNNING

    def _set_value(self, value: Result) -> None:
        if not self._set_plainly(value):
            self._settle(FINISHED, value, None, "add_result")

    def _set_plainly(self, value: Result) -> bool:
        """As `_set_value`, from a thread that waits in `result`; False where others must be told, who may do anything.

        May be called again, should it have been cut short.
        """
        with _making:
            late = self._late
            if late is not None and late.cond is not None:
                return False
            self._result = value
            self._state = FINISHED
            self._executor = self._task = self._entry = None
            self._frames = ()
            if late is not None:
                late.wake()
        return True

    def _set_error(self, error: BaseException) -> None:
        self._settle(FINISHED, None, error, "add_exception")

    def _set_cancelled(self) -> None:
        self._settle(CANCELLED_AND_NOTIFIED, None, None, "add_cancelled")

    def _fail_in_child(self, error: BaseException) -> None:
        """In a forked child: whoever held this future's locks or waited for it is not here."""
        self._late = None
        self._exception = error
        self._state = FINISHED

    def _settle(self, state: str, value: Any, error: BaseException | None, notice: str) -> None:
        with self._condition:
            late = self._late
            assert late is not None
            with _making:
                self._result = value
                self._exception = error
                self._state = state
            late.wake()
            self._executor = self._task = self._entry = None
            self._frames = ()
            for waiter in late.waiters:
                getattr(waiter, notice)(self)
            self._condition.notify_all()
        if late.callbacks:
            self._invoke_callbacks()  # type: ignore[attr-defined]


__all__ = [
    "CANCELLED",
    "CANCELLED_AND_NOTIFIED",
    "FINISHED",
    "PENDING",
    "RUNNING",
    "CancelledError",
    "TaskFuture",
]
