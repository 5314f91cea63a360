"""Blocks that follow the load on a real Slurm: out from nothing, through losses, and back to nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systems import slurm_cluster
from tests.systems.slurm_cluster import SlurmCluster
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.providers import JobState, SlurmProvider

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]

TASKS = 5000


@pytest.fixture
def slurm_of_six(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Slurm with six nodes on this machine, which takes a node for lost after some seconds."""
    reason = slurm_cluster.missing()
    if reason:
        pytest.skip(reason)
    with SlurmCluster(nodes=6, slurmd_timeout=10) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


def nap(number: int) -> int:
    """Most take a millisecond or so, some a tenth of a second, few two seconds."""
    if number % 500 == 499:
        time.sleep(2.0)
    elif number % 50 == 49:
        time.sleep(0.1)
    else:
        time.sleep(number % 4 / 1000)
    return number


def held(gate: str) -> str:
    while not os.path.exists(gate):
        time.sleep(0.05)
    return os.environ["SLURM_JOB_ID"]


def test_from_nothing_to_max_blocks_through_losses_and_back(slurm_of_six: SlurmCluster) -> None:
    slurm = slurm_of_six
    provider = SlurmProvider(
        nodes_per_block=2,
        init_blocks=0,
        min_blocks=0,
        max_blocks=3,
        walltime="00:10:00",
        status_polling_interval=1,
    )
    most: list[int] = []

    def live() -> int:
        count = sum(not block.state.terminal for block in executor.blocks())
        most.append(count)
        return count

    def count_jobs() -> bool:
        most.append(len(slurm.jobs()))
        return True

    with HighThroughputExecutor(
        provider=provider,
        strategy="htex_auto_scale",
        max_idletime=4,
        max_workers_per_node=2,
        heartbeat_period=2,
        heartbeat_threshold=20,
    ) as executor:
        executor.start()
        assert executor.blocks() == []
        assert slurm.jobs() == []
        retried = executor.options(retries=5)
        futures = [retried.submit(nap, number) for number in range(TASKS)]

        def done() -> int:
            return sum(future.done() for future in futures)

        wait_until(lambda: len(executor.connected_blocks()) == 3, 60, lambda: f"{executor.blocks()}")
        count_jobs()
        wait_until(lambda: done() > 100, 60, "work to be under way")
        slurm.run("scancel", executor.blocks()[0].job_id)
        slurm.kill_node(slurm.nodes[-1])
        assert [future.result(120) for future in futures] == list(range(TASKS))
        # Only the next look of the provider's may show it.
        wait_until(
            lambda: any(
                block.state.terminal and block.state is not JobState.SCALED_IN for block in executor.blocks()
            ),
            30,
            lambda: f"the end of the block that was cancelled: {executor.blocks()}",
        )
        count_jobs()

        wait_until(lambda: live() == 0, 60, lambda: f"no block to be left: {executor.blocks()}")
        assert executor.connected_blocks() == []
        assert JobState.SCALED_IN in [block.state for block in executor.blocks()]
        assert executor.submit(nap, 1).result(60) == 1, "it starts again from nothing"
    assert max(most) <= 3
    slurm.start_node(slurm.nodes[-1])
    wait_until(lambda: slurm.jobs() == [], 30, lambda: slurm.run("squeue"))


def test_a_block_that_works_is_scaled_in_without_losing_its_task(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(init_blocks=2, max_blocks=2, walltime="00:05:00", status_polling_interval=1)
    gate = tmp_path / "gate"
    with HighThroughputExecutor(provider=provider, strategy="none", max_workers_per_node=1) as executor:
        wait_until(lambda: len(executor.connected_managers()) == 2, 60, "both blocks")
        futures = [executor.submit(held, str(gate)) for _ in range(2)]
        wait_until(lambda: all(future.running() for future in futures), 30, "both to run")
        assert executor.scale_in(["0"]) == ["0"]
        wait_until(lambda: executor.blocks()[0].draining, 10, "the block to drain")
        later = executor.submit(nap, 1)
        gate.touch()
        jobs = {future.result(30) for future in futures}
        assert jobs == {block.job_id for block in executor.blocks()}, "what ran there was finished there"
        assert later.result(30) == 1
        wait_until(
            lambda: executor.blocks()[0].state is JobState.SCALED_IN, 30, lambda: f"{executor.blocks()}"
        )
        assert slurm.jobs() == [executor.blocks()[1].job_id]


KILLED = """
import sys, time
from throughway import HighThroughputExecutor
from throughway.providers import SlurmProvider
provider = SlurmProvider(init_blocks=4, max_blocks=4, walltime="00:05:00", worker_init="sleep 300")
executor = HighThroughputExecutor(provider=provider, run_dir=sys.argv[1])
executor.start()
while sum(bool(block.job_id) for block in executor.blocks()) < 4:
    time.sleep(0.02)
print("submitted", flush=True)
time.sleep(600)
"""


def test_the_jobs_of_a_killed_process_are_cancelled(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Three of them are in ``worker_init``, where no manager could notice, and the fourth waits in the queue."""
    script = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert script.stdout is not None
        assert script.stdout.readline() == "submitted\n"
        wait_until(lambda: len(slurm.jobs()) == 4, 30, "all jobs")
    finally:
        script.send_signal(signal.SIGKILL)
        script.wait()
        if script.stdout is not None:
            script.stdout.close()
    wait_until(lambda: slurm.jobs() == [], 60, lambda: slurm.run("squeue"))
    (log,) = tmp_path.glob("*/watchdog.log")
    wait_until(lambda: "no job of run" in log.read_text(), 30, log.read_text)


def test_a_block_whose_manager_dies_is_replaced(slurm: SlurmCluster) -> None:
    provider = SlurmProvider(init_blocks=1, max_blocks=1, walltime="00:05:00", status_polling_interval=1)
    with HighThroughputExecutor(provider=provider, max_workers_per_node=1) as executor:
        assert executor.submit(nap, 1).result(60) == 1
        (manager,) = executor.connected_managers()
        os.kill(manager.pid, signal.SIGKILL)
        wait_until(lambda: executor.connected_managers() == [], 30, "its manager to be gone")
        assert executor.options(retries=3).submit(nap, 2).result(90) == 2
        assert len({block.job_id for block in executor.blocks()}) == 2
