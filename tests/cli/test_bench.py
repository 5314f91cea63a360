from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from throughway.cli.bench import MEASURES, OURS, THEIRS, benchmark, measure, percentile, ratio
from throughway.errors import ConfigurationError, ThroughwayError
from throughway.executors.run_folder import list_runs

pytestmark = pytest.mark.timeout(120)


def test_both_executors_are_measured_and_compared(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "throughway.cli",
            "bench",
            "--tasks",
            "30",
            "--workers",
            "1",
            "--rounds",
            "2",
            "--json",
            str(file),
            "--run-dir",
            str(tmp_path / "runs"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    document = json.loads(file.read_text())
    assert document["parameters"] == {"tasks": 30, "workers": 1, "rounds": 2}
    assert {name: len(rows) for name, rows in document["rounds"].items()} == {OURS: 2, THEIRS: 2}
    for name, rows in document["rounds"].items():
        for row in MEASURES:
            one, two = (figures[row.key] for figures in rows)
            assert min(one, two) > 0
            assert document["medians"][name][row.key] == pytest.approx((one + two) / 2)
    for row in MEASURES:
        assert row.title in done.stdout
        ours, theirs = (document["medians"][name][row.key] for name in (OURS, THEIRS))
        assert document["ratios"][row.key] == pytest.approx(ours / theirs if row.is_rate else theirs / ours)
    assert done.stdout.count("× faster") + done.stdout.count("× slower") == len(MEASURES)
    assert re.findall(r"^  round \d, (\w+):", done.stdout, re.MULTILINE) == [OURS, THEIRS, THEIRS, OURS]
    assert [record.alive for record in list_runs(tmp_path / "runs")] == [False, False]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(ConfigurationError, match=r"--json .*No such file or directory"):
        benchmark(console, tasks=10, workers=1, rounds=1, json_file=str(tmp_path / "no" / "bench.json"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


class Wrong(ThreadPoolExecutor):
    """Gives wrong results from one task on."""

    def __init__(self, first_wrong: int) -> None:
        super().__init__(1)
        self._first_wrong = first_wrong

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        value = args[0]
        return super().submit(lambda: fn(value) + (value >= self._first_wrong))


@pytest.mark.parametrize("first_wrong", [0, 1, 7])
def test_wrong_results_make_no_figures(first_wrong: int) -> None:
    def make() -> Executor:
        return Wrong(first_wrong)

    with pytest.raises(ThroughwayError, match="wrong"):
        measure(make, 20)


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.5) == 50
    assert percentile([3.0], 0.99) == 3
    assert percentile([1.0, 2.0], 0.99) == 2


def test_ratios_tell_how_many_times_faster() -> None:
    rate, time = MEASURES[0], MEASURES[2]
    ours, theirs = {rate.key: 200.0, time.key: 2.0}, {rate.key: 50.0, time.key: 1.0}
    assert ratio(rate, ours, theirs) == 4
    assert ratio(time, ours, theirs) == 0.5
