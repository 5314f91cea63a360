"""Blocks from IBM Spectrum LSF: bsub, bjobs, bkill. Made for version 9.1 and newer."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher
from throughway.launchers.starters import JsrunLauncher, MpiExecLauncher
from throughway.providers import batch, parameters
from throughway.providers.batch import BatchProvider
from throughway.providers.command import CommandResult
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, NamedJob, SubmitFailure
from throughway.providers.pbs import OUTPUT, batch_output

STATES = {
    "PEND": JobState.PENDING,
    "WAIT": JobState.PENDING,
    "FWD_PEND": JobState.PENDING,
    "PROV": JobState.PENDING,  # its host is being woken
    "PSUSP": JobState.HELD,
    "USUSP": JobState.HELD,
    "SSUSP": JobState.HELD,
    "RUN": JobState.RUNNING,
    "UNKWN": JobState.UNKNOWN,  # its host does not answer
    "DONE": JobState.COMPLETED,
    "EXIT": JobState.FAILED,
    "ZOMBI": JobState.CANCELLED,  # killed, while its host did not answer
}
"""What LSF's words for the states of jobs mean."""

_REASONS = (
    ("TERM_RUNLIMIT", JobState.TIMEOUT),
    ("TERM_DEADLINE", JobState.TIMEOUT),
    ("TERM_OWNER", JobState.CANCELLED),
    ("TERM_FORCE_OWNER", JobState.CANCELLED),
    ("TERM_ADMIN", JobState.CANCELLED),
    ("TERM_FORCE_ADMIN", JobState.CANCELLED),
    ("TERM_REMOVE_HUNG_JOB", JobState.CANCELLED),
)
"""What the reason for which LSF ended a job makes of it."""

_EXPLAINED = {
    "PSUSP": "held before it started: bresume releases it",
    "USUSP": "suspended by its owner or an administrator: bresume releases it",
    "SSUSP": "suspended by LSF, as its host is loaded or its queue closed",
    "UNKWN": "LSF has lost the contact to the job's host",
}

_REMEDIES = (
    ("no such queue", "give queue= as `bqueues` lists it", True),
    ("cannot use the queue", "give queue= that you may use: `bqueues -u $USER` lists them", True),
    ("user cannot use", "give queue= or project= that you may use", True),
    ("project", "give project= that you may charge", True),
    ("bad resource requirement", "correct scheduler_options=", True),
    (
        "illegal option",
        "correct scheduler_options=, or request_by_nodes=False where LSF has no -nnodes",
        True,
    ),
    ("run limit", "give walltime= within the queue's limit: `bqueues -l` shows it", True),
    ("too many processors", "give nodes_per_block=, cores_per_block= within the queue's limits", True),
    (
        "pending job threshold",
        "a limit of waiting jobs is reached: give a smaller max_blocks=, or wait",
        False,
    ),
    ("job slot limit", "a limit of jobs is reached: give a smaller max_blocks=, or wait", False),
    ("cannot connect to lsf", "LSF is down or out of reach: `lsid` shows whether it answers", False),
    ("lsf is down", "LSF is down or out of reach: `lsid` shows whether it answers", False),
    ("no space left", "the disk of LSF is full: ask its administrator", False),
)

_SUBMITTED = re.compile(r"^Job <(\d+)> is submitted to", re.MULTILINE)
_ABOUT = re.compile(r"Job <([^>]+)>")
_COLUMNS = ("jobid", "stat", "exit_code", "exit_reason", "job_name", "exec_host", "pend_reason")
_DELIMITER = "^"
_FORMAT = f"{' '.join(_COLUMNS)} delimiter='{_DELIMITER}'"


class LSFProvider(BatchProvider):
    """Blocks from LSF; see `BatchProvider` for the parameters that all batch schedulers have.

    Args:
        cores_per_block: cores of a block; None for ``cores_per_node`` on each of its nodes.
        cores_per_node: cores of each node.
        project: who is charged.
        queue: where jobs go, None for the default queue.
        bsub_redirection: whether ``bsub`` gets the script on its standard input, and reads the directives in it.
            Otherwise it gets them as options, and the path of the script.
        request_by_nodes: whether whole nodes are asked for (``-nnodes``), or cores (``-n`` and ``span[ptile]``): then
            ``cores_per_block`` or ``cores_per_node`` is needed.

    LSF counts walltimes in minutes; fractions are rounded up. With ``walltime_warning`` of a minute or more, it
    signals the job before its end. Nodes that jobs are to avoid are left out by ``select``.
    """

    label = "LSF"
    can_exclude = True
    directive: ClassVar[str] = "#BSUB"
    recorded_variables: ClassVar[Sequence[str]] = (
        "PATH", "LD_LIBRARY_PATH", "LSF_ENVDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_BINDIR",
    )  # fmt: skip

    def __init__(
        self,
        nodes_per_block: int = 1,
        cores_per_block: int | None = None,
        cores_per_node: int | None = None,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        walltime: str | float | None = "00:10:00",
        scheduler_options: str = "",
        worker_init: str = "",
        project: str | None = None,
        queue: str | None = None,
        cmd_timeout: float = 120,
        bsub_redirection: bool = False,
        request_by_nodes: bool = True,
        launcher: Launcher | None = None,
        **others: Any,
    ) -> None:
        self.project = parameters.word("project", project)
        self.queue = parameters.word("queue", queue)
        self.bsub_redirection = parameters.flag("bsub_redirection", bsub_redirection)
        self.request_by_nodes = parameters.flag("request_by_nodes", request_by_nodes)
        self.cores_per_block = parameters.optional_whole_number("cores_per_block", cores_per_block, 1)
        super().__init__(
            nodes_per_block=nodes_per_block,
            cores_per_node=cores_per_node,
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
        if not self.request_by_nodes and self.cores_per_block is None and self.cores_per_node is None:
            raise ConfigurationError(
                "request_by_nodes=False needs to know how many cores to ask for: give cores_per_node= or "
                "cores_per_block="
            )

    def default_launcher(self) -> Launcher:
        """Jsrun where whole nodes are asked for, as it comes with LSF there; else mpiexec; one node needs none."""
        if self.nodes_per_block == 1:
            return SimpleLauncher()
        return JsrunLauncher() if self.request_by_nodes else MpiExecLauncher()

    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The job's options."""
        options = [f"-J {spec.name}", f"-o {batch_output(spec)}"]
        if self.request_by_nodes:
            options.append(f"-nnodes {spec.nodes}")
        else:
            per_node = self.cores_per_node or math.ceil((self.cores_per_block or 1) / spec.nodes)
            options.append(f"-n {self.cores_per_block or per_node * spec.nodes}")
            options.append(f'-R "span[ptile={per_node}]"')
        if self.mem_per_node is not None:
            options.append(f'-R "rusage[mem={max(1, int(self.mem_per_node * 1024))}MB/host]"')
        if spec.exclude:
            others = " && ".join(f"hname!='{host}'" for host in sorted(spec.exclude))
            options.append(f'-R "select[{others}]"')
        if self.walltime is not None:
            minutes = math.ceil(self.walltime / 60)
            options.append(f"-W {minutes // 60:02d}:{minutes % 60:02d}")
            if warning := self.warning_time() // 60:
                options += ["-wa USR1", f"-wt {warning}"]
        if self.project is not None:
            options.append(f"-P {self.project}")
        if self.queue is not None:
            options.append(f"-q {self.queue}")
        return [f"{self.directive} {option}" for option in options]

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """``bsub``."""
        if self.bsub_redirection:
            return ["bash", "-c", 'exec bsub <"$0"', spec.script]
        options = []
        for line in (*self.directives(spec), *self.scheduler_options.splitlines()):
            if line.startswith(f"{self.directive} "):
                options += shlex.split(line.removeprefix(self.directive), comments=True)
        return ["bsub", *options, shlex.quote(spec.script)]

    def preamble(self) -> str:
        """LSF would bring the job's output only when it has ended, with a report of its own."""
        return OUTPUT

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """The id, in its sentence."""
        found = _SUBMITTED.search(result.stdout)
        if result.exit_code or found is None:
            return batch.failure(result, _REMEDIES)
        return JobId(found[1])

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``bjobs``, with what has ended, in columns of our own."""
        return ["bjobs", "-a", "-noheader", "-o", _FORMAT, *ids]

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """What bjobs knows; it fails also where it does not know a single job of many."""
        rows = self._rows(result)
        return {job_id: rows[job_id].status for job_id in ids if job_id in rows}

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """``bkill``."""
        return [["bkill", "-s", "KILL", *ids] if force else ["bkill", *ids]]

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """A sentence on each job."""
        verdicts = {}
        for line in f"{result.stdout}\n{result.stderr}".splitlines():
            about = _ABOUT.search(line)
            if about is not None and about[1] in ids:
                verdicts[JobId(about[1])] = any(
                    sign in line for sign in ("is being", "in progress", "has been", "will be")
                )
        if not verdicts:
            raise batch.no_answer(result)
        return verdicts

    def list_command(self, prefix: str) -> Sequence[str]:
        """``bjobs`` by name, without what has ended."""
        return ["bjobs", "-noheader", "-o", _FORMAT, "-J", f"{prefix}*"]

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """This user's jobs."""
        return list(self._rows(result).values())

    def _rows(self, result: CommandResult) -> dict[JobId, NamedJob]:
        complaints = [line for line in result.stderr.splitlines() if line.strip()]
        strange = [
            line for line in complaints if not re.search(r"is not found|No (unfinished )?job found", line)
        ]
        if result.exit_code and (strange or not complaints):
            raise batch.no_answer(result)
        rows = {}
        for line in result.stdout.splitlines():
            if re.search(r"is not found|No (unfinished )?job found", line) or not line.strip():
                continue
            fields = [field.strip() for field in line.split(_DELIMITER, len(_COLUMNS) - 1)]
            if len(fields) != len(_COLUMNS) or not fields[0].isdecimal():
                raise batch.no_answer(result, f"the line {line!r} is not understood")
            job_id, word, code, reason, name, hosts, pending = (
                "" if field == "-" else field for field in fields
            )
            status = _status(word, code, reason, hosts, pending)
            rows[JobId(job_id)] = NamedJob(JobId(job_id), name, status)
        return rows


def _status(word: str, code: str, reason: str, hosts: str, pending: str) -> JobStatus:
    state = STATES.get(word, JobState.UNKNOWN)
    # LSF writes cores and hosts as 4*node1:4*node2.
    names = tuple(dict.fromkeys(part.rpartition("*")[2] for part in hosts.split(":") if part))
    if word == "EXIT":
        for sign, meant in _REASONS:
            if re.search(rf"\b{sign}\b", reason):
                state = meant
    message = reason if state.terminal else pending
    message = message or _EXPLAINED.get(word, "")
    if state is JobState.UNKNOWN and not message:
        message = f"its state is {word!r}"
    exit_code = int(code) if code.isdecimal() else (0 if word == "DONE" else None)
    return JobStatus(state, exit_code, message, hosts=names)
