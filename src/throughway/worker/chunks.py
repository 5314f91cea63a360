"""Several calls as one task, for `map` with a chunksize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Chunk:
    """Calls a function once for each tuple of arguments; what `map` submits. Pickled once for a whole `map`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        function = self._function
        return [function(*arguments) for arguments in calls]
