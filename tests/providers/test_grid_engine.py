"""What Grid Engine's commands say, as recorded, and what is made of it. The commands themselves: tests/systems."""

from __future__ import annotations

import pytest

from throughway.errors import ConfigurationError
from throughway.launchers import MpiExecLauncher
from throughway.providers import (
    GridEngineProvider,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    SchedulerError,
    SubmitFailure,
)
from throughway.providers.command import CommandResult

SPEC = JobSpec("throughway-ab12-0", ["python", "-m", "x"], 2, "/runs/one", {}, ["ge9", "ge10"])

LIST = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>1</JB_job_number>
      <JAT_prio>0.75000</JAT_prio>
      <JB_name>throughway-abcd-0</JB_name>
      <JB_owner>root</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-21T19:08:23</JAT_start_time>
      <queue_name>batch@ge2</queue_name>
      <slots>2</slots>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>3</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>throughway-abcd-1</JB_name>
      <JB_owner>root</JB_owner>
      <state>{letters}</state>
      <JB_submission_time>2026-11-21T19:08:23</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
  </job_info>
</job_info>
"""

ACCOUNT = """\
==============================================================
qname        batch
hostname     ge1
owner        root
jobname      throughway-abcd-0
jobnumber    1
failed       {failed}
exit_status  {code}
ru_wallclock 20.011s
"""


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> CommandResult:
    return CommandResult(("qstat",), exit_code, stdout, stderr)


def test_every_parameter_is_a_directive() -> None:
    provider = GridEngineProvider(
        queue="batch",
        parallel_environment="nodes",
        nodes_per_block=2,
        cores_per_node=8,
        mem_per_node=16,
        memory_resource="h_vmem",
        walltime="02:00:00",
        scheduler_options="#$ -P physics",
        launcher=MpiExecLauncher(),
    )
    head = provider.render(SPEC).partition("\n\n")[0].splitlines()[1:]
    assert [line.removeprefix("#$ ") for line in head] == [
        "-N throughway-ab12-0",
        "-S /bin/bash",
        "-o /runs/one/throughway-ab12-0.stdout",
        "-e /runs/one/throughway-ab12-0.stderr",
        "-j n",
        "-r n",
        "-l h_rt=02:00:00",
        "-l s_rt=01:58:00",
        "-q batch",
        "-pe nodes 16",
        "-l h_vmem=2048M",
        "-l hostname=!ge10&!ge9",
        "-P physics",
    ]


def test_paths_that_no_directive_can_hold_are_on_the_command_line() -> None:
    spec = JobSpec("throughway-a-0", ["true"], 1, "/it's/my: folder")
    provider = GridEngineProvider()
    assert "#$ -o" not in provider.render(spec)
    assert provider.submit_command(spec) == [
        *("qsub", "-terse", "-o", ":/it's/my: folder/throughway-a-0.stdout"),
        *("-e", ":/it's/my: folder/throughway-a-0.stderr", "/it's/my: folder/throughway-a-0.sh"),
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"nodes_per_block": 2, "launcher": MpiExecLauncher()},
            "nodes_per_block=2 needs a parallel environment",
        ),
        ({"cores_per_node": 2}, "cores_per_node=2 needs a parallel environment"),
        ({"mem_per_node": 2}, "give memory_resource="),
        ({"nodes_per_block": 2}, "starts managers on the first node"),
        ({"scheduler_options": "-P physics"}, "write '#\\$ -P physics'"),
    ],
)
def test_parameters_that_cannot_work(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GridEngineProvider(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stdout", "job"),
    [("12\n", "12"), ("12.1-3:1\n", "12"), ('Your job 12 ("throughway-a-0") has been submitted\n', "12")],
)
def test_submitted(stdout: str, job: str) -> None:
    assert GridEngineProvider().parse_submit(said(stdout)) == job


@pytest.mark.parametrize(
    ("stderr", "code", "remedy", "permanent"),
    [
        (
            'Unable to run job: Job was rejected because job requests unknown queue "nope"\nExiting.',
            1,
            "qconf -sql",
            True,
        ),
        (
            'Unable to run job: job rejected: the requested project "zz" does not exist\nExiting.',
            1,
            "qconf -sprjl",
            True,
        ),
        ('Unable to run job: unknown resource "nope"\nExiting.', 1, "qconf -sc", True),
        (
            'Unable to run job: job rejected: the requested parallel environment "x" does not exist.\nExiting.',
            1,
            "qconf -spl",
            True,
        ),
        ('qsub: invalid option argument "-zz"', 2, "scheduler_options", True),
        ("error: commlib error: got select error (Connection refused)", 1, "qping", False),
    ],
)
def test_refused(stderr: str, code: int, remedy: str, permanent: bool) -> None:
    failure = GridEngineProvider().parse_submit(said("", stderr, code))
    assert isinstance(failure, SubmitFailure)
    assert stderr in failure.message
    assert remedy in failure.message.partition("Remedy: ")[2]
    assert failure.permanent is permanent


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", JobState.PENDING),
        ("hqw", JobState.HELD),
        ("Eqw", JobState.HELD),
        ("t", JobState.RUNNING),
        ("Rr", JobState.RUNNING),
        ("dr", JobState.RUNNING),
        ("S", JobState.HELD),
        ("T", JobState.HELD),
        ("?", JobState.UNKNOWN),
    ],
)
def test_states(letters: str, state: JobState) -> None:
    provider = GridEngineProvider()
    ids = [JobId("1"), JobId("3"), JobId("99")]
    found = provider.parse_status(said(LIST.format(letters=letters)), ids)
    assert set(found) == {"1", "3"}
    assert found[JobId("1")] == JobStatus(JobState.RUNNING, hosts=("ge2",))
    assert found[JobId("3")].state is state
    assert (found[JobId("3")].message == "") is (letters in ("qw", "t", "Rr"))


def test_names_are_whole() -> None:
    jobs = GridEngineProvider().parse_list(said(LIST.format(letters="qw")))
    assert [(job.id, job.name) for job in jobs] == [("1", "throughway-abcd-0"), ("3", "throughway-abcd-1")]


@pytest.mark.parametrize(
    "result",
    [
        said("", "error: commlib error: got select error (Connection refused)\n", 1),
        said("<html><body>Welcome</body></html>"),
        said("<job_info>"),
        said(""),
    ],
)
def test_no_answer(result: CommandResult) -> None:
    with pytest.raises(SchedulerError, match="Nothing is concluded"):
        GridEngineProvider().parse_status(result, [JobId("1")])


@pytest.mark.parametrize(
    ("failed", "code", "status"),
    [
        ("0", 0, JobStatus(JobState.COMPLETED, 0, hosts=("ge1",))),
        ("0", 3, JobStatus(JobState.FAILED, 3, hosts=("ge1",))),
        (
            "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            137,
            JobStatus(
                JobState.TIMEOUT,
                137,
                "Grid Engine says qmaster enforced h_rt, h_cpu, or h_vmem limit",
                hosts=("ge1",),
            ),
        ),
        (
            "100 : assumedly after job",
            137,
            JobStatus(JobState.FAILED, 137, "Grid Engine says 100: assumedly after job", hosts=("ge1",)),
        ),
    ],
)
def test_accounting(failed: str, code: int, status: JobStatus) -> None:
    assert GridEngineProvider().parse_accounting(said(ACCOUNT.format(failed=failed, code=code))) == status


def test_accounting_that_does_not_know() -> None:
    unknown = said("", "error: job id 99 not found\n", 1)
    missing = said(
        "no jobs running since startup\n", "/root/default/common/accounting: No such file or directory\n", 1
    )
    assert GridEngineProvider().parse_accounting(unknown) is None
    assert GridEngineProvider().parse_accounting(missing) is None


def test_cancel() -> None:
    text = 'root has registered the job 1 for deletion\nroot has deleted job 3\ndenied: job "99" does not exist\n'
    ids = [JobId("1"), JobId("3"), JobId("99")]
    assert GridEngineProvider().parse_cancel(said(text, "", 1), ids) == {"1": True, "3": True, "99": False}
    again = said("job 1 is already in deletion\n")
    assert GridEngineProvider().parse_cancel(again, [JobId("1")]) == {"1": True}
    with pytest.raises(SchedulerError):
        GridEngineProvider().parse_cancel(said("", "error: commlib error", 1), ids)
