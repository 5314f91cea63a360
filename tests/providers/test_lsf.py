from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.batch_cases import BatchCases
from tests.providers.conformance import System, impostor, jobs
from tests.providers.fakes.cluster import FakeCluster
from throughway.errors import ConfigurationError
from throughway.launchers import JsrunLauncher, MpiExecLauncher, SimpleLauncher
from throughway.providers.command import CommandResult
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, SchedulerError, SubmitFailure
from throughway.providers.lsf import LSFProvider

__all__ = ["impostor", "jobs"]

pytestmark = pytest.mark.timeout(60)

COMMANDS = {"submit": "bsub", "status": "bjobs", "cancel": "bkill"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    cluster = FakeCluster(tmp_path, monkeypatch)
    yield cluster
    cluster.end()


@pytest.fixture
def system(cluster: FakeCluster) -> System:
    return System(LSFProvider, {"queue": "nosuch"}, "No such queue", COMMANDS)


class TestLSF(BatchCases):
    def test_the_script_on_standard_input(self, system: System, tmp_path: Path) -> None:
        provider = system.make(bsub_redirection=True)
        (job_id,) = self.submit(provider, self.spec(tmp_path, "bash", "-c", "exit 6"))
        assert self.ended(provider, job_id).exit_code == 6


SPEC = JobSpec("throughway-r-7", ["manager"], 2, "/runs/r", exclude=["bad2", "bad1"])


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> CommandResult:
    return CommandResult(["bjobs"], exit_code, stdout, stderr)


def head(provider: LSFProvider, spec: JobSpec = SPEC) -> list[str]:
    return [line for line in provider.render(spec).splitlines() if line.startswith("#BSUB")]


def status(row: str) -> JobStatus:
    job_id = JobId("17")
    return LSFProvider().parse_status(said(row + "\n"), [job_id])[job_id]


def test_whole_nodes() -> None:
    provider = LSFProvider(nodes_per_block=2, project="abc123", queue="batch", walltime=5400.5)
    assert head(provider) == [
        "#BSUB -J throughway-r-7",
        "#BSUB -o /runs/r/throughway-r-7.scheduler",
        "#BSUB -nnodes 2",
        "#BSUB -R \"select[hname!='bad1' && hname!='bad2']\"",
        "#BSUB -W 01:31",
        "#BSUB -wa USR1",
        "#BSUB -wt 2",
        "#BSUB -P abc123",
        "#BSUB -q batch",
    ]
    assert isinstance(provider.launcher, JsrunLauncher)


@pytest.mark.parametrize(
    ("parameters", "count", "per_node"),
    [
        ({"cores_per_node": 16}, 32, 16),
        ({"cores_per_block": 10}, 10, 5),
        ({"cores_per_block": 9}, 9, 5),
        ({"cores_per_block": 20, "cores_per_node": 10}, 20, 10),
    ],
)
def test_cores(parameters: dict[str, int], count: int, per_node: int) -> None:
    provider = LSFProvider(nodes_per_block=2, request_by_nodes=False, mem_per_node=2, **parameters)  # type: ignore[arg-type]
    lines = head(provider)
    assert lines[2:5] == [
        f"#BSUB -n {count}",
        f'#BSUB -R "span[ptile={per_node}]"',
        '#BSUB -R "rusage[mem=2048MB/host]"',
    ]
    assert isinstance(provider.launcher, MpiExecLauncher)


def test_one_node_needs_no_launcher() -> None:
    assert isinstance(LSFProvider().launcher, SimpleLauncher)


def test_without_a_number_of_cores() -> None:
    with pytest.raises(ConfigurationError, match="cores_per_node= or cores_per_block="):
        LSFProvider(request_by_nodes=False)


def test_options_of_the_command_are_those_of_the_script() -> None:
    provider = LSFProvider(
        scheduler_options='#BSUB -R "select[type==any] order[ut]"\n#BSUB -alloc_flags smt4', walltime=None
    )
    spec = JobSpec("throughway-r-7", ["manager"], 1, "/a b")
    assert provider.submit_command(spec) == [
        "bsub", "-J", "throughway-r-7", "-o", "/dev/null", "-nnodes", "1", "-R", "select[type==any] order[ut]",
        "-alloc_flags", "smt4", "'/a b/throughway-r-7.sh'",
    ]  # fmt: skip


def test_submission() -> None:
    provider = LSFProvider()
    assert (
        provider.parse_submit(said("Group <x>: info\nJob <4711> is submitted to queue <normal>.\n")) == "4711"
    )
    outcome = provider.parse_submit(said(stderr="nosuch: No such queue. Job not submitted.", exit_code=255))
    assert isinstance(outcome, SubmitFailure)
    assert outcome.permanent
    assert "bqueues" in outcome.message


@pytest.mark.parametrize(
    ("row", "state", "code", "message"),
    [
        ("17^PEND^-^-^n^-^New job;", JobState.PENDING, None, "New job;"),
        ("17^PSUSP^-^-^n^-^Suspended by the user;", JobState.HELD, None, "Suspended by the user;"),
        ("17^RUN^-^-^n^4*a1:4*a2^-", JobState.RUNNING, None, ""),
        ("17^USUSP^-^-^n^a1^-", JobState.HELD, None, "suspended by its owner or an administrator: bresume releases it"),
        ("17^SSUSP^-^-^n^a1^-", JobState.HELD, None, "suspended by LSF, as its host is loaded or its queue closed"),
        ("17^UNKWN^-^-^n^a1^-", JobState.UNKNOWN, None, "LSF has lost the contact to the job's host"),
        ("17^NEWONE^-^-^n^a1^-", JobState.UNKNOWN, None, "its state is 'NEWONE'"),
        ("17^DONE^-^-^n^a1^-", JobState.COMPLETED, 0, ""),
        ("17^EXIT^3^-^n^a1^-", JobState.FAILED, 3, ""),
        ("17^EXIT^140^TERM_RUNLIMIT: run time^n^a1^-", JobState.TIMEOUT, 140, "TERM_RUNLIMIT: run time"),
        ("17^EXIT^130^TERM_OWNER: by owner^n^a1^-", JobState.CANCELLED, 130, "TERM_OWNER: by owner"),
        ("17^EXIT^137^TERM_MEMLIMIT: memory^n^a1^-", JobState.FAILED, 137, "TERM_MEMLIMIT: memory"),
        ("17^ZOMBI^-^-^n^a1^-", JobState.CANCELLED, None, ""),
    ],
)  # fmt: skip
def test_states(row: str, state: JobState, code: int | None, message: str) -> None:
    found = status(row)
    assert (found.state, found.exit_code, found.message) == (state, code, message)


def test_hosts() -> None:
    assert status("17^RUN^-^-^n^4*a1:4*a2:a2^-").hosts == ("a1", "a2")


def test_unknown_jobs_are_left_out_and_the_others_are_not() -> None:
    result = said("17^RUN^-^-^n^a1^-\n", "Job <18> is not found\n", 255)
    assert list(LSFProvider().parse_status(result, [JobId("17"), JobId("18")])) == ["17"]
    assert LSFProvider().parse_list(said(stderr="No unfinished job found\n", exit_code=255)) == []


@pytest.mark.parametrize(
    "result",
    [
        said(stderr="Cannot connect to LSF. Please wait ...", exit_code=255),
        said(stderr="Job <18> is not found\nLSF is down. Please wait ...", exit_code=255),
        said(exit_code=1),
        said("17 RUN\n"),
    ],
)
def test_no_answer_says_nothing(result: CommandResult) -> None:
    with pytest.raises(SchedulerError, match="Nothing is concluded"):
        LSFProvider().parse_status(result, [JobId("18")])


def test_cancelling() -> None:
    stdout = "Job <17> is being terminated\n"
    stderr = "Job <18>: No matching job found\nJob <19>: Job has already finished\nJob <20>: Operation is in progress\n"
    ids = [JobId(str(number)) for number in range(17, 21)]
    found = LSFProvider().parse_cancel(said(stdout, stderr, 255), ids)
    assert found == {"17": True, "18": False, "19": False, "20": True}


def test_record_makes_the_same_provider_again() -> None:
    provider = LSFProvider(queue="batch", nodes_per_block=2)
    record: dict[str, Any] = provider.record().parameters
    assert record["queue"] == "batch"
    assert repr(LSFProvider(**record)).startswith("LSFProvider(")
