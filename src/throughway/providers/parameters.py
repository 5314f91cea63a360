"""The parameters that providers have in common, refused where they cannot work."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from throughway.errors import ConfigurationError

_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2}):(\d{1,2})", re.ASCII)


def whole_number(name: str, value: object, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``. Raises `ConfigurationError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{name}={value!r} is not a whole number of {minimum} or more: give one")
    return value


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a finite number of seconds, positive or, with ``zero``, 0. Raises `ConfigurationError`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and (number > 0 or (zero and number == 0)):
            return number
    least = "0 or more" if zero else "more than 0"
    raise ConfigurationError(f"{name}={value!r} is not a time: give a number of seconds, {least}")


def text(name: str, value: object) -> str:
    """``value`` as text without NUL bytes, which no shell takes. Raises `ConfigurationError`."""
    if not isinstance(value, str) or "\0" in value:
        raise ConfigurationError(f"{name}={value!r} is not text: give a str without NUL characters")
    return value


def block_counts(init_blocks: object, min_blocks: object, max_blocks: object) -> tuple[int, int, int]:
    """The three as ints that fit one another. Raises `ConfigurationError`."""
    most = whole_number("max_blocks", max_blocks, 1)
    counts = []
    for name, value in (("init_blocks", init_blocks), ("min_blocks", min_blocks)):
        count = whole_number(name, value, 0)
        if count > most:
            raise ConfigurationError(
                f"{name}={count} is more than max_blocks={most}, which is never exceeded: "
                f"give max_blocks={count} or more, or {name}={most} or less"
            )
        counts.append(count)
    return counts[0], counts[1], most


def number(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a finite float, positive or, with ``zero``, 0. Raises `ConfigurationError`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
        if math.isfinite(found) and (found > 0 or (zero and found == 0)):
            return found
    least = "0 or more" if zero else "more than 0"
    raise ConfigurationError(f"{name}={value!r} is not a number of {least}: give one")


def fraction(name: str, value: object) -> float:
    """``value`` as a float from 0 to 1. Raises `ConfigurationError`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ConfigurationError(f"{name}={value!r} is not a number from 0 to 1: give one")


def optional_whole_number(name: str, value: object, minimum: int) -> int | None:
    """``value`` as an int of at least ``minimum``, or None. Raises `ConfigurationError`."""
    return None if value is None else whole_number(name, value, minimum)


def optional_number(name: str, value: object) -> float | None:
    """``value`` as a positive finite float, or None. Raises `ConfigurationError`."""
    return None if value is None else number(name, value)


def flag(name: str, value: object) -> bool:
    """``value``, which is True or False. Raises `ConfigurationError`."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r} is not True or False: give one of them")
    return value


def word(name: str, value: object) -> str | None:
    """``value`` as text that fits into one directive of a script, or None: not empty, without white space.

    Raises `ConfigurationError`.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value or any(char.isspace() or char == "\0" for char in value):
        raise ConfigurationError(f"{name}={value!r} is not a name: give a str without white space, or None")
    return value


def line(name: str, value: object) -> str | None:
    """``value`` as one line of text without quotes that it does not close, or None.

    Raises `ConfigurationError`.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or any(char in value for char in "\0\n\r"):
        raise ConfigurationError(
            f"{name}={value!r} is not a line of text: give a str without newlines, or None"
        )
    return value.strip()


def directives(name: str, value: object, prefix: str) -> str:
    """Lines that stand at the head of a script, such as ``#SBATCH --exclusive``; each starts with ``#``.

    A line without it would end the head, and all directives behind it would be passed over without a word.
    Raises `ConfigurationError`.
    """
    found = text(name, value).strip()
    for entry in found.splitlines():
        if entry.strip() and not entry.startswith("#"):
            raise ConfigurationError(
                f"{name}: the line {entry!r} is no directive: write {f'{prefix} {entry.strip()}'!r}; "
                "commands belong into worker_init"
            )
    return found


def walltime(value: object) -> float | None:
    """Seconds, from seconds, ``"HH:MM:SS"`` or ``"D-HH:MM:SS"``; None stays None. Raises `ConfigurationError`."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 1:
        return float(value)
    if isinstance(value, str):
        match = _WALLTIME.fullmatch(value.strip())
        if match is not None:
            days, hours, minutes, rest = (int(part or 0) for part in match.groups())
            found = ((days * 24 + hours) * 60 + minutes) * 60 + rest
            if minutes < 60 and rest < 60 and found:
                return float(found)
    raise ConfigurationError(
        f'walltime={value!r} is not a time: give "HH:MM:SS", "D-HH:MM:SS", a number of seconds of 1 or more, '
        "or None for as long as the resource manager lets a job run"
    )


def hours(duration: float) -> str:
    """A number of seconds as ``HH:MM:SS``, which every resource manager reads; fractions are rounded up."""
    whole = math.ceil(duration)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def variables(name: str, value: object) -> dict[str, str]:
    """``value`` as environment variables; None is none. Raises `ConfigurationError`."""
    found = {} if value is None else value
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(entry, str) and key and "=" not in key and "\0" not in key + entry
        for key, entry in found.items()
    ):
        raise ConfigurationError(f"{name}={value!r} are no environment variables: give a dict of str to str")
    return dict(found)
