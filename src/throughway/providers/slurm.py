"""Blocks from Slurm: sbatch, squeue, sacct, scancel. Made for Slurm 17.11 and newer."""

from __future__ import annotations

import logging
import os
import pwd
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher
from throughway.launchers.starters import SrunLauncher
from throughway.providers import batch, parameters
from throughway.providers.batch import BatchProvider, KnownJob
from throughway.providers.command import CommandMissing, CommandResult
from throughway.providers.hostlists import expand
from throughway.providers.interface import (
    BLOCK_END_VARIABLE,
    JobId,
    JobSpec,
    JobStatus,
    NamedJob,
    SchedulerError,
    SubmitFailure,
)
from throughway.providers.slurm_answers import FORMAT, REMEDIES, exit_code_of, job_status, read_rows

logger = logging.getLogger("throughway.providers")

REGEX_JOB_ID = r"^(?:Submitted batch job )?(?P<id>\d+)(?:(?:;| on cluster )(?P<cluster>[\w.-]+))?\s*$"
"""Finds the job in what sbatch says, with ``--parsable`` or without."""


class SlurmProvider(BatchProvider):
    """Blocks from Slurm; see `BatchProvider` for the parameters that all batch schedulers have.

    Args:
        partition: where jobs go, None for the default partition.
        account: who is charged, None for the user's default.
        qos: quality of service.
        constraint: features that nodes must have, such as ``"haswell&ssd"``.
        clusters: names of clusters, separated by commas: each job goes to the one that starts it first.
        gpus_per_node: as ``--gpus-per-node``: ``4`` or ``"a100:4"``.
        gres: generic resources of each node, such as ``"gpu:2"``.
        exclusive: whether a block has its nodes for itself. Without it, give ``cores_per_node``: Slurm gives a
            job that says nothing a single core.
        regex_job_id: finds the job's id in what ``sbatch`` says, in a group ``id``, for sites that wrap it.

    With ``walltime_warning``, Slurm signals the job that many seconds before its end. Nodes that jobs are to avoid
    are left out by ``--exclude``. Jobs are not requeued: a new block takes the place of a lost one. If accounting
    is on, ``sacct`` is asked about jobs that ``squeue`` has forgotten.
    """

    label = "Slurm"
    can_exclude = True
    directive: ClassVar[str] = "#SBATCH"
    recorded_variables: ClassVar[Sequence[str]] = (
        "PATH", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "LD_LIBRARY_PATH",
    )  # fmt: skip

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        clusters: str | None = None,
        nodes_per_block: int = 1,
        cores_per_node: int | None = None,
        mem_per_node: float | None = None,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        walltime: str | float | None = "00:10:00",
        scheduler_options: str = "",
        regex_job_id: str = REGEX_JOB_ID,
        worker_init: str = "",
        cmd_timeout: float = 60,
        exclusive: bool = True,
        launcher: Launcher | None = None,
        gpus_per_node: str | int | None = None,
        gres: str | None = None,
        **others: Any,
    ) -> None:
        self.partition = parameters.word("partition", partition)
        self.account = parameters.word("account", account)
        self.qos = parameters.word("qos", qos)
        self.constraint = parameters.line("constraint", constraint)
        self.clusters = parameters.word("clusters", clusters)
        self.gres = parameters.word("gres", gres)
        if isinstance(gpus_per_node, int):
            gpus_per_node = str(parameters.whole_number("gpus_per_node", gpus_per_node, 1))
        self.gpus_per_node = parameters.word("gpus_per_node", gpus_per_node)
        self.exclusive = parameters.flag("exclusive", exclusive)
        self.regex_job_id = parameters.text("regex_job_id", regex_job_id)
        try:
            self._job_id = re.compile(regex_job_id, re.MULTILINE)
        except re.error as error:
            raise ConfigurationError(
                f"regex_job_id={regex_job_id!r} is no regular expression: {error}"
            ) from error
        if "id" not in self._job_id.groupindex:
            raise ConfigurationError(f"regex_job_id={regex_job_id!r} has no group id: write (?P<id>...)")
        super().__init__(
            nodes_per_block=nodes_per_block,
            cores_per_node=cores_per_node,
            mem_per_node=mem_per_node,
            init_blocks=init_blocks,
            min_blocks=min_blocks,
            max_blocks=max_blocks,
            parallelism=parallelism,
            walltime=walltime,
            scheduler_options=scheduler_options,
            worker_init=worker_init,
            cmd_timeout=cmd_timeout,
            launcher=launcher,
            **others,
        )
        self._accounting = True
        """whether sacct can be expected to answer"""

    def default_launcher(self) -> Launcher:
        """One step over all nodes; one node needs none."""
        return SrunLauncher() if self.nodes_per_block > 1 else SimpleLauncher()

    # ------------------------------------------------------------------------------------------------- submission

    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The job's options."""
        options = [
            f"--job-name={spec.name}",
            f"--output={_path(spec.stdout)}",
            f"--error={_path(spec.stderr)}",
            f"--nodes={spec.nodes}",
            "--ntasks-per-node=1",
            "--no-requeue",
        ]
        if self.walltime is not None:
            options.append(f"--time={parameters.hours(self.walltime)}")
        if warning := self.warning_time():
            options.append(f"--signal=B:USR1@{warning}")
        if self.exclusive:
            options.append("--exclusive")
        if self.cores_per_node is not None:
            options.append(f"--cpus-per-task={self.cores_per_node}")
        if self.mem_per_node is not None:
            options.append(f"--mem={max(1, int(self.mem_per_node * 1024))}M")
        for name in ("partition", "account", "qos", "constraint", "clusters", "gres"):
            value = getattr(self, name)
            if value is not None:
                options.append(f"--{name}={_quoted(value)}")
        if self.gpus_per_node is not None:
            options.append(f"--gpus-per-node={self.gpus_per_node}")
        if spec.exclude:
            options.append(f"--exclude={','.join(sorted(spec.exclude))}")
        return [f"{self.directive} {option}" for option in options]

    def preamble(self) -> str:
        """Steps of the job get its environment also where sbatch was told to export nothing."""
        return "export SLURM_EXPORT_ENV=ALL"

    def block_end(self) -> str:
        """Slurm's own word where there is one (newer than 22.05), as it knows when the job has started."""
        if self.walltime is None:
            return f'[ -z "${{SLURM_JOB_END_TIME:-}}" ] || export {BLOCK_END_VARIABLE}="$SLURM_JOB_END_TIME"'
        end = f"$(($(date +%s) + {int(self.walltime)}))"
        return f'export {BLOCK_END_VARIABLE}="${{SLURM_JOB_END_TIME:-{end}}}"'

    def command_environment(self) -> dict[str, str]:
        """Without what a job around us, or the user's habits, would make of the commands.

        Options of the job in which the executor itself may run are not those of its blocks, variables win over a
        script's directives, and those of squeue change what it shows.
        """
        kept = {*self.recorded_variables, "SLURM_TIME_FORMAT"}
        set_here = {
            "JOB_NAME",
            "OUTPUT",
            "ERROR",
            "NODES",
            "REQUEUE",
            "NO_REQUEUE",
            "SIGNAL",
            "EXCLUSIVE",
            "PARSABLE",
        }
        names = ("partition", "account", "qos", "constraint", "clusters", "gres", "gpus_per_node")
        set_here |= {name.upper() for name in names if getattr(self, name) is not None}
        if self.walltime is not None:
            set_here.add("TIMELIMIT")
        found = {
            name: value
            for name, value in os.environ.items()
            if name in kept
            or not (
                name.startswith(("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_"))
                or (name.startswith("SBATCH_") and name.removeprefix("SBATCH_") in set_here)
            )
        }
        return {**found, **self.environment}

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """``sbatch``."""
        return ["sbatch", "--parsable", spec.script]

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """The id, with the cluster behind a semicolon where there is one."""
        if result.exit_code:
            return batch.failure(result, REMEDIES)
        matches = list(self._job_id.finditer(result.stdout))
        if not matches:
            return SubmitFailure(
                f"{result.described()}, which has no job id that regex_job_id={self.regex_job_id!r} finds. "
                "Remedy: give one that fits; the job may have been accepted: see squeue --user=$USER"
            )
        groups = matches[-1].groupdict()
        cluster = groups.get("cluster")
        return JobId(f"{groups['id']};{cluster}" if cluster else str(groups["id"]))

    # ----------------------------------------------------------------------------------------------------- status

    def batches(self, ids: Sequence[JobId]) -> Iterable[Sequence[JobId]]:
        """Those of one cluster together."""
        by_cluster: dict[str, list[JobId]] = {}
        for job_id in ids:
            by_cluster.setdefault(_cluster(job_id), []).append(job_id)
        for part in by_cluster.values():
            yield from super().batches(part)

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``squeue``, in columns of fixed width, which all versions have."""
        jobs = ",".join(_number(job_id) for job_id in ids)
        return [
            "squeue",
            *_on_cluster(ids),
            "--noheader",
            "--states=all",
            f"--Format={FORMAT}",
            f"--jobs={jobs}",
        ]

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Jobs that Slurm's controller still remembers, which it does for some minutes after their end."""
        if result.exit_code:
            if "Invalid job id specified" in result.stderr:
                return {}
            raise batch.no_answer(result)
        rows, strange = read_rows(result.stdout)
        found = {}
        for job_id in ids:
            row = rows.get(_number(job_id))
            if row is not None:
                found[job_id] = row.status
        if strange and len(found) < len(ids):
            raise batch.no_answer(result, f"the line {strange[0]!r} is not understood")
        return found

    def ended_status(self, missing: Mapping[JobId, KnownJob | None]) -> dict[JobId, JobStatus]:
        """What the accounting knows, and what the scripts wrote down of the others."""
        found: dict[JobId, JobStatus] = {}
        if self._accounting:
            for part in self.batches(list(missing)):
                found.update(self._account(part))
        rest = {job_id: job for job_id, job in missing.items() if job_id not in found}
        return {**super().ended_status(rest), **found}

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``sacct``."""
        jobs = ",".join(_number(job_id) for job_id in ids)
        columns = "--format=JobIDRaw,State,ExitCode,NodeList"
        return [
            "sacct",
            *_on_cluster(ids),
            "--allocations",
            "--noheader",
            "--parsable2",
            columns,
            f"--jobs={jobs}",
        ]

    def parse_accounting(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Jobs that have ended, by the accounting. It lags behind: what it says of others is left out."""
        if result.exit_code:
            raise batch.no_answer(result)
        rows = {}
        for line in result.stdout.splitlines():
            fields = line.split("|")
            if len(fields) == 4 and fields[0].isdecimal():
                number, word, code, hosts = fields
                status = job_status(word, "", exit_code_of(code), expand(hosts))
                if status.state.terminal:
                    rows[number] = status
        return {job_id: rows[_number(job_id)] for job_id in ids if _number(job_id) in rows}

    def _account(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        try:
            result = self.ask(self.accounting_command(ids))
            return self.parse_accounting(result, ids)
        except SchedulerError as error:
            if isinstance(error, CommandMissing) or "accounting storage is disabled" in str(error):
                self._accounting = False
                logger.info("this Slurm has no accounting: %s", error)
            else:
                logger.warning("Slurm's accounting does not answer: %s", error)
            return {}

    # --------------------------------------------------------------------------------------------- cancel and list

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """``scancel``; with ``force``, all processes are killed before."""
        numbers = [_number(job_id) for job_id in ids]
        plain = ["scancel", *_on_cluster(ids), "--verbose", *numbers]
        if not force:
            return [plain]
        # The other way round, the job would be ending, and Slurm would let it have its time.
        return [["scancel", *_on_cluster(ids), "--verbose", "--signal=KILL", "--full", *numbers], plain]

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """All that it does not complain about."""
        refused = set(_REFUSED.findall(result.stderr))
        if result.exit_code and not refused:
            raise batch.no_answer(result)
        silent = {number for number, why in refused if not _GONE.search(why)}
        if silent and "--signal=KILL" not in result.command:
            raise batch.no_answer(result)
        numbers = {number for number, _ in refused}
        return {job_id: _number(job_id) not in numbers for job_id in ids}

    def list_command(self, prefix: str) -> Sequence[str]:
        """``squeue`` for all jobs of this user."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        clusters = [f"--clusters={self.clusters}"] if self.clusters else []
        return ["squeue", *clusters, "--noheader", f"--user={user}", f"--Format={FORMAT}"]

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """Jobs that wait or run."""
        if result.exit_code:
            raise batch.no_answer(result)
        rows, strange = read_rows(result.stdout)
        if strange and not rows:
            raise batch.no_answer(result, f"the line {strange[0]!r} is not understood")
        return [NamedJob(JobId(row.id), row.name, row.status) for row in rows.values()]


_REFUSED = re.compile(r"Kill job error on job id (\d+)\S*: (.*)")
_GONE = re.compile(r"Invalid job id|already complet", re.IGNORECASE)


def _number(job_id: JobId) -> str:
    return job_id.partition(";")[0]


def _cluster(job_id: JobId) -> str:
    return job_id.partition(";")[2]


def _on_cluster(ids: Sequence[JobId]) -> list[str]:
    cluster = _cluster(ids[0])
    return [f"--clusters={cluster}"] if cluster else []


def _path(path: str) -> str:
    """A path in a directive, where per cent signs stand for parts of the job's id."""
    return _quoted(path.replace("%", "%%"))


def _quoted(text: str) -> str:
    return shlex.quote(text)
