"""No descriptors left in one of the processes: what is there goes on, what cannot be had is said, and nothing hangs."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.hostile.scripts import run_script
from tests.waiting import wait_until
from throughway import HighThroughputExecutor

EXECUTOR = """
import json, os, resource, sys
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=2, run_dir=sys.argv[1], journal=sys.argv[1] + "/../j") as executor:
    assert executor.submit(abs, -1).result(30) == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        reason = error.strerror
    total = sum(executor.map(abs, range(-1000, 0)))
    cancelled = executor.submit(abs, 2).cancel() in (True, False)
    array = executor.submit(bytes, 1_000_000).result(30)
    os.kill(executor.connected_managers()[0].pid, 9)
    waiting = executor.options(retries=3).submit(abs, -3)
    for descriptor in taken:
        os.close(descriptor)
    after = waiting.result(40)
print(json.dumps({"reason": reason, "total": total, "cancelled": cancelled, "large": len(array), "after": after}))
"""

INTERCHANGE = """
import json, os, resource, sys
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=2, run_dir=sys.argv[1]) as executor:
    assert executor.submit(abs, -1).result(30) == 1
    pid = executor._run.shell.interchange_pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, used))
    total = sum(executor.map(abs, range(-1000, 0)))
    manager = executor.connected_managers()[0].pid
    resource.prlimit(manager, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{manager}/fd")),) * 2)
    total += sum(executor.map(abs, range(-1000, 0)))
    lost = type(executor.submit(os._exit, 1).exception(30)).__name__
    after = executor.submit(abs, -3).result(40)
print(json.dumps({"total": total, "lost": lost, "after": after}))
"""


def test_none_left_in_the_script(tmp_path: Path) -> None:
    said, _ = run_script(EXECUTOR, str(tmp_path / "runs"))
    assert said == {
        "reason": "Too many open files",
        "total": 500500,
        "cancelled": True,
        "large": 1_000_000,
        "after": 3,
    }


def test_none_left_in_interchange_and_manager(tmp_path: Path) -> None:
    said, _ = run_script(INTERCHANGE, str(tmp_path / "runs"))
    # A manager that cannot start a worker may end: its tasks are lost with it, and another takes over.
    assert said.pop("lost") in ("WorkerLost", "ManagerLost")
    assert said == {"total": 1_001_000, "after": 3}


def test_a_crowd_that_takes_all_of_the_interchanges(tmp_path: Path) -> None:
    """Connections that say nothing take descriptors until none is left; then others are turned away, not held up."""
    import resource

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path / "runs") as executor:
        executor.submit(abs, 1).result(30)
        run = executor._run
        assert run is not None
        resource.prlimit(run.shell.interchange_pid, resource.RLIMIT_NOFILE, (64, 64))
        crowd = []
        try:
            for _ in range(100):
                one = socket.socket(socket.AF_UNIX)
                one.settimeout(20)
                crowd.append(one)
                one.connect(run.folder.socket)
            assert executor.submit(abs, -2).result(20) == 2
            # Those who are turned away see their connection end.
            assert crowd[-1].recv(1) == b""
        finally:
            for one in crowd:
                one.close()
        wait_until(lambda: executor.submit(abs, -3).result(20) == 3)
        assert len(executor.connected_managers()) == 1
