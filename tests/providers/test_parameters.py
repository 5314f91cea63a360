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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (90, 90.0),
        (1.5, 1.5),
        ("00:10:00", 600.0),
        ("100:00:01", 360001.0),
        ("2-01:00:00", 176400.0),
    ],
)
def test_walltime(value: object, seconds: float | None) -> None:
    assert parameters.walltime(value) == seconds


@pytest.mark.parametrize(
    "value", [0, -1, 0.5, True, math.inf, "10", "10:00", "1:60:00", "1:00:60", "00:00:00", "x", b"1"]
)
def test_walltime_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"walltime=.* is not a time: give \"HH:MM:SS\""):
        parameters.walltime(value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "00:00:01"), (59.2, "00:01:00"), (3661, "01:01:01"), (360000, "100:00:00")]
)
def test_hours(seconds: float, text: str) -> None:
    assert parameters.hours(seconds) == text


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True, "1", None])
def test_fraction_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"parallelism=.* is not a number from 0 to 1"):
        parameters.fraction("parallelism", value)


def test_directives() -> None:
    assert (
        parameters.directives("scheduler_options", "\n#PBS -q a\n\n#PBS -x\n", "#PBS")
        == "#PBS -q a\n\n#PBS -x"
    )
    with pytest.raises(ConfigurationError, match="write '#PBS -q a'; commands belong into worker_init"):
        parameters.directives("scheduler_options", "-q a", "#PBS")


@pytest.mark.parametrize("value", ["", "a b", "a\n", "a\0", 1, True])
def test_word_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"queue=.* is not a name"):
        parameters.word("queue", value)


@pytest.mark.parametrize("value", [{"A": 1}, {1: "a"}, {"A=B": "x"}, {"": "x"}, {"A": "\0"}, ["A"], "A"])
def test_variables_refuses(value: object) -> None:
    with pytest.raises(ConfigurationError, match="are no environment variables"):
        parameters.variables("environment", value)
