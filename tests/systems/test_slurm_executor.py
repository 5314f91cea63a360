"""An executor whose blocks are jobs of a real Slurm."""

from __future__ import annotations

import os
import socket
from concurrent.futures import wait

import pytest

from tests.systems.slurm_cluster import SlurmCluster
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.errors import ExecutorFailed
from throughway.providers import SlurmProvider

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]


def double(number: int) -> int:
    return 2 * number


def where() -> tuple[str, str, str]:
    return socket.gethostname(), os.environ["SLURM_JOB_ID"], os.environ["THROUGHWAY_BLOCK_END"]


def test_many_tasks_on_two_blocks(slurm: SlurmCluster) -> None:
    provider = SlurmProvider(init_blocks=2, max_blocks=2, walltime="00:05:00", status_polling_interval=1)
    with HighThroughputExecutor(provider=provider, max_workers_per_node=2) as executor:
        assert list(executor.map(double, range(200), timeout=60)) == [2 * number for number in range(200)]
        wait_until(lambda: len(executor.connected_managers()) == 2, 30, "both blocks")
        assert len(slurm.jobs()) == 2
    wait_until(lambda: slurm.jobs() == [], 20, "an empty queue")


def test_one_block_of_several_nodes_on_separate_hosts(slurm_hosts: SlurmCluster) -> None:
    provider = SlurmProvider(nodes_per_block=2, walltime="00:05:00", status_polling_interval=1)
    with HighThroughputExecutor(provider=provider, max_workers_per_node=1, prefetch_capacity=0) as executor:
        wait_until(lambda: len(executor.connected_managers()) == 2, 40, lambda: f"{executor.blocks()}")
        found = {executor.submit(where).result(30) for _ in range(40)}
        hosts = {manager.host for manager in executor.connected_managers()}
        assert hosts == {"n1", "n2"}
        assert {host for host, _, _ in found} <= hosts
        assert len({job for _, job, _ in found}) == 1
        assert all(end.isdecimal() for _, _, end in found)
    wait_until(lambda: slurm_hosts.jobs() == [], 20, "an empty queue")


@pytest.mark.parametrize(
    ("parameters", "said", "remedy"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere", "sinfo"),
        ({"walltime": "05:00:00", "scheduler_options": "#SBATCH --nosuch"}, "--nosuch", "scheduler_options"),
    ],
)
def test_a_submission_that_slurm_refuses(
    slurm: SlurmCluster, parameters: dict[str, str], said: str, remedy: str
) -> None:
    provider = SlurmProvider(**parameters)  # type: ignore[arg-type]
    with HighThroughputExecutor(provider=provider) as executor:
        future = executor.submit(double, 1)
        wait([future], 60)
        error = future.exception(0)
    assert isinstance(error, ExecutorFailed)
    assert "sbatch --parsable" in str(error)
    assert said in str(error)
    assert remedy in str(error)
    assert slurm.jobs() == []


def test_an_account_that_slurm_refuses(slurm_with_accounting: SlurmCluster) -> None:
    with HighThroughputExecutor(provider=SlurmProvider(account="nobody")) as executor:
        error = executor.submit(double, 1).exception(60)
    assert isinstance(error, ExecutorFailed)
    assert "Invalid account" in str(error)
    assert "sacctmgr show associations" in str(error)


def test_a_worker_init_that_fails_shows_its_output(slurm: SlurmCluster) -> None:
    provider = SlurmProvider(
        worker_init="echo there is no such module >&2; exit 9", status_polling_interval=0.5
    )
    with HighThroughputExecutor(provider=provider) as executor:
        error = executor.submit(double, 1).exception(90)
    assert isinstance(error, ExecutorFailed)
    assert "exit code 9" in str(error)
    assert "there is no such module" in str(error)
