"""The functions that workers run. This module imports next to nothing: each contender's workers import it."""

from __future__ import annotations

import os
import time
from typing import Any

_kept: dict[int, Any] = {}


def echo(value: int) -> int:
    """The no-op: what comes back shows that the right task was run."""
    return value


def whoami(seconds: float) -> int:
    """The worker's process id, after a pause that lets the other workers have their share."""
    time.sleep(seconds)
    return os.getpid()


def hold(folder: str) -> None:
    """Keep a worker busy without using it: leave a file named after the process, wait for a pipe."""
    with open(os.path.join(folder, f"started-{os.getpid()}"), "w"):
        pass
    with open(os.path.join(folder, "gate"), "rb") as gate:
        gate.read()


def size_and_first(block: bytes) -> int:
    """Length and first byte in one number: shows that the block arrived."""
    return len(block) * 256 + block[0]


def marks(array: Any) -> tuple[int, float, float, float]:
    """Bytes, and three elements, of a numpy array."""
    return array.nbytes, float(array[0]), float(array[len(array) // 2]), float(array[-1])


def kept_array(elements: int) -> Any:
    """An array of doubles 0, 1, 2, ... that this worker makes once, so that only its journey is timed."""
    if elements not in _kept:
        import numpy

        _kept[elements] = numpy.arange(elements, dtype=numpy.float64)
    return _kept[elements]


def warm_array(elements: int, seconds: float) -> int:
    """Make the array of `kept_array`; the worker's process id, after a pause."""
    kept_array(elements)
    return whoami(seconds)
