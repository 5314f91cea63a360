"""The machine that the figures are of."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import machine_busy_seconds


def describe() -> dict[str, Any]:
    """CPU, memory, kernel, and what may disturb a measurement."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            model = line.partition(":")[2].strip()
            break
    memory = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "hypervisor": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "governor": governor.read_text().strip() if governor.exists() else None,
        "load_average": list(os.getloadavg()),
        "idle_use": idle_use(),
    }


def commit(root: Path) -> str:
    """The commit of the tree that is measured, with ``+changes`` where files differ from it."""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return f"{head}+changes" if _git(root, "status", "--porcelain", "--", "src", "benchmarks") else head
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def idle_use(seconds: float = 1.0) -> float:
    """How many cores others keep busy while this process sleeps for ``seconds``."""
    before = machine_busy_seconds()
    time.sleep(seconds)
    return (machine_busy_seconds() - before) / seconds
