"""What all providers have in common that talk to a batch scheduler by its commands.

A scheduler's own module says in functions without I/O what its commands are and what their output means; this one
writes scripts, runs the commands and remembers the jobs.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher, SingleNodeLauncher
from throughway.providers import command, parameters
from throughway.providers.command import CommandFailed, CommandResult, CommandTimedOut
from throughway.providers.interface import (
    BLOCK_END_VARIABLE,
    JOB_PREFIX,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    ProviderRecord,
    SchedulerError,
    SubmitFailure,
)
from throughway.providers.job_script import job_script

logger = logging.getLogger("throughway.providers")

POLLING_INTERVAL = 30.0
"""Seconds between two questions for all jobs: schedulers are shared, and asked by everybody."""

GRACE = 60.0
"""Seconds that a job may be unknown to its scheduler, which answers, before it is taken to be gone."""

REMEMBERED = 1000
"""Ended jobs whose status is kept."""

DOUBTS = 3
"""Looks for a job of which it is not known whether it was submitted, before the matter is closed."""


class KnownJob:
    """What is remembered of a job that this provider has submitted."""

    __slots__ = ("absent_since", "cancelled", "ended", "spec")

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.cancelled = False
        self.absent_since: float | None = None
        """when the scheduler first answered without knowing it"""
        self.ended: JobStatus | None = None


class BatchProvider(ABC):
    """A provider over a batch scheduler's commands. Parameters that they all have:

    Args:
        nodes_per_block: nodes of one job.
        init_blocks: blocks at the start.
        min_blocks: blocks that are kept also without work.
        max_blocks: blocks that exist at one time, never more.
        parallelism: from 0, one block for all tasks that wait, to 1, as many as run them all at once.
        walltime: ``"HH:MM:SS"``, ``"D-HH:MM:SS"``, seconds, or None for the scheduler's default.
        walltime_warning: seconds before the end of the walltime at which managers are told to drain, 0 for never;
            a quarter of the walltime at most.
        cores_per_node: cores that a job gets on each node, None for what the scheduler gives.
        mem_per_node: GiB of memory that a job gets on each node, None for what the scheduler gives.
        scheduler_options: lines for the head of the script, such as ``"#SBATCH --mail-type=FAIL"``.
        worker_init: bash text that runs once in each block, on its first node, before the managers start.
        node_init: bash text that runs on every node before its manager starts, in the same shell.
        launcher: how one manager is started on each node; None for the scheduler's usual way.
        cmd_timeout: seconds that one command of the scheduler may take before it is killed.
        status_polling_interval: seconds between two questions for the status of all jobs.
        environment: variables that the scheduler's commands get in addition to those of this process.

    Raises `ConfigurationError` for a value that cannot work.
    """

    label: str
    local = False
    can_exclude = False

    directive: ClassVar[str]
    """what a directive in a script starts with, such as ``#SBATCH``"""
    signals_all: ClassVar[bool] = True
    """whether the scheduler sends SIGTERM to all processes of a job, not only to its script"""
    batch_size: ClassVar[int] = 500
    """jobs that one command is asked about, or is to cancel, at most"""
    recorded_variables: ClassVar[Sequence[str]] = ("PATH",)
    """environment variables that the commands need: they are part of the provider's record"""

    def __init__(
        self,
        *,
        nodes_per_block: int = 1,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        walltime: str | float | None = None,
        walltime_warning: float = 120,
        cores_per_node: int | None = None,
        mem_per_node: float | None = None,
        scheduler_options: str = "",
        worker_init: str = "",
        node_init: str = "",
        launcher: Launcher | None = None,
        cmd_timeout: float = 60,
        status_polling_interval: float = POLLING_INTERVAL,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.init_blocks, self.min_blocks, self.max_blocks = parameters.block_counts(
            init_blocks, min_blocks, max_blocks
        )
        self.nodes_per_block = parameters.whole_number("nodes_per_block", nodes_per_block, 1)
        self.parallelism = parameters.fraction("parallelism", parallelism)
        self.walltime = parameters.walltime(walltime)
        self.walltime_warning = parameters.seconds("walltime_warning", walltime_warning, zero=True)
        self.cores_per_node = parameters.optional_whole_number("cores_per_node", cores_per_node, 1)
        self.mem_per_node = parameters.optional_number("mem_per_node", mem_per_node)
        self.scheduler_options = parameters.directives("scheduler_options", scheduler_options, self.directive)
        self.worker_init = parameters.text("worker_init", worker_init)
        self.node_init = parameters.text("node_init", node_init)
        self.launcher = self.default_launcher() if launcher is None else launcher
        self.cmd_timeout = parameters.seconds("cmd_timeout", cmd_timeout)
        self.status_polling_interval = parameters.seconds("status_polling_interval", status_polling_interval)
        self.environment = parameters.variables("environment", environment)
        if not callable(self.launcher):
            raise ConfigurationError(
                f"launcher={launcher!r} is not a launcher: give one of throughway.launchers"
            )
        if self.nodes_per_block > 1 and isinstance(self.launcher, SimpleLauncher | SingleNodeLauncher):
            raise ConfigurationError(
                f"nodes_per_block={nodes_per_block}, but launcher={self.launcher!r} starts managers on the first node "
                f"of a block only: give a launcher that reaches all nodes, or nodes_per_block=1"
            )
        self._clock: Callable[[], float] = time.monotonic
        self._lock = threading.Lock()
        self._known: dict[JobId, KnownJob] = {}
        self._doubtful: dict[str, int] = {}
        """names of jobs that may or may not have been submitted, and the looks that are left"""

    def __repr__(self) -> str:
        given = []
        for name, parameter in _parameters(type(self)).items():
            value = getattr(self, name)
            if name != "environment" and value != parameter.default:
                given.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    # ------------------------------------------------------------------- what each scheduler says, without I/O

    def default_launcher(self) -> Launcher:
        """The launcher of those who give none."""
        return SimpleLauncher()

    @abstractmethod
    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The lines of the script that tell the scheduler what the job needs, ``scheduler_options`` excepted."""

    @abstractmethod
    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """The command that submits the script ``spec.script``."""

    @abstractmethod
    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """What the command of `submit_command` said."""

    @abstractmethod
    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """The command that asks for jobs, of one of the `batches`."""

    @abstractmethod
    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """What the scheduler knows of ``ids``; it does not know those that are left out.

        Raises `SchedulerError` where it gave no answer, or one that cannot be understood.
        """

    @abstractmethod
    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """The commands that cancel jobs, of one of the `batches`, one after the other."""

    @abstractmethod
    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """Which jobs will now end, from what one of the commands of `cancel_commands` said.

        A job that is not known, or has ended before, is False. Raises `SchedulerError` where nothing is known.
        """

    @abstractmethod
    def list_command(self, prefix: str) -> Sequence[str]:
        """The command that lists this user's jobs that wait or run, those at least whose names start so."""

    @abstractmethod
    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """The jobs of that list; `SchedulerError` as in `parse_status`."""

    def batches(self, ids: Sequence[JobId]) -> Iterable[Sequence[JobId]]:
        """Jobs in such parts as one command can be asked about."""
        return (ids[start : start + self.batch_size] for start in range(0, len(ids), self.batch_size))

    def block_end(self) -> str:
        """Bash text that sets ``THROUGHWAY_BLOCK_END``, where the end of the job can be known."""
        if self.walltime is None:
            return ""
        return f'export {BLOCK_END_VARIABLE}="$(($(date +%s) + {int(self.walltime)}))"'

    def preamble(self) -> str:
        """More bash text of the scheduler's own, which runs before ``worker_init``."""
        return ""

    def warning_time(self) -> int:
        """Seconds before the end of the walltime at which the warning is due, 0 for no warning."""
        if self.walltime is None:
            return int(self.walltime_warning)
        return int(min(self.walltime_warning, self.walltime / 4))

    def command_environment(self) -> dict[str, str]:
        """The environment of the scheduler's commands."""
        return {**os.environ, **self.environment}

    def ended_status(self, missing: Mapping[JobId, KnownJob | None]) -> dict[JobId, JobStatus]:
        """What is known of jobs that the command of `status_command` does not know (any more).

        By default only what their scripts wrote down as they ended. It may run commands with `ask`.
        """
        found = {}
        for job_id, job in missing.items():
            code = exit_code_of(job)
            if code is not None:
                found[job_id] = JobStatus(state_of(code), code)
        return found

    # -------------------------------------------------------------------------------------- the provider protocol

    def render(self, spec: JobSpec) -> str:
        """The job's script. It is the whole of it: what is not in it is not run."""
        return job_script(
            spec,
            directives=[*self.directives(spec), *self.scheduler_options.splitlines()],
            setup=[self.block_end(), self.preamble()],
            worker_init=self.worker_init,
            node_init=self.node_init,
            launcher=self.launcher,
            signals_all=self.signals_all,
        )

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        """Submit one job after the other. Where the scheduler does not answer, the rest is not tried."""
        outcomes: list[JobId | SubmitFailure] = []
        silent = ""
        for spec in specs:
            if silent:
                outcomes.append(
                    SubmitFailure(f"not tried, as the submission before it had no answer: {silent}")
                )
                continue
            try:
                outcome = self._submit(spec)
            except SchedulerError as error:
                silent = f"job {spec.name} was not submitted: {error}"
                outcome = SubmitFailure(silent)
            outcomes.append(outcome)
        return outcomes

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Where the jobs stand, in one question for all. Also ends jobs whose submission was in doubt."""
        self._settle_doubts()
        found: dict[JobId, JobStatus] = {}
        with self._lock:
            known = {job_id: self._known.get(job_id) for job_id in ids}
        open_ids = []
        for job_id, job in known.items():
            if job is not None and job.ended is not None:
                found[job_id] = job.ended
            else:
                open_ids.append(job_id)
        heard: dict[JobId, JobStatus] = {}
        for batch in self.batches(open_ids):
            heard.update(self.parse_status(self.ask(self.status_command(batch)), batch))
        missing = {job_id: known[job_id] for job_id in open_ids if job_id not in heard}
        if missing:
            heard.update(self.ended_status(missing))
        for job_id in open_ids:
            found[job_id] = self._conclude(job_id, known[job_id], heard.get(job_id))
        return found

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        """Cancel jobs, all with one command where the scheduler can."""
        with self._lock:
            known = {job_id: self._known.get(job_id) for job_id in ids}
        verdicts = dict.fromkeys(ids, False)
        open_ids = [job_id for job_id, job in known.items() if job is None or job.ended is None]
        for batch in self.batches(open_ids):
            for line in self.cancel_commands(batch, force):
                for job_id, ends in self.parse_cancel(self.ask(line), batch).items():
                    verdicts[job_id] = verdicts[job_id] or ends
        for job_id, ends in verdicts.items():
            job = known[job_id]
            if ends and job is not None:
                job.cancelled = True
        return verdicts

    def jobs_of(self, run: str) -> list[NamedJob]:
        """The jobs of a run that wait or run, found by their names."""
        prefix = f"{JOB_PREFIX}{run}-"
        jobs = self.parse_list(self.ask(self.list_command(prefix)))
        return [job for job in jobs if job.name.startswith(prefix) and not job.status.state.terminal]

    def record(self) -> ProviderRecord:
        """The provider as plain data: without its launcher, and with the environment that its commands need."""
        written: dict[str, Any] = {}
        for name, parameter in _parameters(type(self)).items():
            value = getattr(self, name)
            if name not in ("launcher", "environment") and value != parameter.default:
                with contextlib.suppress(TypeError, msgspec.MsgspecError):
                    msgspec.json.encode(value)
                    written[name] = value
        if "nodes_per_block" in written and isinstance(self.default_launcher(), SimpleLauncher):
            del written["nodes_per_block"]
        variables = self.command_environment()
        needed = {name: variables[name] for name in self.recorded_variables if name in variables}
        kind = type(self)
        return ProviderRecord(
            f"{kind.__module__}:{kind.__qualname__}", written, {**needed, **self.environment}
        )

    # --------------------------------------------------------------------------------------------------- inside

    def ask(self, line: Sequence[str]) -> CommandResult:
        """Run one of the scheduler's commands. Raises `SchedulerError` where it does not end by itself."""
        return command.run(line, timeout=self.cmd_timeout, environment=self.command_environment())

    def _submit(self, spec: JobSpec) -> JobId | SubmitFailure:
        try:
            self._write(spec)
        except (OSError, ValueError) as error:
            return SubmitFailure(f"job {spec.name} was not submitted: {_unwritten(spec, error)}")
        try:
            result = self.ask(self.submit_command(spec))
        except CommandTimedOut:
            # It may have been accepted all the same, and nobody would know of it.
            with self._lock:
                self._doubtful[spec.name] = DOUBTS
            raise
        outcome = self.parse_submit(result)
        if isinstance(outcome, SubmitFailure):
            return msgspec.structs.replace(
                outcome, message=f"job {spec.name} was not submitted: {outcome.message}"
            )
        with self._lock:
            self._known[outcome] = KnownJob(spec)
            self._forget()
        return outcome

    def _write(self, spec: JobSpec) -> None:
        text = self.render(spec).encode()
        os.makedirs(spec.folder, mode=0o700, exist_ok=True)
        descriptor = os.open(spec.script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700)
        with open(descriptor, "wb") as file:
            file.write(text)

    def _conclude(self, job_id: JobId, job: KnownJob | None, heard: JobStatus | None) -> JobStatus:
        """The status of a job after the scheduler has answered, and what is to be remembered of it."""
        if job is None:
            return heard or JobStatus(JobState.UNKNOWN, message=f"{self.label} does not know job {job_id}")
        if heard is None:
            now = self._clock()
            if job.absent_since is None:
                job.absent_since = now
            message = (
                f"{self.label} does not know the job any more, and there is no record of how it ended: neither the "
                f"scheduler's nor {job.spec.exit_file}, which its script writes unless it is killed or cannot write "
                "there"
            )
            gone = now >= job.absent_since + GRACE or job.cancelled
            ended = JobState.CANCELLED if job.cancelled else JobState.FAILED
            heard = JobStatus(ended if gone else JobState.UNKNOWN, message=message)
        else:
            job.absent_since = None
        spec = job.spec
        heard = msgspec.structs.replace(
            heard,
            stdout=heard.stdout or _existing(spec.stdout),
            stderr=heard.stderr or _existing(spec.stderr),
        )
        if heard.state.terminal:
            if heard.exit_code is None:
                heard = msgspec.structs.replace(heard, exit_code=exit_code_of(job))
            if job.cancelled and heard.state is not JobState.COMPLETED:
                heard = msgspec.structs.replace(heard, state=JobState.CANCELLED)
            job.ended = heard
        return heard

    def _forget(self) -> None:
        """Bound what is remembered: the oldest jobs that have ended go first."""
        if len(self._known) > 2 * REMEMBERED:
            ended = [job_id for job_id, job in self._known.items() if job.ended is not None]
            for job_id in ended[: max(0, len(ended) - REMEMBERED)]:
                del self._known[job_id]

    def _settle_doubts(self) -> None:
        """Cancel jobs whose submission had no answer and which are there after all."""
        with self._lock:
            doubtful = dict(self._doubtful)
        if not doubtful:
            return
        jobs = self.parse_list(self.ask(self.list_command(JOB_PREFIX)))
        there = [job for job in jobs if job.name in doubtful and not job.status.state.terminal]
        for job in there:
            logger.warning(
                "job %s (%s) was accepted although nobody was told: it is cancelled", job.id, job.name
            )
        if there:
            self.cancel([job.id for job in there])
        with self._lock:
            for name, looks in doubtful.items():
                if any(job.name == name for job in there) or looks <= 1:
                    self._doubtful.pop(name, None)
                else:
                    self._doubtful[name] = looks - 1


# ------------------------------------------------------------------------------------------------- for all schedulers


def failure(result: CommandResult, remedies: Sequence[tuple[str, str, bool]]) -> SubmitFailure:
    """Why a submission was refused: the command, what it said, and the remedy.

    Each of ``remedies`` is text that the command may have said (in any case), what to do then, and whether trying
    again is in vain.
    """
    said = f"{result.stderr}\n{result.stdout}".lower()
    for sign, advice, permanent in remedies:
        if sign.lower() in said:
            return SubmitFailure(f"{result.described()}. Remedy: {advice}", permanent)
    return SubmitFailure(
        f"{result.described()}. Remedy: run the command by hand, and correct the provider's parameters or "
        "scheduler_options; render() shows the script"
    )


def no_answer(result: CommandResult, why: str = "") -> CommandFailed:
    """The error for a command that failed or whose output makes no sense (``why``)."""
    reason = f": {why}" if why else ""
    return CommandFailed(f"{result.described()}{reason}. Nothing is concluded from that about any job")


def state_of(exit_code: int) -> JobState:
    """The last state of a job that ended with ``exit_code``."""
    return JobState.FAILED if exit_code else JobState.COMPLETED


def exit_code_of(job: KnownJob | None) -> int | None:
    """The exit code that the job's script wrote as it ended, None where it is not there (yet)."""
    if job is None:
        return None
    try:
        with open(job.spec.exit_file, encoding="ascii") as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return None


def _existing(path: str) -> str:
    return path if os.path.exists(path) else ""


def _unwritten(spec: JobSpec, error: Exception) -> str:
    remedy = "give a run_dir that is writable"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free space there, or give run_dir on another disk"
    return f"its script {spec.script} cannot be written: {error}. Remedy: {remedy}"


def _parameters(kind: type[BatchProvider]) -> dict[str, inspect.Parameter]:
    """The parameters of a provider's constructor, with those that it passes on to `BatchProvider`."""
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BatchProvider) and "__init__" in vars(base):
            found.update(inspect.signature(vars(base)["__init__"]).parameters)
    return {
        name: parameter
        for name, parameter in found.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
