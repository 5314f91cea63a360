"""The time that Python itself takes to start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any


def measure(root: int, *, repeats: int) -> dict[str, Any]:
    """Median wall seconds of ``python -c "import concurrent.futures"`` in this environment."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import concurrent.futures"], check=True)
        times.append(time.perf_counter() - began)
    took = statistics.median(times[1:])
    # What it stands against is either of these: there is no constructor here that could be left out.
    return {"seconds": {"total": took, "start_and_first": took}}
