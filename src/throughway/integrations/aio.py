"""`AsyncExecutor`: an executor for asyncio. Its tasks are awaited, cancelled and bounded as asyncio's users expect."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from throughway.executors.futures import TaskFuture
from throughway.executors.high_throughput import HighThroughputExecutor
from throughway.integrations.aio_scope import AsyncFuture, Room, Scope
from throughway.integrations.own import AnyExecutor, base_of, check_executor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

LIMIT = 10_000
"""Tasks of one `AsyncExecutor` without an outcome, at most, unless it is told otherwise."""

_TURN = 64
"""Calls that `AsyncExecutor.map` submits before it lets others have the event loop."""


class AsyncExecutor:
    """Runs functions on Throughway from the coroutines of one event loop, which it never blocks.

    ::

        async with AsyncExecutor() as executor:
            value = await executor.run(function, 1)
            async for value in executor.map(function, range(1_000_000)):
                ...

    Cancelling what awaits a task, as `asyncio.timeout` and task groups do, ends the task: one that waits never runs,
    and one that runs is killed with its worker, unless ``kill`` is False.

    An exception that leaves the ``async with`` block ends all tasks; without one its end waits for them.

    Args:
        executor: use this executor, or view of one, and leave it running in the end; None makes one of ``parameters``.
        limit: tasks without an outcome, at most: whoever submits more awaits room.
        kill: whether cancelling kills a task that runs already; False lets it go on, and drops its result.
        parameters: those of `HighThroughputExecutor`, such as ``provider``.

    Raises:
        ValueError, ConfigurationError: a parameter cannot work.
    """

    def __init__(
        self,
        executor: AnyExecutor | None = None,
        *,
        limit: int = LIMIT,
        kill: bool = True,
        **parameters: Any,
    ) -> None:
        if executor is not None and parameters:
            raise ValueError(
                f"{', '.join(parameters)}: a given executor has its own parameters; "
                "give them to it, or leave executor away"
            )
        self._own = executor is None
        self._executor: AnyExecutor = (
            HighThroughputExecutor(**({"label": "AsyncExecutor"} | parameters))
            if executor is None
            else check_executor(executor, "AsyncExecutor")
        )
        self._base = base_of(self._executor)
        self._scope = Scope(self._base, checked_limit(limit), kill=kill)

    def options(self, **options: Any) -> AsyncExecutor:
        """A view on this executor whose tasks have a resource specification; see `HighThroughputExecutor.options`."""
        view = copy.copy(self)
        view._executor = self._executor.options(**options)
        return view

    # -------------------------------------------------------------------------------------------------------- tasks

    async def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> asyncio.Future[Result]:
        """Submit once there is room; awaiting the future gives the result, cancelling it ends the task.

        Raises:
            RuntimeError: it was shut down, or another event loop uses it.
            BrokenExecutor: the executor failed; the message says why.
        """
        scope = self._scope
        room = await scope.attach()
        await room.take()
        try:
            task = await self._submit(functools.partial(self._executor.submit, fn, *args, **kwargs))
        except BaseException:
            room.give()
            raise
        return scope.watch(task)

    async def run(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """``fn(*args, **kwargs)`` in a worker: its result, or what it raised. See `submit`."""
        return await (await self.submit(fn, *args, **kwargs))

    async def _submit(self, submit: Callable[[], TaskFuture[Any]]) -> TaskFuture[Any]:
        # With room in the executor this does not block; where others filled it, a thread waits instead of the loop.
        if self._base.outstanding < self._base.max_outstanding:
            return submit()
        waiting = asyncio.get_running_loop().run_in_executor(None, submit)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._end_abandoned)
            raise

    def _end_abandoned(self, waiting: asyncio.Future[TaskFuture[Any]]) -> None:
        if not waiting.cancelled() and waiting.exception() is None:
            self._scope.end(waiting.result())

    # ---------------------------------------------------------------------------------------------------------- maps

    async def map(
        self,
        fn: Callable[..., Result],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        limit: int | None = None,
        ordered: bool = True,
    ) -> AsyncIterator[Result]:
        """The results of calling ``fn`` with one item of each iterable, which may be asynchronous and endless.

        The first failure is raised, and ends the tasks that are on their way, as leaving the loop early does.

        Args:
            limit: tasks whose results have not been taken yet, at most; None for the executor's limit.
            ordered: whether results come in the order of the items, or as they become available.
        """
        room = Room(self._scope.limit if limit is None else checked_limit(limit))
        results: asyncio.Queue[asyncio.Future[Result] | _End] = asyncio.Queue()
        pending: set[asyncio.Future[Result]] = set()

        async def feed() -> None:
            count = 0
            error = None
            try:
                async for call in _calls(iterables):
                    await room.take()
                    future = await self.submit(fn, *call)
                    pending.add(future)
                    count += 1
                    if ordered:
                        results.put_nowait(future)
                    else:
                        future.add_done_callback(results.put_nowait)
                    if count % _TURN == 0:
                        await asyncio.sleep(0)
            except Exception as raised:  # noqa: BLE001 - it is raised where the results are taken
                error = raised
            results.put_nowait(_End(count, error))

        feeding = asyncio.create_task(feed())
        taken = 0
        end: _End | None = None
        try:
            while end is None or taken < end.count:
                item = await results.get()
                if isinstance(item, _End):
                    end = item
                    continue
                value = await item
                pending.discard(item)
                taken += 1
                room.give()
                yield value
            if end.error is not None:
                raise end.error
        finally:
            feeding.cancel()
            for future in pending:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # nobody asks for it any more
            with contextlib.suppress(asyncio.CancelledError):
                await feeding

    # -------------------------------------------------------------------------------------------------------- ending

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end once those submitted have ended. A given executor goes on without them.

        Args:
            wait: return only when every task has ended, and every process of an executor of its own is gone.
            cancel_futures: end the tasks as if what awaits them were cancelled.
        """
        self._scope.closed = True
        if cancel_futures:
            self._scope.end_all()
        if self._own:
            ending = asyncio.create_task(asyncio.to_thread(self._base.shutdown, wait))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                # Whoever is cancelled while waiting wants an end.
                self._scope.end_all(kill=True)
                await ending
                raise
        if wait:
            await self._scope.emptied()

    async def __aenter__(self) -> Self:
        await self._scope.attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown(cancel_futures=kind is not None)

    def __repr__(self) -> str:
        return f"<AsyncExecutor of at most {self._scope.limit} tasks on {self._executor!r}>"


class _End:
    """The items' end: how many calls were submitted, and what the iterables raised, if anything."""

    def __init__(self, count: int, error: Exception | None) -> None:
        self.count = count
        self.error = error


def checked_limit(limit: object) -> int:
    """Refuse a ``limit`` that cannot work.

    Raises:
        ValueError: it is not an int from 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit!r}: give how many tasks may be outstanding, an int from 1")
    return limit


async def _calls(iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...]) -> AsyncIterator[tuple[Any, ...]]:
    """The arguments of each call: one item of each iterable, until the shortest ends."""
    plain = [iterable for iterable in iterables if isinstance(iterable, Iterable)]
    if len(plain) == len(iterables):
        for call in zip(*plain, strict=False):
            yield call
        return
    each = [_items(iterable) for iterable in iterables]
    while True:
        items = []
        for iterator in each:
            try:
                items.append(await anext(iterator))
            except StopAsyncIteration:
                return
        yield tuple(items)


async def _items(iterable: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(iterable, AsyncIterable):
        async for item in iterable:
            yield item
    else:
        for item in iterable:
            yield item


__all__ = ["AsyncExecutor", "AsyncFuture"]
