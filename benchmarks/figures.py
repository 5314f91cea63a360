"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable

TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"


def _digits(value: float) -> str:
    """About three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def rate(value: float) -> str:
    """Things a second."""
    return f"{_digits(value)}/s"


def milliseconds(value: float) -> str:
    """Seconds, shown in milliseconds."""
    return f"{_digits(value * 1e3)} ms"


def microseconds(value: float) -> str:
    """Seconds, shown in microseconds."""
    return f"{_digits(value * 1e6)} µs"


def size(value: float) -> str:
    """Bytes."""
    return f"{value / 1024:.2f} KiB" if abs(value) >= 1024 else f"{value:.0f} B"


def ratio(value: float) -> str:
    """A ratio."""
    return f"{_digits(value)}{TIMES}"


UNITS: dict[str, Callable[[float], str]] = {
    "rate": rate,
    "milliseconds": milliseconds,
    "microseconds": microseconds,
    "bytes": size,
}
