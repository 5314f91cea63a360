"""What `BatchProvider` does for all schedulers, on one that is made up. Real ones: `conformance` and tests/systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from throughway.providers import JobId, JobSpec, JobState, JobStatus, NamedJob, SubmitFailure
from throughway.providers import batch as module
from throughway.providers.batch import GRACE, BatchProvider
from throughway.providers.command import CommandResult, CommandTimedOut
from throughway.providers.interface import SchedulerError


class Made(BatchProvider):
    """Answers from ``answers``: by the command's first word."""

    label = "Made"
    directive = "#MADE"
    batch_size = 3

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.answers: dict[str, CommandResult | Exception] = {}
        self.asked: list[list[str]] = []

    def ask(self, line: Sequence[str]) -> CommandResult:
        self.asked.append(list(line))
        answer = self.answers[line[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def say(self, command: str, text: str) -> None:
        self.answers[command] = CommandResult((command,), 0, text, "")

    def directives(self, spec: JobSpec) -> Sequence[str]:
        return [f"#MADE name {spec.name}"]

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        return ["submit", spec.script]

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        return JobId(result.stdout)

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["status", *ids]

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        words = dict(entry.split(":") for entry in result.stdout.split())
        return {job_id: JobStatus(JobState(words[job_id])) for job_id in ids if job_id in words}

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        return [["cancel", *ids]]

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        return dict.fromkeys(ids, True)

    def list_command(self, prefix: str) -> Sequence[str]:
        return ["list", prefix]

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        return [
            NamedJob(
                JobId(name), name, JobStatus(JobState.RUNNING if name.count("-") == 2 else JobState.COMPLETED)
            )
            for name in result.stdout.split()
        ]


@pytest.fixture
def provider() -> Made:
    made = Made()
    made.say("submit", "1")
    made.say("cancel", "")
    return made


def spec(folder: Path, name: str = "throughway-ab12-0") -> JobSpec:
    return JobSpec(name, ["true"], 1, str(folder))


def test_the_script_runs_as_it_is(tmp_path: Path) -> None:
    """Without a scheduler: bash runs what `render` gives."""
    made = Made(worker_init="echo init", node_init="echo node", walltime=100)
    job = JobSpec(
        "throughway-ab12-0", ["bash", "-c", "echo $A $THROUGHWAY_JOB; exit 5"], 1, str(tmp_path), {"A": "b c"}
    )
    done = subprocess.run(
        ["bash", "-c", made.render(job)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "init\nnode\nb c throughway-ab12-0\n", "")
    assert Path(job.exit_file).read_text() == "5\n"
    assert sorted(os.listdir(tmp_path)) == ["throughway-ab12-0.exit", "throughway-ab12-0.node.sh"]


def test_the_script_names_the_end_of_the_block(tmp_path: Path) -> None:
    job = JobSpec(
        "throughway-ab12-0",
        ["bash", "-c", "echo $(( THROUGHWAY_BLOCK_END - $(date +%s) ))"],
        1,
        str(tmp_path),
    )
    text = Made(walltime="00:10:00").render(job)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30, check=True)
    assert 540 <= int(done.stdout) <= 600


def test_node_init_may_hold_the_words_that_end_it(tmp_path: Path) -> None:
    made = Made(node_init="cat <<end-of-node-init\nhello\nend-of-node-init")
    done = subprocess.run(
        ["bash", "-c", made.render(spec(tmp_path))], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "hello\n"


def test_a_working_directory_that_the_node_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "it's gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    text = Made().render(spec(tmp_path))
    monkeypatch.chdir(tmp_path)
    gone.rmdir()
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30, check=True)
    assert f"has no folder {gone}; the job starts in {tmp_path}" in done.stderr


def test_many_jobs_are_asked_about_and_cancelled_in_parts(provider: Made) -> None:
    provider.say("status", " ".join(f"{number}:running" for number in range(7)))
    ids = [JobId(str(number)) for number in range(7)]
    assert all(status.state is JobState.RUNNING for status in provider.status(ids).values())
    assert [len(line) - 1 for line in provider.asked] == [3, 3, 1]
    assert provider.cancel(ids) == dict.fromkeys(ids, True)
    assert [line[0] for line in provider.asked[3:]] == ["cancel"] * 3


def test_what_has_ended_is_not_asked_about_again(provider: Made, tmp_path: Path) -> None:
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.say("status", "1:completed")
    first = provider.status([job])
    provider.asked.clear()
    assert provider.status([job]) == first
    assert provider.cancel([job]) == {job: False}
    assert provider.asked == []


def test_a_job_that_vanishes_is_unknown_for_a_while(provider: Made, tmp_path: Path) -> None:
    now = 0.0
    provider._clock = lambda: now
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.say("status", "")
    assert provider.status([job])[job].state is JobState.UNKNOWN
    now = GRACE - 1
    provider.say("status", "1:running")
    assert provider.status([job])[job].state is JobState.RUNNING
    provider.say("status", "")
    now = GRACE + 1
    assert provider.status([job])[job].state is JobState.UNKNOWN, "it has only just vanished again"
    now = 3 * GRACE
    status = provider.status([job])[job]
    assert (status.state, status.exit_code) == (JobState.FAILED, None)
    assert f"{tmp_path}/throughway-ab12-0.exit" in status.message


@pytest.mark.parametrize(("code", "state"), [("0\n", JobState.COMPLETED), ("9\n", JobState.FAILED)])
def test_a_job_that_vanishes_and_wrote_down_its_end(
    provider: Made, tmp_path: Path, code: str, state: JobState
) -> None:
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.say("status", "")
    Path(spec(tmp_path).exit_file).write_text(code)
    status = provider.status([job])[job]
    assert (status.state, status.exit_code) == (state, int(code))


def test_a_job_that_was_cancelled_and_vanishes_is_cancelled(provider: Made, tmp_path: Path) -> None:
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.cancel([job])
    provider.say("status", "")
    assert provider.status([job])[job].state is JobState.CANCELLED


def test_a_cancelled_job_that_ends_by_itself_has_completed(provider: Made, tmp_path: Path) -> None:
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.cancel([job])
    provider.say("status", "1:completed")
    assert provider.status([job])[job].state is JobState.COMPLETED


def test_no_answer_raises_and_is_remembered_of_nothing(provider: Made, tmp_path: Path) -> None:
    (job,) = provider.submit([spec(tmp_path)])
    assert not isinstance(job, SubmitFailure)
    provider.answers["status"] = SchedulerError("the lights are off")
    with pytest.raises(SchedulerError, match="the lights are off"):
        provider.status([job])
    provider.say("status", "1:running")
    assert provider.status([job])[job].state is JobState.RUNNING


def test_a_submission_in_doubt_is_looked_for_and_the_matter_closed(provider: Made, tmp_path: Path) -> None:
    provider.answers["submit"] = CommandTimedOut("it took too long")
    outcomes = provider.submit([spec(tmp_path), spec(tmp_path, "throughway-ab12-1")])
    assert all(isinstance(outcome, SubmitFailure) for outcome in outcomes)
    assert [line[0] for line in provider.asked] == ["submit"], "the second was not tried"
    provider.say("list", "throughway-ab12-1 throughway-xx-0")
    for _ in range(module.DOUBTS):
        provider.status([])
    assert [line[0] for line in provider.asked] == ["submit", *["list"] * module.DOUBTS]
    provider.status([])
    assert len(provider.asked) == 1 + module.DOUBTS


def test_a_submission_in_doubt_that_was_accepted_is_cancelled(provider: Made, tmp_path: Path) -> None:
    provider.answers["submit"] = CommandTimedOut("it took too long")
    provider.submit([spec(tmp_path)])
    provider.say("list", "throughway-ab12-0")
    provider.status([])
    assert provider.asked[-1] == ["cancel", "throughway-ab12-0"]


def test_jobs_of_a_run(provider: Made) -> None:
    provider.say(
        "list", "throughway-ab12-0 throughway-ab12-10 throughway-ab123-0 throughway-ab12-0-ended other"
    )
    assert [job.name for job in provider.jobs_of("ab12")] == ["throughway-ab12-0", "throughway-ab12-10"]


def test_ended_jobs_are_forgotten_in_the_end(
    provider: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 5)
    for number in range(30):
        provider.say("submit", str(number))
        (job,) = provider.submit([spec(tmp_path)])
        assert not isinstance(job, SubmitFailure)
        provider.say("status", f"{number}:completed")
        provider.status([job])
    assert len(provider._known) <= 11
