"""How many workers an executor says it can have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from throughway import HighThroughputExecutor
from throughway.executors import capacity
from throughway.providers import LocalProvider


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores_available", lambda: 8)


@pytest.mark.parametrize(
    ("parameters", "workers"),
    [
        ({}, 8),
        ({"cores_per_worker": 3}, 2),
        ({"cores_per_worker": 0.5}, 16),
        ({"cores_per_worker": 100}, 1),
        ({"max_workers_per_node": 3}, 3),
        ({"available_accelerators": 2}, 2),
        ({"provider": LocalProvider(max_blocks=4)}, 32),
    ],
)
def test_on_this_machine(parameters: dict[str, Any], workers: int) -> None:
    executor = HighThroughputExecutor(**parameters)
    assert executor._max_workers == workers
    assert executor.options(priority=1)._max_workers == workers


@pytest.mark.parametrize(
    ("provider", "parameters", "workers"),
    [
        ({}, {"max_workers_per_node": 3}, 30),
        ({"cores_per_node": 64}, {"cores_per_worker": 2}, 320),
        ({"cores_per_node": 64}, {"max_workers_per_node": 3}, 30),
        ({"cores_per_node": None}, {}, 80),
    ],
)
def test_on_other_machines(provider: dict[str, Any], parameters: dict[str, Any], workers: int) -> None:
    executor = HighThroughputExecutor(**parameters)
    elsewhere: Any = SimpleNamespace(local=False, max_blocks=5, nodes_per_block=2, **provider)
    executor.provider = elsewhere
    assert executor._max_workers == workers


def test_what_is_connected_counts(executor: HighThroughputExecutor) -> None:
    assert executor._max_workers == 2
