"""The wall clock may jump: nothing that decides anything looks at it."""

from __future__ import annotations

import ast
from pathlib import Path

import throughway
from tests.hostile.scripts import run_script

PACKAGE = Path(throughway.__file__).parent

SHOWN = {
    "blocks/controller.py": "when things happened, in records for people and for another process",
    "cli": "ages and dates for people",
    "executors/journal.py": "when a result was kept, for people",
    "executors/journal_file.py": "since when a journal is in use, for people",
    "executors/run_folder.py": "names of folders, and when a run started and ended, for people",
    "integrations": "what the tables of other programs hold",
    "manager/shell.py": "when a manager started, for people, and once the moment at which its job ends",
}
"""Where the wall clock is looked at, and what for."""

JUMPS = """
import itertools, time
_real = time.time
_offsets = itertools.cycle([0.0, 86400.0, -3e8, 3e8, -5.0])
time.time = lambda: _real() + next(_offsets)
time.time_ns = lambda: int(time.time() * 1e9)
"""

SCRIPT = """
import json, os, sys, time
from throughway import HighThroughputExecutor
assert abs(time.time() - time.time()) > 1000, "the clock does not jump"
def wait(seconds):
    time.sleep(seconds)
    return abs(time.time() - time.time()) > 1000
with HighThroughputExecutor(
    max_workers_per_node=2, heartbeat_period=0.2, heartbeat_threshold=10.0, run_dir=sys.argv[1],
    journal=sys.argv[1] + "/../j"
) as executor:
    total = sum(executor.map(abs, range(-1000, 0)))
    jumps = [executor.options(walltime=30).submit(wait, 1.5 + number / 100).result(30) for number in range(2)]
    late = type(executor.options(walltime=0.2).submit(time.sleep, 30).exception(20)).__name__
    managers = len({manager.manager for manager in executor.connected_managers()})
    restarts = executor._run.reactor.restarts
print(json.dumps(
    {"total": total, "jumps": jumps, "late": late, "managers": managers, "restarts": restarts}
))
"""


def wall_clocks(path: Path) -> list[str]:
    """The calls in a file that look at the wall clock."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime") or (
                name.endswith((".now", ".utcnow", ".today")) and "datetime" in name
            ):
                found.append(name)
    return found


def test_the_wall_clock_is_looked_at_only_to_be_shown() -> None:
    looking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if wall_clocks(path) and "testing" not in path.parts
    }
    unknown = {
        name for name in looking if not any(name == known or name.startswith(f"{known}/") for known in SHOWN)
    }
    assert not unknown, f"{sorted(unknown)} look at the wall clock, which may jump: time.monotonic() does not"


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """In every process: at each look it is another day."""
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    said, errors = run_script(SCRIPT, str(tmp_path / "runs"), environment={"PYTHONPATH": str(tmp_path)})
    assert said == {
        "total": 500500,
        "jumps": [True, True],
        "late": "WalltimeExceeded",
        "managers": 1,
        "restarts": 0,
    }
    assert "silent" not in errors
