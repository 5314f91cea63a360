"""Zygotes for tests of the worker side: one that most tests share, and others with a configuration of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.worker.nursery import Nursery, NurseryWorker


@pytest.fixture(scope="package")
def shared_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery.start(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def nursery(shared_nursery: Nursery) -> Iterator[Nursery]:
    """A zygote without any configuration, and no worker yet."""
    yield shared_nursery
    shared_nursery.end_workers()


@pytest.fixture
def worker(nursery: Nursery) -> NurseryWorker:
    """A worker that is ready."""
    return nursery.worker()


@pytest.fixture
def make_nursery(tmp_path: Path) -> Iterator[Callable[..., Nursery]]:
    """Starts a zygote with a configuration."""
    made: list[Nursery] = []

    def make(**config: object) -> Nursery:
        made.append(Nursery.start(tmp_path, **config))
        return made[-1]

    yield make
    for nursery in made:
        nursery.close()
