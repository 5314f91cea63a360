from __future__ import annotations

from pathlib import Path

import pytest

from throughway.providers import JobSpec, JobState, JobStatus


def test_terminal_states() -> None:
    going_on = {JobState.PENDING, JobState.RUNNING, JobState.HELD, JobState.UNKNOWN}
    assert {state for state in JobState if not state.terminal} == going_on


def test_paths_of_a_job() -> None:
    spec = JobSpec("throughway-ab-0", ["true"], 1, "/some/folder")
    assert spec.script == "/some/folder/throughway-ab-0.sh"
    assert spec.stdout == "/some/folder/throughway-ab-0.stdout"
    assert spec.stderr == "/some/folder/throughway-ab-0.stderr"


def test_tail_of_small_files(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("one\ntwo\n\n")
    (tmp_path / "err").write_bytes(b"bad \xff byte")
    tail = JobStatus(JobState.FAILED, 1, "", str(tmp_path / "out"), str(tmp_path / "err")).tail()
    assert tail.stdout == "one\ntwo"
    assert tail.stderr == "bad � byte"


def test_tail_is_bounded_and_starts_at_a_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("".join(f"line {k}\n" for k in range(100_000)))
    (tmp_path / "err").write_text("x" * 100_000)
    status = JobStatus(JobState.FAILED, 1, "", str(tmp_path / "out"), str(tmp_path / "err"))
    tail = status.tail(lines=5, size=60)
    assert tail.stdout.splitlines() == [f"line {k}" for k in range(99_995, 100_000)]
    assert tail.stderr == "x" * 60


def test_tail_without_files(tmp_path: Path) -> None:
    tail = JobStatus(JobState.FAILED, stderr=str(tmp_path / "none")).tail()
    assert tail.stdout == ""
    assert tail.stderr == f"({tmp_path}/none cannot be read: No such file or directory)"


def test_status_is_frozen() -> None:
    with pytest.raises(AttributeError):
        JobStatus(JobState.RUNNING).state = JobState.FAILED
