"""What one task does to its process does no harm to the others, nor to what the manager knows."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.processes import alive
from tests.waiting import wait_until
from tests.worker import tasks
from tests.worker.nursery import Nursery, NurseryWorker, error_of
from throughway.protocol.messages import Outcome

MakeNursery: TypeAlias = Callable[..., Nursery]


@pytest.fixture
def other(nursery: Nursery) -> NurseryWorker:
    """Another worker of the same zygote."""
    return nursery.worker()


def test_a_task_that_closes_all_descriptors_loses_its_own_worker_alone(
    worker: NurseryWorker, other: NurseryWorker, nursery: Nursery
) -> None:
    worker.give((tasks.close_all_descriptors,), (tasks.double, 1))
    assert worker.wait() == 1 << 8
    assert worker.records == []
    assert worker.unclaimed == 1
    assert "Bad file descriptor" in worker.text()
    assert [other.run(tasks.double, 2), nursery.worker().run(tasks.double, 3)] == [4, 6]


def test_a_task_that_changes_the_directory_does_so_in_its_worker_alone(
    worker: NurseryWorker, other: NurseryWorker, nursery: Nursery, tmp_path: Path
) -> None:
    before = other.run(tasks.directory)
    assert worker.run(tasks.change_directory, str(tmp_path)) == str(tmp_path)
    assert worker.run(tasks.double, 1) == 2
    worker.run(tasks.say, "still here")
    assert "still here" in worker.text()
    assert other.run(tasks.directory) == nursery.worker().run(tasks.directory) == before


@pytest.mark.parametrize(
    ("how", "status"), [("os._exit", 5 << 8), ("sys.exit", 5 << 8), ("return", 1 << 8), ("raise", 1 << 8)]
)
def test_a_child_that_a_task_forks_never_works_as_its_parent(
    worker: NurseryWorker, how: str, status: int
) -> None:
    numbers = worker.give((tasks.fork_child_that_exits, how), (tasks.double, 1), (tasks.double, 2))
    assert [worker.outcome(number) for number in numbers] == [status, 2, 4]
    assert worker.run(tasks.pid) == worker.process.pid
    assert worker.records == []
    assert ("it ends here" in worker.text()) == (how in ("return", "raise"))


def test_a_child_of_a_forked_child_may_return_as_well(worker: NurseryWorker) -> None:
    def fork_twice() -> int:
        import os

        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild:
                os.waitpid(grandchild, 0)
            return -1
        return os.waitpid(child, 0)[1]

    assert worker.run(fork_twice) == 1 << 8
    assert worker.run(tasks.double, 1) == 2
    assert worker.text().count("it ends here") == 2


def test_multiprocessing_works_within_a_task(worker: NurseryWorker) -> None:
    def fan_out() -> list[int]:
        import multiprocessing

        from tests.worker import tasks

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(tasks.double, range(5))

    assert worker.run(fan_out) == [0, 2, 4, 6, 8]
    assert worker.run(tasks.double, 1) == 2


def test_threads_that_a_task_leaves_running_do_not_keep_its_worker(worker: NurseryWorker) -> None:
    assert worker.run(tasks.leave_thread_running) == 2
    assert worker.run(tasks.double, 1) == 2
    worker.stop()
    assert worker.wait() == 0


def test_signal_handlers_of_a_task_do_not_keep_its_worker_from_being_killed(
    worker: NurseryWorker, other: NurseryWorker, nursery: Nursery
) -> None:
    worker.run(tasks.set_signal_handlers)
    child = worker.run(tasks.start_child)
    assert worker.run(tasks.double, 1) == 2
    os.kill(child, signal.SIGKILL)
    assert worker.run(tasks.double, 1) == 2, "also after a child has ended"
    worker.process.kill()
    assert worker.wait() == signal.SIGKILL
    os.kill(other.run(tasks.pid), signal.SIGTERM)
    assert other.wait() == signal.SIGTERM
    assert nursery.worker().run(tasks.double, 1) == 2


@pytest.mark.parametrize("how", ["None", "nonsense", "closed", "descriptors"])
@pytest.mark.parametrize("end", ["stop", "reason", "status"])
def test_a_task_that_loses_its_streams_does_no_harm(nursery: Nursery, how: str, end: str) -> None:
    """Its worker ends with the status that it should have, and no other with it."""
    worker, other = nursery.worker(), nursery.worker()
    worker.run(tasks.lose_streams, how)
    assert worker.run(tasks.double, 1) == 2
    if end == "stop":
        worker.stop()
        assert worker.wait() == 0
    else:
        worker.give((sys.exit, "a reason" if end == "reason" else 7))
        assert worker.wait() == (1 if end == "reason" else 7) << 8
    assert other.run(tasks.double, 2) == 4
    assert nursery.worker().run(tasks.double, 3) == 6


def test_a_task_that_breaks_the_excepthook_does_no_harm(worker: NurseryWorker, other: NurseryWorker) -> None:
    worker.run(tasks.break_excepthook)
    worker.give((tasks.close_all_descriptors,))
    assert worker.wait() == 1 << 8
    assert other.run(tasks.double, 2) == 4


def test_a_task_that_freezes_the_time_does_no_harm(worker: NurseryWorker, tmp_path: Path) -> None:
    worker.run(tasks.freeze_time)
    assert worker.run(tasks.double, 1) == 2
    assert worker.run(tasks.double, 2) == 4


def test_a_task_that_ends_its_whole_process_group_ends_its_own_worker(
    worker: NurseryWorker, other: NurseryWorker
) -> None:
    def end_group() -> None:
        import os
        import signal

        os.killpg(0, signal.SIGKILL)

    worker.give((end_group,))
    assert worker.wait() == signal.SIGKILL
    assert other.run(tasks.double, 1) == 2


def test_an_exception_whose_own_methods_raise_is_an_outcome(worker: NurseryWorker) -> None:
    def raising() -> None:
        class Spiteful(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

            __repr__ = __str__

            def __reduce__(self) -> str:
                raise ValueError("no pickle")

        raise Spiteful

    (number,) = worker.give((raising,))
    record = worker.next_record()
    assert (record.task, record.outcome) == (number, Outcome.EXCEPTION)
    assert "Spiteful" in f"{error_of(record)!r}{error_of(record).__cause__}"
    assert worker.run(tasks.double, 1) == 2


def test_a_killed_worker_takes_no_other_with_it(nursery: Nursery) -> None:
    workers = [nursery.worker() for _ in range(3)]
    children = [worker.run(tasks.start_child) for worker in workers]
    workers[1].process.kill()
    workers[1].wait()
    wait_until(lambda: not alive(children[1]), what="the end of the child")
    assert alive(children[0]) and alive(children[2])
    assert [workers[0].run(tasks.double, 1), workers[2].run(tasks.double, 2)] == [2, 4]
