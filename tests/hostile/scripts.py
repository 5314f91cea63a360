"""Scripts that tests run in environments of their own: a full disk, no descriptors, a clock that jumps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import throughway

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(throughway.__file__).resolve().parents[1]


def run_script(
    text: str,
    *arguments: str,
    prefix: Sequence[str] = (),
    timeout: float = 50.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], str]:
    """Run a script to its end: what it said in its last line, which is JSON, and all it wrote to its standard error.

    Args:
        prefix: the command that runs the command.
        environment: variables beside those of this process; entries of ``PYTHONPATH`` come first.
    """
    given = dict(environment or {})
    path = [entry for entry in (given.pop("PYTHONPATH", ""), str(PACKAGE), str(ROOT)) if entry]
    done = subprocess.run(
        [*prefix, sys.executable, "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **given, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert done.returncode == 0, f"status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said, done.stderr


def mounts_missing() -> str | None:
    """Why no file systems can be mounted here for a test, None where they can."""
    if os.geteuid() != 0:
        return "mounting a small file system needs root"
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return f"this system mounts nothing for a test: {probe.stderr.strip()}" if probe.returncode else None


def on_small_disk(folder: Path, size: str) -> list[str]:
    """The prefix of a command that sees a file system of this size (as ``1m``) in ``folder``, and nobody else does."""
    script = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, size, str(folder)]
