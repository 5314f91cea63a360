"""Messages that make no sense, in any order: no reactor raises, and its indexes agree all the while."""

from __future__ import annotations

import functools
import random
import traceback
from collections.abc import Callable

import pytest

from tests.fuzzing.maker import Seeded, Source
from tests.fuzzing.targets import REACTORS, interchange, manager

SEEDS = 200


def faults_of(target: Callable[[Source], None]) -> dict[str, str]:
    """For each place that raises: the first seed, and how it comes to that."""
    faults: dict[str, str] = {}
    for seed in range(SEEDS):
        try:
            target(Seeded(random.Random(seed)))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = "".join(traceback.format_exception(error))
            faults.setdefault(f"{where.filename}:{where.lineno}", f"seed {seed}: {told}")
    return faults


@pytest.mark.parametrize("name", REACTORS)
def test_nothing_that_is_said_raises(name: str) -> None:
    faults = faults_of(REACTORS[name])
    assert not faults, "\n".join(faults.values())


def test_not_even_what_an_interchange_assigns_to_a_manager() -> None:
    faults = faults_of(functools.partial(manager, trusting=False))
    assert not faults, "\n".join(faults.values())


def test_what_a_target_finds_is_told() -> None:
    """A fault that is planted is found: the targets do reach the reactors."""

    def planted(source: Source) -> None:
        interchange(source)
        raise KeyError("planted")

    (told,) = faults_of(planted).values()
    assert "KeyError: 'planted'" in told
    assert told.startswith("seed 0: ")
