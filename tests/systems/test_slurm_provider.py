"""What only a real Slurm shows: held and lost jobs, warnings, nodes left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.systems.slurm_cluster import SlurmCluster
from tests.waiting import wait_until
from throughway.providers import JobId, JobSpec, JobState, JobStatus, SlurmProvider, SubmitFailure
from throughway.providers.interface import job_name

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]

LISTENER = """\
import os, signal, sys
signals = [signal.SIGUSR1, signal.SIGTERM]
for number in signals:
    signal.signal(number, lambda number, frame: None)  # it may have come in ignored
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready on", os.environ["SLURMD_NODENAME"], flush=True)
while True:
    name = signal.Signals(signal.sigwait(signals)).name
    print(name, flush=True)
    if name == "SIGTERM":
        break
"""


def spec(folder: Path, *command: str, nodes: int = 1, exclude: tuple[str, ...] = ()) -> JobSpec:
    return JobSpec(job_name("ab12cd34", "0"), command, nodes, str(folder), exclude=exclude)


def submit(provider: SlurmProvider, job: JobSpec) -> JobId:
    (outcome,) = provider.submit([job])
    assert not isinstance(outcome, SubmitFailure), outcome
    return outcome


def reach(provider: SlurmProvider, job: JobId, *states: JobState, seconds: float = 40) -> JobStatus:
    seen = provider.status([job])[job]

    def there() -> bool:
        nonlocal seen
        seen = provider.status([job])[job]
        return seen.state in states

    wait_until(there, seconds, lambda: f"{states}: {seen}")
    return seen


def said(path: str, text: str, count: int = 1) -> None:
    wait_until(
        lambda: os.path.exists(path) and Path(path).read_text().count(text) >= count,
        30,
        f"{count} times {text}",
    )


def test_a_held_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(scheduler_options="#SBATCH --hold")
    job = submit(provider, spec(tmp_path, "true"))
    status = reach(provider, job, JobState.HELD)
    assert "JobHeldUser" in status.message
    assert "scontrol release" in status.message
    slurm.run("scontrol", "release", job)
    assert reach(provider, job, JobState.COMPLETED).exit_code == 0


def test_a_job_that_waits_says_what_for(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(partition="short", walltime="00:10:00")
    job = submit(provider, spec(tmp_path, "true"))
    wait_until(lambda: provider.status([job])[job].message == "PartitionTimeLimit", 20, "the reason")
    assert provider.status([job])[job].state is JobState.PENDING


@pytest.mark.parametrize("nodes", [1, 2])
def test_signals_reach_the_managers_on_all_nodes(slurm: SlurmCluster, tmp_path: Path, nodes: int) -> None:
    provider = SlurmProvider(nodes_per_block=nodes)
    job_spec = spec(tmp_path, sys.executable, "-c", LISTENER, nodes=nodes)
    job = submit(provider, job_spec)
    said(job_spec.stdout, "ready", nodes)
    # As Slurm itself does for --signal=B:USR1: it signals the script only.
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    said(job_spec.stdout, "SIGUSR1", nodes)
    assert provider.status([job])[job].state is JobState.RUNNING
    assert provider.cancel([job]) == {job: True}
    said(job_spec.stdout, "SIGTERM", nodes)
    assert reach(provider, job, JobState.CANCELLED).message.startswith("Slurm says CANCELLED")


def test_a_warning_before_the_manager_is_ready_ends_nothing(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(
        worker_init=f"touch {tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    )
    job = submit(provider, spec(tmp_path, "true"))
    wait_until((tmp_path / "begun").exists, 30, "worker_init")
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    (tmp_path / "go").touch()
    assert reach(provider, job, JobState.COMPLETED, JobState.FAILED).exit_code == 0


def test_nodes_that_are_left_out(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider()
    job = submit(provider, spec(tmp_path, "sleep", "1000", exclude=("n1", "n3")))
    assert reach(provider, job, JobState.RUNNING).hosts == ("n2",)
    failure = provider.submit([spec(tmp_path, "true", exclude=("nosuch",))])[0]
    assert isinstance(failure, SubmitFailure)


def test_a_folder_that_the_nodes_do_not_have(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(scheduler_options="#SBATCH --output=/no/such/folder/out")
    job = submit(provider, spec(tmp_path, "true"))
    status = reach(provider, job, JobState.FAILED)
    assert "could not open the job's output files on the node" in status.message


def test_the_end_of_a_job_that_squeue_has_forgotten(
    slurm_with_accounting: SlurmCluster, tmp_path: Path
) -> None:
    provider = SlurmProvider()
    job_spec = spec(tmp_path, "bash", "-c", "kill -KILL $PPID")  # the script: it writes no exit code
    job = submit(provider, job_spec)
    listed = ("squeue", "--noheader", "--states=all", f"--jobs={job}")
    wait_until(lambda: not slurm_with_accounting.run(*listed, check=False), 60, "squeue to forget the job")
    status = reach(provider, job, JobState.FAILED)
    assert (status.exit_code, status.hosts[0][0]) == (137, "n")


def test_a_job_of_which_nobody_knows_the_end(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider()
    job = submit(provider, spec(tmp_path, "true"))
    reach(provider, job, JobState.COMPLETED)
    lost = JobId("7777777")
    other = SlurmProvider()
    other._known[lost] = other_job = provider._known[job]  # as if it had been submitted long ago
    other_job.ended = None
    os.unlink(other_job.spec.exit_file)
    moment = 100.0
    other._clock = lambda: moment
    assert other.status([lost])[lost].state is JobState.UNKNOWN
    moment += 3600
    status = other.status([lost])[lost]
    assert (status.state, status.exit_code) == (JobState.FAILED, None)
    assert "there is no record of how it ended" in status.message


@pytest.mark.leaks_allowed("the cluster of the session gets a new daemon for the node")
def test_a_node_that_fails(slurm_hosts: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider()
    job = submit(provider, spec(tmp_path, "sleep", "1000"))
    (host,) = reach(provider, job, JobState.RUNNING).hosts
    slurm_hosts.kill_node(host)
    slurm_hosts.run("scontrol", "update", f"nodename={host}", "state=down", "reason=killed")
    status = reach(provider, job, JobState.FAILED)
    assert status.message.startswith("Slurm says NODE_FAIL")
    assert status.hosts == (host,)
    slurm_hosts.start_node(host)
    # Refused where it has registered already, which makes it idle as well.
    slurm_hosts.run("scontrol", "update", f"nodename={host}", "state=resume", check=False)
    slurm_hosts.wait_idle()
