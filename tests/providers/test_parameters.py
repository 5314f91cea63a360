from __future__ import annotations

import math

import pytest

from throughway.errors import ConfigurationError
from throughway.providers import parameters


@pytest.mark.parametrize("value", [-1, 0, 1.0, "1", None, True])
def test_whole_number_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"nodes_per_block=.* is not a whole number of 1 or more"):
        parameters.whole_number("nodes_per_block", value, 1)


@pytest.mark.parametrize("value", [-1, 0, math.inf, math.nan, "1", None, True])
def test_seconds_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"cmd_timeout=.* is not a time: give .* more than 0"):
        parameters.seconds("cmd_timeout", value)


def test_seconds_takes_numbers() -> None:
    assert parameters.seconds("cmd_timeout", 3) == 3.0
    assert parameters.seconds("cancel_grace", 0, zero=True) == 0.0
    with pytest.raises(ConfigurationError, match="0 or more"):
        parameters.seconds("cancel_grace", -1, zero=True)


@pytest.mark.parametrize("value", [None, b"x", "a\0b"])
def test_text_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match="worker_init="):
        parameters.text("worker_init", value)


def test_block_counts() -> None:
    assert parameters.block_counts(2, 1, 3) == (2, 1, 3)
    with pytest.raises(ConfigurationError, match=r"init_blocks=4 is more than max_blocks=3.*max_blocks=4"):
        parameters.block_counts(4, 0, 3)
    with pytest.raises(ConfigurationError, match=r"min_blocks=2 is more than max_blocks=1"):
        parameters.block_counts(1, 2, 1)
    with pytest.raises(ConfigurationError, match="max_blocks=0"):
        parameters.block_counts(0, 0, 0)
