"""What `map(progress=True)` shows: on a terminal, in a log, and without what it needs."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors import progress
from throughway.executors.progress import LogDisplay, Reading, TerminalDisplay, duration

SCRIPT = """
import sys
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1, run_dir=sys.argv[1]) as executor:
    print("total", sum(executor.map(abs, range(300), progress=True)))
    print("total", sum(executor.map(abs, (n for n in range(30)), chunksize=4, progress="counted [x]")))
    for one, two in zip(executor.map(abs, range(5), progress="one"), executor.map(abs, range(5), progress="two")):
        print("pair", one, two)
"""


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}


def test_a_log_has_plain_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment(FORCE_COLOR="1"),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.count("total") == 2
    lines = done.stderr.splitlines()
    assert all(line.isprintable() for line in lines), done.stderr
    assert re.search(r"^abs: 300 of 300 \(100%\), [\d,.e+]+/s, \S+( s)?$", done.stderr, re.MULTILINE), (
        done.stderr
    )
    assert re.search(r"^counted \[x\]: 30, ", done.stderr, re.MULTILINE), done.stderr
    assert len(lines) <= 40


def test_a_terminal_has_a_bar(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment(TERM="xterm-256color", COLUMNS="120"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = bytearray()
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert process.wait(50) == 0, seen
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    for expected in ("━", "300/300", "counted [x]", "30/30", "total 44850", "pair 4 4"):
        assert expected in text
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h")  # the cursor is there again


class Recorder(io.StringIO):
    """A stream that is a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Log:
    """What was written to the standard error."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


def test_failures_are_counted(executor: HighThroughputExecutor, log: Log) -> None:
    results = executor.map(lambda value: 1 // value, [1, 1, 0, 1], progress="divide")
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert "divide: " in log.getvalue()
    assert "1 failed" in log.getvalue()


def test_what_cannot_be_submitted_is_counted(executor: HighThroughputExecutor, log: Log) -> None:
    with pytest.raises(Exception, match="generator"):
        list(executor.map(tasks.add, [(n for n in [0])], progress=True))
    assert "1 failed" in log.getvalue()


def test_an_iterable_that_raises_ends_the_display(executor: HighThroughputExecutor, log: Log) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        executor.map(tasks.add, broken(), progress=True)
    assert "add: " in log.getvalue()


def test_a_map_that_is_left_or_never_begun(executor: HighThroughputExecutor, log: Log) -> None:
    results = executor.map(tasks.add, range(100), progress="left")
    next(results)
    results.close()  # type: ignore[attr-defined]
    del results
    results = executor.map(tasks.add, range(100), progress="never")
    del results
    assert re.findall(r"^(left|never): ", log.getvalue(), re.MULTILINE)[-1] == "never"


def test_with_options_and_a_buffer(executor: HighThroughputExecutor, log: Log) -> None:
    view = executor.options(priority=1)
    assert list(view.map(tasks.add, range(10), buffersize=2, progress=True)) == list(range(10))
    assert "10 of 10" in log.getvalue()


def test_what_is_no_title_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(TypeError, match="progress=3"):
        executor.map(tasks.add, [1], progress=3)  # type: ignore[arg-type]


def test_without_rich(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Recorder(terminal=True))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setitem(sys.modules, "rich", None)
    # Those of a test before this one may still be on their way.
    wait_until(lambda: executor.outstanding == 0, what="no task to be left")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'throughway\[progress\]'"):
        executor.map(tasks.add, [1], progress=True)
    assert executor.outstanding == 0
    monkeypatch.setenv("TERM", "dumb")
    assert list(executor.map(tasks.add, [1], progress=True)) == [1]


def test_lines_at_each_tenth_and_each_half_minute() -> None:
    stream = io.StringIO()
    display = LogDisplay("x", stream)
    for done, seconds in ((5, 1.0), (9, 2.0), (10, 3.0), (19, 4.0), (19, 33.0), (19, 34.0), (25, 35.0)):
        display.show(Reading(done, 0, 100, seconds), last=False)
    display.show(Reading(100, 2, 100, 100.0), last=True)
    assert stream.getvalue().splitlines() == [
        "x: 10 of 100 (10%), 3.33/s, 3.0 s, about 0:00:27 left",
        "x: 19 of 100 (19%), 0.576/s, 0:00:33, about 0:02:20 left",
        "x: 25 of 100 (25%), 0.714/s, 0:00:35, about 0:01:45 left",
        "x: 100 of 100 (100%), 1/s, 2 failed, 0:01:40",
    ]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 9.94, 10, 61, 3661, 90_000)] == [
        "0.0 s",
        "9.9 s",
        "0:00:10",
        "0:01:01",
        "1:01:01",
        "25:00:00",
    ]


def test_two_bars_share_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    stream = Recorder(terminal=True)
    first, second = TerminalDisplay("first", stream), TerminalDisplay("second", stream)
    first.show(Reading(1, 0, 2, 1.0), last=False)
    second.show(Reading(1, 0, None, 1.0), last=False)
    first.show(Reading(2, 0, 2, 1.0), last=True)
    assert TerminalDisplay._shared is not None
    second.show(Reading(1, 1, None, 1.0), last=True)
    assert TerminalDisplay._shared is None
    assert "second" in stream.getvalue()


def test_progress_ends_once() -> None:
    class Counted(progress.Display):
        interval = 60.0
        last = 0

        def show(self, reading: Reading, *, last: bool) -> None:
            self.last += last

    display = Counted("x")
    shown = progress.MapProgress(display, 3)
    future: Future[Any] = Future()
    threads = [threading.Thread(target=shown.finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown.watch(future, 1)
    assert display.last == 1
