"""What a user reads when an executor gives up: what each block said as it ended, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from throughway.providers.interface import JobStatus, Tail

QUOTED = 10
"""Failed blocks that an error quotes, at most."""


class FailedBlock(NamedTuple):
    """A block that failed. ``tail`` is the end of its output; ``job_id`` is empty where it is not known."""

    id: str
    job_id: str
    status: JobStatus
    tail: Tail


_ENVIRONMENT = (
    "in the Python environment that the job uses, or activate the environment that has it in worker_init"
)

_REMEDIES = (
    (("No module named throughway", "No module named 'throughway"), f"install throughway {_ENVIRONMENT}"),
    (("No module named", "ModuleNotFoundError"), f"install the missing module {_ENVIRONMENT}"),
    (
        ("command not found", "No such file or directory"),
        "make what is missing available where the job runs, for instance in worker_init",
    ),
    (
        ("No space left on device", "Disk quota exceeded"),
        "free space where the run directory is, or give run_dir on another disk",
    ),
    (
        ("SIGKILL", "Out of memory", "oom-kill", "MemoryError"),
        "give the managers more memory or fewer workers (max_workers_per_node, mem_per_worker)",
    ),
)

_GENERAL = (
    "look at the output above and in the files that it names; what a manager needs can be set up in the "
    "provider's worker_init"
)


def message(label: str, provider: str, failures: int, blocks: Sequence[FailedBlock]) -> str:
    """Why executor ``label`` gave up after ``failures`` attempts, the last of them being ``blocks``."""
    source = f"the {provider} provider"
    attempts = "the attempt" if failures == 1 else f"{failures} attempts in a row"
    lines = [f"executor {label!r} gave up: {attempts} to get a block from {source} failed"]
    for block in blocks:
        lines.extend(_describe(block))
    lines.append(f"Remedy: {remedy(blocks)}.")
    return "\n".join(lines)


def by_handler(label: str, blocks: Sequence[FailedBlock], failures: int) -> str:
    """Why executor ``label`` gave up as its error handler saw ``failures`` failed blocks, the last being ``blocks``."""
    lines = [f"executor {label!r} gave up: its block_error_handler found {failures} failed blocks"]
    for block in blocks:
        lines.extend(_describe(block))
    lines.append(f"Remedy: {remedy(blocks)}.")
    return "\n".join(lines)


def remedy(blocks: Sequence[FailedBlock]) -> str:
    """What to do, as far as the blocks' last words tell."""
    said = "\n".join(f"{block.status.message}\n{block.tail.stderr}\n{block.tail.stdout}" for block in blocks)
    for signs, advice in _REMEDIES:
        if any(sign in said for sign in signs):
            return advice
    return _GENERAL


def _describe(block: FailedBlock) -> list[str]:
    status = block.status
    job = f"job {block.job_id}" if block.job_id else "no job"
    code = "" if status.exit_code is None else f", exit code {status.exit_code}"
    lines = [f"block {block.id}: {job}, {status.state.value}{code}"]
    if status.message:
        lines[0] += f": {status.message}"
    for name, path, tail in (
        ("stderr", status.stderr, block.tail.stderr),
        ("stdout", status.stdout, block.tail.stdout),
    ):
        if path:
            lines.append(f"  {name} ({path}):" + ("" if tail else " empty"))
            lines.extend(f"    {line}" for line in tail.splitlines())
    return lines
