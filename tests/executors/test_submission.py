"""Submitting functions of every kind, from any thread."""

from __future__ import annotations

import functools
import math
import operator
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

import throughway
from tests.executors import tasks
from throughway import HighThroughputExecutor

offset = 10


class Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, value: int) -> int:
        return self.start + value

    def __call__(self, value: int) -> int:
        return self.start * value

    @staticmethod
    def double(value: int) -> int:
        return 2 * value

    @classmethod
    def name(cls) -> str:
        return cls.__name__


def test_is_a_standard_executor(executor: HighThroughputExecutor) -> None:
    assert isinstance(executor, Executor)
    assert executor.submit(tasks.add, 1, right=2).result(timeout=10) == 3


def test_functions_of_every_kind(executor: HighThroughputExecutor) -> None:
    base = 5

    def closure(value: int) -> int:
        return value + base + offset

    counter = Counter(3)
    cases: list[tuple[Callable[..., Any], Any, Any]] = [
        (lambda value: value + base, 1, 6),
        (closure, 1, 16),
        (functools.partial(tasks.add, 4), 1, 5),
        (functools.partial(closure), 1, 16),
        (counter.plus, 4, 7),
        (counter, 4, 12),
        (Counter.double, 4, 8),
        (math.factorial, 5, 120),
        (operator.neg, 5, -5),
        (len, "abc", 3),
        (str, 5, "5"),
        (functools.lru_cache(maxsize=None)(tasks.add), 4, 4),
    ]
    futures = [executor.submit(function, argument) for function, argument, _ in cases]
    assert [future.result(timeout=10) for future in futures] == [expected for _, _, expected in cases]
    assert executor.submit(Counter.name).result(timeout=10) == "Counter"


def test_rebinding_a_global_is_seen(executor: HighThroughputExecutor) -> None:
    namespace: dict[str, Any] = {}
    exec("scale = 2\ndef scaled(value):\n    return value * scale", namespace)
    scaled = namespace["scaled"]
    first = executor.submit(scaled, 10)
    namespace["scale"] = 3
    second = executor.submit(scaled, 10)
    assert (first.result(timeout=10), second.result(timeout=10)) == (20, 30)


def test_rebinding_a_closure_variable_is_seen(executor: HighThroughputExecutor) -> None:
    value = 1

    def show() -> int:
        return value

    first = executor.submit(show)
    value = 2
    second = executor.submit(show)
    assert (first.result(timeout=10), second.result(timeout=10)) == (1, 2)


def test_submission_from_many_threads(executor: HighThroughputExecutor) -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        futures = [executor.submit(tasks.add, number, index) for index in range(500)]
        results[number] = [future.result(timeout=30) for future in futures]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [number + index for index in range(500)] for number in range(8)}


def test_many_tasks_use_all_workers(executor: HighThroughputExecutor) -> None:
    pids = {
        future.result(timeout=30) for future in [executor.submit(tasks.worker_pid) for _ in range(20_000)]
    }
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_large_arguments_and_results_travel(executor: HighThroughputExecutor) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(4_000_000, dtype="float64")
    doubled = executor.submit(operator.mul, array, 2).result(timeout=30)
    assert (doubled == array * 2).all()
    doubled[0] = 7.0
    data = os.urandom(3_000_000)
    assert executor.submit(bytes.upper, data).result(timeout=30) == data.upper()


def test_many_large_arguments_at_once(executor: HighThroughputExecutor) -> None:
    blocks = [os.urandom(200_000) for _ in range(40)]
    futures = [executor.submit(operator.add, block, b"!") for block in blocks]
    assert [future.result(timeout=30) for future in futures] == [block + b"!" for block in blocks]


def test_an_argument_that_cannot_be_pickled_fails_its_future_alone(executor: HighThroughputExecutor) -> None:
    bad = executor.submit(tasks.add, 1, right=threading.Lock())  # type: ignore[arg-type]
    good = executor.submit(tasks.add, 1, 2)
    with pytest.raises(throughway.SerializationError, match="'right'"):
        bad.result(timeout=10)
    assert good.result(timeout=10) == 3


def test_a_lone_task_is_sent_by_the_call_that_submits_it(
    executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Waking the thread to send it costs as much as two processes on its way.
    assert executor.submit(tasks.add, 1, 1).result(timeout=10) == 2
    run = executor._run
    assert run is not None
    woken: list[int] = []
    wake = run.shell.wake

    def noted() -> None:
        woken.append(number)
        wake()

    for number in range(20):
        with monkeypatch.context() as patched:
            # Later, whoever reads the result may have reasons to.
            patched.setattr(run.shell, "wake", noted)
            future = executor.submit(tasks.add, number, 1)
        assert future.result(timeout=10) == number + 1
    # It may be sending an acknowledgement at that very moment: then the task is left to it.
    assert len(woken) < 10


def test_what_is_not_callable_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(TypeError):
        executor.submit(5)  # type: ignore[arg-type]


def test_arguments_beyond_the_limit_are_a_clear_error(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, max_payload_bytes=100_000) as executor:
        with pytest.raises(throughway.ResultTooLarge, match="max_payload_bytes"):
            executor.submit(len, bytes(200_000)).result(timeout=10)
        with pytest.raises(throughway.ResultTooLarge, match="max_payload_bytes"):
            executor.submit(bytes, 200_000).result(timeout=10)
        assert executor.submit(bytes, 1000).result(timeout=10) == bytes(1000)


def test_outstanding_tasks_are_bounded(runs: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, max_outstanding=10) as executor:
        futures = [executor.submit(tasks.hold, str(gate)) for _ in range(10)]
        submitted = threading.Event()

        def one_more() -> None:
            futures.append(executor.submit(tasks.hold, str(gate)))
            submitted.set()

        thread = threading.Thread(target=one_more)
        thread.start()
        assert not submitted.wait(0.1)
        assert executor.outstanding == 10
        gate.touch()
        assert submitted.wait(10)
        thread.join()
        assert all(future.result(timeout=10) for future in futures)


def test_submitting_in_a_callback(executor: HighThroughputExecutor) -> None:
    done = threading.Event()
    later: list[int] = []

    def take(second: Future[int]) -> None:
        later.append(second.result())
        done.set()

    def again(_: object) -> None:
        executor.submit(tasks.add, 2, 3).add_done_callback(take)

    executor.submit(tasks.add, 1).add_done_callback(again)
    assert done.wait(10)
    assert later == [5]


def test_nothing_is_started_before_the_first_use(runs: Path) -> None:
    executor = HighThroughputExecutor(run_dir=runs)
    assert not runs.exists()
    assert executor.outstanding == 0
    executor.shutdown()
    assert not runs.exists()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.add, 1)


def test_shutdown_waits_for_what_was_submitted(runs: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=2, run_dir=runs)
    futures = [executor.submit(tasks.add, index) for index in range(1000)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == list(range(1000))


def test_shutdown_without_waiting(runs: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    futures = [executor.submit(tasks.hold, str(gate)) for _ in range(3)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.add, 1)
    gate.touch()
    assert all(future.result(timeout=10) for future in futures)
    executor.shutdown()


class SlowToPickle:
    """An argument that the executor ends before it is pickled."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end = end

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.end()
        return int, (1,)


@pytest.mark.parametrize("journal", [False, True], ids=["", "journal"])
def test_what_is_submitted_while_the_executor_ends_is_refused(
    runs: Path, tmp_path: Path, journal: bool
) -> None:
    executor = HighThroughputExecutor(
        max_workers_per_node=1, run_dir=runs, journal=str(tmp_path / "journal") if journal else None
    )
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(print, SlowToPickle(executor.shutdown))
    assert executor.outstanding == 0


def test_shutdown_cancelling_what_waits(runs: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    started = tmp_path / "started"
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    running = executor.submit(tasks.hold, str(gate), str(started))
    waiting = [executor.submit(tasks.hold, str(gate)) for _ in range(100)]
    wait_for_file(started)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    executor.shutdown()
    assert running.result(timeout=0) > 0
    assert all(future.cancelled() for future in waiting)


def wait_for_file(path: Path) -> None:
    from tests.waiting import wait_until

    wait_until(path.exists, 10, f"{path} to be there")
