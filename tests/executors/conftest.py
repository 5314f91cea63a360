"""One executor with two workers, shared by the tests of a module that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors import tasks
from throughway import HighThroughputExecutor


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HighThroughputExecutor]:
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=tmp_path_factory.mktemp("runs")) as shared:
        # Up and running before the first test begins: what starts later counts as a leak of that test.
        pids: set[int] = set()
        while len(pids) < 2:
            pids = {
                future.result(timeout=30) for future in [shared.submit(tasks.worker_pid) for _ in range(1000)]
            }
        yield shared


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where a test's own executor puts its run folder."""
    return tmp_path / "runs"
