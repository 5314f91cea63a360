from __future__ import annotations

import math

import pytest

from throughway.manager.deadline import BLOCK_END, margin, seconds_to_drain, seconds_to_end, usable
from throughway.providers.interface import BLOCK_END_VARIABLE

NOW = 1_700_000_000.0


def test_the_variable_is_the_one_that_providers_set() -> None:
    assert BLOCK_END == BLOCK_END_VARIABLE


@pytest.mark.parametrize(
    ("environment", "walltime", "seconds"),
    [
        ({}, None, None),
        ({}, 600.0, 600.0),
        ({BLOCK_END: "1700000500"}, 600.0, 500.0),
        ({BLOCK_END: "1700000500", "SLURM_JOB_END_TIME": "1700009999"}, None, 500.0),
        ({"SLURM_JOB_END_TIME": "1700000400"}, None, 400.0),
        ({"PBS_WALLTIME": "3600"}, None, 3600.0),
        ({BLOCK_END: "soon"}, 600.0, 600.0),
        ({BLOCK_END: "nan", "SLURM_JOB_END_TIME": "inf", "PBS_WALLTIME": "-3"}, None, None),
        ({BLOCK_END: "1600000000"}, 600.0, 600.0),
    ],
)
def test_when_a_block_ends(
    environment: dict[str, str], walltime: float | None, seconds: float | None
) -> None:
    assert seconds_to_end(environment, NOW, walltime) == seconds


def test_it_drains_in_time() -> None:
    assert seconds_to_drain({}, NOW) is None
    assert seconds_to_drain({}, NOW, drain_period=50.0) == 50.0
    assert seconds_to_drain({BLOCK_END: str(NOW + 3600)}, NOW) == 3480.0
    assert seconds_to_drain({BLOCK_END: str(NOW + 100)}, NOW) == 75.0
    assert seconds_to_drain({BLOCK_END: str(NOW + 3600)}, NOW, drain_period=60.0) == 60.0
    assert seconds_to_drain({BLOCK_END: str(NOW + 100)}, NOW, drain_period=3600.0) == 75.0


def test_the_longest_task_that_a_fresh_block_has_time_for() -> None:
    assert usable(None, None) == math.inf
    assert usable(3600.0, None) == 3480.0
    assert usable(3600.0, 100.0) == 100.0
    assert usable(None, 100.0) == 100.0
    assert margin(40.0) == 10.0
