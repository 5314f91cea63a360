from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.terminal import Terminal
from throughway.cli import demo
from throughway.cli.complexity import FileReport, FunctionReport, examine_file, most_complex, source_files
from throughway.cli.demo import Pass, show_results
from throughway.errors import ConfigurationError
from throughway.executors.run_folder import list_runs

pytestmark = pytest.mark.timeout(120)

LIMIT = 40


def test_the_demonstration_parses_the_library_and_finds_both_results_equal(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "throughway.cli",
            "demo",
            "--limit",
            str(LIMIT),
            "--workers",
            "2",
            "--run-dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    folder = sysconfig.get_path("stdlib")
    reports = [examine_file(folder, path) for path in source_files(folder)[:LIMIT]]
    assert len(reports) == LIMIT
    functions = sum(len(report.functions) for report in reports)
    numbers = [
        LIMIT,
        sum(report.lines for report in reports),
        sum(report.classes for report in reports),
        functions,
    ]
    assert re.search(r"\s+".join(f"{number:,}" for number in numbers), done.stdout)
    for function, module in most_complex(reports, 10):
        line = rf"^\s+{function.complexity}\s+{re.escape(function.name[:20])}.*{re.escape(module[:10])}.*$"
        assert re.search(line, done.stdout, re.MULTILINE), function
    assert f"in tasks: {LIMIT} of {LIMIT} tasks" in done.stdout
    assert "2 workers, 0 failures" in done.stdout
    assert f"serially: {LIMIT} of {LIMIT} tasks" in done.stdout
    assert "speed-up on" in done.stdout
    assert f"The two results are equal: {LIMIT} files, {functions:,} functions compared." in done.stdout
    assert "throughway bench" in done.stdout.splitlines()[-1]
    assert max(map(len, done.stdout.replace(folder, "").splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert [record.alive for record in list_runs(tmp_path)] == [False]


def test_more_workers_than_cores_share_them(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    assert demo.demonstrate(console, limit=3, workers=5, run_dir=str(tmp_path)) == 0
    assert isinstance(console.file, io.StringIO)
    assert "in tasks, 5 workers" in console.file.getvalue()


def test_in_a_terminal_it_shows_live_progress_on_80_columns(tmp_path: Path) -> None:
    with Terminal("demo", "--limit", "12", "--workers", "1", "--run-dir", str(tmp_path)) as terminal:
        assert terminal.wait() == 0
    lines = re.split(r"[\r\n]+", terminal.screen)
    for title in ("in tasks ", "serially "):
        drawn = [line for line in lines if line.startswith(title)]
        assert "12/12" in drawn[-1], title
        assert "tasks/s" in drawn[-1]
        assert max(map(len, drawn)) <= 80
    assert any("1 worker · 0 failures" in line for line in lines)
    assert "The two results are equal" in terminal.screen


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    with Terminal("demo", "--workers", "1", "--run-dir", str(tmp_path)) as terminal:
        terminal.read_until("1 worker ")
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
    assert "interrupted" in terminal.screen
    assert "Traceback" not in terminal.screen
    (record,) = list_runs(tmp_path)
    assert record.ended is not None
    assert not Path(record.socket).parent.exists()


def test_an_interpreter_without_its_sources_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        demo.demonstrate(Console(file=io.StringIO()))


REPORT = FileReport("a", 10, 0, (FunctionReport("f", 1, 2),))
OTHER = FileReport("a", 10, 0, (FunctionReport("f", 1, 3),))
BROKEN = [FileReport(name, 0, 0, (), "SyntaxError") for name in "bcdef"]


@pytest.mark.parametrize(
    ("reports", "failures", "status", "said"),
    [
        ([REPORT], [], 0, "The two results are equal: 1 file, 1 function compared."),
        ([OTHER], [], 1, "The two results differ, first in a."),
        ([], ["a.py: it was lost"], 1, "The two results differ."),
    ],
)
def test_results_that_differ_are_a_failure(
    reports: list[FileReport], failures: list[str], status: int, said: str
) -> None:
    console = Console(file=io.StringIO(), width=80)
    assert show_results(console, Pass(reports, failures, 1.0, 0.5), Pass([REPORT], [], 2.0, 0.1)) == status
    assert isinstance(console.file, io.StringIO)
    assert said in console.file.getvalue()
    for failure in failures:
        assert f"Failed: {failure}" in console.file.getvalue()


def test_files_that_cannot_be_parsed_are_counted_and_named() -> None:
    console = Console(file=io.StringIO(), width=80)
    both = Pass([REPORT, *BROKEN], [], 1.0, 0.5)
    assert show_results(console, both, both) == 0
    assert isinstance(console.file, io.StringIO)
    assert "Not parseable: b, c, d and 2 more" in console.file.getvalue()
    assert re.search(r"\n\s+6\s+10\s+0\s+1\s+5\s+0\s*\n", console.file.getvalue())
