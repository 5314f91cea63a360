"""What Slurm's commands say, as recorded, and what is made of it. The commands themselves: tests/systems."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from throughway.errors import ConfigurationError
from throughway.launchers import SimpleLauncher, SingleNodeLauncher, SrunLauncher
from throughway.providers import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    SchedulerError,
    SlurmProvider,
    SubmitFailure,
)
from throughway.providers.command import CommandResult
from throughway.providers.slurm_answers import STATES

SPEC = JobSpec("throughway-ab12-0", ["python", "-m", "x"], 2, "/runs/one", {"A": "b c"}, ["n9", "n10"])


def said(
    stdout: str = "", stderr: str = "", exit_code: int = 0, command: tuple[str, ...] = ("squeue",)
) -> CommandResult:
    return CommandResult(command, exit_code, stdout, stderr)


def row(
    number: str, state: str, code: str = "0", reason: str = "None", name: str = "wrap", hosts: str = ""
) -> str:
    return f"{number:24}{state:24}{code:12}{reason:60}{name:128}{hosts:1000}\n"


def directives(provider: SlurmProvider) -> set[str]:
    head = provider.render(SPEC).partition("\n\n")[0]
    return {line.removeprefix("#SBATCH --") for line in head.splitlines()[1:]}


# ---------------------------------------------------------------------------------------------------------- render


def test_every_parameter_is_a_directive() -> None:
    provider = SlurmProvider(
        partition="debug",
        account="me",
        qos="low",
        constraint="a&b",
        clusters="one,two",
        nodes_per_block=2,
        cores_per_node=16,
        mem_per_node=1.5,
        walltime="1-02:03:04",
        walltime_warning=90,
        gpus_per_node="a100:2",
        gres="lustre:1",
        scheduler_options="#SBATCH --mail-type=FAIL\n\n#SBATCH --nice",
        exclusive=False,
    )
    assert directives(provider) == {
        "job-name=throughway-ab12-0",
        "output=/runs/one/throughway-ab12-0.stdout",
        "error=/runs/one/throughway-ab12-0.stderr",
        "nodes=2",
        "ntasks-per-node=1",
        "no-requeue",
        "time=26:03:04",
        "signal=B:USR1@90",
        "cpus-per-task=16",
        "mem=1536M",
        "partition=debug",
        "account=me",
        "qos=low",
        "constraint='a&b'",
        "clusters=one,two",
        "gres=lustre:1",
        "gpus-per-node=a100:2",
        "exclude=n10,n9",
        "mail-type=FAIL",
        "nice",
    }


def test_what_is_not_given_is_left_to_slurm() -> None:
    found = {
        entry.partition("=")[0] for entry in directives(SlurmProvider(walltime=None, walltime_warning=0))
    }
    assert found == {
        "job-name",
        "output",
        "error",
        "nodes",
        "ntasks-per-node",
        "no-requeue",
        "exclusive",
        "exclude",
    }


def test_the_warning_comes_in_the_last_quarter() -> None:
    assert "signal=B:USR1@15" in directives(SlurmProvider(walltime=60))


def test_paths_with_spaces_and_per_cent_signs() -> None:
    text = SlurmProvider().render(JobSpec("throughway-a-0", ["true"], 1, "/my runs/100%"))
    assert "#SBATCH --output='/my runs/100%%/throughway-a-0.stdout'" in text


def test_launchers() -> None:
    assert isinstance(SlurmProvider().launcher, SimpleLauncher)
    assert isinstance(SlurmProvider(nodes_per_block=2).launcher, SrunLauncher)
    with pytest.raises(ConfigurationError, match="starts managers on the first node"):
        SlurmProvider(nodes_per_block=2, launcher=SingleNodeLauncher())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"partition": "a b"}, "partition='a b' is not a name"),
        ({"partition": ""}, "partition='' is not a name"),
        ({"account": 3}, "account=3 is not a name"),
        ({"constraint": "a\nb"}, "constraint='a\\\\nb' is not a line of text"),
        ({"walltime": "10:00"}, "walltime='10:00' is not a time"),
        ({"walltime": "00:99:00"}, "walltime='00:99:00' is not a time"),
        ({"walltime": 0}, "walltime=0 is not a time"),
        ({"parallelism": 2}, "parallelism=2 is not a number from 0 to 1"),
        ({"cores_per_node": 0}, "cores_per_node=0 is not a whole number"),
        ({"mem_per_node": -1}, "mem_per_node=-1 is not a number"),
        ({"gpus_per_node": 0}, "gpus_per_node=0 is not a whole number"),
        ({"exclusive": 1}, "exclusive=1 is not True or False"),
        ({"regex_job_id": "("}, r"regex_job_id='\(' is no regular expression"),
        ({"regex_job_id": r"\d+"}, "has no group id"),
        ({"launcher": "srun"}, "launcher='srun' is not a launcher"),
        ({"environment": {"A": 1}}, "are no environment variables"),
        (
            {"scheduler_options": "#SBATCH -n 1\n--gres=gpu:1"},
            "the line '--gres=gpu:1' is no directive: write '#SBATCH --gres=gpu:1'",
        ),
    ],
)
def test_parameters_that_cannot_work(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SlurmProvider(**parameters)  # type: ignore[arg-type]


def test_an_unknown_parameter() -> None:
    with pytest.raises(TypeError, match="colour"):
        SlurmProvider(colour="red")


def test_repr_says_what_was_given() -> None:
    assert repr(SlurmProvider(partition="debug", max_blocks=4)).startswith("SlurmProvider(max_blocks=4, ")
    assert "partition='debug'" in repr(SlurmProvider(partition="debug"))


def test_commands_do_not_inherit_a_job_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SQUEUE_STATES", "SBATCH_PARTITION", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    found = SlurmProvider(partition="debug", environment={"MORE": "1"}).command_environment()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT", "MORE", "PATH"} <= set(found)
    assert not {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SQUEUE_STATES", "SBATCH_PARTITION"} & set(found)


# ---------------------------------------------------------------------------------------------------------- submit


@pytest.mark.parametrize(
    ("stdout", "job"),
    [
        ("123\n", "123"),
        ("123;two\n", "123;two"),
        ("Submitted batch job 123\n", "123"),
        ("Submitted batch job 123 on cluster two\n", "123;two"),
        ("You have 3 messages.\n2024 was a good year\n\n77\n", "77"),
    ],
)
def test_submitted(stdout: str, job: str) -> None:
    assert SlurmProvider().parse_submit(said(stdout)) == job


def test_a_site_with_words_of_its_own() -> None:
    provider = SlurmProvider(regex_job_id=r"Job <(?P<id>\d+)> queued")
    assert provider.parse_submit(said("Job <5> queued\n")) == "5"


REFUSALS = [
    ("Batch job submission failed: Invalid partition name specified", "sinfo", True),
    (
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "sacctmgr",
        True,
    ),
    ("Batch job submission failed: Invalid qos specification", "sacctmgr", True),
    (
        "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        "walltime=",
        True,
    ),
    ("Batch job submission failed: Requested node configuration is not available", "cores_per_node", True),
    ("Batch job submission failed: Node count specification invalid", "nodes_per_block", True),
    ("sbatch: unrecognized option '--nosuch'", "scheduler_options", True),
    (
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "max_blocks",
        False,
    ),
    (
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "scontrol ping",
        False,
    ),
    ("Batch job submission failed: Socket timed out on send/recv operation", "cmd_timeout", False),
    ("Batch job submission failed: Unspecified error", "by hand", False),
]


@pytest.mark.parametrize(("stderr", "remedy", "permanent"), REFUSALS)
def test_refused(stderr: str, remedy: str, permanent: bool) -> None:
    command = ("sbatch", "--parsable", "/runs/one/throughway-ab12-0.sh")
    failure = SlurmProvider().parse_submit(said("", f"sbatch: error: {stderr}\n", 1, command))
    assert isinstance(failure, SubmitFailure)
    assert "sbatch --parsable /runs/one/throughway-ab12-0.sh (exit code 1)" in failure.message
    assert stderr in failure.message
    assert remedy in failure.message.partition("Remedy: ")[2]
    assert failure.permanent is permanent


# ---------------------------------------------------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (row("5", "PENDING", reason="Resources"), JobStatus(JobState.PENDING, message="Resources")),
        (
            row("5", "PENDING", reason="ReqNodeNotAvail, Reserved for maintenance"),
            JobStatus(JobState.PENDING, message="ReqNodeNotAvail, Reserved for maintenance"),
        ),
        (row("5", "RUNNING", hosts="n[1-2]"), JobStatus(JobState.RUNNING, hosts=("n1", "n2"))),
        (
            row("5", "COMPLETING", hosts="n1"),
            JobStatus(JobState.RUNNING, message="COMPLETING", hosts=("n1",)),
        ),
        (row("5", "COMPLETED", hosts="n1"), JobStatus(JobState.COMPLETED, 0, hosts=("n1",))),
        (
            row("5", "FAILED", "768", "NonZeroExitCode"),
            JobStatus(JobState.FAILED, 3, "Slurm says FAILED (NonZeroExitCode)"),
        ),
        (
            row("5", "FAILED", "0:9", "JobLaunchFailure"),
            JobStatus(JobState.FAILED, 137, "Slurm says FAILED (JobLaunchFailure)"),
        ),
        (row("5", "CANCELLED", "15"), JobStatus(JobState.CANCELLED, 143, "Slurm says CANCELLED")),
        (
            row("5", "TIMEOUT", "0", "TimeLimit"),
            JobStatus(JobState.TIMEOUT, None, "Slurm says TIMEOUT (TimeLimit)"),
        ),
        (row("5", "NODE_FAIL", "0"), JobStatus(JobState.FAILED, None, "Slurm says NODE_FAIL")),
        (row("5", "PREEMPTED", "0"), JobStatus(JobState.FAILED, None, "Slurm says PREEMPTED")),
        (
            row("5", "BORED", "0"),
            JobStatus(JobState.UNKNOWN, message="Slurm says 'BORED', which is not known here"),
        ),
    ],
)
def test_states(line: str, status: JobStatus) -> None:
    assert SlurmProvider().parse_status(said(line), [JobId("5")]) == {"5": status}


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "launch failed requeued held"])
def test_held(reason: str) -> None:
    found = SlurmProvider().parse_status(said(row("5", "PENDING", reason=reason)), [JobId("5")])[JobId("5")]
    assert found.state is JobState.HELD
    assert found.message.startswith(f"{reason}: it waits until somebody releases it")


@pytest.mark.parametrize("word", sorted(STATES))
def test_every_word_of_slurm_is_known(word: str) -> None:
    found = SlurmProvider().parse_status(said(row("5", word)), [JobId("5")])[JobId("5")]
    assert found.state is STATES[word]


def test_output_files_that_could_not_be_opened_have_a_remedy() -> None:
    line = row("8", "FAILED", "4021", "JobLaunchFailure", hosts="n[1-2]")
    found = SlurmProvider().parse_status(said(line), [JobId("8")])[JobId("8")]
    assert found.exit_code == 181
    assert "could not open the job's output files on the node" in found.message
    assert "run_dir" in found.message


def test_many_jobs_in_one_answer_of_which_some_are_not_known() -> None:
    text = row("1", "RUNNING") + row("12", "PENDING") + row("123", "COMPLETED")
    found = SlurmProvider().parse_status(said(text), [JobId("1"), JobId("12"), JobId("13")])
    assert {job: status.state for job, status in found.items()} == {
        "1": JobState.RUNNING,
        "12": JobState.PENDING,
    }


def test_the_only_job_that_was_asked_for_is_not_known() -> None:
    result = said("", "slurm_load_jobs error: Invalid job id specified\n", 1)
    assert SlurmProvider().parse_status(result, [JobId("5")]) == {}


def test_a_greeting_does_no_harm_where_all_jobs_are_there() -> None:
    text = "Welcome to the cluster!\n" + row("1", "RUNNING")
    assert SlurmProvider().parse_status(said(text), [JobId("1")])[JobId("1")].state is JobState.RUNNING
    with pytest.raises(SchedulerError, match=re.escape("'Welcome to the cluster!' is not understood")):
        SlurmProvider().parse_status(said(text), [JobId("1"), JobId("2")])


def test_clusters_are_asked_one_by_one() -> None:
    provider = SlurmProvider(clusters="one,two")
    ids = [JobId("5;one"), JobId("5;two"), JobId("6;one")]
    assert list(provider.batches(ids)) == [["5;one", "6;one"], ["5;two"]]
    command = provider.status_command(["5;one", "6;one"])  # type: ignore[list-item]
    assert "--clusters=one" in command
    assert "--jobs=5,6" in command
    text = "CLUSTER: one\n" + row("5", "RUNNING") + row("6", "PENDING", name="throughway-a-1")
    assert set(provider.parse_status(said(text), [JobId("5;one"), JobId("6;one")])) == {"5;one", "6;one"}
    assert [(job.id, job.name) for job in provider.parse_list(said(text))] == [
        ("5;one", "wrap"),
        ("6;one", "throughway-a-1"),
    ]


def test_many_jobs_are_asked_about_in_parts() -> None:
    assert [
        len(part) for part in SlurmProvider().batches([JobId(str(number)) for number in range(1200)])
    ] == [500, 500, 200]


# ------------------------------------------------------------------------------------------------------ accounting


def test_accounting() -> None:
    text = (
        "5|COMPLETED|0:0|n1\n6|CANCELLED by 1000|0:15|n[1-2]\n7|OUT_OF_MEMORY|0:125|n1\n8|TIMEOUT|0:0|n1\n"
        "9|RUNNING|0:0|n1\n10|NODE_FAIL|1:0|n3\n"
    )
    ids = [JobId(str(number)) for number in range(5, 12)]
    found = SlurmProvider().parse_accounting(said(text), ids)
    assert {job: (status.state, status.exit_code) for job, status in found.items()} == {
        "5": (JobState.COMPLETED, 0),
        "6": (JobState.CANCELLED, 143),
        "7": (JobState.FAILED, 253),
        "8": (JobState.TIMEOUT, None),
        "10": (JobState.FAILED, 1),
    }
    assert found[JobId("6")].hosts == ("n1", "n2")
    assert "mem_per_node" in found[JobId("7")].message


# ---------------------------------------------------------------------------------------------------------- cancel


def test_cancel() -> None:
    provider = SlurmProvider()
    assert provider.cancel_commands([JobId("5"), JobId("6")], False) == [["scancel", "--verbose", "5", "6"]]
    kill, plain = provider.cancel_commands([JobId("5")], True)
    assert kill == ["scancel", "--verbose", "--signal=KILL", "--full", "5"]
    assert plain == ["scancel", "--verbose", "5"]
    stderr = (
        "scancel: Terminating job 5\nscancel: Terminating job 99\nscancel: Terminating job 2\n"
        "scancel: error: Kill job error on job id 2: Job/step already completing or completed\n"
        "scancel: error: Kill job error on job id 99: Invalid job id specified\n"
    )
    ids = [JobId("5"), JobId("99"), JobId("2")]
    assert provider.parse_cancel(said("", stderr, 0, ("scancel",)), ids) == {
        "5": True,
        "99": False,
        "2": False,
    }


def test_a_cancel_that_did_not_get_through() -> None:
    stderr = (
        "scancel: error: Kill job error on job id 5: Unable to contact slurm controller (connect failure)\n"
    )
    with pytest.raises(SchedulerError, match="Unable to contact"):
        SlurmProvider().parse_cancel(said("", stderr, 1, ("scancel",)), [JobId("5")])


def test_templates_are_part_of_the_package() -> None:
    import throughway.providers

    assert (Path(throughway.providers.__file__).parent / "templates" / "job.sh").is_file()
