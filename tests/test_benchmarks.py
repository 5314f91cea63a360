"""What the benchmarks assume of Throughway itself."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.processes import descendants, role
from tests.executors import tasks
from throughway import HighThroughputExecutor


def test_processes_are_known_by_their_titles(tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path) as executor:
        assert executor.submit(tasks.add, 1, 1).result(timeout=20) == 2
        found = descendants(os.getpid()).values()
        roles = [role(process, client=os.getpid(), workers=frozenset()) for process in found]
        assert {"interchange", "manager", "zygote", "worker"} <= set(roles)
        assert roles.count("interchange") == roles.count("manager") == 1
