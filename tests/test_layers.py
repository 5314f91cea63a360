"""The import contracts of pyproject.toml hold, and each of them notices what it forbids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the tree at ``root``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
    return subprocess.run(
        [*command, "--no-cache", "--no-logo"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_the_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("protocol/messages.py", "from throughway.interchange import state", "A folder is a floor"),
        ("worker/__init__.py", "import throughway.manager", "A folder is a floor"),
        ("monitoring/__init__.py", "", "A folder is a floor"),
        ("__init__.py", "import throughway.testing", "Only tests import throughway.testing"),
        ("interchange/shell.py", "import pickle", "The interchange never opens a payload"),
        ("interchange/reactor.py", "import throughway.serialize", "The interchange never opens a payload"),
        ("worker/__init__.py", "import psutil", "A worker starts fast"),
        ("serialize/payloads.py", "import zmq", "A worker starts fast"),
        ("interchange/state.py", "from time import monotonic", "Cores are pure"),
        ("protocol/messages.py", "import threading", "Cores are pure"),
    ],
)
def test_a_contract_notices_what_it_forbids(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "src" / "throughway" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [name for name in result.stdout.splitlines() if " BROKEN" in name]
    assert any(name.startswith(contract) for name in broken), result.stdout
