"""What workers run for joblib: a batch of calls, which returns the list of their results."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

_BACKEND = "throughway.integrations.joblib"


def in_worker() -> bool:
    """Whether this process is a worker of Throughway, or was started by one."""
    return "THROUGHWAY_WORKER_RANK" in os.environ


def run(batch: Callable[[], list[Any]]) -> list[Any]:
    """Run a batch. The backend's name is known to the calls of `joblib.Parallel` in it."""
    if _BACKEND not in sys.modules:
        importlib.import_module(_BACKEND)
    return batch()


def run_pickled(data: bytes, buffers: Sequence[Any]) -> list[Any]:
    """Run a batch that was pickled with its large arrays in files; see `throughway.integrations.shared_arrays`."""
    return run(pickle.loads(data, buffers=buffers))
