"""Golden scenarios against their stored traces.

Where one fails: run ``pytest tests/interchange --rewrite`` and read the diff. Only keep it if every line is understood.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.interchange.scenario import run_scenario

FOLDER = Path(__file__).parent / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path, rewrite):
    stored = path.read_text()
    found = run_scenario(stored)
    if rewrite:
        path.write_text(found)
    elif found != stored:
        diff = difflib.unified_diff(
            stored.splitlines(), found.splitlines(), "stored", "found", lineterm="", n=4
        )
        pytest.fail("\n".join(["the trace changed (see --rewrite):", *diff]), pytrace=False)


def test_there_are_scenarios():
    assert len(SCENARIOS) >= 10


def test_a_changed_trace_is_seen():
    stored = SCENARIOS[0].read_text()
    assert run_scenario(stored.replace("  executor <", "  nobody <")) == stored
