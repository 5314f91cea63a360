"""The future of a task: a `concurrent.futures.Future` that costs a third as much.

The standard future makes a condition with a lock and two lists when it is made, and takes the lock to complete; for
a million tiny tasks that is most of the time. This one makes them when somebody waits for it. Only the executor's
thread completes it, and while there is no condition it does so without one.

Why that is safe: a condition is made, and a future without one is completed, only under one lock of this module. So
whoever looks at a future's state under its condition, as the standard library's code does, either sees the outcome,
or has made the condition before; then the outcome is set under it, and whoever waits is woken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import _base as base
from typing import TYPE_CHECKING, Any, TypeVar, cast

from throughway.protocol.messages import Task

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor
    from throughway.serialize.functions import Entry

Result = TypeVar("Result")

PENDING = base.PENDING
RUNNING = base.RUNNING
CANCELLED = base.CANCELLED
CANCELLED_AND_NOTIFIED = base.CANCELLED_AND_NOTIFIED
FINISHED = base.FINISHED

_making = threading.Lock()


class TaskFuture(Future[Result]):
    """What `submit` returns. Everything that `concurrent.futures.Future` promises holds.

    `cancel` asks where the task is, which takes a round trip: True means that it never runs. The attribute ``task_id``
    is the task's number within its executor, as logs and errors name it.
    """

    __slots__ = (
        "_callbacks",
        "_cond",
        "_entry",
        "_exception",
        "_executor",
        "_frames",
        "_result",
        "_retries",
        "_state",
        "_task",
        "_waiting",
        "task_id",
    )

    def __init__(
        self,
        executor: HighThroughputExecutor,
        task: Task,
        entry: Entry | None,
        frames: Sequence[memoryview],
        retries: int,
    ) -> None:
        # The base's __init__ is left out on purpose: see above.
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._cond: threading.Condition | None = None
        self._waiting: list[Any] | None = None
        self._callbacks: list[Callable[[Future[Result]], object]] | None = None
        self._executor: HighThroughputExecutor | None = executor
        self._task: Task | None = task
        self._entry: Entry | None = entry
        self._frames = frames
        self._retries = retries
        self.task_id: int = task.id

    # ---------------------------------------------------------------- what the standard library's code looks at

    @property
    def _condition(self) -> threading.Condition:
        cond = self._cond
        if cond is None:
            with _making:
                if self._cond is None:
                    self._cond = threading.Condition()
                cond = self._cond
        return cond

    @_condition.setter
    def _condition(self, cond: threading.Condition) -> None:
        self._cond = cond

    @property
    def _waiters(self) -> list[Any]:
        # Reached only under the condition's lock.
        if self._waiting is None:
            self._waiting = []
        return self._waiting

    @_waiters.setter
    def _waiters(self, waiters: list[Any]) -> None:
        self._waiting = waiters

    @property
    def _done_callbacks(self) -> list[Callable[[Future[Result]], object]]:
        if self._callbacks is None:
            self._callbacks = []
        return self._callbacks

    @_done_callbacks.setter
    def _done_callbacks(self, callbacks: list[Callable[[Future[Result]], object]]) -> None:
        self._callbacks = callbacks

    # ----------------------------------------------------------------------------------------------- for users

    def result(self, timeout: float | None = None) -> Result:
        """The task's result; raises its exception, `CancelledError`, or `TimeoutError` after ``timeout`` seconds."""
        if self._state == FINISHED and self._exception is None:
            return cast(Result, self._result)
        return super().result(timeout)

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
        with _making:
            if self._cond is None:
                self._result = value
                self._state = FINISHED
                self._executor = self._task = self._entry = None
                self._frames = ()
                return
        self._settle(FINISHED, value, None, "add_result")

    def _set_error(self, error: BaseException) -> None:
        self._settle(FINISHED, None, error, "add_exception")

    def _set_cancelled(self) -> None:
        self._settle(CANCELLED_AND_NOTIFIED, None, None, "add_cancelled")

    def _settle(self, state: str, value: Any, error: BaseException | None, notice: str) -> None:
        with self._condition:
            self._result = value
            self._exception = error
            self._state = state
            self._executor = self._task = self._entry = None
            self._frames = ()
            for waiter in self._waiting or ():
                getattr(waiter, notice)(self)
            self._condition.notify_all()
        if self._callbacks:
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
