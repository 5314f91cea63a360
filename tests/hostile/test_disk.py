"""A disk that is full, for logs, run folders and journals: results arrive, and what suffers says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.scripts import mounts_missing, on_small_disk, run_script

pytestmark = pytest.mark.system

LOGS = """
import json, os, sys
from throughway import HighThroughputExecutor
def talk(number):
    print("x" * 20_000, flush=True)
    return number
def full(path):
    try:
        with open(path, "wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
    except OSError as error:
        return error.strerror
folder = sys.argv[1]
with HighThroughputExecutor(max_workers_per_node=2, run_dir=folder, worker_debug=True) as executor:
    assert executor.submit(abs, -1).result(30) == 1
    reason = full(folder + "/ballast")
    values, errors = 0, []
    for future in [executor.submit(talk, number) for number in range(200)]:
        error = future.exception(30)
        values += error is None
        errors += [repr(error)] if error is not None else []
    silent = sum(executor.map(abs, range(500)))
    os.kill(executor.connected_managers()[0].pid, 9)
    after = executor.options(retries=1).submit(abs, -7)
    os.unlink(folder + "/ballast")
    after = after.result(40)
print(json.dumps({"reason": reason, "values": values, "errors": errors[:3], "silent": silent, "after": after}))
"""

JOURNAL = """
import json, sys
from throughway import HighThroughputExecutor
def work(number):
    return bytes([number % 256]) * 10_000
folder, journal = sys.argv[1:]
def run():
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=folder, journal=journal) as executor:
        futures = [executor.submit(work, number) for number in range(300)]
        for number, future in enumerate(futures):
            assert future.result(30) == bytes([number % 256]) * 10_000
        return sum(future.from_journal for future in futures)
print(json.dumps({"first": run(), "second": run()}))
"""

START = """
import json, os, sys
from throughway import HighThroughputExecutor, ThroughwayError
folder = sys.argv[1]
ballast = os.open(folder + "/ballast", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(ballast, bytes(4096))
except OSError:
    os.close(ballast)
try:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=folder) as executor:
        said = repr(executor.submit(abs, -1).exception(30))
except (ThroughwayError, OSError) as error:
    said = repr(error)
print(json.dumps({"said": said}))
"""


@pytest.fixture(autouse=True)
def mountable() -> None:
    reason = mounts_missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def test_logs_on_a_full_disk(disk: Path) -> None:
    """What a task prints may be lost, or the printing raise; the executor goes on."""
    said, _ = run_script(LOGS, str(disk), prefix=on_small_disk(disk, "2m"))
    assert said["reason"] == "No space left on device"
    assert said["silent"] == sum(range(500))
    assert said["after"] == 7
    assert all("No space left on device" in error for error in said["errors"])


def test_a_journal_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    said, errors = run_script(
        JOURNAL, str(tmp_path / "runs"), str(disk / "a.journal"), prefix=on_small_disk(disk, "1m")
    )
    assert said["first"] == 0
    assert 50 < said["second"] < 110, "what fitted is there"
    assert "cannot be written: No space left on device: make room" in errors
    assert "results could not be written: their tasks run again in another run" in errors


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    return folder


def start_on_full_disk(disk: Path, runtime: Path) -> str:
    prefix = on_small_disk(disk, "256k")
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    return str(run_script(START, str(disk), prefix=prefix, environment=environment)[0]["said"])


def test_a_start_on_a_full_disk_says_so(disk: Path, runtime: Path) -> None:
    assert "No space left on device" in start_on_full_disk(disk, runtime)


def test_a_start_on_a_full_disk_leaves_nothing(disk: Path, runtime: Path) -> None:
    assert "ConfigurationError" in start_on_full_disk(disk, runtime)
    assert list((runtime / "throughway").iterdir()) == []
