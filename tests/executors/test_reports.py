"""What an executor tells of itself, of its managers, and of where a task is."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import throughway
from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor, TaskFuture
from throughway.executors.reports import TaskExplanation
from throughway.providers import LocalProvider


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HighThroughputExecutor]:
    """Two workers, and nothing fetched ahead: what waits, waits at the interchange."""
    runs = tmp_path_factory.mktemp("runs")
    with HighThroughputExecutor(
        max_workers_per_node=2, cores_per_worker=0.5, prefetch_capacity=0, run_dir=runs
    ) as shared:
        wait_until(lambda: shared.connected_workers == 2, 30, "two workers")
        shared.submit(tasks.add, 1).result(timeout=30)
        yield shared


@pytest.fixture
def own(runs: Path) -> Iterator[HighThroughputExecutor]:
    """One for this test alone, which kills its workers."""
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        yield executor


class Held:
    """Tasks that run until the gate opens."""

    def __init__(self, executor: HighThroughputExecutor, folder: Path, count: int) -> None:
        self.gate = folder / "gate"
        marks = [folder / f"started-{number}" for number in range(count)]
        self.futures = [executor.submit(tasks.hold, str(self.gate), str(mark)) for mark in marks]
        wait_until(lambda: all(mark.exists() for mark in marks), 20, "all to run")
        self.pids = [int(wait_until(mark.read_text, 20, "the worker's pid")) for mark in marks]

    def end(self) -> None:
        self.gate.touch()
        for future in self.futures:
            future.result(timeout=20)


Hold = Callable[[HighThroughputExecutor, int], Held]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    held: list[Held] = []

    def start(executor: HighThroughputExecutor, count: int) -> Held:
        held.append(Held(executor, tmp_path, count))
        return held[-1]

    yield start
    for each in held:
        each.end()


# ---------------------------------------------------------------------------------------------------------- managers


def test_connected_managers(executor: HighThroughputExecutor, hold: Hold) -> None:
    (idle,) = wait_until(
        lambda: [view for view in executor.connected_managers() if view.tasks == 0],
        20,
        "the manager to be idle",
    )
    assert idle.host == socket.gethostname()
    assert idle.block == "0"
    assert (
        Path(f"/proc/{idle.pid}/cmdline")
        .read_bytes()
        .startswith(b"throughway-manager " + idle.manager.encode())
    )
    assert (idle.worker_count, idle.idle_workers) == (2, 2)
    assert idle.python_version == platform.python_version()
    assert idle.throughway_version == throughway.__version__
    assert idle.cores >= 1
    assert idle.memory > 1 << 20
    assert idle.active
    assert not idle.draining
    assert idle.seconds_left is None
    assert idle.tasks_done >= 1
    assert 0 <= idle.idle_duration <= idle.age
    assert Path(idle.log).is_dir()
    later = executor.connected_managers()[0]
    assert later.idle_duration > idle.idle_duration
    assert later.age > idle.age
    hold(executor, 1)
    (busy,) = executor.connected_managers()
    assert (busy.tasks, busy.idle_workers, busy.idle_duration) == (1, 1, 0.0)


def test_connected_workers_and_blocks(executor: HighThroughputExecutor) -> None:
    assert executor.connected_workers == 2
    assert executor.connected_blocks() == ["0"]
    (block,) = executor.blocks()
    assert (block.id, block.managers, block.nodes, block.state.value) == ("0", 1, 1, "running")


def test_managers_packages(executor: HighThroughputExecutor) -> None:
    (manager,) = executor.connected_managers()
    packages = executor.managers_packages()
    assert packages.keys() == {manager.manager}
    import msgspec

    assert packages[manager.manager]["msgspec"] == msgspec.__version__


def test_status_report(executor: HighThroughputExecutor, hold: Hold) -> None:
    (manager,) = executor.connected_managers()
    before = executor.status_report()
    assert (before.managers, before.workers) == (1, 2)
    assert (before.cores, before.memory) == (manager.cores, manager.memory)
    held = hold(executor, 2)
    waiting = [executor.submit(tasks.add, number) for number in range(10)]
    report = executor.status_report()
    assert (report.idle_workers, report.pending, report.outstanding) == (0, 10, 12)
    assert executor.outstanding == 12
    held.end()
    for future in waiting:
        future.result(timeout=20)
    after = executor.status_report()
    assert (after.idle_workers, after.pending, after.outstanding) == (2, 0, 0)
    assert after.completed == before.completed + 12


@pytest.mark.parametrize("cores", [0.5, 2.0])
def test_core_hours_are_those_of_the_tasks(runs: Path, cores: float) -> None:
    """A task has the cores of one worker for as long as it runs, and idle workers count nothing."""
    available = len(os.sched_getaffinity(0))
    if cores > available:
        pytest.skip(f"needs {cores} cores, has {available}")

    def spin(seconds: float) -> float:
        import time

        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            pass
        return passed

    with HighThroughputExecutor(max_workers_per_node=1, cores_per_worker=cores, run_dir=runs) as executor:
        spun = sum(executor.submit(spin, 0.05).result(timeout=20) for _ in range(4))
        hours = executor.status_report().core_hours
    assert spun * cores <= hours * 3600 <= (spun + 1.0) * cores


# -------------------------------------------------------------------------------------------------------------- explain


def test_a_running_task(executor: HighThroughputExecutor, hold: Hold) -> None:
    held = hold(executor, 1)
    (manager,) = executor.connected_managers()
    first = executor.explain(held.futures[0])
    assert (first.state, first.function) == ("running", "hold")
    assert (first.manager, first.host, first.block) == (manager.manager, manager.host, "0")
    assert first.worker in (0, 1)
    assert first.seconds is not None
    second = executor.explain(held.futures[0])
    assert second.seconds is not None
    assert second.seconds > first.seconds
    text = str(first)
    assert text.startswith(f"task {held.futures[0].task_id} (hold) is running, at worker {first.worker}")
    assert f"of manager {manager.manager} on {manager.host} (block 0) since " in text
    assert text.endswith(f"; log: {first.log}")
    assert Path(first.log) == Path(manager.log) / f"worker-{first.worker}.log"


def test_the_log_that_is_named_has_what_the_task_printed(
    executor: HighThroughputExecutor, tmp_path: Path
) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"

    def talk(gate: str, started: str) -> None:
        print("to the output")
        print("to the errors", file=sys.stderr)
        os.system("echo from a child process")
        os.write(1, b"past Python\n")
        tasks.hold(gate, started)

    future = executor.submit(talk, str(gate), str(started))
    wait_until(started.exists, 20, "the task to run")
    text = Path(executor.explain(future).log).read_text()
    for line in ("to the output", "to the errors", "from a child process", "past Python"):
        assert line in text.splitlines()
    gate.touch()
    future.result(timeout=20)


def test_a_task_that_waits_at_the_interchange(executor: HighThroughputExecutor, hold: Hold) -> None:
    held = hold(executor, 2)
    waiting = [executor.submit(tasks.add, number) for number in range(5)]
    urgent = executor.options(priority=-1).submit(tasks.add, 9)
    explanation = executor.explain(waiting[3])
    assert (explanation.state, explanation.waits_for, explanation.ahead) == (
        "at the interchange",
        "a free worker",
        4,
    )
    assert str(explanation) == (
        f"task {waiting[3].task_id} (add) is at the interchange; it waits for a free worker, "
        "with 4 tasks ahead of it"
    )
    assert executor.explain(urgent).ahead == 0
    held.end()
    assert urgent.result(timeout=20) == 9


def test_a_task_that_waits_at_a_manager(runs: Path, hold: Hold) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, prefetch_capacity=3, run_dir=runs) as executor:
        held = hold(executor, 1)
        waiting = [executor.submit(tasks.add, number) for number in range(3)]
        (manager,) = executor.connected_managers()

        def explained() -> list[TaskExplanation]:
            return [executor.explain(future) for future in waiting]

        told = wait_until(
            lambda: (
                [each for each in explained() if each.state == "at a manager"]
                if len(explained()) == 3
                else []
            ),
            20,
            lambda: f"tasks at the manager: {[str(each) for each in explained()]}",
        )
        for each in told:
            assert (each.manager, each.host, each.block) == (manager.manager, manager.host, "0")
            assert each.waits_for == "a free worker"
            assert (
                f") is at manager {manager.manager} on {manager.host} (block 0); it waits for a free worker"
                in str(each)
            )
        held.end()


def test_a_task_that_is_still_here(runs: Path) -> None:
    """The interchange does not read, so what is large, and not in shared memory, stays with the executor."""
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
        assert executor._run is not None
        interchange = executor._run.shell.interchange_pid
        os.kill(interchange, signal.SIGSTOP)
        try:
            large = [executor.submit(len, "large" * (1 << 20)) for _ in range(4)]
            last = executor.submit(tasks.add, 2)
            explanation = executor.explain(last)
            assert (explanation.state, explanation.function) == ("at the executor", "add")
            assert "the interchange to read" in explanation.waits_for
            assert explanation.ahead >= 1
        finally:
            os.kill(interchange, signal.SIGCONT)
        assert [future.result(timeout=20) for future in large] == [5 << 20] * 4
        assert last.result(timeout=20) == 2


def test_a_task_that_is_done(executor: HighThroughputExecutor) -> None:
    future = executor.submit(tasks.add, 1)
    future.result(timeout=20)
    explanation = executor.explain(future)
    assert explanation.state == "done"
    assert str(explanation).startswith(f"task {future.task_id} is done; logs: ")
    assert Path(explanation.log).is_dir()
    assert executor.explain(cancelled(executor)).state == "done"


def cancelled(executor: HighThroughputExecutor) -> TaskFuture[Any]:
    while True:
        future = executor.submit(tasks.add, 1)
        if future.cancel():
            return future
        future.result(timeout=20)


def test_no_manager_can_be_had(runs: Path, tmp_path: Path) -> None:
    """The blocks' own words are in the explanation."""
    gate = tmp_path / "gate"
    script = f"echo 'waiting for a licence' >&2; while [ ! -e {gate} ]; do sleep 0.01; done"
    with HighThroughputExecutor(
        provider=LocalProvider(worker_init=script), max_workers_per_node=1, run_dir=runs
    ) as executor:
        future = executor.submit(tasks.add, 1)
        wait_until(
            lambda: "block 0 is running" in executor.explain(future).waits_for,
            20,
            lambda: f"the block to run: {executor.explain(future)}",
        )
        explanation = executor.explain(future)
        assert explanation.state == "at the interchange"
        assert "a manager: none is registered" in explanation.waits_for
        gate.touch()
        assert future.result(timeout=20) == 1


def test_blocks_that_fail_are_in_the_explanation(runs: Path) -> None:
    provider = LocalProvider(worker_init="exit 9")
    with HighThroughputExecutor(provider=provider, block_error_handler=False, run_dir=runs) as executor:
        future = executor.submit(tasks.add, 1)
        wait_until(
            lambda: "block 0 is failed" in executor.explain(future).waits_for,
            20,
            lambda: f"the failure to be told: {executor.explain(future)}",
        )
        assert future.cancel()


# --------------------------------------------------------------------------------------------------------------- errors


def note_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_exceptions_name_the_log(executor: HighThroughputExecutor) -> None:
    def fail() -> None:
        print("the last words")
        raise ValueError("of the task")

    future = executor.submit(fail)
    error = future.exception(timeout=20)
    assert isinstance(error, ValueError)
    (manager,) = executor.connected_managers()
    note = note_of(error)
    assert f"({future.task_id})" in note
    assert manager.host in note
    assert manager.manager in note
    log = Path(note.partition("log ")[2])
    assert log.parent == Path(manager.log)
    assert log.read_text().splitlines()[-1] == "the last words"


@pytest.mark.parametrize(
    "function",
    [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: tasks.make("unpicklable")],
    ids=["exit", "kill", "unpicklable result"],
)
def test_every_error_names_the_log(own: HighThroughputExecutor, function: Callable[[], Any]) -> None:
    error = own.submit(function).exception(timeout=20)
    assert error is not None
    (manager,) = own.connected_managers()
    assert manager.log in str(error) + note_of(error)


def test_walltime_and_kill_name_the_log(own: HighThroughputExecutor, tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    started = tmp_path / "started"
    killed = own.submit(tasks.hold, never, str(started))
    wait_until(started.exists, 20, "the task to run")
    own.kill(killed)
    timed = own.options(walltime=0.05).submit(tasks.hold, never)
    for future, kind in ((killed, throughway.TaskKilled), (timed, throughway.WalltimeExceeded)):
        error = future.exception(timeout=20)
        assert isinstance(error, kind)
        assert error.log
        assert error.log in str(error)
        assert Path(error.log).exists()


# ----------------------------------------------------------------------------------------------------------- questions


def test_questions_from_a_callback(executor: HighThroughputExecutor) -> None:
    """Callbacks run in the thread that would receive the answer."""
    import threading

    told: list[object] = []
    done = threading.Event()
    other = executor.submit(tasks.add, 1)
    other.result(timeout=20)

    def ask(future: object) -> None:
        told.extend(
            [
                len(executor.connected_managers()),
                executor.status_report().workers,
                executor.explain(other).state,
            ]
        )
        done.set()

    executor.submit(tasks.add, 1).add_done_callback(ask)
    assert done.wait(20)
    assert told == [1, 2, "done"]


def test_questions_after_the_end(runs: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    assert executor.blocks() == []
    assert executor.outstanding == 0
    assert executor.run_folder is None
    future = executor.submit(tasks.add, 1)
    assert future.result(timeout=20) == 1
    executor.shutdown()
    assert executor.explain(future).state == "done"
    assert executor.run_folder is not None
    for question in (executor.connected_managers, executor.status_report, executor.managers_packages):
        with pytest.raises(RuntimeError, match="shutdown"):
            question()


def test_an_interchange_that_does_not_answer(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from throughway.errors import CommandTimeout
    from throughway.executors import questions

    monkeypatch.setattr(questions, "COMMAND_SECONDS", 0.1)
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        executor.start()
        assert executor._run is not None
        interchange = executor._run.shell.interchange_pid
        os.kill(interchange, signal.SIGSTOP)
        try:
            with pytest.raises(
                CommandTimeout, match=rf"process {interchange}\) did not answer 'managers' within 0.1 s"
            ):
                executor.connected_managers()
        finally:
            os.kill(interchange, signal.SIGCONT)
