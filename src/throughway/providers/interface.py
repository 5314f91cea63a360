"""What every provider does: start, watch and cancel jobs of a resource manager, many in one call.

A job is one block: some nodes, on which one script runs. A provider knows nothing of executors or managers.
The word of a resource manager explains why managers are absent; that they are there, only their
registration shows.

What a job's script owes the managers that it starts:

- ``THROUGHWAY_JOB`` holds the job's name, and ``THROUGHWAY_BLOCK_END`` the moment at which the resource manager
  will end the job, in whole seconds since the epoch; the latter is not set where there is no such moment or it
  is not known.
- SIGUSR1 means that the walltime is nearly over: finish what runs, take nothing new, end when idle. Until a
  manager has a handler for it, it is ignored.
- SIGTERM means that the job is being cancelled: end. Where the resource manager signals all processes of a job,
  and what started the manager hands signals on, it arrives twice within a moment; one that comes seconds later
  means at once.
- Both may also reach processes that a manager has started in its own process group.
- The script outlives the managers, and its exit code is theirs as the launcher makes it. It writes that into
  `JobSpec.exit_file`, from which it is known also where the resource manager keeps no record.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, NewType, Protocol

import msgspec

from throughway.errors import ThroughwayError

JobId = NewType("JobId", str)
"""How the resource manager names a job."""

JOB_PREFIX = "throughway-"
"""What the name of every job starts with."""

JOB_VARIABLE = "THROUGHWAY_JOB"
"""The environment variable that holds the name of the job, in the job."""

BLOCK_END_VARIABLE = "THROUGHWAY_BLOCK_END"
"""The environment variable that says when the job will be ended, in whole seconds since the epoch."""

TAIL_LINES = 20
"""Lines of an output file that an error quotes, at most."""

TAIL_BYTES = 4096
"""Bytes of an output file that an error quotes, at most."""


def job_name(run: str, block: str) -> str:
    """The name of the job of a run's block."""
    return f"{JOB_PREFIX}{run}-{block}"


class SchedulerError(ThroughwayError):
    """A resource manager did not answer, or not in a way that can be understood: nothing is known of any job.

    The message names the command, what it said, and the remedy.
    """


class JobState(Enum):
    """Where a job or a block stands."""

    PENDING = "pending"
    RUNNING = "running"
    HELD = "held"
    """in the queue, but somebody must release it"""
    UNKNOWN = "unknown"
    """the resource manager did not say, or said something that is not understood"""
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    """ended by the resource manager at its walltime"""
    CANCELLED = "cancelled"
    MISSING = "missing"
    """ended without an error, but no manager ever registered from it"""
    SCALED_IN = "scaled in"
    """ended because it was not needed any more"""

    @property
    def terminal(self) -> bool:
        """Whether nothing can come after it."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    (
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.CANCELLED,
        JobState.MISSING,
        JobState.SCALED_IN,
    )
)


class Tail(NamedTuple):
    """The ends of a job's output, as text."""

    stdout: str
    stderr: str


class JobStatus(msgspec.Struct, frozen=True):
    """What is known of a job: ``stdout`` and ``stderr`` are paths, empty where there is no such file.

    ``exit_code`` is as a shell has it: 128 + n for a job that signal n ended; None where it is not known.
    ``message`` is the resource manager's own word, or empty. ``hosts`` are the nodes of the job, as far as the
    resource manager has named them.
    """

    state: JobState
    exit_code: int | None = None
    message: str = ""
    stdout: str = ""
    stderr: str = ""
    hosts: tuple[str, ...] = ()

    def tail(self, lines: int = TAIL_LINES, size: int = TAIL_BYTES) -> Tail:
        """The last ``lines`` lines, of ``size`` bytes at most, of each. A file that can't be read says so."""
        return Tail(_tail(self.stdout, lines, size), _tail(self.stderr, lines, size))


class JobSpec(msgspec.Struct, frozen=True):
    """A job to start.

    ``name`` holds the run's id, by which the jobs of a dead run are found, and is a good file name: the
    provider puts ``<name>.sh``, ``<name>.stdout`` and ``<name>.stderr`` into ``folder``. ``command`` starts
    one manager. ``environment`` is added to what the job has anyway. ``exclude`` names hosts that the job is to
    keep away from; providers that cannot do that (`Provider.can_exclude`) take no notice.
    """

    name: str
    command: Sequence[str]
    nodes: int
    folder: str
    environment: Mapping[str, str] = {}
    exclude: Sequence[str] = ()

    @property
    def script(self) -> str:
        """The path of the job's script."""
        return os.path.join(self.folder, f"{self.name}.sh")

    @property
    def stdout(self) -> str:
        """The path of what the job writes to its standard output."""
        return os.path.join(self.folder, f"{self.name}.stdout")

    @property
    def stderr(self) -> str:
        """The path of what the job writes to its standard error."""
        return os.path.join(self.folder, f"{self.name}.stderr")

    @property
    def exit_file(self) -> str:
        """The path of the file into which the job's script writes its exit code, as text, as it ends."""
        return os.path.join(self.folder, f"{self.name}.exit")


class SubmitFailure(msgspec.Struct, frozen=True):
    """A job that was not started. ``message`` says why: the command, its output, the remedy.

    ``permanent`` says that the same submission would fail again, such as one for a partition that does not exist.
    """

    message: str
    permanent: bool = False


class NamedJob(msgspec.Struct, frozen=True):
    """A job that was found by its name. ``name`` is the one of its `JobSpec`."""

    id: JobId
    name: str
    status: JobStatus


class ProviderRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider as plain data, from which another process makes one that watches and cancels the same jobs.

    ``provider`` is ``package.module:Class``, ``parameters`` are arguments of its constructor, and ``environment``
    are variables that its commands need, such as ``SLURM_CONF``. `throughway.providers.records` writes, reads and
    restores it. What cannot be written down, such as a launcher, is left out, so a restored provider is not meant
    to submit.
    """

    provider: str
    parameters: dict[str, Any] = {}
    environment: dict[str, str] = {}


class Provider(Protocol):
    """A source of nodes. Its methods may be called from any thread, and none of them waits for a job."""

    label: str
    """what errors and views call it, such as ``"local"``"""
    init_blocks: int
    min_blocks: int
    max_blocks: int
    nodes_per_block: int
    parallelism: float
    """blocks for the tasks that wait: 1 for as many as run them all at once, 0 for one, and between"""
    walltime: float | None
    """seconds after which the resource manager ends a job, None for never"""
    cores_per_node: int | None
    """cores that a manager has, None where only the node knows"""
    mem_per_node: float | None
    """GiB that a manager has, None where only the node knows"""
    worker_init: str
    """bash text that runs before the managers start, once in a block"""
    can_exclude: bool
    """whether `JobSpec.exclude` has an effect"""
    status_polling_interval: float
    """seconds between two questions for the status of jobs"""
    local: bool
    """whether its managers run on this machine, where they connect through a Unix socket"""

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        """Start jobs: for each of ``specs``, in order, the job's id or why it was not started."""

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """What is known of these jobs. One of which nothing is known is UNKNOWN, or left out.

        Raises an exception where the resource manager does not answer: that says nothing about any job.
        """

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        """Ask jobs to end, or with ``force`` kill them at once; True for those that will now end.

        Does not wait: `status` says when they are gone. False for those that have ended before or are not
        known.
        """

    def jobs_of(self, run: str) -> list[NamedJob]:
        """The jobs of a run that wait or run, whoever started them; found by their names (`job_name`).

        Raises an exception where the resource manager does not answer.
        """

    def render(self, spec: JobSpec) -> str:
        """The script that `submit` would run for ``spec``; nothing is started or written."""

    def record(self) -> ProviderRecord:
        """What another process needs to watch and cancel the same jobs."""


def _tail(path: str, lines: int, size: int) -> str:
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            start = max(0, file.tell() - size)
            file.seek(start)
            text = file.read(size).decode("utf-8", "replace")
    except OSError as error:
        return f"({path} cannot be read: {error.strerror or error})"
    if start:
        text = text.partition("\n")[2] or text
    return "\n".join(text.rstrip().splitlines()[-lines:])
