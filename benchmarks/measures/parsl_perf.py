"""Parsl's own benchmark, parsl-perf: apps through its data flow kernel, until they take the time that is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CONFIG = """\
from parsl.config import Config
from parsl.providers import LocalProvider
from {module} import HighThroughputExecutor

def fresh_config():
    executor = HighThroughputExecutor(
        max_workers_per_node=2, provider=LocalProvider(), address="127.0.0.1", encrypted=False
    )
    return Config(executors=[executor], run_dir={folder!r}, initialize_logging=False, strategy_period=0.5)
"""

_ROUND = re.compile(r"Will run (\d+) tasks.*?Tasks per second: ([\d.]+)", re.DOTALL)


def measure(root: int, *, module: str, seconds: float, argument_bytes: int = 0) -> dict[str, Any]:
    """Apps per second of the last, longest iteration, two workers, without log files.

    Args:
        module: where ``HighThroughputExecutor`` is imported from.
        argument_bytes: size of a text that each app is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.py")
        config.write_text(_CONFIG.format(module=module, folder=folder))
        command = [
            sys.executable,
            "-m",
            "parsl.benchmark.perf",
            "--config",
            str(config),
            "--time",
            str(seconds),
        ]
        command += ["--argsize", str(argument_bytes)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    rounds = _ROUND.findall(done.stdout)
    if done.returncode or not rounds:
        raise RuntimeError(f"parsl-perf ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    tasks, rate = rounds[-1]
    return {"tasks": int(tasks), "rate": float(rate), "iterations": len(rounds)}
