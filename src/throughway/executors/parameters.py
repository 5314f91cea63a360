"""The executor's constructor parameters, checked as they are given."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

from throughway.errors import ConfigurationError

LAUNCH_COMMAND = "{python} -P -m throughway.manager {config}"
"""How a manager is started, where ``launch_cmd`` says nothing else."""


def reject(name: str, value: object, remedy: str) -> ConfigurationError:
    """The error for a parameter that cannot work."""
    return ConfigurationError(f"{name}={value!r}: {remedy}")


def seconds(name: str, value: float | None, *, optional: bool = False) -> float | None:
    """A positive, finite number of seconds, or None where that is allowed."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise reject(name, value, "give a positive number of seconds" + (", or None" if optional else ""))
    return float(value)


def positive(name: str, value: int | None, *, optional: bool = False, zero: bool = False) -> int | None:
    """A positive int, or None where that is allowed."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < (0 if zero else 1):
        raise reject(name, value, f"give an int from {0 if zero else 1}" + (", or None" if optional else ""))
    return value


def port(name: str, value: int | None) -> int | None:
    """A TCP port, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536):
        raise reject(name, value, "give a port from 1 to 65535, or None for any free one in worker_port_range")
    return value


def port_range(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Two ports, the second above the first."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise reject(name, value, "give two ports, such as (54000, 55000)") from None
    if not all(isinstance(end, int) and 0 < end < 65536 for end in (low, high)) or low >= high:
        raise reject(name, value, "give two ports from 1 to 65535, the lower first")
    return low, high


def text(name: str, value: str | None) -> str | None:
    """A string that is not empty, or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise reject(name, value, "give a string, or None")
    return value


def flag(name: str, value: bool) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise reject(name, value, "give True or False")
    return value


def label(value: str) -> str:
    """A name that is a good file name."""
    if not isinstance(value, str) or not value or not value.isprintable() or "/" in value or len(value) > 200:
        raise reject("label", value, "give a printable name of up to 200 characters without a slash")
    return value


def launch_command(value: str | None) -> str:
    """A shell command with the fields ``{config}`` and, optionally, ``{python}`` and ``{block}``."""
    if value is None:
        return LAUNCH_COMMAND
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(value) if field is not None}
    except (TypeError, ValueError) as error:
        raise reject("launch_cmd", value, f"it is no format string: {error}") from None
    if "config" not in fields or not fields <= {"config", "python", "block"}:
        raise reject(
            "launch_cmd",
            value,
            f"give a shell command with {{config}}, and with {{python}} and {{block}} where wanted, as in {LAUNCH_COMMAND!r}",
        )
    return value


def initializer(function: Callable[..., Any] | None, arguments: Sequence[Any]) -> None:
    """A callable with its arguments, or None."""
    if function is not None and not callable(function):
        raise reject("initializer", function, "give a callable, or None")
    if not isinstance(arguments, tuple | list):
        raise reject("initargs", arguments, "give a tuple")
    if arguments and function is None:
        raise reject("initargs", arguments, "there is no initializer to take them")


def heartbeats(period: float, threshold: float) -> tuple[float, float]:
    """A heartbeat period and a threshold that leaves room for at least two of them."""
    checked_period = seconds("heartbeat_period", period) or 0.0
    checked_threshold = seconds("heartbeat_threshold", threshold) or 0.0
    if checked_threshold < 2 * checked_period:
        raise reject(
            "heartbeat_threshold",
            threshold,
            f"give at least twice heartbeat_period={period!r}, or one late heartbeat loses a manager",
        )
    return checked_period, checked_threshold
