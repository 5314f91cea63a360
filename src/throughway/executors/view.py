"""A view on an executor: the same one, with a resource specification for the tasks that go through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from throughway.executors import mapping
from throughway.executors.futures import TaskFuture
from throughway.executors.options import ResourceSpecification

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ExecutorView(Executor):
    """An executor whose tasks have a resource specification; made by `HighThroughputExecutor.options`."""

    def __init__(self, executor: HighThroughputExecutor, specification: ResourceSpecification) -> None:
        self._executor = executor
        self.specification = specification

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> TaskFuture[Result]:
        """As `HighThroughputExecutor.submit`, with this view's specification."""
        return self._executor._submit(fn, args, kwargs, self.specification)

    def map(
        self,
        fn: Callable[..., Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[Result]:
        """As `HighThroughputExecutor.map`, with this view's specification; a ``key`` is numbered: ``key[0]``, ..."""
        mapping.check(timeout, chunksize, buffersize, progress)
        submit = self._submit_plain
        if (key := self.specification.key) is not None:
            submit = _Numbered(self._executor, self.specification, key)
        return mapping.run(submit, fn, iterables, timeout, chunksize, buffersize, progress)

    def _submit_plain(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> TaskFuture[Any]:
        return self._executor._submit(fn, args, {}, self.specification)

    def options(self, **options: Any) -> ExecutorView:
        """A view with further options; see `HighThroughputExecutor.options`."""
        return self._executor._view(self.specification.changed(options))

    @property
    def _max_workers(self) -> int:
        return self._executor._max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor itself down, and so all of its views."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<view of {self._executor!r} with {self.specification}>"


class _Numbered:
    """Submits the calls of one `map`, each with a key of its own."""

    def __init__(
        self, executor: HighThroughputExecutor, specification: ResourceSpecification, key: str
    ) -> None:
        self._executor = executor
        self._specification = specification
        self._key = key
        self._numbers = itertools.count()

    def __call__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> TaskFuture[Any]:
        specification = self._specification._replace(key=f"{self._key}[{next(self._numbers)}]")
        return self._executor._submit(fn, args, {}, specification)
