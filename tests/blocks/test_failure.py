from __future__ import annotations

import pytest

from throughway.blocks.failure import FailedBlock, message, remedy
from throughway.providers.interface import JobId, JobState, JobStatus, Tail


def failed(stderr: str = "", stdout: str = "", said: str = "", job: str = "j1") -> FailedBlock:
    status = JobStatus(JobState.FAILED, 1, said, "/run/b.stdout", "/run/b.stderr")
    return FailedBlock("7", JobId(job), status, Tail(stdout, stderr))


def test_message() -> None:
    blocks = [failed("Traceback\nboom", said="ended by SIGSEGV"), failed(stdout="hi")]
    text = message("htex", "local", 3, blocks)
    assert text.splitlines() == [
        "executor 'htex' gave up: 3 attempts in a row to get a block from the local provider failed",
        "block 7: job j1, failed, exit code 1: ended by SIGSEGV",
        "  stderr (/run/b.stderr):",
        "    Traceback",
        "    boom",
        "  stdout (/run/b.stdout): empty",
        "block 7: job j1, failed, exit code 1",
        "  stderr (/run/b.stderr): empty",
        "  stdout (/run/b.stdout):",
        "    hi",
        text.splitlines()[-1],
    ]
    assert text.splitlines()[-1].startswith("Remedy: ")


def test_message_of_a_block_without_a_job() -> None:
    block = FailedBlock("0", "", JobStatus(JobState.FAILED, message="sbatch: no"), Tail("", ""))
    assert "block 0: no job, failed: sbatch: no\nRemedy:" in message("x", "slurm", 3, [block])


@pytest.mark.parametrize(
    ("block", "advice"),
    [
        (failed("/usr/bin/python: No module named throughway"), "install throughway"),
        (failed("ModuleNotFoundError: No module named 'throughway'"), "install throughway"),
        (failed("ModuleNotFoundError: No module named 'numpy'"), "install the missing module"),
        (failed("bash: line 3: conda: command not found"), "worker_init"),
        (failed(said="[Errno 28] No space left on device: '/run'"), "free space"),
        (failed(said="ended by SIGKILL"), "memory"),
        (failed("something else"), "look at the output"),
    ],
)
def test_remedies(block: FailedBlock, advice: str) -> None:
    assert advice in remedy([block])
