from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.providers.batch_cases import BatchCases
from tests.providers.conformance import System, impostor, jobs
from tests.providers.fakes.cluster import FakeCluster
from throughway.providers.command import CommandResult
from throughway.providers.interface import JobId, JobSpec, JobState, SchedulerError
from throughway.providers.torque import TorqueProvider

__all__ = ["impostor", "jobs"]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    cluster = FakeCluster(tmp_path, monkeypatch, "torque")
    yield cluster
    cluster.end()


@pytest.fixture
def system(cluster: FakeCluster) -> System:
    commands = {"submit": "qsub", "status": "qstat", "cancel": "qdel"}
    return System(TorqueProvider, {"queue": "nosuch"}, "Unknown queue", commands)


class TestTorque(BatchCases):
    pass


RECORDED = """\
Job Id: 24.torque.example.org
    Job_Name = throughway-r-0
    Job_Owner = user@login.example.org
    resources_used.cput = 00:00:00
    resources_used.walltime = 00:10:03
    job_state = C
    queue = batch
    Error_Path = login.example.org:/runs/a-rather-long-folder-name/throughway-r-0.
\tstderr
    exec_host = node7/0-3+node8/0-3
    Resource_List.nodes = 2:ppn=4
    Resource_List.walltime = 00:10:00
    Variable_List = PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,
\tjob_state = Q,PBS_O_LANG=C
    exit_status = 271

Job Id: 25.torque.example.org
    Job_Name = throughway-r-1
    job_state = H
    Hold_Types = u

"""


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> CommandResult:
    return CommandResult(["qstat"], exit_code, stdout, stderr)


def ended(attributes: str) -> tuple[JobState, int | None]:
    text = f"Job Id: 24.torque\n    job_state = C\n    {attributes}\n"
    found = TorqueProvider().parse_status(said(text), [JobId("24.torque")])[JobId("24.torque")]
    return found.state, found.exit_code


def test_directives() -> None:
    provider = TorqueProvider(
        queue="batch", account="proj", cores_per_node=16, nodes_per_block=2, mem_per_node=1
    )
    script = provider.render(JobSpec("throughway-r-7", ["manager"], 2, "/runs/r"))
    lines = [line for line in script.splitlines() if line.startswith("#PBS")]
    assert lines[5:] == [
        "#PBS -l nodes=2:ppn=16",
        "#PBS -l mem=2048mb",
        "#PBS -l walltime=00:20:00",
        "#PBS -A proj",
        "#PBS -q batch",
    ]


def test_recorded() -> None:
    ids = [JobId("24.torque.example.org"), JobId("25.torque.example.org"), JobId("26.torque.example.org")]
    result = said(RECORDED, "qstat: Unknown Job Id 26.torque.example.org", 153)
    found = TorqueProvider().parse_status(result, ids)
    assert [found[job_id].state for job_id in ids[:2]] == [JobState.TIMEOUT, JobState.HELD]
    assert found[ids[0]].exit_code == 143
    assert found[ids[0]].hosts == ("node7", "node8")
    assert found[ids[1]].message.startswith("held (u)")
    assert ids[2] not in found


def test_a_long_value_goes_on() -> None:
    job = TorqueProvider().parse_jobs(RECORDED)["24.torque.example.org"]
    assert job["Error_Path"].endswith("/throughway-r-0.stderr")
    assert job["job_state"] == "C"


def test_ends() -> None:
    assert ended("exit_status = 0") == (JobState.COMPLETED, 0)
    assert ended("exit_status = 2") == (JobState.FAILED, 2)
    assert ended("exit_status = -11") == (JobState.TIMEOUT, None)
    assert ended("exit_status = -10") == (JobState.FAILED, None)
    assert ended("comment = deleted") == (JobState.CANCELLED, None)


@pytest.mark.parametrize("text", ["qstat is not available today", "Job Id: 24.torque\n    Job_Name = x\n"])
def test_what_is_not_understood_says_nothing(text: str) -> None:
    with pytest.raises(SchedulerError, match="Nothing is concluded"):
        TorqueProvider().parse_status(said(text), [JobId("24")])
