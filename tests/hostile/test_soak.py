"""Steady load for a long time: memory, descriptors and threads of all processes stay where they are."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import pytest

from tests.hostile.scripts import run_script

SECONDS = float(os.environ.get("THROUGHWAY_SOAK_SECONDS") or 20)
GROWTH_BYTES = 6 << 20
"""What a process may hold more at the end than after its first third: fragmentation, and caches that are bounded."""

JOURNAL_BYTES = 1000
"""What the script may hold for each task: its key in the journal."""

SCRIPT = "import sys\nfrom tests.hostile.soak import main\nmain(sys.argv[1], float(sys.argv[2]))\n"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_nothing_grows(tmp_path: Path) -> None:
    said, _ = run_script(SCRIPT, str(tmp_path), str(SECONDS), timeout=SECONDS + 100)
    assert said["done"] > 20 * SECONDS
    assert said["taken"].keys() == {"script", "interchange", "manager", "zygote", "worker"}
    told = []
    for kind, samples in said["taken"].items():
        third = len(samples) // 3
        assert third >= 3, f"{kind}: {len(samples)} samples"
        for index, what in enumerate(("bytes", "descriptors", "threads")):
            values = [sample[index] for sample in samples]
            before, after = median(values[third : 2 * third]), median(values[-third:])
            allowed = (GROWTH_BYTES, 3, 1)[index]
            if kind == "script" and what == "bytes":
                allowed += said["done"] * JOURNAL_BYTES
            told.append(f"{kind}: {what} from {before:,.0f} to {after:,.0f} (at most {allowed:,.0f} more)")
            assert after - before <= allowed, told[-1]
    print(f"{said['done']} tasks", *told, sep="\n")
