"""The guide to Slurm runs as it is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import throughway
from tests.systems.slurm_cluster import SlurmCluster
from tests.test_docs import ROOT, script_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(150)]


def test_the_script_of_the_guide_runs(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = tmp_path / "guide.py"
    script.write_text(script_of(ROOT / "docs" / "guides" / "slurm.md"))
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(throughway.__file__).resolve().parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["328350", "328350"]
    assert "#SBATCH --time=00:10:00" in done.stdout
    assert "invalid partition specified: nowhere" in done.stdout
    wait_until(lambda: slurm.jobs() == [], 20, "an empty queue")
