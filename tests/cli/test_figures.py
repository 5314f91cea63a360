from __future__ import annotations

import pytest

from throughway.cli import figures


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1234, "1,234"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (4_567_890, "4.57M"),
        (12e9, "12G"),
        (3e12, "3T"),
    ],
)
def test_short_count(number: float, text: str) -> None:
    assert figures.short_count(number) == text
    assert len(text) <= 6


def test_counts_and_nouns() -> None:
    assert figures.count(1234567) == "1,234,567"
    assert figures.counted(1, "worker") == "1 worker"
    assert figures.counted(0, "worker") == "0 workers"
    assert figures.counted(2000, "file") == "2,000 files"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9e-4, "<0.01"), (0.254, "0.254"), (12.46, "12.5"), (99.96, "100"), (31938.4, "31,938")],
)
def test_rate(value: float, text: str) -> None:
    assert figures.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 µs"),
        (312e-6, "312 µs"),
        (0.9996e-3, "1 ms"),
        (4.13e-3, "4.13 ms"),
        (0.345, "345 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (12.34, "12.3 s"),
        (125.9, "2m 05s"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert figures.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (11220, "3h07m"), (1_054_800, "12d05h")],
)
def test_age(value: float, text: str) -> None:
    assert figures.age(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 B"), (1024, "1 KiB"), (24_122_810_368, "22.5 GiB"), (1 << 42, "4 TiB")]
)
def test_size(value: float, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(("ratio", "text"), [(0.854, "0.854×"), (12.34, "12.3×"), (1234.5, "1,234×")])
def test_times(ratio: float, text: str) -> None:
    assert figures.times(ratio) == text
