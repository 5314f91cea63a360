"""The virtual environment that all contenders run in, with Throughway and its peers."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_STAMP = "benchmarks.json"


def _requirements() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for part in (
        REQUIREMENTS.read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        platform.python_version().encode(),
    ):
        digest.update(part)
    return digest.hexdigest()


def prepare(
    folder: Path, say: Callable[[str], None], *, refresh: bool = False
) -> tuple[Path, dict[str, str]]:
    """Make the environment, or take the one that is there and fits.

    Args:
        refresh: install again, to take newer releases of the peers or to try again what failed.

    Returns:
        Its Python, and why what could not be installed could not: requirement → what pip said.

    Raises:
        RuntimeError: the environment cannot be made, or Throughway itself cannot be installed.
    """
    python = folder / "bin" / "python"
    stamp = folder / _STAMP
    fingerprint = _fingerprint()
    if not refresh and stamp.exists() and python.exists():
        known = json.loads(stamp.read_text())
        if known["fingerprint"] == fingerprint:
            return python, dict(known["failures"])
    say(f"making the environment {folder} (a few hundred megabytes, mostly Ray)")
    if refusal := _run([sys.executable, "-m", "venv", "--clear", str(folder)]):
        raise RuntimeError(f"cannot make the environment {folder}: {refusal}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if refusal := _run([*pip, "--editable", str(ROOT)]):
        raise RuntimeError(f"cannot install Throughway into {folder}: {refusal}")
    requirements = _requirements()
    failures: dict[str, str] = {}
    if _run([*pip, *requirements]):
        for requirement in requirements:
            if refusal := _run([*pip, requirement]):
                failures[requirement] = refusal
                say(f"{requirement} cannot be installed: {refusal}")
    stamp.write_text(json.dumps({"fingerprint": fingerprint, "failures": failures}, indent=2))
    return python, failures


def _run(command: list[str]) -> str:
    """Run it; the last error that it names where it fails, else nothing."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stdout.strip().splitlines()]
    ends = [lines[at - 1] for at, line in enumerate(lines) if at and line == "[end of output]"]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (ends or errors or lines or [f"exit code {done.returncode}"])[-1]


def variables(python: Path, folder: Path) -> dict[str, str]:
    """The environment variables of a contender: its tools are found, its scratch files go to one place."""
    found = dict(os.environ)
    found.pop("PYTHONHOME", None)
    found["PATH"] = f"{python.parent}{os.pathsep}{found.get('PATH', os.defpath)}"
    found["VIRTUAL_ENV"] = str(python.parent.parent)
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    found["PYTHONUNBUFFERED"] = "1"
    found["XDG_STATE_HOME"] = found["TMPDIR"] = str(folder)
    return found
