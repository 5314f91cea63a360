"""Seeds and times of the tests with random faults, and where they put what is needed to find out what happened."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.conftest import _run_key
from tests.processes import ProcessRecord

SECONDS_VARIABLE = "THROUGHWAY_CHAOS_SECONDS"
SEED_VARIABLE = "THROUGHWAY_CHAOS_SEED"


def chosen_seconds(default: float) -> float:
    """How long to go on: what `make chaos SECONDS=...` says, or ``default``."""
    return float(os.environ.get(SECONDS_VARIABLE) or default)


@pytest.fixture
def seed() -> int:
    """What `make chaos SEED=...` says, or a new one; pytest prints it where a test fails."""
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}: make chaos SEED={seed}")
    return seed


@pytest.fixture
def members(request: pytest.FixtureRequest) -> Callable[[], list[ProcessRecord]]:
    """The living processes that were started in this run of the tests."""
    family = request.config.stash[_run_key].family
    return family.members
