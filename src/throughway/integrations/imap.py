"""How `Pool.imap` and `Pool.imap_unordered` read their iterable, and give results while it is being read."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from throughway.worker.chunks import Chunk

AHEAD = 10_000
"""Tasks whose results have not been taken yet, at most."""

Submit = Callable[[Callable[..., Any], tuple[Any, ...]], "Future[Any]"]


class _End:
    """The iterable's end: how many tasks it made, and what it raised, if anything."""

    def __init__(self, count: int, error: BaseException | None) -> None:
        self.count = count
        self.error = error


class Feed:
    """Submits one task for each chunk of an iterable; what it submitted, or what has ended, comes into ``ready``."""

    def __init__(
        self,
        submit: Submit,
        function: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        *,
        ordered: bool,
    ) -> None:
        self._submit = submit
        self._calls: Iterable[tuple[Any, ...]]
        items = iter(iterable)
        if chunksize == 1:
            self._function: Callable[..., Any] = function
            self._calls = ((item,) for item in items)
        else:
            self._function = Chunk(function)
            chunks = iter(lambda: [(item,) for item in itertools.islice(items, chunksize)], [])
            self._calls = ((chunk,) for chunk in chunks)
        self.chunked = chunksize > 1
        self.ordered = ordered
        self.ready: queue.SimpleQueue[Future[Any] | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._unbounded = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the iterable in a thread: it may be endless, or wait for what the results lead to."""
        self._thread = threading.Thread(target=self.run, name="throughway: imap", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Read the iterable to its end, or until it is stopped."""
        count = 0
        error: BaseException | None = None
        try:
            for call in self._calls:
                if not self._unbounded:
                    self._room.acquire()
                if self._stopped:
                    error = CancelledError("the pool was terminated while the iterable was being read")
                    break
                future = self._submit(self._function, call)
                count += 1
                if self.ordered:
                    self.ready.put(future)
                else:
                    future.add_done_callback(self.ready.put)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the results are taken
            error = raised
        self.ready.put(_End(count, error))

    def taken(self) -> None:
        """The result of one task was taken."""
        self._room.release()

    def stop(self) -> None:
        """Submit nothing more."""
        self._stopped = True
        self._room.release()

    def finish(self) -> None:
        """Wait until the iterable is read, however far ahead that is."""
        if self._thread is not None:
            self._unbounded = True
            self._room.release()
            self._thread.join()


class IMapIterator(Iterator[Any]):
    """What `Pool.imap` gives: an iterator whose `next` may have a timeout."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._head: Future[Any] | None = None
        self._values: deque[Any] = deque()
        self._ended = 0
        self._end: _End | None = None
        weakref.finalize(self, feed.stop).atexit = False  # nobody takes what else would be read

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result, or the exception in its place.

        Raises:
            StopIteration: there are no more.
            multiprocessing.TimeoutError: it was not there within ``timeout`` seconds; it can be asked for again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._values:
            future = self._next_future(deadline)
            if not future.done():
                try:
                    future.result(_left(deadline))
                except BaseException:
                    if not future.done():
                        if deadline is not None and time.monotonic() >= deadline:
                            raise multiprocessing.TimeoutError from None
                        raise
            self._head = None
            self._ended += 1
            self._feed.taken()
            value = future.result(0)
            if not self._feed.chunked:
                return value
            self._values.extend(value)
        return self._values.popleft()

    def _next_future(self, deadline: float | None) -> Future[Any]:
        while self._head is None:
            if self._end is not None and self._ended >= self._end.count:
                error, self._end.error = self._end.error, None
                if error is not None:
                    raise error
                raise StopIteration
            try:
                item = self._feed.ready.get(timeout=_left(deadline))
            except queue.Empty:
                raise multiprocessing.TimeoutError from None
            if isinstance(item, _End):
                self._end = item
            else:
                self._head = item
        return self._head


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
