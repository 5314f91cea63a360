"""Futures behave as the standard library's, in everything that uses them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import operator
import threading
import weakref
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, as_completed, wait
from pathlib import Path

import pytest

import throughway
from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors.futures import TaskFuture
from throughway.protocol.messages import Task


def test_pending_running_done(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gates = [str(tmp_path / f"gate{index}") for index in range(3)]
    futures = [executor.submit(tasks.hold, gate) for gate in gates]
    wait_until(lambda: futures[0].running() and futures[1].running(), 10, "two tasks to run")
    assert not futures[2].running()
    assert not futures[2].done()
    for gate in gates:
        Path(gate).touch()
    assert all(future.result(timeout=10) for future in futures)
    assert all(future.done() and not future.running() for future in futures)


def test_result_times_out(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(tasks.hold, str(gate))
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0.01)
    gate.touch()
    assert future.exception(timeout=10) is None


def test_wait_and_as_completed(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = executor.submit(tasks.hold, str(gate))
    quick = executor.submit(tasks.add, 1)
    done, rest = wait([slow, quick], timeout=10, return_when=FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {slow})
    failing = executor.submit(operator.floordiv, 1, 0)
    done, rest = wait([slow, failing], timeout=10, return_when=FIRST_EXCEPTION)
    assert done == {failing}
    order = as_completed([slow, quick], timeout=10)
    assert next(order) is quick
    gate.touch()
    assert next(order) is slow
    many = [executor.submit(tasks.add, index) for index in range(2000)]
    assert sorted(future.result() for future in as_completed(many, timeout=30)) == list(range(2000))
    assert wait(many).not_done == set()


def test_callbacks(
    executor: HighThroughputExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(tasks.hold, str(gate))
    calls: list[str] = []
    called = threading.Event()
    future.add_done_callback(lambda _: calls.append("first"))
    future.add_done_callback(lambda _: tasks.fail("a callback that raises"))
    future.add_done_callback(lambda _: called.set())
    gate.touch()
    assert called.wait(10)
    assert calls == ["first"]
    assert "exception calling callback" in caplog.text
    late = threading.Event()
    future.add_done_callback(lambda _: late.set())
    assert late.is_set()
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1


def test_asyncio(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await asyncio.wrap_future(executor.submit(tasks.add, 1, 2)) == 3
        results = await asyncio.gather(
            *[loop.run_in_executor(executor, tasks.add, index) for index in range(500)]
        )
        assert results == list(range(500))
        gate = tmp_path / "gate"
        blockers = [asyncio.wrap_future(executor.submit(tasks.hold, str(gate))) for _ in range(2)]
        inner = executor.submit(tasks.hold, str(gate))
        waiting = asyncio.wrap_future(inner)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # The cancellation is passed on by a callback of the loop, which has its turn first here.
        await asyncio.sleep(0)
        assert inner.cancelled()
        gate.touch()
        await asyncio.gather(*blockers)

    asyncio.run(main())


def test_exception_of_the_function(executor: HighThroughputExecutor) -> None:
    future = executor.submit(tasks.fail, "deliberate")
    error = future.exception(timeout=10)
    assert type(error) is ValueError
    assert str(error) == "deliberate"
    assert "raise ValueError(message)" in str(error.__cause__)
    notes = "\n".join(error.__notes__)
    assert "worker" in notes
    assert "fail" in notes
    with pytest.raises(ValueError, match="deliberate"):
        future.result()


def test_exceptions_results_that_cannot_travel(executor: HighThroughputExecutor) -> None:
    with pytest.raises(throughway.ThroughwayError, match="NeedsTwo"):
        executor.submit(tasks.raise_needs_two).result(timeout=10)
    with pytest.raises(throughway.SerializationError, match="result"):
        executor.submit(tasks.make, "unpicklable").result(timeout=10)
    with pytest.raises(throughway.DeserializationError, match="result"):
        executor.submit(tasks.make, "unloadable").result(timeout=10)
    with pytest.raises(throughway.SerializationError, match="generator"):
        executor.submit(lambda: (number for number in range(3))).result(timeout=10)
    with pytest.raises(throughway.DeserializationError, match="argument"):
        executor.submit(tasks.add, tasks.Unloadable()).result(timeout=10)  # type: ignore[arg-type]
    assert executor.submit(tasks.add, 1, 2).result(timeout=10) == 3


def test_base_exceptions_arrive(executor: HighThroughputExecutor) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt("from a task")

    with pytest.raises(KeyboardInterrupt):
        executor.submit(interrupt).result(timeout=10)
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1


def test_exception_groups_arrive(executor: HighThroughputExecutor) -> None:
    def raise_group() -> None:
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    error = executor.submit(raise_group).exception(timeout=10)
    assert isinstance(error, ExceptionGroup)
    assert [type(member) for member in error.exceptions] == [ValueError, KeyError]


def test_results_are_let_go(executor: HighThroughputExecutor) -> None:
    class Big(list[int]):
        pass

    future = executor.submit(list, range(10))
    result = future.result(timeout=10)
    reference = weakref.ref(future)
    del future
    wait_until(lambda: gc.collect() >= 0 and reference() is None, 5, "the future to be let go")
    assert result == list(range(10))


def test_a_future_is_not_cancelled_twice(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blockers = [executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    waiting = executor.submit(tasks.add, 1)
    wait_until(lambda: all(future.running() for future in blockers), 10, "both workers to be busy")
    assert waiting.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    with pytest.raises(CancelledError):
        waiting.result()
    assert not blockers[0].cancel()
    gate.touch()
    assert all(future.result(timeout=10) for future in blockers)
    assert not blockers[0].cancel()


def test_a_sleeper_whose_time_is_over_may_go_while_it_is_woken() -> None:
    """Another thread takes itself off the list between the look at it and the taking."""

    class Emptied(list[threading.Lock]):
        def pop(self, *arguments: object) -> threading.Lock:
            self.clear()
            return super().pop()

    future = TaskFuture[int](None, Task(1, 0, b""), None, (), 0)  # type: ignore[arg-type]
    future.add_done_callback(lambda done: None)
    assert future._late is not None
    future._late.sleepers = Emptied([threading.Lock()])
    future._set_value(5)
    assert future.result(0) == 5
