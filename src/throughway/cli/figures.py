"""Numbers as people read them."""

from __future__ import annotations


def count(number: float) -> str:
    """A whole number with thousands separators: ``"1,234,567"``."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """A whole number in at most six characters: ``"99,999"``, ``"123k"``, ``"4.57M"``."""
    if number < 99_999.5:
        return count(number)
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if number < size * 999.5:
            return f"{number / size:.3g}{unit}"
    return f"{number / 1e12:.3g}T"


def counted(number: float, noun: str) -> str:
    """A number with its noun: ``"1 worker"``, ``"2 workers"``."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def rate(per_second: float) -> str:
    """A rate with three digits where it is low: ``"0.25"``, ``"12.5"``, ``"31,938"``; without its unit."""
    if per_second >= 99.95:
        return count(per_second)
    return f"{per_second:.3g}" if per_second >= 0.01 or not per_second else "<0.01"


def seconds(value: float) -> str:
    """A time that was measured, with its unit: ``"312 µs"``, ``"4.1 ms"``, ``"12.3 s"``, ``"2m 05s"``."""
    if value < 0.9995e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 99.95:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    return f"{int(value) // 60}m {int(value) % 60:02}s"


def age(value: float) -> str:
    """How long something lasts, in few characters: ``"42s"``, ``"5m02s"``, ``"3h07m"``, ``"12d05h"``."""
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(number: float) -> str:
    """Bytes in binary units: ``"512 B"``, ``"22.5 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB" if number < 1000 else f"{number / 1024:,.0f} PiB"


def times(ratio: float) -> str:
    """A ratio: ``"0.85×"``, ``"12.3×"``."""
    return f"{ratio:,.0f}×" if ratio >= 99.5 else f"{ratio:.3g}×"
