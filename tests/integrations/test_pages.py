"""The pages of docs/integrations: what they show runs, and the versions are those that are tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.integrations.libraries import need
from tests.test_docs import rows_of, script_of

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"
NEEDS: dict[str, list[str]] = {
    "asyncio": [],
    "dask": ["dask"],
    "joblib": ["joblib"],
    "pool": [],
    "progress": [],
}


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_page(name: str, tmp_path: Path) -> None:
    need(*NEEDS[name])
    script = tmp_path / "example.py"
    script.write_text(script_of(PAGES / f"{name}.md"))
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


def versions(lines: list[str], mark: str) -> dict[str, str]:
    """name → version, of requirements such as ``joblib>=1.4``."""
    pattern = re.compile(rf"([\w-]+)(?:\[[\w,]+\])?{mark}([\d.]+)")
    return {found[1]: re.sub(r"(\.0)+$", "", found[2]) for line in lines if (found := pattern.match(line))}


def test_the_oldest_versions_are_those_of_the_package_and_of_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = versions(
        [line for extra in ("progress", "joblib", "dask", "test-integrations") for line in project[extra]],
        ">=",
    )
    tested = versions((ROOT / "tests/integrations/oldest.txt").read_text().splitlines(), "==")
    assert {name: tested.get(name) for name in wanted} == wanted
    shown = {row[0].lower(): row[1] for row in rows_of(PAGES / "README.md", "Versions")}
    assert {name: wanted[name] for name in shown} == shown
