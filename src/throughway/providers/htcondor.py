"""Blocks from HTCondor: condor_submit, condor_q, condor_history, condor_rm. Made for version 8.8 and newer.

HTCondor gives slots, not nodes: a block of several nodes is a cluster of as many processes, each with a slot of its
own, in which one manager runs. They need not start together, and they work as soon as they do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.providers import batch, parameters
from throughway.providers.batch import BatchProvider, KnownJob
from throughway.providers.command import CommandMissing, CommandResult
from throughway.providers.interface import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    SchedulerError,
    SubmitFailure,
)

STATES = {
    0: JobState.UNKNOWN,  # unexpanded: just being queued
    1: JobState.PENDING,
    2: JobState.RUNNING,
    3: JobState.CANCELLED,  # removed
    4: JobState.COMPLETED,
    5: JobState.HELD,
    6: JobState.RUNNING,  # transfers its output
    7: JobState.HELD,  # suspended
}
"""What HTCondor's numbers for the states of jobs mean."""

KEPT_SECONDS = 600
"""How long a job that has ended stays in the queue, where its end is known at once."""

_ATTRIBUTES = (
    "ClusterId", "ProcId", "JobStatus", "JobBatchName", "ExitBySignal", "ExitCode", "ExitSignal", "HoldReason",
    "RemoveReason", "RemoteHost", "LastRemoteHost", "Out", "Err", "TotalSubmitProcs",
)  # fmt: skip

_REMEDIES = (
    ("can't find address of local schedd", "no schedd runs on this host: submit from one that has it", False),
    ("can't find address of schedd", "the schedd is down or out of reach: `condor_status -schedd`", False),
    ("failed to connect to", "the schedd is down or out of reach: `condor_status -schedd`", False),
    ("max_jobs", "a limit of jobs is reached: give a smaller max_blocks=, or wait", False),
    ("no space left", "the disk of the schedd is full: ask its administrator", False),
    ("requirements", "correct requirements=", True),
    ("on line", "correct scheduler_options=, which are lines of the submit description", True),
    ("parse error", "correct requirements= or scheduler_options=", True),
)

_SUBMITTED = (
    re.compile(r"^(\d+)\.\d+ - \d+\.\d+\s*$", re.MULTILINE),
    re.compile(r"submitted to cluster (\d+)"),
)
_ABOUT_CLUSTER = re.compile(r"cluster (\d+)")


class _InEachSlot:
    """The launcher of those who give none: HTCondor runs the script once in each slot."""

    def __call__(self, command: str, nodes: int) -> str:
        return command

    def __repr__(self) -> str:
        return "None"


class HTCondorProvider(BatchProvider):
    """Blocks from HTCondor; see `BatchProvider` for the parameters that all batch schedulers have.

    Args:
        cores_per_slot: cores of each slot, that is of each node of a block.
        mem_per_slot: GiB of memory of each slot.
        environment: variables that the jobs get, and the scheduler's commands.
        project: the accounting group that is charged.
        scheduler_options: lines of the submit description, such as ``"+JobFlavour = workday"``.
        transfer_input_files: files that HTCondor brings to the slots.
        requirements: an expression over the attributes of machines.

    Slots must share the file system with the submitting host: managers read their configuration from the run folder.
    A job is removed at its walltime. If a slot is taken away, HTCondor runs its script again elsewhere. Machines
    that jobs are to avoid are left out by the requirements.
    """

    label = "HTCondor"
    can_exclude = True
    directive: ClassVar[str] = "#"
    signals_all: ClassVar[bool] = False
    recorded_variables: ClassVar[Sequence[str]] = (
        "PATH", "LD_LIBRARY_PATH", "CONDOR_CONFIG", "_CONDOR_SCHEDD_NAME", "_CONDOR_SCHEDD_HOST",
    )  # fmt: skip

    def __init__(
        self,
        nodes_per_block: int = 1,
        cores_per_slot: int | None = None,
        mem_per_slot: float | None = None,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        environment: Mapping[str, str] | None = None,
        project: str | None = None,
        scheduler_options: str = "",
        transfer_input_files: Sequence[str] = (),
        walltime: str | float | None = "00:10:00",
        worker_init: str = "",
        launcher: Launcher | None = None,
        requirements: str | None = None,
        cmd_timeout: float = 60,
        **others: Any,
    ) -> None:
        self.cores_per_slot = parameters.optional_whole_number("cores_per_slot", cores_per_slot, 1)
        self.mem_per_slot = parameters.optional_number("mem_per_slot", mem_per_slot)
        self.project = parameters.word("project", project)
        self.requirements = parameters.line("requirements", requirements or None)
        self.transfer_input_files = _files(transfer_input_files)
        if self.cores_per_slot is not None:
            others.setdefault("cores_per_node", self.cores_per_slot)
        if self.mem_per_slot is not None:
            others.setdefault("mem_per_node", self.mem_per_slot)
        super().__init__(
            nodes_per_block=nodes_per_block,
            init_blocks=init_blocks,
            min_blocks=min_blocks,
            max_blocks=max_blocks,
            parallelism=parallelism,
            environment=environment,
            scheduler_options=_commented(parameters.text("scheduler_options", scheduler_options)),
            walltime=walltime,
            worker_init=worker_init,
            launcher=launcher,
            cmd_timeout=cmd_timeout,
            **others,
        )

    def default_launcher(self) -> Launcher:
        """None is needed."""
        return _InEachSlot()

    # ------------------------------------------------------------------------------------------------- submission

    def description(self, spec: JobSpec) -> str:
        """The submit description, which stands beside the script in ``<name>.submit``."""
        own = "" if spec.nodes == 1 else ".$(Process)"
        lines = [
            "universe = vanilla",
            f"batch_name = {spec.name}",
            f"executable = {spec.script}",
            "transfer_executable = true",
            f"output = {spec.stdout}{own}",
            f"error = {spec.stderr}{own}",
            f"log = {os.path.join(spec.folder, spec.name)}.log",
            "getenv = false",
            "notification = never",
            "kill_sig = SIGTERM",
            "want_graceful_removal = true",
            f"leave_in_queue = JobStatus == 4 && time() - CompletionDate < {KEPT_SECONDS}",
        ]
        if self.transfer_input_files:
            lines += [
                "should_transfer_files = yes",
                "when_to_transfer_output = on_exit",
                f"transfer_input_files = {', '.join(self.transfer_input_files)}",
            ]
        else:
            lines.append("should_transfer_files = if_needed")
            lines.append("when_to_transfer_output = on_exit")
        if self.cores_per_node is not None:
            lines.append(f"request_cpus = {self.cores_per_node}")
        if self.mem_per_node is not None:
            lines.append(f"request_memory = {max(1, int(self.mem_per_node * 1024))}")
        wanted = [f"({self.requirements})"] if self.requirements else []
        wanted += [f'(Machine != "{host}")' for host in sorted(spec.exclude)]
        if wanted:
            lines.append(f"requirements = {' && '.join(wanted)}")
        if self.walltime is not None:
            limit = int(self.walltime)
            lines.append(f"periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > {limit}")
        if self.project is not None:
            lines.append(f"accounting_group = {self.project}")
        lines += [line.removeprefix("# ") for line in self.scheduler_options.splitlines()]
        lines.append(f"queue {spec.nodes}")
        return "\n".join(lines) + "\n"

    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The submit description, as a comment: HTCondor reads it from its own file."""
        shown = self.description(spec).splitlines()
        options = self.scheduler_options.splitlines()
        return [f"# {line}" for line in shown if f"# {line}" not in options]

    def preamble(self) -> str:
        """The jobs' variables: HTCondor gives a job an environment of its own."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return "\n".join(lines)

    def _write(self, spec: JobSpec) -> None:
        super()._write(spec)
        with open(_submit_file(spec), "w", encoding="utf-8") as file:
            file.write(self.description(spec))

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """``condor_submit``."""
        return ["condor_submit", "-terse", _submit_file(spec)]

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """The cluster's number."""
        if not result.exit_code:
            for pattern in _SUBMITTED:
                found = pattern.search(result.stdout)
                if found is not None:
                    return JobId(found[1])
        return batch.failure(result, _REMEDIES)

    # ----------------------------------------------------------------------------------------------------- status

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``condor_q`` for clusters."""
        return ["condor_q", "-json", "-attributes", ",".join(_ATTRIBUTES), *ids]

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """The jobs in the queue. Of one of whose processes some have left it, those that are there count."""
        clusters = _clusters(result)
        return {job_id: _together(clusters[job_id]) for job_id in ids if job_id in clusters}

    def ended_status(self, missing: Mapping[JobId, KnownJob | None]) -> dict[JobId, JobStatus]:
        """What HTCondor's history knows, and what the scripts wrote down of the others."""
        found: dict[JobId, JobStatus] = {}
        try:
            for part in self.batches(list(missing)):
                clusters = _clusters(self.ask(self.history_command(part)))
                found.update({job_id: _together(clusters[job_id]) for job_id in part if job_id in clusters})
        except CommandMissing:
            pass
        except SchedulerError:
            # The queue has answered. Where nothing else is known of a job, its time of grace runs on.
            batch.logger.info("condor_history does not answer", exc_info=True)
        rest = {job_id: job for job_id, job in missing.items() if job_id not in found}
        return {**super().ended_status(rest), **found}

    def history_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``condor_history``, which reads backwards, and no further than it has to."""
        limit = str(len(ids) * self.nodes_per_block)
        return ["condor_history", "-json", "-attributes", ",".join(_ATTRIBUTES), "-limit", limit, *ids]

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """``condor_rm``; with ``force`` a second time, which does not wait for the slots."""
        remove = ["condor_rm", *ids]
        return [remove, ["condor_rm", "-forcex", *ids]] if force else [remove]

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """A sentence on each cluster."""
        verdicts = {}
        for line in f"{result.stdout}\n{result.stderr}".splitlines():
            about = _ABOUT_CLUSTER.search(line)
            if about is not None and about[1] in ids:
                verdicts[JobId(about[1])] = bool(re.search(r"marked for removal|removed locally", line))
        if not verdicts:
            raise batch.no_answer(result)
        return verdicts

    def list_command(self, prefix: str) -> Sequence[str]:
        """``condor_q``, which shows this user's jobs, by name."""
        named = f'regexp("^{re.escape(prefix)}", JobBatchName)'
        return ["condor_q", "-json", "-attributes", ",".join(_ATTRIBUTES), "-constraint", named]

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """This user's jobs."""
        return [
            NamedJob(job_id, str(processes[0].get("JobBatchName", "")), _together(processes))
            for job_id, processes in _clusters(result).items()
        ]


CondorProvider = HTCondorProvider
"""The same, by the name that Parsl has for it."""


def _files(value: object) -> tuple[str, ...]:
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(path, str) for path in value)
    ):
        raise ConfigurationError(f"transfer_input_files={value!r} are no paths: give a list of str")
    return tuple(value)


def _commented(text: str) -> str:
    """Lines of a submit description as comments, as which they also stand in the script."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(line if line.startswith("# ") else f"# {line}" for line in lines)


def _submit_file(spec: JobSpec) -> str:
    return os.path.join(spec.folder, f"{spec.name}.submit")


def _clusters(result: CommandResult) -> dict[JobId, list[Mapping[str, Any]]]:
    """The processes of each cluster in a list of job ads. Where there are none, nothing is written at all."""
    if result.exit_code:
        raise batch.no_answer(result)
    text = result.stdout.strip()
    if not text:
        return {}
    try:
        ads = json.loads(text, strict=False)
        clusters: dict[JobId, list[Mapping[str, Any]]] = {}
        for ad in ads:
            clusters.setdefault(JobId(str(int(ad["ClusterId"]))), []).append(ad)
    except (ValueError, TypeError, KeyError) as error:
        raise batch.no_answer(result, f"it is no list of job ads: {error!r}") from error
    return clusters


def _together(ads: Sequence[Mapping[str, Any]]) -> JobStatus:
    """The status of a block of several processes: it runs while one runs, and ends with the last.

    Otherwise one that waits counts before one that is held, and one that failed before one that did not.
    """
    statuses = [_status(ad) for ad in sorted(ads, key=lambda ad: int(ad.get("ProcId", 0)))]
    hosts = tuple(dict.fromkeys(host for status in statuses for host in status.hosts))
    order = (
        JobState.RUNNING,
        JobState.PENDING,
        JobState.HELD,
        JobState.UNKNOWN,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.CANCELLED,
        JobState.COMPLETED,
    )
    first = min(statuses, key=lambda status: order.index(status.state))
    held = [status for status in statuses if status.state is JobState.HELD and status is not first]
    message = first.message
    if held:
        message = f"{len(held)} of {len(statuses)} processes are held: {held[0].message}"
    return JobStatus(first.state, first.exit_code, message, first.stdout, first.stderr, hosts)


def _status(ad: Mapping[str, Any]) -> JobStatus:
    number = ad.get("JobStatus")
    state = STATES.get(number, JobState.UNKNOWN) if isinstance(number, int) else JobState.UNKNOWN
    code: int | None = None
    message = "" if number in STATES else f"JobStatus is {number!r}"
    if state is JobState.COMPLETED:
        if ad.get("ExitBySignal") is True:
            signal = ad.get("ExitSignal")
            code = 128 + signal if isinstance(signal, int) else None
            state = JobState.FAILED
            message = f"ended by signal {signal}"
        else:
            said = ad.get("ExitCode")
            code = said if isinstance(said, int) else None
            state = batch.state_of(code or 0)
    elif state is JobState.CANCELLED:
        message = str(ad.get("RemoveReason", ""))
        if "PeriodicRemove" in message:
            state = JobState.TIMEOUT
            message = f"removed at its walltime ({message})"
    elif state is JobState.HELD:
        message = str(
            ad.get("HoldReason") or ("suspended" if number == 7 else "held: condor_release releases it")
        )
    host = str(ad.get("RemoteHost") or ad.get("LastRemoteHost") or "").rpartition("@")[2]
    paths = [str(ad.get(name) or "") for name in ("Out", "Err")]
    stdout, stderr = (path if os.path.isabs(path) and os.path.exists(path) else "" for path in paths)
    return JobStatus(state, code, message, stdout, stderr, (host,) if host else ())
