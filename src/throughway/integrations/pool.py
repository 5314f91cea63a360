"""`Pool`: the interface of `multiprocessing.Pool` on an executor, for libraries that take a pool or its ``map``."""

from __future__ import annotations

import contextlib
import multiprocessing
import operator
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NoReturn, Self

from throughway.errors import SerializationError
from throughway.integrations.imap import AHEAD, Feed, IMapIterator
from throughway.integrations.own import AnyExecutor, base_of, check_executor, own_executor
from throughway.serialize.functions import _Record as Record
from throughway.worker.chunks import Chunk

CHUNKS_PER_WORKER = 64
"""Into how many tasks for each worker `Pool.map` cuts its work, at least: so few that one slow chunk matters little."""

Callback = Callable[[Any], object]


class AsyncResult:
    """The result of `Pool.apply_async`, as `multiprocessing.pool.AsyncResult`."""

    def __init__(
        self, future: Future[Any], callback: Callback | None, error_callback: Callback | None
    ) -> None:
        self._futures: Sequence[Future[Any]] = (future,)
        if callback is not None or error_callback is not None:
            self._call_back(callback, error_callback)

    def _call_back(self, callback: Callback | None, error_callback: Callback | None) -> None:
        left = len(self._futures)
        lock = threading.Lock()

        def ended(_: Future[Any]) -> None:
            nonlocal left
            with lock:
                left -= 1
                if left:
                    return
            try:
                value = self._value()
            except Exception as error:  # noqa: BLE001 - whatever the function raised, it is the callback's
                if error_callback is not None:
                    error_callback(error)
            else:
                if callback is not None:
                    callback(value)

        if not left:
            left = 1
            ended(Future())
        for future in self._futures:
            future.add_done_callback(ended)

    def _value(self) -> Any:
        return self._futures[0].result(0)

    def get(self, timeout: float | None = None) -> Any:
        """The result, or what the function raised.

        Raises:
            multiprocessing.TimeoutError: it was not there within ``timeout`` seconds.
        """
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        return self._value()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is ready, or for ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for future in self._futures:
            if future.done():
                continue
            try:
                future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except BaseException:
                if not future.done():
                    if deadline is not None and time.monotonic() >= deadline:
                        return
                    raise

    def ready(self) -> bool:
        """Whether it has ended."""
        return all(future.done() for future in self._futures)

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises:
            ValueError: it has not ended yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return all(not future.cancelled() and future.exception() is None for future in self._futures)


class MapResult(AsyncResult):
    """The result of `Pool.map_async` and `Pool.starmap_async`: a list, or the first failure in order."""

    def __init__(
        self,
        futures: Sequence[Future[Any]],
        *,
        chunked: bool,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._futures = futures
        self._chunked = chunked
        if callback is not None or error_callback is not None:
            self._call_back(callback, error_callback)

    def _value(self) -> list[Any]:
        if not self._chunked:
            return [future.result(0) for future in self._futures]
        return [value for future in self._futures for value in future.result(0)]


class Pool:
    """`multiprocessing.Pool` on Throughway: the same methods, arguments and exceptions.

    What differs: functions may be lambdas, closures and functions of a notebook; the workers may be on other machines;
    a worker that dies costs its task (`WorkerLost`) and no hang; `terminate` ends what is outstanding with `TaskKilled`
    or ``CancelledError``. Callbacks run in the executor's thread: they must not wait for other results.

    Args:
        processes: workers on this machine; None for one on each core.
        initializer: callable that each worker runs first.
        initargs: its arguments.
        maxtasksperchild: tasks after which a worker is replaced. A chunk is one task.
        executor: use this executor, or view of one, and leave it as it is in the end. Then nothing else may be given.
        parameters: further parameters of `HighThroughputExecutor`, such as ``provider``.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        executor: AnyExecutor | None = None,
        **parameters: Any,
    ) -> None:
        self._executor: AnyExecutor
        self._own = executor is None
        if executor is None:
            if processes is not None:
                processes = operator.index(processes)
                if processes < 1:
                    raise ValueError(f"processes={processes}: number of processes must be at least 1")
            self._executor = own_executor(
                processes,
                "Pool",
                {
                    "initializer": initializer,
                    "initargs": tuple(initargs),
                    "max_tasks_per_child": maxtasksperchild,
                    **parameters,
                },
            )
        else:
            given = [processes, initializer, *initargs, maxtasksperchild, *parameters]
            if any(value is not None for value in given):
                raise ValueError(
                    "a pool on a given executor has that executor's workers: give processes, initializer, "
                    "maxtasksperchild and the like to the executor, or leave executor away"
                )
            self._executor = check_executor(executor, "Pool")
        self._base = base_of(self._executor)
        self._state = "running"
        self._lock = threading.Lock()
        self._outstanding: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        """what was submitted to an executor that others use, too"""
        self._feeds: weakref.WeakSet[Feed] = weakref.WeakSet()

    # --------------------------------------------------------------------------------------------------- submitting

    def _submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any = None) -> Future[Any]:
        future: Future[Any] = self._executor.submit(function, *args, **(kwargs or {}))
        if not self._own:
            with self._lock:
                self._outstanding.add(future)
        return future

    def _check_running(self) -> None:
        if self._state != "running":
            raise ValueError(f"Pool not running: {self!r}")

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None
    ) -> Any:
        """``func(*args, **kwds)`` in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """`apply` without waiting. One of the callbacks gets the result or the exception."""
        self._check_running()
        return AsyncResult(self._submit(func, tuple(args), kwds), callback, error_callback)

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``[func(item) for item in iterable]`` in workers, ``chunksize`` items in one task."""
        return self._map_async(func, [(item,) for item in iterable], chunksize, None, None).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """`map` without waiting. One of the callbacks gets the list or the exception."""
        return self._map_async(func, [(item,) for item in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """``[func(*items) for items in iterable]`` in workers."""
        return self._map_async(func, [tuple(items) for items in iterable], chunksize, None, None).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """`starmap` without waiting."""
        return self._map_async(
            func, [tuple(items) for items in iterable], chunksize, callback, error_callback
        )

    def _map_async(
        self,
        function: Callable[..., Any],
        calls: list[tuple[Any, ...]],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> MapResult:
        self._check_running()
        size = self._chunksize(len(calls)) if chunksize is None else _checked(chunksize)
        if size == 1:
            with self._pinned(function):
                futures = [self._submit(function, call) for call in calls]
        else:
            chunk = Chunk(function)
            with self._pinned(chunk):
                futures = [
                    self._submit(chunk, (calls[start : start + size],))
                    for start in range(0, len(calls), size)
                ]
        return MapResult(futures, chunked=size > 1, callback=callback, error_callback=error_callback)

    @contextlib.contextmanager
    def _pinned(self, function: Callable[..., Any]) -> Iterator[None]:
        """In the block ``function`` is pickled once. Otherwise an object that can be called, as many libraries map it
        with their data in it, would be pickled for each task, to see whether it has changed."""
        table = self._base._functions
        try:
            record = Record(table.lookup(function), None, function)
        except SerializationError:
            yield  # each task says so
            return
        key = id(function)
        pinned = table._records.setdefault(key, record)
        try:
            yield
        finally:
            if pinned is record:
                table._records.pop(key, None)

    def _chunksize(self, count: int) -> int:
        if count < 2 * CHUNKS_PER_WORKER:
            return 1  # without asking how many workers there are
        return max(1, count // (CHUNKS_PER_WORKER * self._executor._max_workers))

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """The results in order, each as soon as it is there; a failure is raised in its place.

        At most `throughway.integrations.imap.AHEAD` tasks are ahead of the result that is taken next, so the iterable
        may be endless.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """The results as they become available."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, function: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator:
        self._check_running()
        feed = Feed(self._submit, function, iterable, _checked(chunksize), ordered=ordered)
        with self._lock:
            self._feeds.add(feed)
        if isinstance(iterable, Sequence) and len(iterable) <= AHEAD:
            feed.run()
        else:
            feed.start()
        return IMapIterator(feed)

    # -------------------------------------------------------------------------------------------------------- ending

    def close(self) -> None:
        """Take no more work; what was submitted goes on."""
        if self._state == "running":
            self._state = "closed"

    def terminate(self) -> None:
        """Take no more work, and end what is outstanding at once."""
        self._state = "terminated"
        with self._lock:
            feeds, outstanding = list(self._feeds), list(self._outstanding)
        for feed in feeds:
            feed.stop()
        if self._own:
            self._base._end(True, cancel_futures=True, kill=True)
        else:
            for future in outstanding:
                if not future.done():
                    self._base.kill(future)

    def join(self) -> None:
        """Wait for the end of what was submitted, and of the pool's own workers.

        Raises:
            ValueError: neither `close` nor `terminate` was called.
        """
        if self._state == "running":
            raise ValueError("Pool is still running: call close() or terminate() first")
        with self._lock:
            feeds = list(self._feeds)
        for feed in feeds:
            feed.finish()
        if self._own:
            self._base.shutdown()
            return
        with self._lock:
            outstanding = list(self._outstanding)
        for future in outstanding:
            if not future.cancelled():
                future.exception()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    @property
    def _processes(self) -> int:
        """What libraries read that want to know how many workers there are."""
        return self._executor._max_workers

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return (
            f"<{type(self).__module__}.{type(self).__qualname__} state={self._state} on {self._executor!r}>"
        )


def _checked(chunksize: int) -> int:
    size = operator.index(chunksize)
    if size < 1:
        raise ValueError(f"chunksize={size}: it must be at least 1")
    return size
