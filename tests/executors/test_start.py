"""Starting: at the first use, once, and with a clear word where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import throughway
from tests.executors import tasks
from tests.executors.scripts import run
from throughway import HighThroughputExecutor


def test_it_starts_at_its_first_use(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.run_folder is None
        assert not runs.exists()
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
        assert executor.run_folder is not None


def test_a_question_is_a_use(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.status_report().outstanding == 0
        assert executor.run_folder is not None


def test_start_may_be_called_again(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        executor.start()
        first = executor.run_folder
        executor.start()
        assert executor.run_folder == first
        assert len(list(runs.iterdir())) == 1


def test_many_threads_start_one_run(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        barrier = threading.Barrier(8)
        results: list[int] = []

        def use() -> None:
            barrier.wait(20)
            results.append(executor.submit(tasks.add, 1).result(timeout=30))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [1] * 8
        assert len(list(runs.iterdir())) == 1


def test_not_after_the_end(runs: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.start()
    assert not runs.exists()


def test_a_start_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.touch()
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        for _ in range(2):
            with pytest.raises(throughway.ConfigurationError, match="run_dir"):
                executor.submit(tasks.add, 1)
        runs.unlink()
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1


def test_several_executors_at_once(runs: Path) -> None:
    with (
        HighThroughputExecutor("first", max_workers_per_node=1, run_dir=runs) as first,
        HighThroughputExecutor("second", max_workers_per_node=1, run_dir=runs) as second,
    ):
        pids = {executor.submit(tasks.worker_pid).result(timeout=20) for executor in (first, second)}
        assert len(pids) == 2
        assert first.connected_managers()[0].manager != second.connected_managers()[0].manager


def test_an_executor_inside_a_task(runs: Path) -> None:
    def nested(runs: str) -> int:
        from throughway import HighThroughputExecutor

        with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as inner:
            return inner.submit(os.getppid).result(timeout=20)

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(nested, str(runs)).result(timeout=40) > 0


def test_a_long_runtime_folder(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of Unix sockets may have 107 bytes; folders may have more."""
    deep = tmp_path / ("x" * 90) / "run"
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1


def test_a_runtime_folder_of_somebody_else(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "throughway").mkdir(mode=0o755)
    (tmp_path / "throughway").chmod(0o755)
    with (
        HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor,
        pytest.raises(throughway.ConfigurationError, match="0700"),
    ):
        executor.start()
    assert list(runs.iterdir()) == []


def test_a_runtime_folder_that_cannot_be_made(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "throughway").touch()
    with (
        HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor,
        pytest.raises(throughway.ConfigurationError, match="set XDG_RUNTIME_DIR"),
    ):
        executor.start()
    assert list(runs.iterdir()) == []


def test_without_file_descriptors_to_spare(runs: Path) -> None:
    """Each worker's pipes are in its manager, not here."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=2, run_dir=sys.argv[1]) as executor:
    print(sum(executor.map(abs, range(-100, 0))))
"""
    assert run(["-c", code, runs]) == "5050"


def test_importing_starts_nothing_and_loads_little() -> None:
    code = """
import sys, threading
import throughway
throughway.HighThroughputExecutor()
print(sorted({"zmq", "psutil", "numpy", "rich", "asyncio"} & set(sys.modules)), threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "[] 1"
