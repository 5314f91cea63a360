"""What an `AsyncExecutor` and its views share: the event loop, room for tasks, and how outcomes get into the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import Future
from typing import Any, TypeVar

from throughway.executors.futures import TaskFuture
from throughway.executors.high_throughput import HighThroughputExecutor

Result = TypeVar("Result")

_TURN = 256
"""Outcomes that are settled before others have the event loop."""


class AsyncFuture(asyncio.Future[Result]):
    """What `AsyncExecutor.submit` gives: cancelling it ends its task."""

    _task: TaskFuture[Result] | None = None
    _scope: Scope

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the future at once, and have the task cancelled or killed."""
        cancelled = super().cancel(msg)
        task, self._task = self._task, None
        if cancelled and task is not None:
            self._scope.end(task)
        return cancelled

    def settle(self, task: TaskFuture[Result]) -> None:
        """Take over the outcome of a task that has ended."""
        self._task = None
        if self.done():
            return
        if task.cancelled():
            super().cancel()
            return
        error = task.exception()
        if error is None:
            self.set_result(task.result())
        elif isinstance(error, StopIteration):
            # asyncio cannot carry it: it would end the coroutine that awaits it.
            replaced = RuntimeError("the task raised StopIteration")
            replaced.__cause__ = error
            self.set_exception(replaced)
        else:
            self.set_exception(error)


class Room:
    """How many tasks there may be, and who waits for room, first come first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self.empty = asyncio.Event()
        self.empty.set()

    async def take(self) -> None:
        """Take room for one task, waiting for it."""
        if self.used < self.limit and not self._queue:
            self._use()
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give()  # it was given room in the moment in which it was cancelled
            raise

    def _use(self) -> None:
        self.used += 1
        self.empty.clear()

    def give(self) -> None:
        """Give the room of one task back."""
        self.used -= 1
        while self._queue and self.used < self.limit:
            turn = self._queue.popleft()
            if not turn.cancelled():
                self._use()
                turn.set_result(None)
        if not self.used:
            self.empty.set()


class Scope:
    """The tasks of one `AsyncExecutor` in one event loop."""

    def __init__(self, executor: HighThroughputExecutor, limit: int, *, kill: bool) -> None:
        self._executor = executor
        self.limit = limit
        self._kill = kill
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: Room | None = None
        self._live: dict[TaskFuture[Any], AsyncFuture[Any]] = {}
        self._ended: deque[TaskFuture[Any]] = deque()
        self._called = False

    async def attach(self) -> Room:
        """Bind to the event loop that runs, and start the executor; the room for tasks.

        Raises:
            RuntimeError: it was shut down, or is bound to another event loop.
        """
        if self.closed:
            raise RuntimeError("cannot submit to an AsyncExecutor after its shutdown")
        loop = asyncio.get_running_loop()
        if self._room is None:
            self._loop = loop
            self._room = Room(self.limit)
        elif self._loop is not loop:
            raise RuntimeError(
                "this AsyncExecutor is used in another event loop: make one in each loop, on the same "
                "HighThroughputExecutor where they are to share workers"
            )
        if self._executor._run is None:
            await asyncio.to_thread(self._executor.start)
        return self._room

    def watch(self, task: TaskFuture[Result]) -> AsyncFuture[Result]:
        """A future of the event loop that gets this task's outcome."""
        future: AsyncFuture[Result] = AsyncFuture(loop=self._loop)
        future._task = task
        future._scope = self
        self._live[task] = future
        task.add_done_callback(self._on_end)
        return future

    def _on_end(self, task: Future[Any]) -> None:
        """In the executor's thread: what ends until the loop looks is carried over in one go."""
        assert isinstance(task, TaskFuture)
        assert self._loop is not None
        self._ended.append(task)
        # `_settle_all` clears it before it looks, so whatever comes after that look calls the loop again.
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        assert self._room is not None
        assert self._loop is not None
        self._called = False
        for _ in range(_TURN):
            if not self._ended:
                return
            task = self._ended.popleft()
            self._room.give()
            self._live.pop(task).settle(task)
        # Others want the loop, too. Should `_on_end` call it as well, one of the two finds nothing.
        self._loop.call_soon(self._settle_all)

    def end(self, task: TaskFuture[Any], *, kill: bool = False) -> None:
        """Cancel a task that waits; kill one that runs, if that is wanted. Returns at once."""
        if task.done():
            return
        if self._kill or kill:
            self._executor.kill(task)
        else:
            task._cancel_soon()

    def end_all(self, *, kill: bool = False) -> None:
        """End all tasks."""
        for task, future in list(self._live.items()):
            self.end(task, kill=kill)
            future.cancel()

    async def emptied(self) -> None:
        """Wait until no task is left."""
        if self._room is not None:
            await self._room.empty.wait()
