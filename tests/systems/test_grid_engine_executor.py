"""An executor whose blocks are jobs of a real Grid Engine."""

from __future__ import annotations

import socket

import pytest

from tests.systems.grid_engine_cluster import GridEngineCluster
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.errors import ExecutorFailed
from throughway.providers import GridEngineProvider

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]


def double(number: int) -> int:
    return 2 * number


def test_many_tasks_on_two_blocks(grid_engine: GridEngineCluster) -> None:
    provider = GridEngineProvider(
        init_blocks=2, max_blocks=2, scheduler_options="#$ -V", status_polling_interval=1
    )
    with HighThroughputExecutor(provider=provider, max_workers_per_node=2) as executor:
        assert list(executor.map(double, range(200), timeout=60)) == [2 * number for number in range(200)]
        wait_until(lambda: len(executor.connected_managers()) == 2, 30, "both blocks")
        assert {manager.host for manager in executor.connected_managers()} <= set(grid_engine.nodes)
        assert socket.gethostname() not in grid_engine.nodes
    wait_until(lambda: grid_engine.jobs() == [], 20, "an empty queue")


def test_a_queue_that_grid_engine_does_not_have(grid_engine: GridEngineCluster) -> None:
    with HighThroughputExecutor(provider=GridEngineProvider(queue="nowhere")) as executor:
        error = executor.submit(double, 1).exception(60)
    assert isinstance(error, ExecutorFailed)
    assert 'unknown queue "nowhere"' in str(error)
    assert "qconf -sql" in str(error)
