"""Bounds that docs/bounds.md names, and that nothing else tests: what is kept does not grow with what has passed."""

from __future__ import annotations

import importlib
import operator
import re
from pathlib import Path

from throughway.manager.actions import Give
from throughway.manager.reactor import ManagerReactor
from throughway.manager.state import ManagerState
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.transport.records import Record

PAGE = Path(__file__).resolve().parents[2] / "docs/bounds.md"
LIMIT = re.compile(r"`([\w.]+)\.([A-Z][A-Z_]+)` \(([\d,]+)(?: ([KMGT]iB))?")
UNITS = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def passed_through(count: int, walltime: float) -> ManagerReactor:
    """A manager's reactor through which so many tasks have gone, one after the other."""
    reactor = ManagerReactor(ManagerState("a", "host", "0", "/logs", 2), now=0.0)
    reactor.start()
    for number in list(reactor.state.workers):
        reactor.records_came(number, [Record(0, Mark.READY, 0.0, b"", [])], 0.0)
    reactor.welcomed(m.Welcome(2, 30.0, 120.0), 0.0)
    for task in range(count):
        now = task / 1000
        function = task // 10
        reactor.interchange_said(
            m.Assign(
                [m.Task(task, function, b"", 0, 0, walltime)],
                [m.Function(function, "f", b"")] if task % 10 == 0 else [],
                [function - 1] if task % 10 == 0 and function else [],
                task,
            ),
            (),
            now,
        )
        for action in reactor.turn(now):
            if isinstance(action, Give):
                records = [Record(one.id, 0, 0.0005, b"", []) for one in action.tasks]
                reactor.records_came(action.worker, records, now)
        reactor.turn(now)
    return reactor


def test_a_manager_keeps_nothing_of_tasks_that_have_passed() -> None:
    few, many = passed_through(50, 0.0), passed_through(2000, 0.0)
    for name in ("_looks", "_cancelling", "_walltimes", "results.kept", "results.ended", "results.payloads"):
        held = operator.attrgetter(name)
        assert len(held(many)) <= len(held(few)) + 4, name
    assert len(many.state.functions) <= 2
    assert len(many._pace._functions) <= 2
    assert not many.state.frames


def test_a_manager_keeps_no_walltimes_of_tasks_that_have_passed() -> None:
    assert len(passed_through(2000, 86400.0)._walltimes) < 200


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    found = LIMIT.findall(PAGE.read_text())
    assert len(found) > 20
    for module, name, number, unit in found:
        value = getattr(importlib.import_module(f"throughway.{module}"), name)
        assert value == int(number.replace(",", "")) * UNITS[unit or None], f"{module}.{name} is {value}"
