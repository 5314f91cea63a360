"""Runs code in a fresh interpreter, with another ``__main__``, and hands bytes in and out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import throughway

PATHS = [str(Path(throughway.__file__).parents[1]), *[path for path in sys.path if "site-packages" in path]]


def run(arguments: list[str], data: bytes = b"", *, path: str = "") -> bytes:
    """What ``python *arguments`` writes, given ``data``; fails with its stderr where it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*PATHS, *([path] if path else [])])}
    done = subprocess.run(
        [sys.executable, *arguments],
        input=data,
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def run_script(folder: Path, source: str, data: bytes = b"") -> bytes:
    """The same for a script's source, which is its process's ``__main__``."""
    script = folder / "script.py"
    script.write_text(source)
    return run([str(script)], data)
