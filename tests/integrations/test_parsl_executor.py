"""Throughway's executor as Parsl calls it, without Parsl's data flow kernel in front of it."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import throughway
from tests.integrations.libraries import need
from tests.processes import alive
from tests.waiting import wait_until

need("parsl")

import parsl
from parsl.app.errors import AppTimeout
from parsl.executors.errors import BadStateException
from parsl.executors.errors import InvalidResourceSpecification as ParslInvalid
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.executors.high_throughput.executor import HighThroughputExecutor as ParslHtex
from parsl.executors.high_throughput.manager_selector import BlockIdManagerSelector, RandomManagerSelector
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider
from parsl.serialize.errors import SerializationError

from throughway.integrations.parsl import HighThroughputExecutor, ThroughwayProvider, errors
from throughway.integrations.parsl.executor import _selector
from throughway.interchange.selectors import BlockPackingSelector, LeastLoadedSelector, RandomSelector

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning:parsl"),
    pytest.mark.leaks_allowed("Parsl's local provider leaves its shells to init"),
]

Make = Callable[..., HighThroughputExecutor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[HighThroughputExecutor] = []

    def start(*, blocks: int = 1, provider: Any = None, **options: Any) -> HighThroughputExecutor:
        options.setdefault("max_workers_per_node", 1)
        options.setdefault("label", f"htex{len(made)}")
        executor = HighThroughputExecutor(provider=provider or LocalProvider(max_blocks=4), **options)
        executor.run_dir = str(tmp_path / "run")
        executor.provider.script_dir = str(tmp_path / "scripts")
        os.makedirs(executor.provider.script_dir, exist_ok=True)
        made.append(executor)
        executor.start()
        executor.scale_out_facade(blocks)
        return executor

    yield start
    for executor in made:
        executor.scale_in_facade(len(executor.status_facade))
        executor.shutdown()


def managers(executor: HighThroughputExecutor, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(executor.connected_managers()) == count, 30, f"{count} managers")
    return executor.connected_managers()


def double(value: int) -> int:
    return 2 * value


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def wait_for(path: str, started: str = "") -> int:
    if started:
        Path(started).touch()
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getppid()


def note(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text + "\n")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("never")


def give_unpicklable() -> Unpicklable:
    return Unpicklable()


# ------------------------------------------------------------------------------------------------------- submitting


def test_runs_functions_in_workers_that_know_their_place(make: Make) -> None:
    executor = make(max_workers_per_node=2)
    future = executor.submit(double, {}, 21)
    assert future.result(30) == 42
    assert future.parsl_executor_task_id == future.task_id == 1
    names = ("PARSL_WORKER_RANK", "PARSL_WORKER_COUNT", "PARSL_WORKER_POOL_ID", "PARSL_WORKER_BLOCK_ID")
    rank, count, pool, block = executor.submit(variables, {}, *names).result(30)
    assert rank in ("0", "1")
    assert (count, block) == ("2", "0")
    assert pool == managers(executor)[0]["manager"]
    assert isinstance(executor, ParslHtex)


def test_exceptions_of_functions_arrive_as_they_are(make: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        make().submit(divmod, {}, 1, 0).result(30)


def test_lower_priorities_run_sooner_and_equal_ones_in_order(make: Make, tmp_path: Path) -> None:
    executor = make(blocks=0)
    log = str(tmp_path / "order")
    priorities = [9, 3, 5, 3, 1, 9, 1]
    futures = [
        executor.submit(note, {"priority": priority}, log, f"{priority} {number}")
        for number, priority in enumerate(priorities)
    ]
    executor.scale_out_facade(1)
    for future in futures:
        future.result(30)
    expected = sorted((priority, number) for number, priority in enumerate(priorities))
    assert Path(log).read_text().split("\n")[:-1] == [f"{priority} {number}" for priority, number in expected]


def test_workers_see_the_resource_specification(make: Make) -> None:
    executor = make()
    seen = executor.submit(
        variables, {"priority": 4, "retries": 1}, "PARSL_PRIORITY", "PARSL_RETRIES"
    ).result(30)
    assert seen == ["4", "1"]
    assert executor.submit(variables, {}, "PARSL_PRIORITY").result(30) == [None]


@pytest.mark.parametrize("specification", [{"cores": 2}, {"priority": "high"}, {"walltime": -1}])
def test_resource_specifications_that_cannot_work(make: Make, specification: dict[str, Any]) -> None:
    executor = make(blocks=0)
    for caught in (ParslInvalid, throughway.InvalidResourceSpecification):
        with pytest.raises(caught, match=next(iter(specification))) as raised:
            executor.submit(double, specification, 1)
        error: Any = raised.value
        assert error.invalid_keys == set(specification)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_walltime_of_a_task_is_kept(make: Make) -> None:
    executor = make()
    executor.submit(double, {}, 1).result(30)
    future = executor.submit(time.sleep, {"walltime": 0.2}, 60)
    with pytest.raises(AppTimeout, match="walltime"):
        future.result(30)
    assert isinstance(future.exception(), throughway.WalltimeExceeded)


def test_payloads(make: Make) -> None:
    from parsl.serialize import pack_apply_message

    executor = make()
    payload = pack_apply_message(double, (4,), {})
    assert executor.submit_payload({}, payload).result(30) == 8
    context = {"task_executor": {"f": f"{__name__}.run_twice", "a": (3,), "k": {"plus": 1}}}
    assert executor.submit_payload(context, b"abc").result(30) == (b"abc", 4)


def run_twice(buffer: bytes, number: int, *, plus: int) -> tuple[bytes, int]:
    return buffer, number + plus


def test_nothing_is_submitted_to_what_does_not_run(make: Make) -> None:
    with pytest.raises(BadStateException, match="was not started"):
        HighThroughputExecutor().submit(double, {}, 1)
    executor = make(blocks=0)
    executor.shutdown()
    with pytest.raises(BadStateException, match="was shut down"):
        executor.submit(double, {}, 1)
    assert (executor.outstanding(), executor.connected_managers(), executor.tasks) == (0, [], {})


# ----------------------------------------------------------------------------------------------------------- losses


def test_a_lost_worker(make: Make) -> None:
    executor = make()
    future = executor.submit(os._exit, {}, 3)
    with pytest.raises(WorkerLost, match="exit"):
        future.result(30)
    assert isinstance(future.exception(), throughway.WorkerLost)
    error: Any = future.exception()
    assert (error.worker_id, error.hostname, error.exit_code) == (0, error.host, 3)
    assert executor.submit(double, {}, 1).result(30) == 2
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.worker_id) == (type(error), str(error), 0)


def test_a_lost_manager(make: Make, tmp_path: Path) -> None:
    executor = make()
    started = tmp_path / "started"
    future = executor.submit(wait_for, {}, str(tmp_path / "never"), str(started))
    wait_until(started.exists, 30)
    (view,) = executor.throughway.connected_managers()
    os.kill(view.pid, signal.SIGKILL)
    with pytest.raises(ManagerLost, match=view.manager):
        future.result(30)
    assert isinstance(future.exception(), throughway.ManagerLost)
    error: Any = future.exception()
    assert error.manager_id == view.manager.encode()


def test_what_cannot_be_pickled(make: Make) -> None:
    executor = make()
    arguments = executor.submit(double, {}, Unpicklable())
    result = executor.submit(give_unpicklable, {})
    for future in (arguments, result):
        with pytest.raises(SerializationError):
            future.result(30)
        assert isinstance(future.exception(), throughway.SerializationError)


def test_adapted_errors_keep_what_they_held() -> None:
    cause = ValueError("why")
    error = throughway.ManagerLost("gone")
    error.host = "node7"
    error.__cause__ = cause
    found: Any = errors.adapted(error)
    assert (str(found), found.host, found.hostname, found.__cause__) == ("gone", "node7", "node7", cause)
    assert errors.adapted(cause) is cause
    assert errors.adapted(found) is found


# --------------------------------------------------------------------------------------------------------- the end


def test_a_bad_state_fails_everything(make: Make, tmp_path: Path) -> None:
    executor = make()
    started = tmp_path / "started"
    running = executor.submit(wait_for, {}, str(tmp_path / "never"), str(started))
    queued = executor.submit(double, {}, 1)
    wait_until(started.exists, 30)
    trouble = RuntimeError("no more")
    executor.set_bad_state_and_fail_all(trouble)
    for future in (running, queued):
        with pytest.raises(BadStateException, match="no more"):
            future.result(30)
    with pytest.raises(RuntimeError, match="no more"):
        executor.submit(double, {}, 1)
    assert executor.bad_state_is_set
    assert executor.connected_managers() == []


def test_the_shutdown_leaves_no_future_behind(make: Make, tmp_path: Path) -> None:
    executor = make()
    started = tmp_path / "started"
    running = executor.submit(wait_for, {}, str(tmp_path / "never"), str(started))
    queued = executor.submit(double, {}, 1)
    wait_until(started.exists, 30)
    executor.shutdown()
    for future in (running, queued):
        with pytest.raises(BadStateException, match="was shut down"):
            future.result(0)
    executor.shutdown()


def test_local_managers_are_gone_after_the_shutdown(make: Make) -> None:
    executor = make(blocks=2)
    managers(executor, 2)
    pids = [view.pid for view in executor.throughway.connected_managers()]
    assert all(map(alive, pids))
    executor.scale_in_facade(2)
    executor.shutdown()
    assert not any(map(alive, pids))


def test_blocks_of_a_failed_executor_are_cancelled(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make()
    cancelled: list[str] = []
    cancel = executor.provider.cancel

    def noted(jobs: list[str]) -> Any:
        cancelled.extend(jobs)
        return cancel(jobs)

    monkeypatch.setattr(executor.provider, "cancel", noted)
    executor.set_bad_state_and_fail_all(RuntimeError("no more"))
    executor.shutdown()
    assert cancelled == [executor.blocks_to_job_id["0"]]


# --------------------------------------------------------------------------------------------------------- questions


def test_managers_and_blocks_are_told_in_the_words_of_parsl(make: Make) -> None:
    executor = make()
    (manager,) = managers(executor)
    assert manager["block_id"] == "0"
    assert manager["worker_count"] == 1
    assert (manager["active"], manager["draining"]) == (True, False)
    assert manager["parsl_version"] == parsl.__version__
    assert manager["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert executor.connected_managers_packages()[manager["manager"]]["throughway"]
    assert executor.connected_workers == 1
    assert executor.connected_blocks() == ["0"]
    assert executor.status()["0"].state == JobState.RUNNING
    assert os.path.exists(os.path.join(executor.logdir, "interchange.log"))
    executor.scale_in_facade(1)
    wait_until(lambda: not executor.connected_managers(), 30)
    assert executor.connected_blocks() == ["0"], "the history stays"


def test_a_block_that_failed_says_why_its_managers_were_refused(make: Make) -> None:
    executor = make(launch_cmd="exit 3 # {config}")
    wait_until(lambda: executor.status()["0"].terminal, 30)
    assert executor._blocks is not None
    executor._blocks.manager_refused("0", "it runs another Python")
    for _ in range(2):
        status = executor.status()["0"]
        assert (status.state, status.exit_code) == (JobState.MISSING, 3)
        assert status.message.count("it runs another Python") == 1
    future = executor.submit(double, {}, 1)
    executor.handle_errors(executor.status())
    with pytest.raises(BadStateException, match="it runs another Python"):
        future.result(30)


def test_many_threads_ask_at_once(make: Make) -> None:
    executor = make()
    managers(executor)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(executor.connected_managers()))) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 50


def test_an_explanation_names_the_blocks_of_parsl(make: Make) -> None:
    executor = make(blocks=0)
    executor._status["0"] = JobStatus(JobState.PENDING, message="in the queue")
    future = executor.submit(double, {}, 1)
    assert "block 0 is pending (in the queue)" in str(executor.throughway.explain(future))


# ----------------------------------------------------------------------------------------------------------- scaling


def test_the_blocks_that_have_been_idle_longest_go_first(make: Make, tmp_path: Path) -> None:
    executor = make(blocks=2)
    managers(executor, 2)
    started = tmp_path / "started"
    running = executor.submit(wait_for, {}, str(tmp_path / "go"), str(started))
    wait_until(started.exists, 30)
    busy = next(manager["block_id"] for manager in executor.connected_managers() if manager["tasks"])
    assert executor.scale_in_facade(2, max_idletime=1000.0) == []
    idle = next(block for block in ("0", "1") if block != busy)
    assert executor.scale_in_facade(2, max_idletime=0.0) == [idle]
    wait_until(lambda: len(executor.connected_managers()) == 1, 30)
    (tmp_path / "go").touch()
    running.result(30)
    assert executor.status_facade[idle].state == JobState.SCALED_IN


def test_a_block_that_gets_a_task_while_it_is_held_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make()
    managers(executor)
    started = tmp_path / "started"
    hold = executor._hold_manager
    futures = []

    def submit_and_hold(manager: str) -> None:
        futures.append(executor.submit(wait_for, {}, str(tmp_path / "go"), str(started)))
        wait_until(started.exists, 30)
        hold(manager)

    monkeypatch.setattr(executor, "_hold_manager", submit_and_hold)
    assert executor.scale_in_facade(1, max_idletime=0.0) == []
    assert executor.connected_managers()[0]["active"]
    (tmp_path / "go").touch()
    assert futures[0].result(30)
    assert executor.submit(double, {}, 2).result(30) == 4


def test_tasks_that_run_in_a_block_that_is_scaled_in_are_finished(make: Make, tmp_path: Path) -> None:
    executor = make()
    started = tmp_path / "started"
    running = executor.submit(wait_for, {}, str(tmp_path / "go"), str(started))
    wait_until(started.exists, 30)
    assert executor.scale_in_facade(1) == ["0"]
    wait_until(lambda: all(manager["draining"] for manager in executor.connected_managers()), 30)
    (tmp_path / "go").touch()
    assert running.result(30)
    wait_until(lambda: not executor.connected_managers(), 30)


@pytest.mark.parametrize("command", ["env MARK={block_id} {command}", "env MARK={{block_id}} {command}"])
def test_commands_of_the_users(make: Make, command: str) -> None:
    executor = make(launch_cmd=command)
    assert executor.submit(variables, {}, "MARK").result(30) == ["0"]


def test_commands_for_parsls_own_managers_are_refused(make: Make) -> None:
    executor = make(launch_cmd="process_worker_pool.py {debug} --port={worker_port}")
    executor.poll_facade()
    status = executor.status_facade["0"]
    assert "the fields are command, config, python, block_id" in status.message
    executor.handle_errors(executor.status_facade)
    assert executor.bad_state_is_set


def test_providers_of_throughway(make: Make) -> None:
    from throughway.providers import LocalProvider as OwnLocalProvider

    executor = make(provider=OwnLocalProvider(max_blocks=3, nodes_per_block=2), blocks=1)
    assert isinstance(executor.provider, ThroughwayProvider)
    assert (executor.provider.max_blocks, executor.provider.nodes_per_block) == (3, 2)
    managers(executor, 2)
    assert executor.submit(double, {}, 2).result(30) == 4
    assert executor.status()["0"].state == JobState.RUNNING
    assert executor.scale_in_facade(1) == ["0"]
    wait_until(lambda: executor.provider.status(list(executor.job_ids_to_block))[0].terminal, 30)
    assert executor.provider.cancel(list(executor.job_ids_to_block)) == [True]


def test_a_provider_that_gives_an_address_uses_the_network(make: Make) -> None:
    executor = make(address="127.0.0.1", encrypted=True)
    assert executor.submit(double, {}, 2).result(30) == 4


# -------------------------------------------------------------------------------------------------------- parameters


def test_parameters_are_those_of_parsl() -> None:
    theirs = inspect.signature(ParslHtex.__init__).parameters
    mine = inspect.signature(HighThroughputExecutor.__init__).parameters
    assert list(mine)[: len(theirs)] == list(theirs)
    different = {
        name
        for name, parameter in theirs.items()
        if name != "manager_selector" and parameter.default != mine[name].default
    }
    assert "prefetch_capacity" in different
    # Older versions sent in the clear, and shared one provider among executors that were given none.
    assert different <= {"prefetch_capacity", "encrypted", "provider"}
    executor = HighThroughputExecutor()
    for name in list(mine)[1:]:
        assert hasattr(executor, name), f"Parsl's repr wants every parameter as an attribute: {name}"
    assert "HighThroughputExecutor(" in repr(executor)


INHERITED = {
    "_hold_block",
    "_warn_deprecated",
    "enable_mpi_mode",
    "get_usage_information",
    "initialize_scaling",
    "logdir",
    "mpi_launcher",
    "worker_logdir",
}
"""What of Parsl's class is used as it is: none of it touches the wires of Parsl's executor."""


def test_nothing_that_needs_parsls_own_interchange_is_inherited() -> None:
    wires = ("outgoing_q", "incoming_q", "command_client", "interchange_proc", "zmq_monitoring")
    for name, member in vars(ParslHtex).items():
        if name in vars(HighThroughputExecutor) or name.startswith("__") or name == "_abc_impl":
            continue
        function = member.fget if isinstance(member, property) else member
        used = inspect.getsource(function) if callable(function) else ""
        if any(wire in used for wire in wires):
            assert name in ("_result_queue_worker", "_start_local_interchange_process"), name
        else:
            assert name in {*INHERITED, "_start_result_queue_thread"}, name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (BlockIdManagerSelector(), BlockPackingSelector),
        (RandomManagerSelector(), RandomSelector),
        (LeastLoadedSelector(), LeastLoadedSelector),
    ],
)
def test_selectors(given: Any, expected: type) -> None:
    assert isinstance(_selector(given), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"manager_selector": object()},
        {"cores_per_worker": 0},
        {"cpu_affinity": "all"},
        {"heartbeat_threshold": 0},
    ],
)
def test_parameters_that_cannot_work(options: dict[str, Any]) -> None:
    for caught in (throughway.ConfigurationError, parsl.errors.ConfigurationError):
        with pytest.raises(caught, match=next(iter(options))):
            HighThroughputExecutor(**options)


def test_hints_of_the_provider_limit_the_workers() -> None:
    provider = LocalProvider()
    provider.cores_per_node = 8
    provider.mem_per_node = 16
    options: dict[str, Any] = {"provider": provider, "cores_per_worker": 2}
    assert HighThroughputExecutor(**options).workers_per_node == 4
    assert HighThroughputExecutor(**options, mem_per_worker=8).workers_per_node == 2
    assert HighThroughputExecutor(**options, available_accelerators=3).workers_per_node == 3
    assert HighThroughputExecutor(**options, max_workers_per_node=1).workers_per_node == 1


def test_without_parsl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import throughway.integrations.parsl as package

    monkeypatch.setitem(sys.modules, "throughway.integrations.parsl.executor", None)
    monkeypatch.delitem(vars(package), "HighThroughputExecutor", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'throughway\[parsl\]'"):
        _ = package.HighThroughputExecutor
    with pytest.raises(AttributeError):
        _ = package.Nothing
