"""Blocks from PBS Professional and OpenPBS: qsub, qstat, qdel. Made for version 14.1 and newer.

What Torque has in common with it is in `QsubProvider`.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher
from throughway.launchers.starters import MpiExecLauncher
from throughway.providers import batch, parameters
from throughway.providers.batch import BatchProvider
from throughway.providers.command import CommandResult
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, NamedJob, SubmitFailure

STATES = {
    "B": JobState.RUNNING,  # an array of which a part has begun
    "E": JobState.RUNNING,  # it is ending
    "H": JobState.HELD,
    "M": JobState.UNKNOWN,  # moved to another server
    "Q": JobState.PENDING,
    "R": JobState.RUNNING,
    "S": JobState.HELD,  # suspended
    "T": JobState.PENDING,  # in transit
    "U": JobState.HELD,  # suspended: the workstation is in use
    "W": JobState.PENDING,  # waits for its start time
}
"""What the letters for jobs that have not ended mean."""

ENDED = ("F", "X", "C")
"""The letters for those that have: finished, a finished part of an array, Torque's completed."""

MEANINGS = {
    -1: "the job could not be started (before its files were there)",
    -2: "the job could not be started (after its files were there)",
    -3: "the job could not be started, and is tried again",
    -21: "the user's password or token was refused on the node",
    -24: "the job used more CPUs than it asked for and was ended",
    -25: "the job used more CPUs than it asked for and was ended",
    -26: "the job used more virtual memory than it asked for and was ended",
    -27: "the job used more memory than it asked for and was ended",
    -28: "the job used more CPU time than it asked for and was ended",
    -29: "the job reached its walltime and was ended",
}
"""PBS Professional's own exit codes."""

_WALLTIME = -29
_DELETED = "91"
"""the substate of a job that was deleted"""

_REMEDIES = (
    ("unknown queue", "give queue= as `qstat -Q` lists it", True),
    ("queue is not enabled", "the queue takes no jobs now: give another queue=, see `qstat -Q`", False),
    ("access to queue is denied", "give queue= that you may use: `qstat -Q -f` shows who may", True),
    ("unauthorized request", "this user or host may not submit here: give queue= or account= that may", True),
    ("account", "give account= that may be charged", True),
    ("project", "give account= that may be charged", True),
    ("unknown resource", "correct select_options= or scheduler_options=", True),
    ("illegal attribute", "correct select_options= or scheduler_options=", True),
    ("cannot be satisfied", "give nodes_per_block=, cpus_per_node= as the queue has: `pbsnodes -a`", True),
    ("exceeds queue", "give walltime=, nodes_per_block= within the queue's limits: `qstat -Q -f`", True),
    ("would exceed", "a limit of jobs or resources is reached: give a smaller max_blocks=, or wait", False),
    ("maximum number of jobs", "a limit of jobs is reached: give a smaller max_blocks=, or wait", False),
    (
        "cannot connect to server",
        "the server is down or out of reach: `qstat -B` shows whether it answers",
        False,
    ),
    ("connection refused", "the server is down or out of reach: `qstat -B` shows whether it answers", False),
    ("no space left", "the disk of the server is full: ask its administrator", False),
)

_JOB_ID = re.compile(r"^\s*(\d+(?:\[\d*\])?(?:\.[\w.@-]+)?)\s*$", re.MULTILINE)
_UNREACHABLE = (
    "cannot connect",
    "connection refused",
    "communication failure",
    "pbs_error",
    "timed out",
    "no route",
)
_GONE = ("unknown job id", "has finished", "unknown job")
_LINE = re.compile(r'^(?P<indent>\s*)"(?P<key>[^"]+)":(?P<value>.*?),?\s*$')


OUTPUT = """\
# The output is there while the job runs; what the scheduler has to say goes elsewhere.
exec >>"${throughway_exit_file%.exit}.stdout" 2>>"${throughway_exit_file%.exit}.stderr"\
"""


def batch_output(spec: JobSpec) -> str:
    """Where the scheduler's own words on a job go: a file beside its output, if its path is one without traps."""
    path = f"{os.path.join(spec.folder, spec.name)}.scheduler"
    return path if re.fullmatch(r"[\w./+=@-]+", path, re.ASCII) else "/dev/null"


class QsubProvider(BatchProvider):
    """What PBS Professional and Torque have in common."""

    directive: ClassVar[str] = "#PBS"
    recorded_variables: ClassVar[Sequence[str]] = (
        "PATH", "LD_LIBRARY_PATH", "PBS_CONF_FILE", "PBS_DEFAULT", "PBS_SERVER",
    )  # fmt: skip

    account: str | None
    queue: str | None
    meanings: ClassVar[Mapping[int, str]] = MEANINGS
    """the scheduler's own exit codes"""
    walltime_code: ClassVar[int] = _WALLTIME
    """the one for the walltime"""

    def default_launcher(self) -> Launcher:
        """Mpiexec over all nodes; one node needs none."""
        return MpiExecLauncher() if self.nodes_per_block > 1 else SimpleLauncher()

    def preamble(self) -> str:
        """PBS would bring the job's output only when it has ended."""
        return OUTPUT

    @abstractmethod
    def resources(self, spec: JobSpec) -> Sequence[str]:
        """The directives for the nodes of the job."""

    def directives(self, spec: JobSpec) -> Sequence[str]:
        """The job's options. The shell has to be named, as the script's first line counts for nothing."""
        options = [
            f"-N {spec.name}",
            "-S /bin/bash",
            "-j oe",
            f"-o {batch_output(spec)}",
            "-r n",
            *self.resources(spec),
        ]
        if self.walltime is not None:
            options.append(f"-l walltime={parameters.hours(self.walltime)}")
        if self.account is not None:
            options.append(f"-A {self.account}")
        if self.queue is not None:
            options.append(f"-q {self.queue}")
        return [f"{self.directive} {option}" for option in options]

    def submit_command(self, spec: JobSpec) -> Sequence[str]:
        """``qsub``."""
        return ["qsub", spec.script]

    def parse_submit(self, result: CommandResult) -> JobId | SubmitFailure:
        """The last line that is an id: sites let qsub say more."""
        if result.exit_code:
            return batch.failure(result, _REMEDIES)
        found = _JOB_ID.findall(result.stdout)
        if not found:
            return SubmitFailure(
                f"{result.described()}, which has no job id. Remedy: run it by hand; the job may have been accepted: "
                "see qstat -u $USER"
            )
        return JobId(found[-1])

    @abstractmethod
    def parse_jobs(self, text: str) -> dict[str, Mapping[str, str]]:
        """The attributes of jobs by id, those of resources as ``Resource_List.walltime``.

        Raises `ValueError` for what cannot be understood.
        """

    def parse_status(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """What qstat knows. It fails as a whole also where it does not know a single job of many."""
        jobs = self._jobs(result)
        by_number = {_number(job_id): attributes for job_id, attributes in jobs.items()}
        return {
            job_id: self.job_status(by_number[_number(job_id)])
            for job_id in ids
            if _number(job_id) in by_number
        }

    def job_status(self, job: Mapping[str, str]) -> JobStatus:
        """The status of a job with these attributes, whose names are in lower case."""
        letter = job.get("job_state", "")
        comment = job.get("comment", "")
        hosts = tuple(
            dict.fromkeys(re.split(r"[/:]", part)[0] for part in job.get("exec_host", "").split("+") if part)
        )
        if letter in ENDED:
            state, code, meaning = self._ending(job)
            return JobStatus(state, code, meaning or comment, hosts=hosts)
        state = STATES.get(letter, JobState.UNKNOWN)
        message = comment
        if letter == "H":
            kinds = job.get("hold_types", "")
            message = f"held ({kinds}): {comment or 'qrls releases it'}" if kinds else comment
        elif letter in ("S", "U"):
            message = comment or "suspended"
        elif letter == "M":
            message = comment or "moved to another server"
        elif state is JobState.UNKNOWN:
            message = f"job_state is {letter!r}"
        return JobStatus(state, None, message, hosts=hosts)

    def cancel_commands(self, ids: Sequence[JobId], force: bool) -> Sequence[Sequence[str]]:
        """``qdel``."""
        return [["qdel", *self.force_options, *ids] if force else ["qdel", *ids]]

    force_options: ClassVar[Sequence[str]] = ("-W", "force")
    """options of qdel that end a job at once"""

    def parse_cancel(self, result: CommandResult, ids: Sequence[JobId]) -> dict[JobId, bool]:
        """Each job that qdel does not complain of will end; one that is ending, too."""
        if not result.exit_code:
            return dict.fromkeys(ids, True)
        complaints: dict[str, str] = {}
        for line in result.stderr.splitlines():
            for job_id in ids:
                if re.search(rf"(?<![\w.]){re.escape(_number(job_id))}(?!\d)", line):
                    complaints[job_id] = line.lower()
        if not complaints or any(sign in result.stderr.lower() for sign in _UNREACHABLE):
            raise batch.no_answer(result)
        ending = "invalid for state"
        return {job_id: job_id not in complaints or ending in complaints[job_id] for job_id in ids}

    def list_command(self, prefix: str) -> Sequence[str]:
        """``qstat`` for what ``qselect`` finds: a single one would list the jobs of all users."""
        command = f'ids="$(qselect -u "$0")" || exit; [ -z "$ids" ] || exec {" ".join(self.status_command([]))} $ids'
        return ["bash", "-c", command, pwd.getpwuid(os.getuid()).pw_name]

    def parse_list(self, result: CommandResult) -> list[NamedJob]:
        """This user's jobs."""
        return [
            NamedJob(JobId(job_id), job.get("job_name", ""), self.job_status(job))
            for job_id, job in self._jobs(result).items()
        ]

    def _jobs(self, result: CommandResult) -> dict[str, dict[str, str]]:
        if result.exit_code:
            complaints = [line for line in result.stderr.splitlines() if line.strip()]
            strange = [line for line in complaints if not any(sign in line.lower() for sign in _GONE)]
            if strange or not complaints:
                raise batch.no_answer(result)
        try:
            jobs = self.parse_jobs(result.stdout)
        except ValueError as error:
            raise batch.no_answer(result, str(error)) from error
        return {job_id: {key.lower(): value for key, value in job.items()} for job_id, job in jobs.items()}

    def _ending(self, job: Mapping[str, str]) -> tuple[JobState, int | None, str]:
        """How a job ended: its state, its exit code as a shell has it, and what PBS means by it."""
        said = job.get("exit_status", "")
        deleted = job.get("substate") == _DELETED
        try:
            code = int(said)
        except ValueError:
            if deleted or not said:
                return JobState.CANCELLED, None, "deleted before it ran"
            return JobState.FAILED, None, f"Exit_status is {said!r}"
        if code == self.walltime_code:
            return JobState.TIMEOUT, None, self.meanings[code]
        if code < 0:
            state = JobState.CANCELLED if deleted else JobState.FAILED
            return state, None, self.meanings.get(code, f"Exit_status {code}, the scheduler's own")
        if code >= 256:  # 256 and the signal
            code = 128 + code % 256 % 128
        if deleted:
            return JobState.CANCELLED, code, "deleted"
        if code > 128 and _late(job):
            return JobState.TIMEOUT, code, "the job reached its walltime and was ended"
        return batch.state_of(code), code, ""


class PBSProProvider(QsubProvider):
    """Blocks from PBS Professional or OpenPBS; see `BatchProvider` for the parameters of all batch schedulers.

    Args:
        account: who is charged, None for the user's default.
        queue: where jobs go, None for the default queue.
        select_options: more resources of each node, such as ``"ngpus=4:model=mil"``.
        cpus_per_node: cores of each node.

    A block's chunks are placed on different hosts. If the server keeps the history of jobs, it says how they ended;
    otherwise their scripts do.
    """

    label = "PBS Pro"

    def __init__(
        self,
        account: str | None = None,
        queue: str | None = None,
        scheduler_options: str = "",
        select_options: str = "",
        nodes_per_block: int = 1,
        cpus_per_node: int = 1,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        launcher: Launcher | None = None,
        walltime: str | float | None = "00:20:00",
        cmd_timeout: float = 120,
        worker_init: str = "",
        **others: Any,
    ) -> None:
        self.account = parameters.word("account", account)
        self.queue = parameters.word("queue", queue)
        self.select_options = parameters.word("select_options", select_options or None) or ""
        self.cpus_per_node = parameters.whole_number("cpus_per_node", cpus_per_node, 1)
        others.setdefault("cores_per_node", self.cpus_per_node)
        super().__init__(
            scheduler_options=scheduler_options,
            nodes_per_block=nodes_per_block,
            init_blocks=init_blocks,
            min_blocks=min_blocks,
            max_blocks=max_blocks,
            parallelism=parallelism,
            launcher=launcher,
            walltime=walltime,
            cmd_timeout=cmd_timeout,
            worker_init=worker_init,
            **others,
        )

    def resources(self, spec: JobSpec) -> Sequence[str]:
        """One chunk for each node."""
        chunk = [f"select={spec.nodes}", f"ncpus={self.cpus_per_node}"]
        if self.mem_per_node is not None:
            chunk.append(f"mem={max(1, int(self.mem_per_node * 1024))}mb")
        if self.select_options:
            chunk.append(self.select_options.strip(":"))
        options = [f"-l {':'.join(chunk)}"]
        if spec.nodes > 1 and "place=" not in self.scheduler_options:
            options.append("-l place=scatter")
        return options

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``qstat``, with what has ended, in JSON."""
        return ["qstat", "-f", "-F", "json", "-x", *ids]

    def parse_jobs(self, text: str) -> dict[str, Mapping[str, str]]:
        """From JSON, or line by line where it is none: users' variables that PBS writes as they are can break it."""
        if not text.strip():
            return {}
        try:
            document = json.loads(text, strict=False)
        except ValueError:
            return _lines(text)
        if not isinstance(document, dict):
            raise ValueError("it is JSON, but no object")  # noqa: TRY004
        jobs = document.get("Jobs", {})
        if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
            raise ValueError("its Jobs are no objects")
        return {job_id: _flat(job) for job_id, job in jobs.items()}


def _flat(job: Mapping[str, object]) -> dict[str, str]:
    """The attributes of a job as text, with those inside of others behind a point."""
    found = {}
    for key, value in job.items():
        if isinstance(value, dict):
            found.update({f"{key}.{inner}": str(entry) for inner, entry in value.items()})
        else:
            found[key] = str(value)
    return found


def _lines(text: str) -> dict[str, Mapping[str, str]]:
    """The jobs in what is nearly JSON, in which each attribute has a line of its own, indented by its depth."""
    jobs: dict[str, Mapping[str, str]] = {}
    job: dict[str, str] = {}
    depth = -1
    outer = ""
    inside = False
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        indent, key, value = len(match["indent"]), match["key"], match["value"].strip()
        if not inside:
            inside = key == "Jobs"
        elif value == "{" and key[:1].isdigit() and (depth < 0 or indent == depth):
            depth = indent
            job = {}
            jobs[key] = job
        elif indent == depth + 4:
            outer = key if value == "{" else ""
            if not outer:
                job[key] = _bare(value)
        elif indent == depth + 8 and outer and outer != "Variable_List":
            job[f"{outer}.{key}"] = _bare(value)
    if not any("job_state" in entry for entry in jobs.values()):
        raise ValueError("it is neither JSON nor has it jobs line by line")
    return jobs


def _bare(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _number(job_id: str) -> str:
    """An id without the server's name, of which qsub and qstat may have different opinions."""
    return job_id.partition(".")[0]


def _late(job: Mapping[str, str]) -> bool:
    """Whether a job used all of its walltime."""
    used, asked = (_seconds(job.get(f"{kind}.walltime", "")) for kind in ("resources_used", "resource_list"))
    return used is not None and asked is not None and used >= asked


def _seconds(text: str) -> int | None:
    parts = text.split(":")
    if not parts or not all(part.isdecimal() for part in parts):
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return total
