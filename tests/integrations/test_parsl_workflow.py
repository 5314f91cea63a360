"""A workflow of Parsl on Throughway's executor, with monitoring."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from tests.integrations.libraries import need
from tests.waiting import wait_until

need("parsl", "sqlalchemy")

import parsl
from parsl.config import Config
from parsl.monitoring import MonitoringHub
from parsl.monitoring.radios.udp import UDPRadio
from parsl.providers import LocalProvider

from throughway.integrations.parsl import HighThroughputExecutor, StreamRadio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.leaks_allowed("Parsl's own threads, queues and log files"),
]


@parsl.python_app
def square(value: int) -> int:
    return value * value


@parsl.python_app
def total(inputs: list[int]) -> int:
    return sum(inputs)


@parsl.bash_app
def say(text: str, stdout: str) -> str:
    return f"echo {text}"


@parsl.python_app
def fail_once(path: str) -> str:
    from pathlib import Path

    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("not yet")
    return "at last"


@parsl.python_app
def rest(seconds: float) -> None:
    import time

    time.sleep(seconds)


def rows(database: Path, table: str, columns: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def test_a_workflow(tmp_path: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=2)
    config = Config(
        executors=[executor],
        run_dir=str(tmp_path / "runs"),
        strategy_period=0.2,
        initialize_logging=False,
        retries=1,
    )
    with parsl.load(config):
        assert total(inputs=[square(n) for n in range(50)]).result(60) == sum(n * n for n in range(50))
        said = tmp_path / "said"
        assert say("hello", stdout=str(said)).result(60) == 0
        assert said.read_text() == "hello\n"
        assert fail_once(str(tmp_path / "mark")).result(60) == "at last"
        assert executor.outstanding() == 0
        log = Path(executor.logdir) / "interchange.log"
        assert log.exists()
    assert executor.connected_managers() == []


def test_monitoring_has_nodes_blocks_tries_and_resources(tmp_path: Path) -> None:
    database = tmp_path / "monitoring.db"
    hub = MonitoringHub(
        logging_endpoint=f"sqlite:///{database}",
        resource_monitoring_interval=1,
    )
    executor = HighThroughputExecutor(label="monitored", max_workers_per_node=1, provider=LocalProvider())
    config = Config(
        executors=[executor],
        run_dir=str(tmp_path / "runs"),
        strategy_period=0.2,
        initialize_logging=False,
        monitoring=hub,
    )
    assert isinstance(executor.remote_monitoring_radio, StreamRadio)
    with parsl.load(config):
        rest(1.5).result(60)
        (manager,) = executor.connected_managers()
    nodes = rows(database, "node", "uid, block_id, active, worker_count, hostname")
    assert {(uid, block, count) for uid, block, _, count, _ in nodes} == {(manager["manager"], "0", 1)}
    assert [bool(active) for _, _, active, _, _ in nodes][:1] == [True]
    assert not nodes[-1][2], "the last word is that it has gone"
    blocks = rows(database, "block", "executor_label, block_id, status")
    assert ("monitored", "0", "PENDING") in blocks
    (tried,) = rows(database, "try", "block_id, hostname, task_executor")
    assert tried == ("0", manager["hostname"], "monitored")
    resources = rows(database, "resource", "task_id, psutil_process_memory_resident")
    assert len(resources) >= 2
    assert all(memory > 0 for _, memory in resources)  # type: ignore[operator]


def test_other_radios_may_be_chosen(tmp_path: Path) -> None:
    database = tmp_path / "monitoring.db"
    hub = MonitoringHub(logging_endpoint=f"sqlite:///{database}", resource_monitoring_interval=1)
    executor = HighThroughputExecutor(
        remote_monitoring_radio=UDPRadio(address="127.0.0.1"), max_workers_per_node=1
    )
    config = Config(
        executors=[executor],
        run_dir=str(tmp_path / "runs"),
        strategy_period=0.2,
        initialize_logging=False,
        monitoring=hub,
    )
    with parsl.load(config):
        rest(0.1).result(60)
        wait_until(lambda: rows(database, "try", "block_id") == [("0",)], 30)


def test_blocks_follow_the_tasks(tmp_path: Path) -> None:
    executor = HighThroughputExecutor(
        max_workers_per_node=1, provider=LocalProvider(init_blocks=0, max_blocks=2)
    )
    config = Config(
        executors=[executor],
        run_dir=str(tmp_path / "runs"),
        strategy="htex_auto_scale",
        strategy_period=0.1,
        initialize_logging=False,
        max_idletime=0.5,
    )
    with parsl.load(config):
        assert executor.connected_managers() == []
        futures = [rest(1.0) for _ in range(4)]
        wait_until(lambda: len(executor.connected_managers()) == 2, 30)
        for future in futures:
            future.result(60)
        wait_until(lambda: not executor.connected_managers(), 30)
        began = time.monotonic()
        assert square(3).result(60) == 9, "a block starts again"
        assert time.monotonic() - began < 30
