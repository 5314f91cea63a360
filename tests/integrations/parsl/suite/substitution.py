"""A pytest plugin: in Parsl's own tests, Throughway's executor stands where Parsl's stood, and nothing else changes."""

from __future__ import annotations

import importlib
import os
from typing import Any

PLACES = ("parsl", "parsl.executors", "parsl.executors.high_throughput.executor")
"""The modules from which Parsl's tests and configurations import the executor."""

_made = 0


def pytest_configure(config: Any) -> None:
    """Before any test module is imported."""
    from throughway.integrations.parsl import HighThroughputExecutor

    original = HighThroughputExecutor.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        global _made  # noqa: PLW0603 - one session in one process
        _made += 1
        original(self, *args, **kwargs)

    vars(counted)["__wrapped__"] = original  # Parsl looks at the parameters
    HighThroughputExecutor.__init__ = counted  # type: ignore[method-assign]
    for place in PLACES:
        importlib.import_module(place).HighThroughputExecutor = HighThroughputExecutor  # type: ignore[attr-defined]


def pytest_unconfigure(config: Any) -> None:
    """Say how often it was used, so that the runner can tell that it was."""
    path = os.environ.get("THROUGHWAY_SUBSTITUTED")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(_made))
