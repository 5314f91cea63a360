"""The executor's constructor parameters, checked as they are given."""

from __future__ import annotations

import math
import os
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
        raise reject(
            name, value, "give a port from 1 to 65535, or None for any free one in worker_port_range"
        )
    return value


def port_range(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Two ports, the second above the first."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise reject(name, value, "give two ports, such as (54000, 55000)") from None
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int) or not 0 < end < 65536:
            raise reject(name, value, "give two ports from 1 to 65535, the lower first")
    if low >= high:
        raise reject(name, value, "give two ports from 1 to 65535, the lower first")
    return low, high


def address(value: str | None) -> str | None:
    """An IP address or a host name, or None."""
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not value
        or any(not character.isprintable() or character in " /*" for character in value)
    ):
        raise reject("address", value, "give an IP address or a host name, or None")
    if value in ("0.0.0.0", "::"):  # noqa: S104 - it is refused
        raise reject(
            "address",
            value,
            "no manager can connect to it: give an address that they can reach, or None for all",
        )
    return value


def provider(value: object) -> None:
    """An object with the methods of a provider."""
    if isinstance(value, type) or not all(
        callable(getattr(value, name, None)) for name in ("submit", "status", "cancel")
    ):
        raise reject("provider", value, "give a provider, such as throughway.providers.LocalProvider()")


def folder(name: str, value: str | os.PathLike[str] | None) -> str | None:
    """An absolute path, ``~`` expanded, or None."""
    if value is None:
        return None
    path: object = value
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise reject(name, value, "give the path of a folder, or None")
    return os.path.abspath(os.path.expanduser(path))


def error_handler(value: object) -> None:
    """True, False or a callable."""
    if not isinstance(value, bool) and not callable(value):
        raise reject(
            "block_error_handler",
            value,
            "give True to stop after several failures in a row, False to go on for ever, or a function of "
            "(executor_view, statuses)",
        )


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
        remedy = f"it is no format string ({error}): give a shell command such as {LAUNCH_COMMAND!r}"
        raise reject("launch_cmd", value, remedy) from None
    if "config" not in fields or not fields <= {"config", "python", "block"}:
        raise reject(
            "launch_cmd",
            value,
            "give a shell command with {config}, and with {python} and {block} where wanted, "
            f"as in {LAUNCH_COMMAND!r}",
        )
    return value


def initializer(function: Callable[..., Any] | None, arguments: Sequence[Any]) -> None:
    """A callable with its arguments, or None."""
    if function is not None and not callable(function):
        raise reject("initializer", function, "give a callable, or None")
    if not isinstance(arguments, tuple | list):
        raise reject("initargs", arguments, "give a tuple")
    if arguments and function is None:
        raise reject(
            "initargs", arguments, "there is no initializer to take them: give one, or leave them out"
        )


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


def journal(value: str | os.PathLike[str] | None) -> str | None:
    """The absolute path of a file that is there or can be made, or None."""
    if value is None:
        return None
    try:
        path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
    except TypeError:
        raise reject("journal", value, "give the path of a file, or None") from None
    if os.path.isdir(path):
        raise reject("journal", path, "this is a folder: give the path of a file in it")
    if not os.path.isdir(os.path.dirname(path)):
        raise reject(
            "journal", path, f"there is no folder {os.path.dirname(path)}: make it, or give another path"
        )
    return path
