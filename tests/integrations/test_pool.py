"""`Pool` does what `multiprocessing.Pool` does: most tests here run on both."""

from __future__ import annotations

import itertools
import multiprocessing
import operator
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import calls
from tests.waiting import wait_until
from throughway import HighThroughputExecutor, TaskKilled, WorkerLost
from throughway.integrations import imap
from throughway.integrations.pool import Pool


@pytest.fixture(params=["throughway", "multiprocessing"])
def pool(request: pytest.FixtureRequest, executor: HighThroughputExecutor) -> Iterator[Any]:
    if request.param == "throughway":
        yield Pool(executor=executor)
    else:
        with multiprocessing.get_context("spawn").Pool(2) as standard:
            yield standard
        standard.join()


both = pytest.mark.leaks_allowed(
    "multiprocessing.Pool closes its pipes when the garbage collector gets to them"
)


@both
def test_each_way_to_call(pool: Any) -> None:
    assert pool.apply(operator.add, (1, 2)) == 3
    assert pool.apply(sorted, ([2, 3, 1],), {"reverse": True}) == [3, 2, 1]
    assert pool.map(calls.square, range(5)) == [0, 1, 4, 9, 16]
    assert pool.map(calls.square, calls.numbers(5), 2) == [0, 1, 4, 9, 16]
    assert pool.map(calls.square, []) == []
    assert pool.starmap(pow, [(2, 3), [3, 2]]) == [8, 9]
    assert list(pool.imap(calls.square, range(50), 7)) == [value**2 for value in range(50)]
    assert sorted(pool.imap_unordered(calls.square, range(50), chunksize=7)) == [
        value**2 for value in range(50)
    ]
    assert list(pool.imap(calls.square, [])) == []
    assert list(pool.imap_unordered(calls.square, iter([]))) == []
    assert pool.apply_async(operator.add, (1, 2)).get() == 3
    assert pool.map_async(calls.square, range(3)).get(timeout=30) == [0, 1, 4]
    assert pool.starmap_async(pow, [(2, 3)]).get() == [8]


@both
def test_what_the_function_raises(pool: Any) -> None:
    with pytest.raises(KeyError, match="3"):
        pool.apply(calls.fail_at_three, (3,))
    with pytest.raises(KeyError, match="3"):
        pool.map(calls.fail_at_three, range(10))
    with pytest.raises(KeyError, match="3"):
        pool.map(calls.fail_at_three, range(10), chunksize=4)
    result = pool.apply_async(calls.fail_at_three, (3,))
    result.wait()
    assert (result.ready(), result.successful()) == (True, False)
    with pytest.raises(TimeoutError, match="own"):
        pool.apply_async(calls.raise_timeout).get(30)


@both
def test_a_failure_has_its_place_in_imap(pool: Any) -> None:
    results = pool.imap(calls.fail_at_three, range(6))
    found: list[Any] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            break
        except KeyError as error:
            found.append(error.args)
    assert found == [0, 1, 2, (3,), 4, 5]


@both
def test_callbacks(pool: Any) -> None:
    got: list[Any] = []
    told = threading.Semaphore(0)

    def tell(value: Any) -> None:
        got.append(value)
        told.release()

    pool.apply_async(calls.square, (3,), callback=tell)
    assert told.acquire(timeout=30)
    pool.map_async(calls.square, range(4), 3, callback=tell, error_callback=tell)
    assert told.acquire(timeout=30)
    pool.apply_async(calls.fail_at_three, (3,), callback=tell, error_callback=tell)
    assert told.acquire(timeout=30)
    assert got[:2] == [9, [0, 1, 4, 9]]
    assert isinstance(got[2], KeyError)


def test_the_callback_of_nothing(executor: HighThroughputExecutor) -> None:
    """The standard library forgets it."""
    got: list[Any] = []
    Pool(executor=executor).map_async(calls.square, [], callback=got.append)
    assert got == [[]]


@both
def test_waiting_for_a_time(pool: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    result = pool.apply_async(calls.hold, (str(gate),))
    results = pool.imap(calls.hold, [str(gate)])
    unordered = pool.imap_unordered(calls.hold, [str(gate)])
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    result.wait(0.01)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    for iterator in (results, unordered):
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=0.01)
    gate.touch()
    assert isinstance(result.get(30), int)
    assert isinstance(results.next(30), int)
    assert isinstance(unordered.next(30), int)
    for iterator in (results, unordered):
        with pytest.raises(StopIteration):
            iterator.next(30)


@both
def test_an_iterable_that_raises(pool: Any) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ArithmeticError("the iterable's own")

    results = pool.imap(calls.square, broken())
    assert next(results) == 1
    with pytest.raises(ArithmeticError):
        next(results)
    with pytest.raises(ArithmeticError):
        pool.map(calls.square, broken())


@both
def test_what_is_refused(pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="pickled"):
        pickle.dumps(pool)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(calls.square, (1,))
    with pytest.raises(ValueError, match="not running"):
        pool.imap(calls.square, [1])
    with pytest.raises(ValueError, match="not running"):
        pool.__enter__()
    pool.join()


@pytest.mark.parametrize("kind", ["throughway", "multiprocessing"])
def test_no_processes_are_refused(kind: str) -> None:
    make: Any = Pool if kind == "throughway" else multiprocessing.Pool
    with pytest.raises(ValueError, match="at least 1"):
        make(0)


def test_an_endless_iterable(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap, "AHEAD", 10)
    taken = itertools.count()
    results = Pool(executor=executor).imap(calls.square, taken)
    assert [next(results) for _ in range(100)] == [value**2 for value in range(100)]
    assert next(taken) <= 112
    del results  # its thread ends: see the check for what tests leave behind


def test_results_that_the_iterable_waits_for(executor: HighThroughputExecutor) -> None:
    pool = Pool(executor=executor)
    taken: list[int] = []

    def each_after_the_last() -> Iterator[int]:
        for index in range(5):
            wait_until(lambda: len(taken) >= index, what="the result before")  # noqa: B023
            yield index

    for value in pool.imap(calls.square, each_after_the_last()):
        taken.append(value)  # noqa: PERF402 - the iterable sees each
    assert taken == [0, 1, 4, 9, 16]


def test_join_reads_the_iterable_to_its_end(
    executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "AHEAD", 3)
    pool = Pool(executor=executor)
    results = pool.imap_unordered(calls.square, calls.numbers(30))
    pool.close()
    pool.join()
    assert sorted(results) == [value**2 for value in range(30)]


def test_large_maps_are_cut_into_chunks(executor: HighThroughputExecutor) -> None:
    before = executor.submit(abs, 1)
    assert Pool(executor=executor).map(calls.square, range(100_000)) == [value**2 for value in range(100_000)]
    assert executor.submit(abs, 1).task_id - before.task_id < 300


def test_functions_that_the_standard_library_cannot_send(executor: HighThroughputExecutor) -> None:
    factor = 3
    assert Pool(executor=executor).map(lambda value: factor * value, range(3)) == [0, 3, 6]


@pytest.mark.leaks_allowed("another worker takes the place of the one that was killed")
def test_a_given_executor_goes_on(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    other = executor.submit(calls.hold, str(tmp_path / "gate"))
    with Pool(executor=executor.options(priority=1)) as pool:
        running = pool.apply_async(calls.start_and_sleep, (str(tmp_path / "started"),))
        wait_until((tmp_path / "started").exists)
        waiting = pool.map_async(calls.square, range(5))
    with pytest.raises(TaskKilled):
        running.get(30)
    with pytest.raises(CancelledError):
        waiting.get(30)
    pool.join()
    assert not other.done()
    (tmp_path / "gate").touch()
    assert other.result(30)
    assert executor.submit(abs, -1).result(30) == 1


def test_a_pool_of_its_own(tmp_path: Path) -> None:
    with Pool(
        3, initializer=calls.square, initargs=[2], maxtasksperchild=50, run_dir=str(tmp_path / "runs")
    ) as pool:
        assert pool._processes == 3
        gate = tmp_path / "gate"
        held = [pool.apply_async(calls.hold, (str(gate),)) for _ in range(3)]
        wait_until(lambda: all(result._futures[0].running() for result in held))
        gate.touch()
        assert len({result.get(30) for result in held}) == 3
        with pytest.raises(WorkerLost):
            pool.apply(calls.die)
        assert pool.map(calls.square, range(3)) == [0, 1, 4]
        pool.close()
        pool.join()
        assert "closed" in repr(pool)


def test_terminate_ends_what_runs(tmp_path: Path) -> None:
    pool = Pool(1, run_dir=str(tmp_path / "runs"))
    result = pool.apply_async(calls.start_and_sleep, (str(tmp_path / "started"),))
    endless = pool.imap(calls.square, itertools.count())
    wait_until((tmp_path / "started").exists)
    pool.terminate()
    pool.join()
    with pytest.raises(TaskKilled):
        result.get(0)
    with pytest.raises((CancelledError, RuntimeError)):
        list(endless)


def test_what_goes_with_no_executor_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="leave executor away"):
        Pool(2, executor=executor)
    with pytest.raises(TypeError, match="HighThroughputExecutor"):
        Pool(executor=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunksize=0"):
        Pool(executor=executor).map(calls.square, [1], 0)
