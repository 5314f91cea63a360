"""The documentation says what the code says: what is generated from the code is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from throughway.scheduling.lifecycles import LIFECYCLES

SCRIPT = Path(__file__).parents[2] / "docs" / "make_diagrams.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("make_diagrams", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def page(script, tmp_path):
    """A copy of the page about the protocol."""
    copy = tmp_path / "protocol.md"
    copy.write_text(script.PAGES[0].read_text())
    return copy


def test_what_is_generated_is_up_to_date(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("IDLE --> BUSY: given", "IDLE --> ENDED: given", "stale; run python docs/make_diagrams.py"),
        ("| `capacity` | `int` |", "| `room` | `int` |", "stale"),
        ("<!-- end generated -->\n", "", "a block has no end"),
        (
            "generated: lifecycle worker -->",
            "generated: lifecycle task -->",
            "no page has the block 'lifecycle worker'",
        ),
        ("generated: union Greeting", "generated: onion Greeting", "there is no kind of block 'onion'"),
        ("generated: union Greeting", "generated: union Farewell", "the protocol has no Farewell"),
    ],
)
def test_a_stale_page_is_found(script, page, capsys, old, new, message):
    text = page.read_text()
    assert old in text
    page.write_text(text.replace(old, new, 1))
    assert script.main(["--check"], [page]) == 1
    assert message in capsys.readouterr().err


def test_a_stale_page_is_written_anew(script, page):
    good = page.read_text()
    page.write_text(good.replace("| `capacity` | `int` |", "| `room` | `int` |"))
    assert script.main([], [page]) == 0
    assert page.read_text() == good


def test_unknown_arguments_are_refused(script, capsys):
    assert script.main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("lifecycle", LIFECYCLES, ids=lambda lifecycle: lifecycle.name)
def test_a_diagram_shows_every_transition(script, lifecycle):
    text = script.lifecycle_block(lifecycle.name)
    assert f"[*] --> {lifecycle.initial.name}\n" in text
    for state, event, target in lifecycle.transitions():
        (line,) = [
            line for line in text.splitlines() if line.startswith(f"    {state.name} --> {target.name}: ")
        ]
        assert event.name.lower().replace("_", " ") in line
    for state in lifecycle.states():
        assert state.value in text


def test_every_message_is_described_once(script):
    text = script.PAGES[0].read_text()
    for name in ("Submit", "Results", "Assign", "Cancel", "Task", "Bundle", "Spawn", "Explanation"):
        assert text.count(f"**`{name}`** (") == 1
