"""Each parameter of the constructor has an effect, and what cannot work is refused when it is given.

The effect of each is shown by a test marked ``shows``; the last test finds parameters without one.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import hypothesis.strategies as st
import pytest

import throughway
from tests.executors import tasks
from tests.executors.scripts import run
from tests.executors.selectors_of_users import BrokenSelector, FixedBlockSelector
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.blocks.controller import ExecutorView
from throughway.launchers import SingleNodeLauncher
from throughway.protocol.views import ManagerView
from throughway.providers import JobState, JobStatus, LocalProvider

Test = TypeVar("Test", bound=Callable[..., object])

shown: set[str] = set()
"""parameters whose effect a test shows"""


def shows(*names: str) -> Callable[[Test], Test]:
    """Says whose effect a test shows."""
    shown.update(names)

    def same(test: Test) -> Test:
        return test

    return same


@pytest.fixture
def make(runs: Path) -> Iterator[Callable[..., HighThroughputExecutor]]:
    """Makes executors with one worker and a run folder of this test's, and ends them."""
    made: list[HighThroughputExecutor] = []

    def one(**parameters: Any) -> HighThroughputExecutor:
        executor = HighThroughputExecutor(**{"max_workers_per_node": 1, "run_dir": runs, **parameters})
        made.append(executor)
        return executor

    yield one
    for executor in made:
        executor.shutdown(cancel_futures=True)


Make = Callable[..., HighThroughputExecutor]


def result(executor: HighThroughputExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    return executor.submit(function, *arguments).result(timeout=30)


def describe_worker() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "cores": sorted(os.sched_getaffinity(0)),
        "environment": dict(os.environ),
        "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
    }


def every_worker(executor: HighThroughputExecutor, count: int, folder: Path) -> list[dict[str, Any]]:
    """What each of ``count`` workers says of itself, sorted by rank: each holds until all are there."""

    def meet(folder: str, number: int) -> dict[str, Any]:
        import time

        Path(folder, f"here-{number}").touch()
        while len(list(Path(folder).glob("here-*"))) < count:
            time.sleep(0.002)
        return describe_worker()

    folder.mkdir(exist_ok=True)
    futures = [executor.submit(meet, str(folder), number) for number in range(count)]
    told = [future.result(timeout=30) for future in futures]
    return sorted(told, key=lambda worker: int(worker["environment"]["THROUGHWAY_WORKER_RANK"]))


# -------------------------------------------------------------------------------------------------------- their effect


@shows("label")
def test_label(make: Make) -> None:
    executor = make(label="docking 7")
    executor.start()
    assert executor._run is not None
    title = Path(f"/proc/{executor._run.shell.interchange_pid}/cmdline")
    wait_until(lambda: b"interchange docking 7" in title.read_bytes(), 10, "the interchange's title")
    assert "'docking 7'" in repr(executor)


@shows("provider")
def test_provider(make: Make) -> None:
    executor = make(provider=LocalProvider(worker_init="export SET_BY_WORKER_INIT=yes"))
    assert result(executor, tasks.environment, "SET_BY_WORKER_INIT") == "yes"


@shows("launch_cmd")
def test_launch_cmd(make: Make, tmp_path: Path) -> None:
    wrapper = tmp_path / "a wrapper"
    wrapper.write_text('#!/bin/sh\nWRAPPED="$1"; export WRAPPED; shift; exec "$@"\n')
    wrapper.chmod(0o755)
    executor = make(
        launch_cmd=f"'{wrapper}' 'block {{block}}' {{python}} -P -m throughway.manager {{config}}"
    )
    assert result(executor, tasks.environment, "WRAPPED") == "block 0"


@shows("address", "worker_port")
def test_address_and_port(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    executor = make(address="127.0.0.1", worker_port=port)
    assert result(executor, tasks.add, 1, 2) == 3
    assert executor._run is not None
    assert executor._run.shell.port == port
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


@pytest.mark.parametrize("address", ["localhost", socket.gethostname()])
def test_address_may_be_a_name(make: Make, address: str) -> None:
    try:
        socket.getaddrinfo(address, 0)
    except OSError as error:
        pytest.skip(f"this host does not know its own name: {error}")
    assert result(make(address=address), tasks.add, 1, 2) == 3


def test_a_port_that_is_taken(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        future = make(address="127.0.0.1", worker_port=port).submit(tasks.add, 1)
        with pytest.raises(throughway.ThroughwayError, match=f"cannot listen at port {port} of 127.0.0.1"):
            future.result(timeout=30)


def test_an_address_that_nobody_knows(make: Make) -> None:
    with pytest.raises(throughway.ConfigurationError, match=r"address='no\.such\.host\.invalid'.*give"):
        make(address="no.such.host.invalid").start()


@shows("worker_port_range")
def test_worker_port_range(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        low = taken.getsockname()[1]
        executor = make(address="127.0.0.1", worker_port_range=(low, low + 20))
        assert result(executor, tasks.add, 1, 2) == 3
        assert executor._run is not None
        assert executor._run.shell.port is not None
        assert low < executor._run.shell.port <= low + 20


@shows("worker_debug")
@pytest.mark.parametrize("debug", [False, True])
def test_worker_debug(make: Make, debug: bool) -> None:
    executor = make(worker_debug=debug)
    assert result(executor, tasks.add, 1) == 1
    assert executor.run_folder is not None
    for log in (executor.run_folder / "interchange.log", *executor.run_folder.glob("block-0/manager-*.log")):
        if debug:
            # A thread of its own writes them.
            wait_until(lambda log=log: " DEBUG " in log.read_text(), 20, f"{log} to be written")
        assert (" DEBUG " in log.read_text()) == debug, log


@shows("cores_per_worker", "max_workers_per_node")
def test_cores_per_worker(make: Make) -> None:
    cores = len(os.sched_getaffinity(0))
    executor = make(cores_per_worker=0.5, max_workers_per_node=None)
    (manager,) = wait_until(executor.connected_managers, 20, "the manager")
    assert manager.worker_count == 2 * manager.cores
    assert manager.cores <= cores
    limited = make(cores_per_worker=0.5, max_workers_per_node=1)
    (manager,) = wait_until(limited.connected_managers, 20, "the manager")
    assert manager.worker_count == 1


@shows("mem_per_worker")
def test_mem_per_worker(make: Make) -> None:
    from throughway.manager.sizing import GIGABYTE, memory_available

    share = memory_available() / GIGABYTE / 2.5
    executor = make(cores_per_worker=0.01, mem_per_worker=share, max_workers_per_node=None)
    (manager,) = wait_until(executor.connected_managers, 20, "the manager")
    assert manager.worker_count in (1, 2, 3)


def test_a_node_that_is_too_small_says_so(make: Make) -> None:
    executor = make(mem_per_worker=1e6)
    with pytest.raises(throughway.ExecutorFailed, match=r"mem_per_worker=1e\+06 GB, but .* available: lower"):
        executor.submit(tasks.add, 1).result(timeout=30)


@shows("cpu_affinity")
@pytest.mark.parametrize("affinity", ["block", "block-reverse", "alternating", "list"])
def test_cpu_affinity(make: Make, tmp_path: Path, affinity: str) -> None:
    cores = sorted(os.sched_getaffinity(0))
    first, last = cores[0], cores[-1]
    spec = f"list:{last}:{first}" if affinity == "list" else affinity
    executor = make(max_workers_per_node=2, cores_per_worker=0.5, cpu_affinity=spec)
    told = every_worker(executor, 2, tmp_path / "meet")
    for worker in told:
        environment = worker["environment"]
        assert environment["OMP_NUM_THREADS"] == str(len(worker["cores"]))
        assert sorted(map(int, environment["GOMP_CPU_AFFINITY"].split())) == worker["cores"]
        assert environment["KMP_AFFINITY"].startswith("explicit,proclist=[")
    pinned = [worker["cores"] for worker in told]
    if affinity == "list":
        assert pinned == [[last], [first]]
    else:
        assert sorted({*pinned[0], *pinned[1]}) == cores
        reverse = affinity == "block-reverse"
        assert (first in pinned[reverse], last in pinned[not reverse]) == (
            True,
            True,
        ) or affinity == "alternating"


def test_without_affinity_workers_may_use_all_cores(make: Make) -> None:
    told = result(make(), describe_worker)
    assert told["cores"] == sorted(os.sched_getaffinity(0))
    assert "KMP_AFFINITY" not in told["environment"]


@shows("available_accelerators")
@pytest.mark.parametrize("accelerators", [2, ["gpu-a", "gpu-b"]])
def test_available_accelerators(make: Make, tmp_path: Path, accelerators: int | list[str]) -> None:
    executor = make(max_workers_per_node=None, cores_per_worker=0.1, available_accelerators=accelerators)
    told = every_worker(executor, 2, tmp_path / "meet")
    names = ["0", "1"] if accelerators == 2 else ["gpu-a", "gpu-b"]
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        assert sorted(worker["environment"][variable] for worker in told) == names
    assert executor.connected_workers == 2
    # The one that takes a dead worker's place has the accelerator that was its.
    with pytest.raises(throughway.WorkerLost):
        executor.submit(os._exit, 1).result(timeout=20)
    again = every_worker(executor, 2, tmp_path / "meet again")
    assert sorted(worker["environment"]["CUDA_VISIBLE_DEVICES"] for worker in again) == names


def test_workers_know_their_place(make: Make, tmp_path: Path) -> None:
    executor = make(max_workers_per_node=2, cores_per_worker=0.1)
    told = every_worker(executor, 2, tmp_path / "meet")
    (manager,) = executor.connected_managers()
    for rank, worker in enumerate(told):
        environment = worker["environment"]
        assert environment["THROUGHWAY_WORKER_RANK"] == str(rank)
        assert environment["THROUGHWAY_WORKER_COUNT"] == "2"
        assert environment["THROUGHWAY_MANAGER_ID"] == manager.manager
        assert environment["THROUGHWAY_BLOCK_ID"] == "0"
        assert worker["title"].startswith(f"throughway-worker {rank} of manager {manager.manager}")
    title = Path(f"/proc/{manager.pid}/cmdline").read_bytes().decode()
    assert title.startswith(f"throughway-manager {manager.manager}")


@shows("prefetch_capacity")
@pytest.mark.parametrize("capacity", [0, 3])
def test_prefetch_capacity(make: Make, tmp_path: Path, capacity: int) -> None:
    executor = make(prefetch_capacity=capacity)
    gate = tmp_path / "gate"
    started = tmp_path / "started"
    executor.submit(tasks.hold, str(gate), str(started))
    rest = [executor.submit(tasks.add, number) for number in range(20)]
    wait_until(started.exists, 20, "the first to run")
    executor.connected_managers()
    (manager,) = executor.connected_managers()
    assert manager.tasks == 1 + capacity
    gate.touch()
    assert [future.result(timeout=20) for future in rest] == list(range(20))


@shows("heartbeat_period", "heartbeat_threshold")
def test_a_silent_manager_is_lost(make: Make, tmp_path: Path) -> None:
    executor = make(
        provider=LocalProvider(init_blocks=2, max_blocks=2), heartbeat_period=0.3, heartbeat_threshold=3.0
    )
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    gate, folder = tmp_path / "gate", tmp_path / "started"
    folder.mkdir()
    futures = {name: executor.submit(hold_at, str(gate), str(folder), name) for name in ("one", "two")}
    wait_until(lambda: len(list(folder.iterdir())) == 2, 20, "both to run")
    victim, other = executor.connected_managers()
    assert not futures["one"].done()
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: any(future.done() for future in futures.values()), 20, "a task to be lost")
        (lost,) = [name for name, future in futures.items() if future.done()]
        error = futures.pop(lost).exception()
        assert isinstance(error, throughway.ManagerLost)
        assert "silent" in str(error)
        assert "heartbeat_threshold" in str(error)
        assert (error.manager, error.host, error.log) == (victim.manager, victim.host, victim.log)
        assert [manager.manager for manager in executor.connected_managers()] == [other.manager]
        gate.touch()
        (left,) = futures.values()
        assert left.result(timeout=20) == other.manager
        assert result(executor, tasks.add, 4) == 4
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    # whether it hears first that it was given up or sees its own long silence first is a race, and both are right
    wait_until(
        lambda: not alive(victim.pid) or started_over(executor, victim),
        20,
        "the lost manager to end or start over",
    )


def started_over(executor: HighThroughputExecutor, manager: ManagerView) -> bool:
    """Whether the process of ``manager`` has registered as another incarnation."""
    managers = executor.connected_managers()
    return any(other.pid == manager.pid and other.manager != manager.manager for other in managers)


def hold_at(gate: str, folder: str, name: str) -> str:
    tasks.hold(gate, os.path.join(folder, name))
    return os.environ["THROUGHWAY_MANAGER_ID"]


def test_a_manager_ends_without_its_interchange(make: Make, tmp_path: Path) -> None:
    executor = make(heartbeat_period=0.2, heartbeat_threshold=2.0)
    worker = result(executor, tasks.worker_pid)
    (manager,) = executor.connected_managers()
    assert executor._run is not None
    executor._run.reactor.patience = 1000.0  # else the executor would replace it
    interchange = executor._run.shell.interchange_pid
    os.kill(interchange, signal.SIGSTOP)
    try:
        wait_until(lambda: not alive(manager.pid) and not alive(worker), 20, "manager and worker to end")
        log = next(iter(Path(manager.log).parent.glob(f"manager-{manager.pid}.log"))).read_text()
        assert "the interchange was silent for" in log
    finally:
        os.kill(interchange, signal.SIGCONT)


@shows("drain_period")
def test_drain_period(make: Make, tmp_path: Path) -> None:
    executor = make(drain_period=1.0, max_workers_per_node=2, cores_per_worker=0.5)
    (first,) = wait_until(executor.connected_managers, 20, "the manager")
    assert first.seconds_left is not None
    assert 0 < first.seconds_left <= 1.0
    managers: set[str | None] = set()
    count = 0
    while len(managers) < 3:
        futures = [executor.submit(tasks.environment, "THROUGHWAY_MANAGER_ID") for _ in range(200)]
        managers |= {future.result(timeout=30) for future in futures}
        count += 200
    assert executor.status_report().completed == count
    assert len([block for block in executor.blocks() if block.state.value == "completed"]) >= 2


@shows("address_probe_timeout")
def test_address_probe_timeout(make: Make, tmp_path: Path) -> None:
    """Addresses of a network for documentation: packets to them vanish, or there is no route."""
    executor = make(address="192.0.2.1", address_probe_timeout=0.2)
    with pytest.raises(
        throughway.ExecutorFailed, match=r"192\.0\.2\.1 .*address_probe_timeout \(now 0\.2 s\)"
    ):
        executor.submit(tasks.add, 1).result(timeout=40)


@shows("worker_logdir_root")
def test_worker_logdir_root(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = make(worker_logdir_root="logs")
    result(executor, print, "said by a task")
    (manager,) = executor.connected_managers()
    assert manager.log.startswith(str(tmp_path / "logs"))
    assert (Path(manager.log) / "worker-0.log").read_text() == "said by a task\n"


@shows("manager_selector")
@pytest.mark.parametrize(
    "selector",
    [
        throughway.RandomSelector,
        throughway.RandomSelector(seed=1),
        throughway.LeastLoadedSelector(),
        throughway.BlockPackingSelector,
    ],
)
def test_selectors_that_come_with_it(make: Make, selector: Any) -> None:
    executor = make(manager_selector=selector, provider=LocalProvider(init_blocks=2, max_blocks=2))
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    blocks = [result(executor, tasks.environment, "THROUGHWAY_BLOCK_ID") for _ in range(30)]
    expected = {"1"} if selector is throughway.BlockPackingSelector else {"0", "1"}
    assert set(blocks) <= expected
    if selector is not throughway.BlockPackingSelector and not isinstance(
        selector, throughway.LeastLoadedSelector
    ):
        assert set(blocks) == expected


def test_a_selector_of_the_users_own(make: Make) -> None:
    executor = make(
        manager_selector=FixedBlockSelector("1"), provider=LocalProvider(init_blocks=2, max_blocks=2)
    )
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    assert {result(executor, tasks.environment, "THROUGHWAY_BLOCK_ID") for _ in range(20)} == {"1"}


def test_a_selector_of_the_script_is_refused() -> None:
    code = """
from throughway import ConfigurationError, HighThroughputExecutor, RandomSelector
class Mine(RandomSelector):
    pass
try:
    HighThroughputExecutor(manager_selector=Mine)
except ConfigurationError as error:
    print(error)
"""
    assert "module of its own" in run(["-c", code])


def test_a_selector_that_cannot_be_made(make: Make) -> None:
    future = make(manager_selector=BrokenSelector("0")).submit(tasks.add, 1)
    with pytest.raises(throughway.ThroughwayError, match=r"BrokenSelector .*'colour'"):
        future.result(timeout=20)


@shows("block_error_handler")
def test_block_error_handler(make: Make) -> None:
    seen: list[dict[str, JobStatus]] = []

    def decide(executor: ExecutorView, statuses: dict[str, JobStatus]) -> None:
        seen.append(statuses)
        if any(status.state.terminal for status in statuses.values()):
            executor.fail("a rule of one's own")

    executor = make(provider=LocalProvider(worker_init="exit 3"), block_error_handler=decide)
    with pytest.raises(throughway.ExecutorFailed, match="a rule of one's own"):
        executor.submit(tasks.add, 1).result(timeout=20)
    assert seen[-1]["0"].exit_code == 3


def test_no_block_error_handling_goes_on(make: Make, tmp_path: Path) -> None:
    mark = tmp_path / "attempts"
    script = f'echo x >> {mark}; [ "$(wc -l < {mark})" -gt 3 ] || exit 3'
    executor = make(provider=LocalProvider(worker_init=script), block_error_handler=False)
    assert result(executor, tasks.add, 5) == 5
    assert len(mark.read_text().splitlines()) == 4


@shows("encrypted")
@pytest.mark.parametrize("encrypted", [True, False])
def test_encrypted(make: Make, encrypted: bool) -> None:
    executor = make(address="127.0.0.1", encrypted=encrypted)
    assert result(executor, tasks.add, 1) == 1
    assert executor.run_folder is not None
    folder = executor.run_folder / "certificates"
    assert folder.exists() == encrypted
    if encrypted:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@shows("working_dir")
def test_working_dir(make: Make, tmp_path: Path) -> None:
    assert result(make(), describe_worker)["cwd"] == os.getcwd()
    (tmp_path / "elsewhere").mkdir()
    assert result(make(working_dir=tmp_path / "elsewhere"), describe_worker)["cwd"] == str(
        tmp_path / "elsewhere"
    )


@shows("run_dir")
def test_run_dir(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = make(run_dir="mine")
    executor.start()
    assert executor.run_folder is not None
    assert executor.run_folder.parent == tmp_path / "mine"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    executor = make(run_dir=None)
    executor.start()
    assert executor.run_folder is not None
    assert executor.run_folder.parent == tmp_path / "state" / "throughway" / "runs"


def test_a_run_dir_that_is_none(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(throughway.ConfigurationError, match=r"run_dir=.*give a run_dir that is writable"):
        make(run_dir=tmp_path / "file").start()


@shows("initializer", "initargs")
def test_initializer(make: Make) -> None:
    def prepare(name: str, value: str) -> None:
        os.environ[name] = value

    assert result(make(initializer=prepare, initargs=["READY", "yes"]), tasks.environment, "READY") == "yes"


@shows("max_tasks_per_child")
def test_max_tasks_per_child(make: Make) -> None:
    executor = make(max_tasks_per_child=2)
    pids = [result(executor, tasks.worker_pid) for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]


@shows("max_outstanding")
def test_max_outstanding(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = make(max_outstanding=2)
    futures = [executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    thread = threading.Thread(target=lambda: futures.append(executor.submit(tasks.hold, str(gate))))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert executor.outstanding == 2
    gate.touch()
    thread.join(20)
    assert [future.result(timeout=20) > 0 for future in futures] == [True] * 3


@shows("journal")
def test_journal(make: Make, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    for _ in range(2):
        executor = make(journal=tmp_path / "journal")
        assert result(executor, tasks.count_run, str(marks), 1) is None
        executor.shutdown()
    assert (marks / "1").stat().st_size == 1, "the second executor found the result of the first"


@shows("max_payload_bytes")
def test_max_payload_bytes(make: Make) -> None:
    executor = make(max_payload_bytes=100_000)
    with pytest.raises(throughway.ResultTooLarge, match="max_payload_bytes"):
        result(executor, len, bytes(200_000))
    with pytest.raises(throughway.ResultTooLarge, match="max_payload_bytes"):
        result(executor, bytes, 200_000)
    assert result(executor, len, bytes(90_000)) == 90_000


# ---------------------------------------------------------------------------------------------------- what is refused


REFUSED: list[tuple[str, Any]] = [
    ("label", ""),
    ("label", "a/b"),
    ("label", "two\nlines"),
    ("label", 5),
    ("provider", LocalProvider),
    ("provider", "slurm"),
    ("launch_cmd", "python -m throughway.manager"),
    ("launch_cmd", "{python} {config} {nonsense}"),
    ("launch_cmd", "{config"),
    ("launch_cmd", 5),
    ("address", ""),
    ("address", "*"),
    ("address", "0.0.0.0"),
    ("address", "two words"),
    ("address", 5),
    ("worker_port", 0),
    ("worker_port", 65536),
    ("worker_port", True),
    ("worker_port", "54000"),
    ("worker_port_range", (55000, 54000)),
    ("worker_port_range", (0, 54000)),
    ("worker_port_range", (True, 54000)),
    ("worker_port_range", 54000),
    ("worker_debug", 1),
    ("cores_per_worker", 0),
    ("cores_per_worker", -1.0),
    ("cores_per_worker", float("nan")),
    ("cores_per_worker", "2"),
    ("mem_per_worker", 0),
    ("mem_per_worker", float("inf")),
    ("max_workers_per_node", 0),
    ("max_workers_per_node", 1.5),
    ("cpu_affinity", "compact"),
    ("cpu_affinity", "list:a"),
    ("cpu_affinity", None),
    ("available_accelerators", -1),
    ("available_accelerators", "01"),
    ("available_accelerators", [""]),
    ("prefetch_capacity", -1),
    ("prefetch_capacity", 1.0),
    ("heartbeat_period", 0),
    ("heartbeat_period", float("inf")),
    ("heartbeat_threshold", -1),
    ("heartbeat_threshold", 45),
    ("drain_period", 0),
    ("drain_period", "1:00"),
    ("address_probe_timeout", 0),
    ("address_probe_timeout", None),
    ("worker_logdir_root", 5),
    ("worker_logdir_root", ""),
    ("manager_selector", "random"),
    ("manager_selector", object()),
    ("block_error_handler", "simple"),
    ("block_error_handler", None),
    ("encrypted", "yes"),
    ("working_dir", 5),
    ("working_dir", "/no/such/folder"),
    ("run_dir", 5),
    ("run_dir", "a\0b"),
    ("initializer", 5),
    ("initializer", threading.Lock().acquire),
    ("initargs", (1,)),
    ("initargs", "abc"),
    ("max_tasks_per_child", 0),
    ("max_tasks_per_child", True),
    ("max_outstanding", 0),
    ("max_outstanding", None),
    ("max_payload_bytes", 0),
    ("max_payload_bytes", "1GB"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_cannot_work_is_refused(name: str, value: Any) -> None:
    with pytest.raises(throughway.ConfigurationError) as caught:
        HighThroughputExecutor(**{name: value})
    text = str(caught.value)
    assert name in text
    said = (
        repr(value[0])
        if isinstance(value, list)
        else value
        if isinstance(value, str) and value.isprintable()
        else repr(value)
    )
    assert str(said) in text, f"the message must have the value {value!r}: {text}"
    assert any(word in text for word in ("give", "accepted", "subclass")), f"no remedy: {text}"
    assert isinstance(caught.value, ValueError)


def test_initargs_that_cannot_travel_are_refused() -> None:
    with pytest.raises(throughway.ConfigurationError, match="initargs"):
        HighThroughputExecutor(initializer=print, initargs=(threading.Lock(),))
    with pytest.raises(throughway.ConfigurationError, match="initargs"):
        HighThroughputExecutor(initializer=len, initargs=(bytearray(1 << 20),))


def test_the_number_of_accelerators_bounds_the_workers(make: Make) -> None:
    executor = make(max_workers_per_node=None, cores_per_worker=0.01, available_accelerators=3)
    wait_until(lambda: executor.connected_workers == 3, 20, "three workers")


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="storage_access"):
        HighThroughputExecutor(storage_access=None)  # type: ignore[call-arg]


# -------------------------------------------------------------------------------------------------------------- options


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HighThroughputExecutor]:
    # What a manager has fetched ahead, it runs before what comes later and is more urgent: here it fetches nothing.
    runs = tmp_path_factory.mktemp("single")
    with HighThroughputExecutor(max_workers_per_node=1, prefetch_capacity=0, run_dir=runs) as executor:
        executor.submit(tasks.add, 1).result(timeout=30)
        yield executor


def test_priorities_order_what_waits(single: HighThroughputExecutor, tmp_path: Path) -> None:
    gate, order = tmp_path / "gate", tmp_path / "order"
    blocker = single.submit(tasks.hold, str(gate), str(tmp_path / "started"))
    wait_until((tmp_path / "started").exists, 20, "the blocker to run")
    priorities = [5, 0, -3, 5, 1, 0, -3, 2]
    futures = [
        single.options(priority=priority).submit(
            tasks.append_order, str(order), 100 * (priority + 10) + index
        )
        for index, priority in enumerate(priorities)
    ]
    single.connected_managers()  # an answer: the interchange has them all
    gate.touch()
    for future in [blocker, *futures]:
        future.result(timeout=20)  # type: ignore[attr-defined]
    seen = [int(line) for line in order.read_text().split()]
    assert seen == sorted(seen)


def test_options_nest(single: HighThroughputExecutor) -> None:
    view = single.options(priority=3, retries=2).options(walltime=60).options(priority=1, walltime=None)
    assert view.specification == (1, 0.0, 2, None)
    assert view.submit(tasks.add, 1, right=2).result(timeout=20) == 3
    assert list(view.map(tasks.add, range(3))) == [0, 1, 2]
    assert "priority=1" in repr(view)


def test_a_view_shares_the_executors_end(runs: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    with executor.options(priority=1) as view:
        assert view.submit(tasks.add, 1).result(timeout=20) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.add, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", "high"),
        ("priority", 1.5),
        ("priority", None),
        ("priority", True),
        ("priority", 1 << 40),
        ("walltime", 0),
        ("walltime", -1),
        ("walltime", "1:00:00"),
        ("walltime", float("nan")),
        ("walltime", float("inf")),
        ("walltime", True),
        ("retries", -1),
        ("retries", 1.0),
        ("retries", None),
    ],
)
def test_options_that_are_refused(single: HighThroughputExecutor, name: str, value: object) -> None:
    with pytest.raises(throughway.InvalidResourceSpecification, match="accepted") as caught:
        single.options(**{name: value})
    assert f"{name}={value!r}" in str(caught.value)


def test_unknown_options_are_refused(single: HighThroughputExecutor) -> None:
    with pytest.raises(
        throughway.InvalidResourceSpecification, match=r"colour='blue'.*priority, retries, walltime"
    ):
        single.options(colour="blue")


@hypothesis.given(
    priority=st.integers(-(1 << 31), 1 << 31),
    walltime=st.floats(min_value=1e-3, max_value=1e12) | st.integers(1, 1 << 40) | st.none(),
    retries=st.integers(0, 1 << 31),
)
def test_whatever_is_accepted_is_kept(priority: int, walltime: float | None, retries: int) -> None:
    from throughway.executors.options import DEFAULT

    specification = DEFAULT.changed({"priority": priority, "walltime": walltime, "retries": retries})
    assert specification == (priority, 0.0 if walltime is None else float(walltime), retries, None)


# ----------------------------------------------------------------------------------------- several managers


def test_two_blocks(make: Make, tmp_path: Path) -> None:
    executor = make(
        provider=LocalProvider(init_blocks=2, max_blocks=2), max_workers_per_node=2, cores_per_worker=0.5
    )
    wait_until(lambda: executor.connected_workers == 4, 20, "four workers")
    assert executor.connected_blocks() == ["0", "1"]
    told = every_worker(executor, 4, tmp_path / "meet")
    assert sorted(worker["environment"]["THROUGHWAY_BLOCK_ID"] for worker in told) == ["0", "0", "1", "1"]
    assert [(block.id, block.managers) for block in executor.blocks()] == [("0", 1), ("1", 1)]


def test_two_nodes_in_a_block(make: Make, tmp_path: Path) -> None:
    executor = make(provider=LocalProvider(nodes_per_block=2, launcher=SingleNodeLauncher()))
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    assert executor.connected_blocks() == ["0"]
    told = every_worker(executor, 2, tmp_path / "meet")
    managers = {worker["environment"]["THROUGHWAY_MANAGER_ID"] for worker in told}
    assert managers == {manager.manager for manager in executor.connected_managers()}


def manager_of_task(_: object = None) -> str:
    return os.environ["THROUGHWAY_MANAGER_ID"]


def test_hold_and_release(make: Make) -> None:
    executor = make(
        provider=LocalProvider(init_blocks=2, max_blocks=2),
        manager_selector=throughway.RandomSelector(seed=3),
    )
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    held, other = (manager.manager for manager in executor.connected_managers())
    executor.hold_manager(held)
    assert {view.manager: view.active for view in executor.connected_managers()} == {held: False, other: True}
    assert {result(executor, manager_of_task) for _ in range(20)} == {other}
    executor.hold_manager(other)
    future = executor.submit(manager_of_task)
    assert "2 of 2 are held" in executor.explain(future).waits_for
    executor.release_manager(held)
    assert future.result(timeout=20) == held
    executor.release_manager(other)
    with pytest.raises(ValueError, match=r"no manager 'nobody' is registered: there are .*" + held):
        executor.hold_manager("nobody")


@pytest.mark.parametrize("how", ["drain_manager", "SIGTERM"])
def test_draining_loses_nothing(make: Make, tmp_path: Path, how: str) -> None:
    executor = make(provider=LocalProvider(init_blocks=2, max_blocks=2), strategy="none")
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    gate, folder = tmp_path / "gate", tmp_path / "started"
    folder.mkdir()
    running = [executor.submit(hold_at, str(gate), str(folder), str(number)) for number in range(2)]
    wait_until(lambda: len(list(folder.iterdir())) == 2, 20, "both to run")
    waiting = [executor.submit(manager_of_task) for _ in range(50)]
    victim, other = executor.connected_managers()
    if how == "SIGTERM":
        os.kill(victim.pid, signal.SIGTERM)
    else:
        executor.drain_manager(victim.manager)
    wait_until(
        lambda: any(
            view.draining for view in executor.connected_managers() if view.manager == victim.manager
        ),
        20,
        "the manager to drain",
    )
    gate.touch()
    assert {future.result(timeout=20) for future in running} == {victim.manager, other.manager}
    assert all(future.result(timeout=20) for future in waiting)
    wait_until(lambda: not alive(victim.pid), 20, "the drained manager to end")
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "another block in its place")


def test_a_walltime_needs_a_manager_with_the_time(make: Make) -> None:
    executor = make(drain_period=30.0, provider=LocalProvider(init_blocks=2, max_blocks=2), strategy="none")
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
    fits = executor.options(walltime=5).submit(tasks.add, 1)
    too_long = executor.options(walltime=30).submit(tasks.add, 2)
    assert fits.result(timeout=20) == 1
    explanation = executor.explain(too_long)
    assert explanation.state == "at the interchange"
    assert "a manager with 30 s left for its walltime: the most that any has left is" in explanation.waits_for
    assert too_long.cancel()


@shows("strategy", "max_idletime")
def test_blocks_follow_the_load(make: Make) -> None:
    provider = LocalProvider(init_blocks=0, max_blocks=1)
    executor = make(provider=provider, strategy="simple", max_idletime=0.2)
    executor.start()
    assert executor.blocks() == []
    assert result(executor, tasks.add, 1) == 1
    wait_until(lambda: executor.blocks()[0].state is JobState.SCALED_IN, 20, "the idle block to end")
    with pytest.raises(throughway.ConfigurationError, match="no block would ever start"):
        make(provider=provider, strategy="none")


# ------------------------------------------------------------------------------------------------------------- complete


def test_every_parameter_is_shown() -> None:
    accepted = set(inspect.signature(HighThroughputExecutor).parameters)
    assert accepted - shown == set(), "each parameter needs a test of its effect"
    assert shown - accepted == set()


def test_every_parameter_is_described() -> None:
    text = inspect.getdoc(HighThroughputExecutor) or ""
    assert not [
        name for name in inspect.signature(HighThroughputExecutor).parameters if f"{name}:" not in text
    ]


def test_parameters_can_be_read_back() -> None:
    executor = HighThroughputExecutor(label="x", prefetch_capacity=3, drain_period=60)
    assert (executor.label, executor.prefetch_capacity, executor.drain_period) == ("x", 3, 60.0)
    assert subprocess.DEVNULL  # nothing was started
