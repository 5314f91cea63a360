from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from throughway.cli.progress import task_progress


def test_a_terminal_gets_one_line_that_fits() -> None:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False
    )
    with task_progress(console, "in tasks", 1790) as shown:
        shown.update(449, failures=0, workers=2)
        shown.update(1790, failures=1, workers=64)
    last = _lines(console)[-1]
    assert last.startswith("in tasks ")
    assert "1,790/1,790" in last
    assert "tasks/s" in last
    assert "64 workers · 1 failure" in last
    assert len(last) <= 80


def test_elsewhere_a_few_plain_lines_are_printed() -> None:
    console = Console(file=io.StringIO(), width=40)
    with task_progress(console, "serially", 1000) as shown:
        for done in range(1001):
            shown.update(done)
    lines = _lines(console)
    for line, count in zip(lines, ("250", "500", "750", "1,000"), strict=True):
        assert line.startswith(f"serially: {count} of 1,000 tasks, ")
        assert line.endswith(" tasks/s, 0 failures")


def test_what_takes_long_is_heard_of_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=80)
    with task_progress(console, "in tasks", 1000) as shown:
        for _ in range(25):
            now += 1
            shown.update(1, failures=1, workers=1)
    assert _lines(console) == [
        "in tasks: 1 of 1,000 tasks, 0.1 tasks/s, 1 worker, 1 failure",
        "in tasks: 1 of 1,000 tasks, 0.05 tasks/s, 1 worker, 1 failure",
    ]


def _lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue().replace("\x1b[2K", "\r").replace("\x1b[?25h", "")
    return [line.strip("\r ") for line in text.replace("\r", "\n").splitlines() if line.strip("\r ")]
