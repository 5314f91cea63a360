"""`map` over an executor: results in order, as they become available."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from throughway.executors.futures import FINISHED, TaskFuture
from throughway.executors.interrupts import DeferredInterrupt
from throughway.serialize.pickling import describe
from throughway.worker.chunks import Chunk

Result = TypeVar("Result")
Submit = Callable[[Callable[..., Any], tuple[Any, ...]], TaskFuture[Any]]


def check(
    timeout: float | None, chunksize: int, buffersize: int | None, progress: bool | str = False
) -> None:
    """Refuse what cannot work, as the standard library does.

    Raises:
        TypeError, ValueError: a parameter is ill-typed or out of range.
    """
    if timeout is not None and not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r} must be a number of seconds or None")
    if isinstance(chunksize, bool) or not isinstance(chunksize, int):
        raise TypeError(f"chunksize={chunksize!r} must be an int")
    if chunksize < 1:
        raise ValueError(f"chunksize={chunksize!r} must be at least 1")
    if buffersize is not None and (isinstance(buffersize, bool) or not isinstance(buffersize, int)):
        raise TypeError(f"buffersize={buffersize!r} must be an int or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError(f"buffersize={buffersize!r} must be at least 1, or None")
    if not isinstance(progress, bool | str):
        raise TypeError(f"progress={progress!r} must be True, False or a title")


def run(
    submit: Submit,
    function: Callable[..., Result],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    progress: bool | str = False,
) -> Iterator[Result]:
    """Submit at once all calls, or with ``buffersize`` as many chunks; the iterator yields results in order.

    Args:
        timeout: seconds from now within which each `next` must have its result.
        chunksize: calls in one task.
        buffersize: tasks whose results have not been yielded yet, at most.
        progress: whether to show how far it is, or under which title.

    Raises:
        ModuleNotFoundError: showing the progress needs a library that is not installed.
    """
    if progress:
        return _run_shown(submit, function, iterables, timeout, chunksize, buffersize, progress)
    deadline = None if timeout is None else time.monotonic() + timeout
    calls = zip(*iterables, strict=False)
    if chunksize == 1:
        arguments: Iterator[tuple[Any, ...]] = calls
        target: Callable[..., Any] = function
    else:
        arguments = ((chunk,) for chunk in iter(lambda: list(itertools.islice(calls, chunksize)), []))
        target = Chunk(function)
    first = arguments if buffersize is None else itertools.islice(arguments, buffersize)
    futures: deque[TaskFuture[Any]] = deque()
    try:
        for call in first:
            futures.append(submit(target, call))
    except BaseException:
        _cancel_all(futures)
        raise
    results = _results(futures, submit, target, arguments, buffersize, deadline)
    return results if chunksize == 1 else itertools.chain.from_iterable(results)


def _run_shown(
    submit: Submit,
    function: Callable[..., Result],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    title: bool | str,
) -> Iterator[Result]:
    from throughway.executors.progress import MapProgress, display_for, known_length

    display = display_for(title if isinstance(title, str) else describe(function))
    shown: MapProgress | None = None

    def watched(target: Callable[..., Any], call: tuple[Any, ...]) -> TaskFuture[Any]:
        future = submit(target, call)
        assert shown is not None
        try:
            shown.watch(future, len(call[0]) if chunksize > 1 else 1)
        except BaseException:
            future._cancel_soon()  # Ctrl-C: nobody else has it
            raise
        return future

    def until_the_end(results: Iterator[Result]) -> Iterator[Result]:
        try:
            yield from results
        finally:
            if shown is not None:
                shown.finish()

    try:
        with DeferredInterrupt():  # its thread is started, and would not be ended
            shown = MapProgress(display, known_length(iterables))
        results = until_the_end(run(watched, function, iterables, timeout, chunksize, buffersize))
        weakref.finalize(results, shown.finish).atexit = False  # nobody may ever ask for a result
    except BaseException:
        if shown is not None:
            shown.finish()
        raise
    return results


def _results(
    futures: deque[TaskFuture[Any]],
    submit: Submit,
    target: Callable[..., Any],
    arguments: Iterator[tuple[Any, ...]],
    buffersize: int | None,
    deadline: float | None,
) -> Iterator[Any]:
    try:
        while futures:
            if buffersize is not None and (call := next(arguments, None)) is not None:
                futures.append(submit(target, call))
            # The future is let go before its result is yielded: the result is then the user's alone.
            future = futures.popleft()
            if future._state != FINISHED:
                try:
                    future.result(None if deadline is None else deadline - time.monotonic())
                except BaseException:
                    futures.appendleft(future)
                    raise
            value = future.result()
            del future
            yield value
            del value
    finally:
        _cancel_all(futures)


def _cancel_all(futures: deque[TaskFuture[Any]]) -> None:
    """Cancel what has not begun; nobody will ask for its result."""
    waiting = [future for future in futures if not future.done()]
    executor = waiting[0]._executor if waiting else None
    if executor is not None:
        executor._cancel_many([future.task_id for future in waiting])
