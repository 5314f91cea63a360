"""What every contender can do, so that all are measured by the same code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, ClassVar


class Contender(ABC):
    """A library that runs functions in two worker processes, in the way its own documentation uses it.

    Modules of contenders import their library in `load`, not before: importing is part of what is timed.
    Submitting is done a list at a time, in a plain loop over the library's own call, so that the adapter
    costs next to nothing.
    """

    distribution: ClassVar[str | None] = None
    """its name on PyPI; None where it comes with Python"""

    def __init__(self, options: dict[str, Any], folder: str) -> None:
        self.options = options
        self.folder = folder
        """scratch folder of this run, absolute"""

    def version(self) -> str:
        """The version that is measured."""
        if self.distribution is None:
            import platform

            return f"Python {platform.python_version()}"
        return version(self.distribution)

    @abstractmethod
    def load(self) -> None:
        """Import the library."""

    @abstractmethod
    def start(self) -> None:
        """Make it ready to take tasks: no more than a user must do before the first one."""

    @abstractmethod
    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        """Submit a task for each argument in a loop; a list of what stands for their results."""

    def collect(self, pending: list[Any]) -> list[Any]:
        """The results, in order."""
        return [future.result() for future in pending]

    def call(self, function: Callable[..., Any], argument: Any) -> Any:
        """Submit one task and wait for its result."""
        return self.collect(self.submit_all(function, (argument,)))[0]

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        """All results by the library's own ``map``, without a chunk size."""
        raise NotImplementedError(f"{type(self).__name__} is not measured by map")

    @abstractmethod
    def stop(self) -> None:
        """End it as its documentation says."""


class ExecutorContender(Contender):
    """A `concurrent.futures.Executor`, kept in ``executor`` by `start`."""

    executor: Any

    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        submit = self.executor.submit
        return [submit(function, argument) for argument in arguments]

    def call(self, function: Callable[..., Any], argument: Any) -> Any:
        return self.executor.submit(function, argument).result()

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        return list(self.executor.map(function, arguments))

    def stop(self) -> None:
        self.executor.shutdown()
