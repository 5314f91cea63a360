from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.batch_cases import BatchCases
from tests.providers.conformance import Jobs, System, impostor, jobs
from tests.providers.fakes.cluster import FakeCluster
from throughway.errors import ConfigurationError
from throughway.providers.command import CommandResult
from throughway.providers.htcondor import CondorProvider, HTCondorProvider
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, SchedulerError, SubmitFailure

__all__ = ["impostor", "jobs"]

pytestmark = pytest.mark.timeout(60)

COMMANDS = {"submit": "condor_submit", "status": "condor_q", "cancel": "condor_rm"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    cluster = FakeCluster(tmp_path, monkeypatch)
    yield cluster
    cluster.end()


@pytest.fixture
def system(cluster: FakeCluster) -> System:
    return System(HTCondorProvider, {"requirements": "(Memory > 1"}, "Parse error in expression", COMMANDS)


class TestHTCondor(BatchCases):
    def test_a_block_of_several_slots(self, system: System, tmp_path: Path) -> None:
        provider = system.make(nodes_per_block=3)
        command = 'echo "$FAKE_PROCESS"; exit $((FAKE_PROCESS == 1 ? 4 : 0))'
        spec = self.spec(tmp_path, "bash", "-c", command, nodes=3)
        (job_id,) = self.submit(provider, spec)
        status = self.ended(provider, job_id)
        assert (status.state, status.exit_code) == (JobState.FAILED, 4)
        assert status.tail().stdout == "1"
        assert [Path(f"{spec.stdout}.{index}").read_text() for index in range(3)] == ["0\n", "1\n", "2\n"]

    def test_the_history_tells_of_a_job_whose_script_wrote_nothing(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("sleep", "1000"))
        subprocess.run(["condor_rm", "-forcex", job], check=True, capture_output=True)
        assert "condor_rm" in jobs.ended(provider, [job])[job].message

    def test_variables_of_the_jobs(self, system: System, tmp_path: Path) -> None:
        provider = system.make(environment={"SITE": "a 'b'"})
        (job_id,) = self.submit(provider, self.spec(tmp_path, "bash", "-c", 'echo "$SITE"'))
        assert self.ended(provider, job_id).tail().stdout == "a 'b'"


SPEC = JobSpec("throughway-r-7", ["manager"], 1, "/runs/r", exclude=["bad.example.org"])


def said(ads: object = (), stderr: str = "", exit_code: int = 0) -> CommandResult:
    text = ads if isinstance(ads, str) else json.dumps(ads)
    return CommandResult(["condor_q"], exit_code, text, stderr)


def status(*ads: dict[str, Any]) -> JobStatus:
    full = [{"ClusterId": 17, "ProcId": index, **ad} for index, ad in enumerate(ads)]
    return HTCondorProvider().parse_status(said(full), [JobId("17")])[JobId("17")]


def test_description() -> None:
    provider = HTCondorProvider(
        cores_per_slot=4, mem_per_slot=2.5, project="group.a", requirements="HasX == true", walltime="00:30:00",
        transfer_input_files=["/data/a", "/data/b"], scheduler_options="+JobFlavour = workday\nrank = Memory",
    )  # fmt: skip
    lines = provider.description(SPEC).splitlines()
    for line in (
        "executable = /runs/r/throughway-r-7.sh",
        "batch_name = throughway-r-7",
        "output = /runs/r/throughway-r-7.stdout",
        "error = /runs/r/throughway-r-7.stderr",
        "request_cpus = 4",
        "request_memory = 2560",
        'requirements = (HasX == true) && (Machine != "bad.example.org")',
        "accounting_group = group.a",
        "periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > 1800",
        "transfer_input_files = /data/a, /data/b",
        "should_transfer_files = yes",
    ):
        assert line in lines
    assert lines[-3:] == ["+JobFlavour = workday", "rank = Memory", "queue 1"]
    script = provider.render(SPEC).splitlines()
    assert [f"# {line}" in script for line in lines] == [True] * len(lines)
    assert provider.cores_per_node == 4


def test_a_record_with_options_makes_the_same_description_again() -> None:
    provider = HTCondorProvider(scheduler_options="rank = Memory", transfer_input_files=["/x"])
    again = HTCondorProvider(**provider.record().parameters)
    assert again.description(SPEC) == provider.description(SPEC)


def test_processes_of_a_block_have_their_own_output() -> None:
    spec = JobSpec("throughway-r-7", ["manager"], 4, "/runs/r")
    lines = HTCondorProvider(nodes_per_block=4, walltime=None).description(spec).splitlines()
    assert "output = /runs/r/throughway-r-7.stdout.$(Process)" in lines
    assert lines[-1] == "queue 4"
    assert not any(line.startswith("periodic_remove") for line in lines)


def test_the_name_that_parsl_has_for_it() -> None:
    assert CondorProvider is HTCondorProvider


@pytest.mark.parametrize(
    "parameters",
    [
        {"transfer_input_files": "/data/a"},
        {"requirements": "a\nb"},
        {"project": "a b"},
        {"cores_per_slot": 0},
    ],
)
def test_what_cannot_work_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(parameters))):
        HTCondorProvider(**parameters)


def test_submission() -> None:
    provider = HTCondorProvider()
    assert provider.parse_submit(said("1234.0 - 1234.3\n")) == "1234"
    assert provider.parse_submit(said("Submitting job(s).\n1 job(s) submitted to cluster 77.\n")) == "77"
    outcome = provider.parse_submit(said("", "\nERROR: Can't find address of local schedd", 1))
    assert isinstance(outcome, SubmitFailure)
    assert not outcome.permanent
    assert "schedd" in outcome.message


LATE = "removed at its walltime (PeriodicRemove)"


@pytest.mark.parametrize(
    ("ad", "state", "code", "message"),
    [
        ({"JobStatus": 1}, JobState.PENDING, None, ""),
        ({"JobStatus": 2, "RemoteHost": "slot1_2@a1"}, JobState.RUNNING, None, ""),
        ({"JobStatus": 6}, JobState.RUNNING, None, ""),
        ({"JobStatus": 5, "HoldReason": "memory exceeded"}, JobState.HELD, None, "memory exceeded"),
        ({"JobStatus": 7}, JobState.HELD, None, "suspended"),
        ({"JobStatus": 4, "ExitCode": 0, "ExitBySignal": False}, JobState.COMPLETED, 0, ""),
        ({"JobStatus": 4, "ExitCode": 3, "ExitBySignal": False}, JobState.FAILED, 3, ""),
        ({"JobStatus": 4, "ExitSignal": 9, "ExitBySignal": True}, JobState.FAILED, 137, "ended by signal 9"),
        ({"JobStatus": 3, "RemoveReason": "condor_rm by u"}, JobState.CANCELLED, None, "condor_rm by u"),
        ({"JobStatus": 3, "RemoveReason": "PeriodicRemove"}, JobState.TIMEOUT, None, LATE),
        ({"JobStatus": 12}, JobState.UNKNOWN, None, "JobStatus is 12"),
        ({}, JobState.UNKNOWN, None, "JobStatus is None"),
    ],
)  # fmt: skip
def test_states(ad: dict[str, Any], state: JobState, code: int | None, message: str) -> None:
    found = status(ad)
    assert (found.state, found.exit_code, found.message) == (state, code, message)


def test_a_block_runs_while_one_process_does() -> None:
    done = {"JobStatus": 4, "ExitCode": 0}
    failed = {"JobStatus": 4, "ExitCode": 2}
    assert status(done, {"JobStatus": 2, "RemoteHost": "slot1@a2"}).state is JobState.RUNNING
    assert status(done, {"JobStatus": 2, "RemoteHost": "slot1@a2"}).hosts == ("a2",)
    assert status(done, {"JobStatus": 1}).state is JobState.PENDING
    assert status(done, failed).exit_code == 2
    assert status(done, done).state is JobState.COMPLETED
    held = status({"JobStatus": 2}, {"JobStatus": 5, "HoldReason": "no such file"})
    assert held.state is JobState.RUNNING
    assert held.message == "1 of 2 processes are held: no such file"


@pytest.mark.parametrize(
    "result",
    [
        said("", "-- Failed to fetch ads from: <10.0.0.1:9618> : host", 1),
        said("-- Schedd: host : <10.0.0.1>\n"),
        said({"ClusterId": 1}),
        said([{"ProcId": 1}]),
    ],
)
def test_no_answer_says_nothing(result: CommandResult) -> None:
    with pytest.raises(SchedulerError, match="Nothing is concluded"):
        HTCondorProvider().parse_status(result, [JobId("1")])


def test_no_jobs_at_all_is_an_answer() -> None:
    assert HTCondorProvider().parse_status(said(""), [JobId("1")]) == {}


def test_cancelling() -> None:
    stderr = "Couldn't find/remove all jobs in cluster 18\n"
    result = said("All jobs in cluster 17 have been marked for removal\n", stderr, 1)
    assert HTCondorProvider().parse_cancel(result, [JobId("17"), JobId("18")]) == {"17": True, "18": False}


def test_force_does_not_wait_for_the_slots() -> None:
    assert HTCondorProvider().cancel_commands([JobId("17")], True)[1] == ["condor_rm", "-forcex", "17"]
