from __future__ import annotations

import functools
from pathlib import Path

import pytest

from throughway.blocks import noop_error_handler, simple_error_handler, windowed_error_handler
from throughway.blocks.failure import QUOTED
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.providers import JobState, JobStatus

FAILED = JobStatus(JobState.FAILED, 3, "NonZeroExitCode")
RUNNING = JobStatus(JobState.RUNNING)


class Executor:
    def __init__(self, init_blocks: int = 1) -> None:
        self.label = "htex"
        self.init_blocks = init_blocks
        self.errors: list[str] = []

    def fail(self, error: Exception | str) -> None:
        assert isinstance(error, ExecutorFailed)
        self.errors.append(str(error))


def statuses(*given: JobStatus) -> dict[str, JobStatus]:
    return {str(number): status for number, status in enumerate(given)}


def test_noop() -> None:
    executor = Executor()
    noop_error_handler(executor, statuses(FAILED, FAILED))
    assert executor.errors == []


def test_simple_gives_up_once_all_have_failed() -> None:
    executor = Executor(init_blocks=2)
    simple_error_handler(executor, {})
    simple_error_handler(executor, statuses(FAILED))
    simple_error_handler(executor, statuses(FAILED, RUNNING))
    assert executor.errors == []
    simple_error_handler(executor, statuses(FAILED, JobStatus(JobState.MISSING)))
    assert "gave up: its block_error_handler found 2 failed blocks" in executor.errors[0]
    assert "block 0: no job, failed, exit code 3: NonZeroExitCode" in executor.errors[0]


def test_windowed_looks_at_the_last_ones() -> None:
    executor = Executor()
    windowed_error_handler(executor, statuses(FAILED, FAILED))
    windowed_error_handler(executor, statuses(*[FAILED] * 9, RUNNING, FAILED, FAILED))
    assert executor.errors == []
    windowed_error_handler(executor, statuses(*[RUNNING] * 9, FAILED, FAILED, FAILED))
    assert "block 9" in executor.errors[0]
    assert "block 11" in executor.errors[0]
    functools.partial(windowed_error_handler, threshold=2)(executor, statuses(RUNNING, FAILED, FAILED))
    assert len(executor.errors) == 2
    with pytest.raises(ConfigurationError, match="threshold=0"):
        windowed_error_handler(executor, {}, threshold=0)


def test_the_error_has_what_the_jobs_said_and_is_bounded(tmp_path: Path) -> None:
    output = tmp_path / "stderr"
    output.write_text("No space left on device\n")
    failed = JobStatus(JobState.FAILED, 1, stderr=str(output))
    executor = Executor()
    simple_error_handler(executor, statuses(*[failed] * 500))
    (text,) = executor.errors
    assert text.count("No space left on device") == QUOTED
    assert "Remedy: free space" in text
