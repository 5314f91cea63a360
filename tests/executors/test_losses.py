"""Workers and managers that die, and tasks that run for too long."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import throughway
from tests.executors import tasks
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors.reactor import MAX_RESTARTS
from throughway.manager.pace import MAX_BUNDLE_TASKS


@pytest.fixture
def executor(runs: Path) -> Iterator[HighThroughputExecutor]:
    """One for each test: these kill its workers."""
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as own:
        yield own


def segfault() -> None:
    print("about to read address 0", file=sys.stderr)
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "exit_code", "signal_number", "words"),
    [
        (lambda: sys.exit(3), 3, None, "status 3"),
        (lambda: sys.exit("a reason"), 1, None, "a reason"),
        (lambda: os._exit(7), 7, None, "status 7"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None, 9, "memory"),
        (segfault, None, 11, "about to read address 0"),
        (os.abort, None, 6, "SIGABRT"),
    ],
)
def test_the_death_of_a_worker_costs_its_task(
    executor: HighThroughputExecutor,
    function: Callable[[], None],
    exit_code: int | None,
    signal_number: int | None,
    words: str,
) -> None:
    future = executor.submit(function)
    others = [executor.submit(tasks.add, index) for index in range(200)]
    error = future.exception(timeout=20)
    assert isinstance(error, throughway.WorkerLost)
    assert (error.exit_code, error.signal) == (exit_code, signal_number)
    assert words in str(error)
    assert error.host in str(error)
    assert error.log in str(error)
    assert Path(error.log).exists()
    assert [other.result(timeout=10) for other in others] == list(range(200))


def scribble() -> None:
    """Write into everything that is open."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"xyz")


def test_a_task_that_writes_into_everything_harms_no_other(executor: HighThroughputExecutor) -> None:
    others = [executor.submit(tasks.add, index) for index in range(500)]
    scribbler = executor.submit(scribble)
    others += [executor.submit(tasks.add, index) for index in range(500, 1000)]
    assert isinstance(scribbler.exception(timeout=10), throughway.WorkerLost)
    assert [other.result(timeout=10) for other in others] == list(range(1000))
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1


def test_workers_are_replaced(executor: HighThroughputExecutor) -> None:
    for _ in range(5):
        with pytest.raises(throughway.WorkerLost):
            executor.submit(os._exit, 1).result(timeout=10)

    def pids() -> set[int]:
        return {
            future.result(timeout=10) for future in [executor.submit(tasks.worker_pid) for _ in range(500)]
        }

    wait_until(lambda: len(pids()) == 2, 10, "both workers to work again")


def test_a_killed_idle_worker_costs_nothing(executor: HighThroughputExecutor) -> None:
    pid = executor.submit(tasks.worker_pid).result(timeout=10)
    os.kill(pid, signal.SIGKILL)
    assert [executor.submit(tasks.add, index).result(timeout=10) for index in range(50)] == list(range(50))


def test_retries_run_lost_tasks_again(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    futures = [executor.options(retries=1).submit(tasks.die_once, str(tmp_path), index) for index in range(6)]
    assert [future.result(timeout=30) for future in futures] == list(range(6))
    assert all((tmp_path / str(index)).stat().st_size == 2 for index in range(6))


def test_retries_end(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    def poison(folder: str) -> None:
        tasks.count_run(folder, "poison")
        os._exit(1)

    with pytest.raises(throughway.WorkerLost):
        executor.options(retries=2).submit(poison, str(tmp_path)).result(timeout=10)
    assert (tmp_path / "poison").stat().st_size == 3


def test_a_function_that_raises_is_not_retried(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        tasks.count_run(folder, "failed")
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        executor.options(retries=5).submit(fail, str(tmp_path)).result(timeout=10)
    assert (tmp_path / "failed").stat().st_size == 1


def test_walltime(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = str(tmp_path / "never")
    before = time.monotonic()
    future = executor.options(walltime=0.2).submit(tasks.hold, gate)
    others = [executor.submit(tasks.add, index) for index in range(100)]
    with pytest.raises(throughway.WalltimeExceeded, match="walltime"):
        future.result(timeout=20)
    assert 0.2 <= time.monotonic() - before < 20
    assert isinstance(future.exception(), TimeoutError)
    assert [other.result(timeout=10) for other in others] == list(range(100))
    quick = [executor.options(walltime=5).submit(tasks.add, index) for index in range(20)]
    assert [future.result(timeout=10) for future in quick] == list(range(20))


def test_what_a_task_started_dies_with_it(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    def start_child(path: str) -> None:
        import subprocess

        child = subprocess.Popen(["sleep", "600"])
        Path(path).write_text(str(child.pid))
        child.wait()

    path = tmp_path / "pid"
    future = executor.submit(start_child, str(path))
    wait_until(lambda: path.exists() and path.read_text() != "", 10, "the child to start")
    executor.kill(future)
    with pytest.raises(throughway.TaskKilled):
        future.result(timeout=10)
    wait_until(lambda: not alive(int(path.read_text())), 5, "the child to be gone")


def test_a_long_task_holds_up_no_other(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    warm = [executor.submit(tasks.add, index) for index in range(5000)]
    mixed = [
        executor.submit(tasks.hold, gate) if index == 50 else executor.submit(tasks.add, index)
        for index in range(1000)
    ]
    rest = [future.result(timeout=10) for index, future in enumerate(mixed) if index != 50]
    assert len(rest) == 999
    assert not mixed[50].done()
    Path(gate).touch()
    assert mixed[50].result(timeout=10) > 0
    assert all(future.done() for future in warm)


def test_a_lost_manager_is_noticed_and_replaced(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        started = tmp_path / "started"
        lost = executor.submit(tasks.hold, str(tmp_path / "never"), str(started))
        wait_until(started.exists, 10, "the task to start")
        gate = tmp_path / "gate"
        retried = executor.options(retries=1).submit(tasks.hold, str(gate), str(tmp_path / "retried"))
        wait_until((tmp_path / "retried").exists, 10, "the other task to start")
        (manager,) = executor.connected_managers()
        before = time.monotonic()
        os.kill(manager.pid, signal.SIGKILL)
        with pytest.raises(throughway.ManagerLost, match=manager.manager):
            lost.result(timeout=20)
        assert time.monotonic() - before < 10, "far sooner than heartbeat_threshold"
        gate.touch()
        assert retried.result(timeout=20) > 0
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
        wait_until(lambda: not alive(int(started.read_text())), 5, "the lost manager's workers to be gone")


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["one machine", "over the network"])
def test_what_a_lost_manager_had_not_started_runs_elsewhere(
    runs: Path, tmp_path: Path, address: str | None
) -> None:
    """Without any retries: the manager notes what it gives to workers where it outlives it."""
    marks = tmp_path / "marks"
    marks.mkdir()
    with HighThroughputExecutor(
        max_workers_per_node=2, run_dir=runs, address=address, prefetch_capacity=2000
    ) as executor:
        gate = tmp_path / "gate"
        started = [tmp_path / "started-0", tmp_path / "started-1"]
        running = [executor.submit(tasks.hold, str(gate), str(mark)) for mark in started]
        wait_until(lambda: all(mark.exists() for mark in started), 20, "both workers to be busy")
        waiting = [executor.submit(tasks.count_run, str(marks), number) for number in range(1000)]
        (manager,) = executor.connected_managers()
        wait_until(
            lambda: executor.connected_managers()[0].tasks == 1002, 20, "the manager to hold all of them"
        )
        os.kill(manager.pid, signal.SIGKILL)
        for future in running:
            with pytest.raises(throughway.ManagerLost):
                future.result(timeout=20)
        for one in waiting:
            one.result(timeout=30)
        assert [len(path.read_text()) for path in marks.iterdir()] == [1] * 1000


def test_tiny_tasks_of_a_lost_manager_run_once_or_are_told_to_be_lost(runs: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        for future in [executor.submit(tasks.add, number) for number in range(2000)]:
            future.result(timeout=20)
        (manager,) = executor.connected_managers()
        futures = [executor.submit(tasks.count_run, str(marks), number) for number in range(5000)]
        wait_until(lambda: sum(future.done() for future in futures[:500]) > 50, 20, "some to be done")
        os.kill(manager.pid, signal.SIGKILL)
        lost = 0
        for number, counted in enumerate(futures):
            error = counted.exception(timeout=30)
            mark = marks / str(number)
            count = len(mark.read_text()) if mark.exists() else 0
            if error is None:
                assert count == 1, f"task {number} ran {count} times"
            else:
                assert isinstance(error, throughway.ManagerLost)
                assert count <= 1, f"task {number} ran {count} times"
                lost += 1
        assert lost <= 4 * MAX_BUNDLE_TASKS, "only what was with the workers may have started"


def kill_interchange(executor: HighThroughputExecutor, number: int = signal.SIGKILL) -> None:
    """Kill it, and wait until another has taken over, or none will."""
    run = executor._run
    assert run is not None
    before = run.shell.interchange_pid
    os.kill(before, number)
    wait_until(lambda: run.shell.interchange_pid != before or not executor._ready, 20, "an answer to it")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_the_interchange_costs_nothing(runs: Path, tmp_path: Path, number: int) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        gate, started = tmp_path / "gate", tmp_path / "started"
        running = executor.submit(tasks.hold, str(gate), str(started))
        wait_until(started.exists, 10, "the task to start")
        others = [executor.submit(tasks.count_run, str(marks), number) for number in range(2000)]
        for _ in range(3):
            kill_interchange(executor, number)
            names = range(len(others), len(others) + 100)
            others += [executor.submit(tasks.count_run, str(marks), name) for name in names]
        for future in others:
            future.result(timeout=30)
        (manager,) = executor.connected_managers()
        gate.touch()
        assert running.result(timeout=20) == int(started.read_text()), "it ran on where it was"
        assert manager.worker_count == 2
        counts = [len(path.read_text()) for path in marks.iterdir()]
        assert counts == [1] * len(others), "none ran twice"
        assert executor._run is not None
        assert executor._run.reactor.restarts == 3


def test_what_was_asked_of_a_dead_interchange_is_asked_again(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        gate, started = tmp_path / "gate", tmp_path / "started"
        running = executor.submit(tasks.hold, str(gate), str(started))
        wait_until(started.exists, 10, "the task to start")
        waiting = [executor.submit(tasks.add, number) for number in range(10)]
        assert executor._run is not None
        stopped = executor._run.shell.interchange_pid
        os.kill(stopped, signal.SIGSTOP)
        verdicts: list[bool] = []
        threads = [threading.Thread(target=lambda: verdicts.append(waiting[0].cancel()))]
        threads.append(threading.Thread(target=lambda: verdicts.append(bool(executor.connected_managers()))))
        for thread in threads:
            thread.start()
        wait_until(lambda: len(executor._run.reactor._answers) == 1, 10, "the question")  # type: ignore[union-attr]
        wait_until(lambda: len(executor._run.reactor._verdicts) == 1, 10, "the cancellation")  # type: ignore[union-attr]
        os.kill(stopped, signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        assert verdicts == [True, True]
        executor.kill(running)
        with pytest.raises(throughway.TaskKilled):
            running.result(timeout=20)
        assert [future.result(timeout=20) for future in waiting[1:]] == list(range(1, 10))


def test_a_hung_interchange_is_replaced(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(
        max_workers_per_node=1, run_dir=runs, heartbeat_period=0.5, heartbeat_threshold=3
    ) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
        assert executor._run is not None
        hung = executor._run.shell.interchange_pid
        os.kill(hung, signal.SIGSTOP)
        futures = [executor.submit(tasks.add, number) for number in range(100)]
        assert [future.result(timeout=40) for future in futures] == list(range(100))
        assert executor._run.shell.interchange_pid != hung
        assert not alive(hung)


def test_an_interchange_that_dies_again_and_again_ends_in_a_clear_error(runs: Path, tmp_path: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    started = tmp_path / "started"
    futures = [executor.submit(tasks.hold, str(tmp_path / "never"), str(started)) for _ in range(3)]
    wait_until(started.exists, 10, "the task to start")
    for _ in range(MAX_RESTARTS + 1):
        kill_interchange(executor)
    for future in futures:
        with pytest.raises(throughway.InterchangeLost, match=f"after {MAX_RESTARTS} others"):
            future.result(timeout=10)
    wait_until(lambda: not executor._ready, 5, "the executor to refuse")
    with pytest.raises(throughway.InterchangeLost):
        executor.submit(tasks.add, 1)
    executor.shutdown()
    wait_until(lambda: not alive(int(started.read_text())), 5, "the workers to be gone")


def test_a_dead_zygote_is_replaced(executor: HighThroughputExecutor) -> None:
    assert executor.submit(tasks.add, 1).result(timeout=10) == 1
    (manager,) = executor.connected_managers()
    (zygote,) = children(manager.pid)
    os.kill(zygote, signal.SIGKILL)
    wait_until(
        lambda: bool(children(manager.pid)) and children(manager.pid) != [zygote], 10, "another zygote"
    )
    assert [executor.submit(tasks.add, index).result(timeout=10) for index in range(20)] == list(range(20))


def test_an_initializer_runs_first(runs: Path) -> None:
    def prepare(value: str) -> None:
        os.environ["PREPARED"] = value

    parameters = {"initializer": prepare, "initargs": ("yes",)}
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs, **parameters) as executor:  # type: ignore[arg-type]
        assert {executor.submit(tasks.environment, "PREPARED").result(timeout=10) for _ in range(20)} == {
            "yes"
        }


def test_an_initializer_that_raises_fails_every_future(runs: Path, tmp_path: Path) -> None:
    # Not before all are submitted: to an executor that has failed nothing can be.
    gate = tmp_path / "gate"

    def prepare(gate: str) -> None:
        tasks.hold(gate)
        raise OSError("no licence")

    executor = HighThroughputExecutor(
        max_workers_per_node=2, run_dir=runs, initializer=prepare, initargs=(str(gate),)
    )
    futures = [executor.submit(tasks.add, 1) for _ in range(3)]
    gate.touch()
    for future in futures:
        error = future.exception(timeout=20)
        assert isinstance(error, throughway.InitializerFailed)
        assert isinstance(error.__cause__, OSError)
    executor.shutdown()


def test_max_tasks_per_child(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs, max_tasks_per_child=10) as executor:
        futures = [executor.submit(tasks.worker_pid) for _ in range(200)]
        pids = [future.result(timeout=30) for future in futures]
    assert max(pids.count(pid) for pid in set(pids)) <= 10
    assert len(set(pids)) >= 20


def test_blocks_that_fail_end_in_a_clear_error(runs: Path) -> None:
    from throughway.providers.local import LocalProvider

    provider = LocalProvider(worker_init="echo 'the module system is down' >&2; exit 9")
    executor = HighThroughputExecutor(provider=provider, run_dir=runs)
    future = executor.submit(tasks.add, 1)
    with pytest.raises(throughway.ExecutorFailed, match="the module system is down"):
        future.result(timeout=30)
    with pytest.raises(throughway.ExecutorFailed):
        executor.submit(tasks.add, 1)
    executor.shutdown()


def test_callers_blocked_at_the_bound_learn_that_it_broke(runs: Path, tmp_path: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, max_outstanding=1)
    started = tmp_path / "started"
    executor.submit(tasks.hold, str(tmp_path / "never"), str(started))
    wait_until(started.exists, 10, "the task to start")
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit(tasks.add, 1)
        except throughway.ThroughwayError as error:
            errors.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    for _ in range(MAX_RESTARTS + 1):
        kill_interchange(executor)
    thread.join(10)
    assert [type(error) for error in errors] == [throughway.InterchangeLost]
    executor.shutdown()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split() if alive(int(child))]
