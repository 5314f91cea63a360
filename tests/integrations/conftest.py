"""The executor that the tests of one module share."""

from __future__ import annotations

from tests.executors.conftest import executor, runs

__all__ = ["executor", "runs"]
