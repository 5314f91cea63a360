"""What Slurm's commands say: states, reasons, exit codes, complaints. Pure."""

from __future__ import annotations

import re

from throughway.providers.hostlists import expand
from throughway.providers.interface import JobState, JobStatus

STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "SUSPENDED": JobState.HELD,
    "STOPPED": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "UPDATE_DB": JobState.RUNNING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
}
"""What Slurm's words for the states of jobs mean here."""

COLUMNS = (
    ("JobID", 24),
    ("State", 24),
    ("exit_code", 12),
    ("Reason", 60),
    ("Name", 128),
    ("NodeList", 1000),
)
FORMAT = ",".join(f"{name}:{width}" for name, width in COLUMNS)

_NO_OUTPUT = 53
"""The signal of which Slurm says that a job died whose output files could not be opened."""

REMEDIES = (
    ("invalid partition", "give partition= as sinfo lists it", True),
    (
        "invalid account",
        "give account= and partition= that go together: `sacctmgr show associations user=$USER` lists what is yours",
        True,
    ),
    (
        "invalid qos",
        "give qos= that the account has: `sacctmgr show associations user=$USER` lists them",
        True,
    ),
    ("invalid feature", "give constraint= with features that `sinfo -o %f` lists", True),
    ("invalid generic resource", "give gres= or gpus_per_node= as `sinfo -o %G` lists it", True),
    (
        "requested time limit is invalid",
        "give walltime= within the partition's limit: `sinfo -o '%P %l'`",
        True,
    ),
    (
        "node count specification invalid",
        "give nodes_per_block= within the partition's and the account's limits",
        True,
    ),
    (
        "requested node configuration is not available",
        "give cores_per_node=, mem_per_node=, gpus_per_node=, constraint= as in `sinfo -o '%P %D %c %m %G %f'`",
        True,
    ),
    ("invalid node name", "correct what excludes or names nodes in scheduler_options", True),
    (
        "job submit limit",
        "a limit of the account or the QOS is reached: give a smaller max_blocks=, or wait for jobs to end",
        False,
    ),
    ("unrecognized option", "correct scheduler_options=, or use a newer Slurm", True),
    ("invalid option", "correct scheduler_options=, or use a newer Slurm", True),
    (
        "unable to contact slurm controller",
        "the controller is down or out of reach: `scontrol ping` shows whether it answers",
        False,
    ),
    ("socket timed out", "the controller is overloaded: give a greater cmd_timeout= or try later", False),
    (
        "no space left",
        "the disk of the scheduler or of the run folder is full: free space or ask its administrator",
        False,
    ),
)


class Row:
    """One line of squeue's."""

    __slots__ = ("id", "name", "status")

    def __init__(self, id: str, name: str, status: JobStatus) -> None:
        self.id = id
        self.name = name
        self.status = status


_CLUSTER = re.compile(r"CLUSTER: (\S+)\s*")


def read_rows(text: str) -> tuple[dict[str, Row], list[str]]:
    """What squeue lists, by number, and the lines that are nothing of the kind."""
    rows: dict[str, Row] = {}
    strange = []
    cluster = ""
    for line in text.splitlines():
        if match := _CLUSTER.fullmatch(line):
            cluster = match[1]
            continue
        fields = []
        start = 0
        for _, width in COLUMNS:
            fields.append(line[start : start + width].strip())
            start += width
        number, word, code, reason, name, hosts = fields
        if not number.isdecimal() or not word.replace("_", "").isalpha():
            if line.strip():
                strange.append(line.strip())
            continue
        full = len(hosts) >= COLUMNS[-1][1]  # then the list may have been cut
        status = job_status(word, reason, _wait_status(code), () if full else expand(hosts))
        rows[number] = Row(f"{number};{cluster}" if cluster else number, name, status)
    return rows, strange


def job_status(word: str, reason: str, exit_code: int | None, hosts: tuple[str, ...]) -> JobStatus:
    """What Slurm's word, such as ``CANCELLED by 0``, and its reason mean."""
    bare = word.split(maxsplit=1)[0].rstrip("+") if word.split() else ""
    state = STATES.get(bare, JobState.UNKNOWN)
    reason = "" if reason in ("None", "(null)") else reason
    if state is JobState.PENDING and ("held" in reason.lower() or "JobHold" in reason):
        state = JobState.HELD
    if state is JobState.UNKNOWN:
        return JobStatus(state, message=f"Slurm says {word!r}, which is not known here", hosts=hosts)
    if not state.terminal:
        message = reason if bare in ("PENDING", "RUNNING") else f"{word}{f': {reason}' if reason else ''}"
        if state is JobState.HELD and bare == "PENDING":
            message = f"{reason}: it waits until somebody releases it (scontrol release)"
        return JobStatus(state, message=message, hosts=hosts)
    message = ""
    if state is not JobState.COMPLETED:
        message = f"Slurm says {word}{f' ({reason})' if reason else ''}"
    if exit_code == 128 + _NO_OUTPUT:
        message += (
            ": it could not open the job's output files on the node. Is the run folder on a file system that all "
            "nodes share? Give run_dir on one that is"
        )
    elif bare == "OUT_OF_MEMORY":
        message += ": give mem_per_node= or fewer workers"
    if state is not JobState.COMPLETED and not exit_code:
        exit_code = None
    return JobStatus(state, exit_code, message, hosts=hosts)


def exit_code_of(text: str) -> int | None:
    """From ``code:signal``, as a shell has it."""
    code, _, number = text.partition(":")
    if not code.isdecimal() or not (number or "0").isdecimal():
        return None
    return 128 + int(number) if int(number or 0) else int(code)


def _wait_status(text: str) -> int | None:
    """From what squeue prints: a status as wait(2) gives it, or ``code:signal``."""
    if ":" in text:
        return exit_code_of(text)
    if not text.isdecimal():
        return None
    status = int(text)
    number = status & 0x7F
    return 128 + number if number else status >> 8 & 0xFF
