"""Cancelling and killing: what is cancelled never runs, wherever it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import throughway
from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor


@pytest.fixture
def executor(runs: Path) -> Iterator[HighThroughputExecutor]:
    """One for each test: these kill its workers."""
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as own:
        yield own


def test_cancelled_tasks_never_run_wherever_they_are(runs: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    marks = tmp_path / "marks"
    marks.mkdir()
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs, prefetch_capacity=5) as executor:
        blockers = [executor.submit(tasks.hold, str(gate)) for _ in range(2)]
        futures = [executor.submit(tasks.count_run, str(marks), index) for index in range(40)]
        wait_until(lambda: all(future.running() for future in blockers), 10, "both workers to be busy")
        wait_until(
            lambda: executor.explain(futures[0]).state == "at a manager", 10, "a task to be prefetched"
        )
        assert executor.explain(futures[39]).state == "at the interchange"
        cancelled = [index for index in range(0, 40, 2) if futures[index].cancel()]
        assert cancelled == list(range(0, 40, 2))
        gate.touch()
        for index in range(1, 40, 2):
            futures[index].result(timeout=10)
    assert sorted(int(path.name) for path in marks.iterdir()) == list(range(1, 40, 2))
    assert all(path.stat().st_size == 1 for path in marks.iterdir())


def test_cancelling_amid_a_stream(runs: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        futures = [executor.submit(tasks.count_run, str(marks), index) for index in range(2000)]
        verdicts = {index: futures[index].cancel() for index in range(1999, 0, -7)}
        for index, future in enumerate(futures):
            if verdicts.get(index):
                assert future.cancelled()
            else:
                future.result(timeout=30)
    ran = {int(path.name): path.stat().st_size for path in marks.iterdir()}
    assert set(ran.values()) == {1}
    assert set(ran) == set(range(2000)) - {index for index, verdict in verdicts.items() if verdict}


def test_cancelling_in_a_callback(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blockers = [executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    waiting = [executor.submit(tasks.add, index) for index in range(20)]
    verdicts: list[bool] = []
    done = threading.Event()

    def cancel_all(_: object) -> None:
        verdicts.extend(future.cancel() for future in waiting)
        done.set()

    wait_until(lambda: all(future.running() for future in blockers), 10, "both workers to be busy")
    bad = executor.options(priority=-1).submit(tasks.add, 1)
    assert bad.cancel()
    waiting[0].add_done_callback(cancel_all)
    assert waiting[0].cancel()
    assert done.wait(10)
    assert verdicts == [True] * 20
    gate.touch()
    assert all(future.result(timeout=10) for future in blockers)
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1


def test_killing_what_runs(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    started = tmp_path / "started"
    future = executor.submit(tasks.hold, str(tmp_path / "never"), str(started))
    other = executor.submit(tasks.hold, str(tmp_path / "gate"))
    wait_until(started.exists, 10, "the task to start")
    executor.kill(future)
    with pytest.raises(throughway.TaskKilled, match="on request"):
        future.result(timeout=10)
    (tmp_path / "gate").touch()
    assert other.result(timeout=10) > 0
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1


def test_killing_what_waits_cancels_it(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blockers = [executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    waiting = executor.submit(tasks.add, 1)
    executor.kill(waiting)
    wait_until(waiting.done, 10, "the task to end")
    assert waiting.cancelled()
    gate.touch()
    assert all(future.result(timeout=10) for future in blockers)
    executor.kill(waiting)


def test_only_own_futures_are_taken(executor: HighThroughputExecutor) -> None:
    from concurrent.futures import Future

    with pytest.raises(ValueError, match="not a future"):
        executor.kill(Future())
    with pytest.raises(ValueError, match="not a future"):
        executor.explain(Future())
    assert os.getpid() > 0
