"""Blocks from Grid Engine (Sun's, Son of, Univa's, Altair's): qsub, qstat, qdel, and qacct where it works."""

from __future__ import annotations

import getpass
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar
from xml.etree import ElementTree

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.providers import batch, parameters
from throughway.providers.batch import BatchProvider, KnownJob
from throughway.providers.command import CommandMissing, CommandResult, CommandTimedOut
from throughway.providers.interface import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    SchedulerError,
    SubmitFailure,
)

logger = logging.getLogger("throughway.providers")

MOST_ACCOUNTS = 5
"""Jobs that qacct is asked about at one time: it reads a file with all jobs of the site, for each of them."""

_NO_CONTACT = (
    "the queue master is down or out of reach: `qping -info $(cat $SGE_ROOT/$SGE_CELL/common/act_qmaster) "
    "$SGE_QMASTER_PORT qmaster 1` shows whether it answers"
)

_REMEDIES = (
    ("unknown queue", "give queue= as `qconf -sql` lists it", True),
    (
        "unknown resource",
        "correct scheduler_options= or memory_resource=: `qconf -sc` lists the resources",
        True,
    ),
    ("parallel environment", "give parallel_environment= as `qconf -spl` lists it", True),
    ("project", "give a project with `#$ -P` in scheduler_options= that `qconf -sprjl` lists", True),
    ("invalid option", "correct scheduler_options=: `qsub -help` lists the options", True),
    ("no access to", "your user may not use that: ask the administrator, or give another queue=", True),
    ("exceed", "a limit is reached: give a smaller max_blocks=, or wait for jobs to end", False),
    ("unable to contact qmaster", _NO_CONTACT, False),
    ("commlib error", _NO_CONTACT, False),
    (
        "no space left",
        "the disk of the scheduler or of the run folder is full: free space or ask its administrator",
        False,
    ),
)


class GridEngineProvider(BatchProvider):
    """Blocks from Grid Engine; see `BatchProvider` for the parameters that all batch schedulers have.

    Args:
        queue: where jobs go, None for any queue.
        parallel_environment: the one that gives a job its slots, as ``qconf -spl`` lists it: needed for
            ``cores_per_node`` and for blocks of several nodes. A job asks for ``nodes_per_block * cores_per_node``
            slots; how they are spread is up to the parallel environment's allocation rule.
        memory_resource: the resource that stands for memory, such as ``"h_vmem"``; needed for ``mem_per_node``. It
            counts for each slot.

    The walltime is ``h_rt``, and ``walltime_warning`` seconds before it Grid Engine signals the job (``s_rt``). Jobs
    do not inherit the environment of the submission: give ``scheduler_options="#$ -V"``, or set in worker_init what
    the managers need. A block of several nodes needs a ``launcher`` that the site supports, such as
    ``MpiExecLauncher()``.
    """

    label = "Grid Engine"
    can_exclude = True
    directive: ClassVar[str] = "#$"
    recorded_variables: ClassVar[Sequence[str]] = (
        "PATH", "LD_LIBRARY_PATH", "SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT",
    )  # fmt: skip

    def __init__(
        self,
        nodes_per_block: int = 1,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        walltime: str | float | None = "00:10:00",
        scheduler_options: str = "",
        worker_init: str = "",
        launcher: Launcher | None = None,
        cmd_timeout: float = 60,
        queue: str | None = None,
        parallel_environment: str | None = None,
        cores_per_node: int | None = None,
        mem_per_node: float | None = None,
        memory_resource: str | None = None,
        **others: Any,
    ) -> None:
        self.queue = parameters.word("queue", queue)
        self.parallel_environment = parameters.word("parallel_environment", parallel_environment)
        self.memory_resource = parameters.word("memory_resource", memory_resource)
        super().__init__(
            nodes_per_block=nodes_per_block,
            init_blocks=init_blocks,
            min_blocks=min_blocks,
            max_blocks=max_blocks,
            parallelism=parallelism,
            walltime=walltime,
            scheduler_options=scheduler_options,
            worker_init=worker_init,
            launcher=launcher,
            cmd_timeout=cmd_timeout,
            cores_per_node=cores_per_node,
            mem_per_node=mem_per_node,
            **others,
        )
        asked = "-pe " in self.scheduler_options
        if self.parallel_environment is None and not asked:
            for name, value, least in (
                ("nodes_per_block", self.nodes_per_block, 1),
                ("cores_per_node", cores_per_node, 0),
            ):
                if value is not None and value > least:
                    raise ConfigurationError(
                        f"{name}={value} needs a parallel environment: give parallel_environment= as `qconf -spl` "
                        "lists it"
                    )
        if mem_per_node is not None and self.memory_resource is None:
            raise ConfigurationError(
                f"mem_per_node={mem_per_node!r} needs the name of the resource that stands for memory at this site: "
                'give memory_resource=, such as "h_vmem"'
            )
        self._accounting = True
        """whether qacct can be expected to answer"""
        self._reasons: dict[JobId, str] = {}
        """why jobs are in the error state"""

    # ------------------------------------------------------------------------------------------------- submission

    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The job's options."""
        options = [
            f"-N {spec.name}",
            "-S /bin/bash",
            *_paths(spec, quoted=False),
            "-j n",
            "-r n",
        ]
        slots = self.cores_per_node or 1
        if self.walltime is not None:
            options.append(f"-l h_rt={parameters.hours(self.walltime)}")
            warning = self.warning_time()
            if warning:
                options.append(f"-l s_rt={parameters.hours(self.walltime - warning)}")
        if self.queue is not None:
            options.append(f"-q {self.queue}")
        if self.parallel_environment is not None:
            options.append(f"-pe {self.parallel_environment} {spec.nodes * slots}")
        if self.mem_per_node is not None:
            options.append(f"-l {self.memory_resource}={max(1, int(self.mem_per_node * 1024 / slots))}M")
        if spec.exclude:
            options.append(f"-l hostname={'&'.join(f'!{host}' for host in sorted(spec.exclude))}")
        return [f"{self.directive} {option}" for option in options]

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """``qsub``, with paths that no directive can hold."""
        paths = [part for option in _paths(spec, quoted=True) for part in option.split(" ", 1)]
        return ["qsub", "-terse", *paths, spec.script]

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """The id is on a line of its own, or in a sentence where a wrapper has dropped ``-terse``."""
        if result.exit_code:
            return batch.failure(result, _REMEDIES)
        found = _SUBMITTED.findall(result.stdout)
        if not found:
            return SubmitFailure(
                f"{result.described()}, which has no job id. Remedy: see whether a wrapper of qsub changes what it "
                "says; the job may have been accepted: see qstat"
            )
        return JobId(next(part for part in found[-1] if part))

    # ----------------------------------------------------------------------------------------------------- status

    def batches(self, ids: Sequence[JobId]) -> Iterable[Sequence[JobId]]:
        """All at once: the question is for all jobs of the user."""
        return (ids,) if ids else ()

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``qstat``."""
        return ["qstat", "-u", getpass.getuser(), "-xml"]

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Jobs that wait or run; Grid Engine forgets a job as it ends."""
        found = {job.id: job.status for job in self.parse_list(result)}
        return {job_id: found[job_id] for job_id in ids if job_id in found}

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """As of all batch schedulers; also asks why a job is in the error state, once."""
        found = super().status(ids)
        for job_id, status in found.items():
            if status.state is JobState.HELD and "E" in status.message.partition(":")[0]:
                if job_id not in self._reasons:
                    self._reasons[job_id] = self._reason(job_id)
                if self._reasons[job_id]:
                    message = f"{status.message}: {self._reasons[job_id]}"
                    found[job_id] = JobStatus(
                        status.state, message=message, stdout=status.stdout, stderr=status.stderr
                    )
        return found

    def _reason(self, job_id: JobId) -> str:
        try:
            said = self.ask(["qstat", "-j", job_id]).stdout
        except SchedulerError as error:
            logger.warning("Grid Engine does not say why job %s is in the error state: %s", job_id, error)
            return ""
        return "; ".join(match.strip() for match in _REASON.findall(said))

    def ended_status(self, missing: Mapping[JobId, KnownJob | None]) -> dict[JobId, JobStatus]:
        """What the scripts wrote down, and what the accounting knows of the others."""
        found = super().ended_status(missing)
        rest = [job_id for job_id in missing if job_id not in found]
        for job_id in rest[:MOST_ACCOUNTS]:
            if not self._accounting:
                break
            try:
                status = self.parse_accounting(self.ask(["qacct", "-j", job_id]))
            except (CommandMissing, CommandTimedOut) as error:
                self._accounting = False
                logger.info("this Grid Engine has no accounting that answers in time: %s", error)
            except SchedulerError as error:
                logger.warning("Grid Engine's accounting does not answer: %s", error)
            else:
                if status is not None:
                    found[job_id] = status
        return found

    def parse_accounting(self, result: CommandResult) -> JobStatus | None:
        """The end of a job, by qacct; None where it does not know the job (yet)."""
        fields = {}
        for line in result.stdout.splitlines():
            key, _, value = line.strip().partition(" ")
            fields[key] = value.strip()
        code = fields.get("exit_status", "").split()[:1]
        if result.exit_code or not code or not code[0].isdecimal():
            return None
        exit_code = int(code[0])
        number, _, why = fields.get("failed", "0").partition(":")
        number, why = number.strip(), why.strip()
        host = (fields["hostname"],) if fields.get("hostname") else ()
        if number == "37":
            return JobStatus(JobState.TIMEOUT, exit_code, f"Grid Engine says {why}", hosts=host)
        if number not in ("", "0"):
            return JobStatus(
                JobState.FAILED, exit_code or None, f"Grid Engine says {number}: {why}", hosts=host
            )
        return JobStatus(batch.state_of(exit_code), exit_code, hosts=host)

    # --------------------------------------------------------------------------------------------- cancel and list

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """``qdel``, which kills at once; with ``force`` also where the node does not answer."""
        if force:
            return [["qdel", *ids], ["qdel", "-f", *ids]]
        return [["qdel", *ids]]

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """It says a line about each job."""
        said = f"{result.stdout}\n{result.stderr}"
        ending = {part for parts in _DELETED.findall(said) for part in parts if part}
        named = set(_NAMED.findall(said))
        if result.exit_code and not named:
            raise batch.no_answer(result)
        return {job_id: job_id in ending for job_id in ids}

    def list_command(self, prefix: str) -> Sequence[str]:
        """``qstat``."""
        return self.status_command(())

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """Jobs that wait or run. In this form only, names are not cut."""
        if result.exit_code:
            raise batch.no_answer(result)
        try:
            tree = ElementTree.fromstring(result.stdout.strip())  # noqa: S314 - the user's own scheduler wrote it
        except ElementTree.ParseError as error:
            raise batch.no_answer(result, f"that is no XML: {error}") from error
        if tree.tag.rpartition("}")[2] != "job_info":
            raise batch.no_answer(result, f"that is no list of jobs, but {tree.tag}")
        jobs: dict[str, NamedJob] = {}
        for entry in tree.iter("job_list"):
            number = (entry.findtext("JB_job_number") or "").strip()
            letters = (entry.findtext("state") or "").strip()
            queue = (entry.findtext("queue_name") or "").strip()
            hosts = (queue.partition("@")[2],) if "@" in queue else ()
            if number:
                status = _status(letters, hosts)
                # A job on several nodes may have a line for each.
                if number in jobs:
                    known = jobs[number].status.hosts
                    status = JobStatus(
                        status.state, message=status.message, hosts=tuple(dict.fromkeys(known + hosts))
                    )
                jobs[number] = NamedJob(JobId(number), (entry.findtext("JB_name") or "").strip(), status)
        return list(jobs.values())


_SUBMITTED = re.compile(r"^\s*(\d+)(?:\.[\d:-]+)?\s*$|[Yy]our job (\d+) ", re.MULTILINE)
_REASON = re.compile(r"^error reason[^:]*:(.*)$", re.MULTILINE)
_DELETED = re.compile(
    r"(?:registered the job|has deleted job|forced the deletion of job) (\d+)|job (\d+) is already in deletion"
)
_UNSAFE = re.compile(r"[\s'\"\\]")
_NAMED = re.compile(r"\bjob \"?(\d+)")


def _status(letters: str, hosts: tuple[str, ...]) -> JobStatus:
    """What qstat's letters, such as ``hqw``, mean."""
    if "E" in letters:
        return JobStatus(
            JobState.HELD,
            message=f"{letters}: in the error state until somebody clears it (qmod -cj)",
            hosts=hosts,
        )
    if "d" in letters:
        return JobStatus(JobState.RUNNING, message=f"{letters}: being deleted", hosts=hosts)
    if "h" in letters:
        return JobStatus(
            JobState.HELD, message=f"{letters}: held until somebody releases it (qrls)", hosts=hosts
        )
    if any(letter in letters for letter in "sSTN"):
        return JobStatus(JobState.HELD, message=f"{letters}: suspended", hosts=hosts)
    if "r" in letters or "t" in letters:
        return JobStatus(JobState.RUNNING, hosts=hosts)
    if "q" in letters or "w" in letters:
        return JobStatus(JobState.PENDING, message="" if letters == "qw" else letters, hosts=hosts)
    return JobStatus(
        JobState.UNKNOWN, message=f"Grid Engine says {letters!r}, which is not known here", hosts=hosts
    )


def _paths(spec: JobSpec, *, quoted: bool) -> list[str]:
    """The options for the output files, if they need quoting or if they do not: directives drop all quotes."""
    if bool(_UNSAFE.search(spec.stdout)) is not quoted:
        return []
    # What is before a colon would be a host.
    return [
        f"{option} {f':{path}' if ':' in path else path}"
        for option, path in (("-o", spec.stdout), ("-e", spec.stderr))
    ]
