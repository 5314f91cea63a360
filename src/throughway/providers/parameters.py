"""The parameters that providers have in common, refused where they cannot work."""

from __future__ import annotations

import math

from throughway.errors import ConfigurationError


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
