"""A file system that answers nothing for a while, under the run folder and its logs: the work goes on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hostile.scripts import mounts_missing, run_script

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE_BYTES = 16 << 20

SCRIPT = """
import json, subprocess, sys, threading, time
from throughway import HighThroughputExecutor
disk = sys.argv[1]
with HighThroughputExecutor(
    max_workers_per_node=2, run_dir=disk, heartbeat_period=0.5, heartbeat_threshold=2.0
) as executor:
    assert executor.submit(abs, -1).result(30) == 1
    # Whatever happens, it thaws: what waits for it cannot even be killed.
    thaw = threading.Timer(7.0, subprocess.run, [["fsfreeze", "--unfreeze", disk]])
    thaw.start()
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    begun = time.monotonic()
    total = 0
    while thaw.is_alive():
        total += executor.submit(abs, -1).result(10)
    seconds = time.monotonic() - begun
    thaw.join()
    restarts = executor._run.reactor.restarts
    managers = len(executor.connected_managers())
print(json.dumps({"total": total, "seconds": seconds, "restarts": restarts, "managers": managers}))
"""


def missing() -> str | None:
    """Why no file system can be frozen here, None where one can."""
    for command in ("mkfs.ext4", "fsfreeze"):
        if shutil.which(command) is None:
            return f"a file system that is frozen needs the command {command}"
    if not Path("/dev/loop-control").exists():
        return "a file system that is frozen needs loop devices"
    return mounts_missing()


def test_logs_on_a_frozen_disk(tmp_path: Path) -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    image = tmp_path / "image"
    disk = tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True, timeout=20)
    mount = 'mount -o loop "$0" "$1" && shift && exec "$@"'
    said, _ = run_script(
        SCRIPT, str(disk), prefix=["unshare", "--mount", "sh", "-c", mount, str(image), str(disk)]
    )
    assert said["seconds"] > 3
    assert said["total"] > 100, "work went on while nothing could be written"
    assert (said["restarts"], said["managers"]) == (0, 1)
