"""A process that is stopped for a while, as by a debugger or a machine that swaps: it goes on where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import members
from tests.chaos.trouble import kind_of
from tests.executors import tasks
from tests.processes import ProcessRecord
from tests.waiting import wait_until
from throughway import HighThroughputExecutor

__all__ = ["members"]  # a fixture

STOPPED_SECONDS = 0.7


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[HighThroughputExecutor]:
    with HighThroughputExecutor(
        max_workers_per_node=2, heartbeat_period=0.5, heartbeat_threshold=5.0, run_dir=tmp_path / "runs"
    ) as one:
        yield one


@pytest.mark.parametrize("kind", ["interchange", "manager", "zygote", "worker"])
def test_a_stop_costs_nothing_but_time(
    executor: HighThroughputExecutor,
    members: Callable[[], list[ProcessRecord]],
    tmp_path: Path,
    kind: str,
) -> None:
    executor.submit(abs, 1).result(30)

    def found() -> list[int]:
        return [record.pid for record in members() if kind_of(record.pid) == kind]

    count = 2 if kind == "worker" else 1
    wait_until(lambda: len(found()) == count, 20)
    pids = found()
    before = [executor.submit(tasks.count_run, str(tmp_path), number) for number in range(300)]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        # Meanwhile more is submitted; how long the stop lasts is what is under test.
        deadline = time.monotonic() + STOPPED_SECONDS
        while time.monotonic() < deadline:
            before.append(executor.submit(tasks.count_run, str(tmp_path), len(before)))
            time.sleep(0.01)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for future in before:
        future.result(30)
    assert all((tmp_path / str(number)).stat().st_size == 1 for number in range(len(before)))
    assert found() == pids, "nobody was replaced"
