"""One large numpy array as an argument, and as a result."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

from benchmarks.contenders.interface import Contender
from benchmarks.measures.warm import see_all_workers
from benchmarks.tasks import kept_array, marks, warm_array


def measure(contender: Contender, root: int, *, array_bytes: int, repeats: int) -> dict[str, Any]:
    """Median seconds to pass an array of doubles of this size to a task, and to get one back.

    The array that comes back was made before, in both workers, so that only its journey is timed.
    """
    import numpy

    elements = array_bytes // 8
    array = numpy.arange(elements, dtype=numpy.float64)
    expected = marks(array)
    see_all_workers(contender)
    see_all_workers(contender, partial(warm_array, elements), 0.05)

    def argument() -> float:
        began = time.perf_counter()
        found = contender.call(marks, array)
        took = time.perf_counter() - began
        if tuple(found) != expected:
            raise RuntimeError(f"the array arrived as {found}, sent was {expected}")
        return took

    def result() -> float:
        began = time.perf_counter()
        found = contender.call(kept_array, elements)
        took = time.perf_counter() - began
        if not numpy.array_equal(found, array):
            raise RuntimeError(f"the array came back as {marks(found)}, sent was {expected}")
        return took

    argument()
    result()
    arguments = [argument() for _ in range(repeats)]
    results = [result() for _ in range(repeats)]
    return {
        "argument": statistics.median(arguments),
        "result": statistics.median(results),
        "all": {"argument": arguments, "result": results},
    }
