from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.batch_cases import BatchCases
from tests.providers.conformance import System, impostor, jobs
from tests.providers.fakes.cluster import FakeCluster
from throughway.errors import ConfigurationError
from throughway.launchers import MpiExecLauncher, SimpleLauncher
from throughway.providers.command import CommandResult
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, SchedulerError, SubmitFailure
from throughway.providers.pbs import PBSProProvider

__all__ = ["impostor", "jobs"]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    cluster = FakeCluster(tmp_path, monkeypatch)
    yield cluster
    cluster.end()


@pytest.fixture
def system(cluster: FakeCluster) -> System:
    commands = {"submit": "qsub", "status": "qstat", "cancel": "qdel"}
    return System(PBSProProvider, {"queue": "nosuch"}, "Unknown queue", commands)


class TestPBSPro(BatchCases):
    pass


SPEC = JobSpec("throughway-r-7", ["manager", "a b"], 1, "/runs/r")


def said(stdout: str = "", stderr: str = "", exit_code: int = 0, command: str = "qstat") -> CommandResult:
    return CommandResult([command], exit_code, stdout, stderr)


def job(attributes: str, job_id: str = "1008.pbs01") -> str:
    """One job as qstat writes it, with these lines."""
    lines = "".join(f"            {line.strip()}\n" for line in attributes.strip().splitlines())
    return (
        '{\n    "timestamp":1618432467,\n    "pbs_version":"20.0.1",\n    "pbs_server":"pbs01",\n    "Jobs":{\n'
        f'        "{job_id}":{{\n{lines}        }}\n    }}\n}}\n'
    )


def status(attributes: str) -> JobStatus:
    provider = PBSProProvider()
    job_id = JobId("1008.pbs01")
    return provider.parse_status(said(job(attributes)), [job_id])[job_id]


def head(provider: PBSProProvider, spec: JobSpec = SPEC) -> list[str]:
    return [line for line in provider.render(spec).splitlines() if line.startswith("#PBS")]


def test_directives() -> None:
    provider = PBSProProvider(
        account="proj", queue="prod", select_options="ngpus=4", cpus_per_node=64, nodes_per_block=2,
        mem_per_node=1.5, walltime="01:30:00", scheduler_options="#PBS -l filesystems=home",
    )  # fmt: skip
    spec = JobSpec("throughway-r-7", ["manager"], 2, "/runs/r")
    assert head(provider, spec) == [
        "#PBS -N throughway-r-7",
        "#PBS -S /bin/bash",
        "#PBS -j oe",
        "#PBS -o /runs/r/throughway-r-7.scheduler",
        "#PBS -r n",
        "#PBS -l select=2:ncpus=64:mem=1536mb:ngpus=4",
        "#PBS -l place=scatter",
        "#PBS -l walltime=01:30:00",
        "#PBS -A proj",
        "#PBS -q prod",
        "#PBS -l filesystems=home",
    ]


def test_own_placement_wins() -> None:
    provider = PBSProProvider(nodes_per_block=2, scheduler_options="#PBS -l place=scatter:excl")
    spec = JobSpec("throughway-r-7", ["manager"], 2, "/runs/r")
    assert [line for line in head(provider, spec) if "place" in line] == ["#PBS -l place=scatter:excl"]


def test_launcher_fits_the_number_of_nodes() -> None:
    assert isinstance(PBSProProvider().launcher, SimpleLauncher)
    assert isinstance(PBSProProvider(nodes_per_block=2).launcher, MpiExecLauncher)


def test_cores_are_those_of_the_nodes() -> None:
    assert PBSProProvider(cpus_per_node=64).cores_per_node == 64


@pytest.mark.parametrize(
    "parameters",
    [
        {"queue": "a b"},
        {"account": ""},
        {"cpus_per_node": 0},
        {"select_options": "a b"},
        {"scheduler_options": "-l x"},
    ],
)
def test_what_cannot_work_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(parameters))):
        PBSProProvider(**parameters)


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("1008.pbs01\n", "1008.pbs01"),
        ("Using project proj\n\n1008.pbs01.example.org\n", "1008.pbs01.example.org"),
        ("1008[].pbs01\n", "1008[].pbs01"),
        ("1008\n", "1008"),
    ],
)
def test_ids(stdout: str, job_id: str) -> None:
    assert PBSProProvider().parse_submit(said(stdout)) == job_id


@pytest.mark.parametrize(
    ("stderr", "remedy", "permanent"),
    [
        ("qsub: Unknown queue", "qstat -Q", True),
        ("qsub: Job violates queue and/or server resource limits", "run the command by hand", False),
        ("qsub: Job exceeds queue and/or server resource limits", "walltime=", True),
        ("qsub: would exceed queue generic's per-user limit of jobs in 'Q' state", "max_blocks=", False),
        ("qsub: cannot connect to server pbs01 (errno=111)", "qstat -B", False),
        ("qsub: Invalid account", "account=", True),
        ("qsub: Unknown resource Resource_List.ngpu", "select_options=", True),
        ("qsub: Illegal attribute or resource value Resource_List.walltime", "select_options=", True),
    ],
)
def test_refusals(stderr: str, remedy: str, permanent: bool) -> None:
    outcome = PBSProProvider().parse_submit(said(stderr=stderr, exit_code=1))
    assert isinstance(outcome, SubmitFailure)
    assert stderr in outcome.message
    assert remedy in outcome.message
    assert outcome.permanent is permanent


def test_no_id_is_no_submission() -> None:
    outcome = PBSProProvider().parse_submit(said("welcome\n"))
    assert isinstance(outcome, SubmitFailure)
    assert "may have been accepted" in outcome.message


@pytest.mark.parametrize(
    ("letter", "state"),
    [
        ("Q", JobState.PENDING), ("T", JobState.PENDING), ("W", JobState.PENDING), ("R", JobState.RUNNING),
        ("E", JobState.RUNNING), ("B", JobState.RUNNING), ("H", JobState.HELD), ("S", JobState.HELD),
        ("U", JobState.HELD), ("M", JobState.UNKNOWN), ("?", JobState.UNKNOWN),
    ],
)  # fmt: skip
def test_states(letter: str, state: JobState) -> None:
    assert status(f'"job_state":"{letter}"').state is state


def test_a_running_job_names_its_hosts() -> None:
    found = status('"job_state":"R",\n"exec_host":"nid001/0*64+nid001/1+nid002/0*64"')
    assert found.hosts == ("nid001", "nid002")


def test_a_waiting_job_says_why() -> None:
    comment = "Not Running: Insufficient amount of resource: ncpus (R: 64 A: 0 T: 128)"
    assert status(f'"job_state":"Q",\n"comment":"{comment}"') == JobStatus(JobState.PENDING, None, comment)


def test_a_held_job_says_by_whom() -> None:
    found = status(
        '"job_state":"H",\n"Hold_Types":"s",\n"comment":"job held, too many failed attempts to run"'
    )
    assert found.message == "held (s): job held, too many failed attempts to run"


@pytest.mark.parametrize(
    ("attributes", "state", "code"),
    [
        ('"Exit_status":0', JobState.COMPLETED, 0),
        ('"Exit_status":3', JobState.FAILED, 3),
        ('"Exit_status":137', JobState.FAILED, 137),
        ('"Exit_status":265', JobState.FAILED, 137),
        ('"Exit_status":271,\n"substate":91', JobState.CANCELLED, 143),
        ('"substate":91', JobState.CANCELLED, None),
        ('"Exit_status":-29', JobState.TIMEOUT, None),
        ('"Exit_status":-27', JobState.FAILED, None),
        ('"Exit_status":-99', JobState.FAILED, None),
        (
            '"Exit_status":271,\n"resources_used":{\n"walltime":"00:10:07"\n},\n"Resource_List":{\n"walltime":"00:10:00"\n}',
            JobState.TIMEOUT,
            143,
        ),
    ],
)
def test_ends(attributes: str, state: JobState, code: int | None) -> None:
    found = status(f'"job_state":"F",\n{attributes}')
    assert (found.state, found.exit_code) == (state, code)
    assert found.message or found.state in (JobState.COMPLETED, JobState.FAILED)


def test_what_is_no_json_is_read_line_by_line() -> None:
    """Values that PBS has written without quotes, with escapes that JSON does not know, and with quotes inside."""
    text = (
        '{\n    "timestamp":1,\n    "Jobs":{\n'
        '        "12.pbs01":{\n'
        '            "Job_Name":"throughway-r-0",\n'
        '            "comment":"see "this" file",\n'
        '            "job_state":"F",\n'
        '            "resources_used":{\n                "walltime":"00:20:01"\n            },\n'
        '            "Exit_status":265,\n'
        '            "Resource_List":{\n                "walltime":"00:20:00"\n            },\n'
        '            "Variable_List":{\n                "job_state":"R",\n                "LEVEL":005,\n'
        '                "X":"a\\,b",\n                "13.pbs01":{\n            }\n'
        "        },\n"
        '        "14.pbs01":{\n            "job_state":"R"\n        }\n    }\n}\n'
    )
    found = PBSProProvider().parse_status(said(text), [JobId("12.pbs01"), JobId("14.pbs01")])
    assert found[JobId("12.pbs01")].state is JobState.TIMEOUT
    assert found[JobId("14.pbs01")].state is JobState.RUNNING
    assert len(found) == 2


def test_unknown_jobs_are_left_out_and_the_others_are_not() -> None:
    text = job('"job_state":"R"')
    result = said(text, "qstat: Unknown Job Id 9.pbs01\nqstat: 8.pbs01 Job has finished, use -x or -H\n", 153)
    found = PBSProProvider().parse_status(
        result, [JobId("9.pbs01"), JobId("1008.other-name"), JobId("8.pbs01")]
    )
    assert {job_id: entry.state for job_id, entry in found.items()} == {"1008.other-name": JobState.RUNNING}


def test_no_jobs_at_all_is_an_answer() -> None:
    assert PBSProProvider().parse_status(said('{"timestamp":1,"pbs_server":"x"}'), [JobId("1")]) == {}


@pytest.mark.parametrize(
    "result",
    [
        said(stderr="qstat: cannot connect to server pbs01 (errno=15010)", exit_code=255),
        said(stderr="qstat: Unknown Job Id 9\nqstat: End of File", exit_code=153),
        said(exit_code=1),
        said("<html>maintenance</html>"),
        said("[]"),
        said('{"Jobs":[]}'),
        said('{"Jobs":{"1.x":3}}'),
    ],
)
def test_no_answer_says_nothing(result: CommandResult) -> None:
    with pytest.raises(SchedulerError, match="Nothing is concluded"):
        PBSProProvider().parse_status(result, [JobId("9")])


def test_cancelling() -> None:
    provider = PBSProProvider()
    ids = [JobId(f"{number}.pbs01") for number in (1, 12, 3, 4)]
    assert provider.parse_cancel(said(command="qdel"), ids) == dict.fromkeys(ids, True)
    complaints = [
        "Unknown Job Id 12.pbs01",
        "Job has finished 3.pbs01",
        "Request invalid for state of job 4.pbs01",
    ]
    stderr = "".join(f"qdel: {complaint}\n" for complaint in complaints)
    found = provider.parse_cancel(said(stderr=stderr, exit_code=35, command="qdel"), ids)
    assert list(found.values()) == [True, False, False, True]
    with pytest.raises(SchedulerError):
        provider.parse_cancel(said(stderr="qdel: cannot connect to server pbs01", exit_code=1), ids)
