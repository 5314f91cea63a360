"""The examples run, say how fast they were and beside whom, and find the same as their peers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.libraries import need

EXAMPLES = Path(__file__).parents[2] / "examples"

NEEDS = {
    "async_service": ["throughway"],
    "ensemble_sampling": ["emcee"],
    "grid_search": ["sklearn", "joblib"],
    "parsl_workflow": ["parsl"],
}
SAYS = {
    "async_service": ["AsyncExecutor", "ProcessPoolExecutor", "too slow"],
    "ensemble_sampling": ["multiprocessing.Pool", "same means: True"],
    "grid_search": ["loky", "same scores: True"],
    "parsl_workflow": ["Parsl's HTEX", "Both found the same: True"],
}


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_example(name: str, tmp_path: Path) -> None:
    need(*NEEDS[name])
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in SAYS[name]:
        assert text in done.stdout
    assert len(re.findall(r"in [\d.]+ seconds", done.stdout)) >= 2
    assert "Traceback" not in done.stderr, done.stderr


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md" and path.suffix in {".py", ".ipynb"}:
            assert f"({path.name})" in listed
