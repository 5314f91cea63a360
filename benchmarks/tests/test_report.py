"""The ratios point the right way, and what is missing is said."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.runs import Outcome
from benchmarks.table import MEASUREMENTS, ROWS, THROUGHWAY, Row


def outcomes(own: list[float], other: list[float], **more: Any) -> report.Outcomes:
    return {
        "throughput": {
            THROUGHWAY: Outcome(THROUGHWAY, rounds=[{"rate": value} for value in own]),
            "Peer": Outcome("Peer", rounds=[{"rate": value} for value in other], **more),
        }
    }


@pytest.mark.parametrize(
    ("bounds", "ratio", "met"),
    [
        ({"at_least": 10.0}, 10.0, True),
        ({"at_least": 11.0}, 10.0, False),
        ({"at_most": 10.0}, 10.0, True),
        ({"at_most": 9.0}, 10.0, False),
        ({"at_least": 0.1, "speed": True}, 0.1, True),
        ({"at_least": 1.0, "speed": True}, 0.1, False),
        ({}, 10.0, None),
    ],
)
def test_a_row_compares_medians(bounds: dict[str, Any], ratio: float, met: bool | None) -> None:
    row = Row("row", "throughput", "rate", "rate", against="Peer", **bounds)
    judged = report.judge(row, outcomes([1.0, 50.0, 900.0], [5.0, 4.0, 6.0]))
    assert judged["ratio"] == pytest.approx(ratio)
    assert judged["met"] is met


def test_a_row_without_a_peer_is_judged_by_its_own_figure() -> None:
    row = Row("row", "throughput", "rate", "rate", at_most=50.0)
    assert report.judge(row, outcomes([50.0], []))["met"] is True
    assert report.judge(row, outcomes([51.0], []))["met"] is False


def test_what_could_not_be_measured_is_neither_met_nor_silent() -> None:
    row = Row("row", "throughput", "rate", "rate", against="Peer", at_least=1)
    found = outcomes([50.0], [], missing="ImportError: no module named peer")
    judged = report.judge(row, found)
    assert judged["met"] is None
    assert "no module named peer" in judged["why"]
    assert any("no module named peer" in note for note in report.notes([judged], found))
    assert report.rows_of_table([judged])[1][-1] == "?"


def test_a_figure_may_come_from_another_measurement() -> None:
    found = outcomes([50.0], [5.0])
    found["floor"] = {"floor": Outcome("floor", rounds=[{"rate": 25.0}])}
    row = Row("row", "throughput", "rate", "rate", against="floor", at_most=2.5)
    assert report.judge(row, found)["ratio"] == pytest.approx(2.0)


def test_disturbance_and_leftovers_are_noted() -> None:
    found = outcomes([50.0], [5.0])
    found["throughput"]["Peer"].rounds[0].update(foreign_cpu=1.5, left_behind=["a", "b"])
    notes = report.notes([], found)
    assert any("1.5 cores" in note for note in notes)
    assert any("left 2 processes" in note for note in notes)


def test_rows_name_what_is_measured() -> None:
    measurements = {measurement.name: measurement for measurement in MEASUREMENTS}
    names = {variant.name for measurement in MEASUREMENTS for variant in measurement.variants}
    for row in ROWS:
        assert row.subject in {variant.name for variant in measurements[row.measurement].variants}
        assert row.against is None or row.against in names
