from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.blocks.fakes import FakeClock, FakeProvider
from throughway.blocks.watchdog import _DONE, _LEFT, await_end, cancel_jobs
from throughway.providers import JobId, JobSpec, JobState, NamedJob

LOGGER = logging.getLogger("throughway.watchdog.test")


class Scheduler(FakeProvider):
    """Has jobs of a dead run, and a clock that goes on while somebody sleeps."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.submit(
            [JobSpec(f"throughway-r1-{number}", ["manager"], 1, "/nowhere") for number in range(count)]
        )
        self.asked = 0

    def jobs_of(self, run: str) -> list[NamedJob]:
        self.asked += 1
        if self.outage is not None:
            raise self.outage
        return super().jobs_of(run)

    def cancel_all(self, **options: float) -> list[NamedJob]:
        def sleep(seconds: float) -> None:
            self.clock.now += seconds

        return cancel_jobs(self, "r1", LOGGER, clock=self.clock, sleep=sleep, **options)


def test_all_jobs_are_cancelled() -> None:
    scheduler = Scheduler(3)
    assert scheduler.cancel_all() == []
    assert scheduler.cancels == [([JobId("j0"), JobId("j1"), JobId("j2")], False)]
    assert scheduler.running() == []


def test_a_job_that_comes_late_is_cancelled_too() -> None:
    scheduler = Scheduler(1)
    cancel = scheduler.cancel

    def once(ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        if not scheduler.cancels:
            # It was on its way into the queue.
            scheduler.submit([JobSpec("throughway-r1-9", ["manager"], 1, "/nowhere")])
        return cancel(ids, force=force)

    scheduler.cancel = once  # type: ignore[method-assign]
    assert scheduler.cancel_all() == []
    assert [ids for ids, _ in scheduler.cancels] == [[JobId("j0")], [JobId("j1")]]


def test_jobs_that_resist_are_killed() -> None:
    scheduler = Scheduler(1)
    scheduler.obedient = False
    assert scheduler.cancel_all(force_after=20.0) == []
    assert scheduler.cancels[0] == ([JobId("j0")], False)
    assert scheduler.cancels[-1] == ([JobId("j0")], True)
    assert scheduler.clock.now - 1000.0 < 60.0


def test_a_scheduler_that_does_not_answer_is_asked_again_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = Scheduler(1)
    scheduler.outage = TimeoutError("squeue did not answer")
    with caplog.at_level(logging.WARNING):
        assert scheduler.cancel_all(give_up=3600.0) == []
    assert scheduler.clock.now - 1000.0 >= 3600.0
    assert 20 <= scheduler.asked <= 100
    assert "squeue did not answer" in caplog.text
    assert "given up after 3600 s" in caplog.text


def test_nothing_to_do() -> None:
    scheduler = Scheduler(1)
    scheduler.end("j0", JobState.COMPLETED, 0)
    assert scheduler.cancel_all() == []
    assert scheduler.cancels == []


@pytest.mark.parametrize(("word", "left"), [(_DONE, False), (_LEFT, True), (b"", True)])
def test_what_the_run_says_at_its_end(word: bytes, left: bool) -> None:
    reader, writer = os.pipe()
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.write(writer, word)
        os.close(writer)
        assert await_end(pidfd, reader) is left
    finally:
        os.close(reader)
        os.close(pidfd)


def test_the_death_of_the_process_is_seen_although_a_child_keeps_the_pipe_open() -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    try:
        process.kill()
        assert await_end(pidfd, reader) is True
    finally:
        process.communicate()
        for descriptor in (reader, writer, pidfd):
            os.close(descriptor)


def test_the_program_without_a_record_says_so(tmp_path: os.PathLike[str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(process.pid)
    try:
        program = subprocess.run(
            [sys.executable, "-P", "-m", "throughway.blocks.watchdog", "r1", os.fspath(tmp_path), str(pidfd)],
            stdin=subprocess.PIPE,
            pass_fds=[pidfd],
            timeout=30,
            check=False,
        )
    finally:
        process.wait()
        os.close(pidfd)
    assert program.returncode == 1
    with open(os.path.join(tmp_path, "watchdog.log"), encoding="utf-8") as log:
        assert "there is no record of the run's provider" in log.read()
