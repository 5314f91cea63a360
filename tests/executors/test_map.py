"""`map` in all its forms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor


def test_plain(executor: HighThroughputExecutor) -> None:
    assert list(executor.map(tasks.add, range(1000))) == list(range(1000))
    assert list(executor.map(tasks.add, range(10), range(5))) == [0, 2, 4, 6, 8]
    assert list(executor.map(tasks.add, [])) == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000, 5000])
def test_chunks(executor: HighThroughputExecutor, chunksize: int) -> None:
    assert list(executor.map(lambda value: value * 2, range(1000), chunksize=chunksize)) == list(
        range(0, 2000, 2)
    )


def test_an_infinite_iterable_with_a_buffer(executor: HighThroughputExecutor) -> None:
    taken = itertools.count()

    def numbers() -> Iterator[int]:
        yield from taken

    results = executor.map(tasks.add, numbers(), buffersize=10)
    assert list(itertools.islice(results, 100)) == list(range(100))
    assert next(taken) <= 112
    results.close()  # type: ignore[attr-defined]
    wait_until(lambda: executor.outstanding == 0, 10, "nothing to be outstanding")


@pytest.mark.parametrize("chunksize", [1, 3])
def test_buffer_with_chunks_is_lazy(executor: HighThroughputExecutor, chunksize: int) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = executor.map(tasks.add, numbers(), chunksize=chunksize, buffersize=2)
    assert len(taken) == 2 * chunksize
    assert list(results) == list(range(100))


def test_exception_in_the_middle(executor: HighThroughputExecutor) -> None:
    results = executor.map(lambda value: 10 // value, [2, 1, 0, 5])
    assert [next(results), next(results)] == [5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_timeout(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    results = executor.map(tasks.hold, [str(gate)], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    gate.touch()
    wait_until(lambda: executor.outstanding == 0, 10, "nothing to be outstanding")


def test_what_cannot_work_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(tasks.add, [1], chunksize=0)
    with pytest.raises(TypeError, match="chunksize"):
        executor.map(tasks.add, [1], chunksize="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(tasks.add, [1], buffersize=0)
    with pytest.raises(TypeError, match="timeout"):
        executor.map(tasks.add, [1], timeout="soon")  # type: ignore[arg-type]


def test_leaving_early_cancels_the_rest(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    results = executor.map(tasks.hold, [str(gate)] * 50)
    gate.touch()
    next(results)
    results.close()  # type: ignore[attr-defined]
    wait_until(lambda: executor.outstanding == 0, 10, "nothing to be outstanding")


def test_with_options(executor: HighThroughputExecutor) -> None:
    assert list(executor.options(priority=3).map(tasks.add, range(10))) == list(range(10))


def test_what_was_submitted_is_cancelled_where_the_iterable_raises(
    executor: HighThroughputExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def broken() -> Iterator[str]:
        yield from [str(gate)] * 50
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.map(tasks.hold, broken())
    wait_until(lambda: executor.outstanding <= 2, 10, "what waits to be cancelled")
    gate.touch()
    wait_until(lambda: executor.outstanding == 0, 10, "nothing to be outstanding")
