"""Blocks on this machine: each job is a process group of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence

from throughway.errors import ConfigurationError
from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SingleNodeLauncher
from throughway.processes import live_process
from throughway.providers import parameters
from throughway.providers.interface import (
    JOB_PREFIX,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    ProviderRecord,
    SubmitFailure,
)
from throughway.providers.session_leaders import Leader, leader, leaders

POLLING_INTERVAL = 0.25
"""Seconds between two looks at the jobs: each costs one system call for a job."""

LEFTOVER_SECONDS = 1.0
"""How long what a job's first process leaves behind may take to end by itself. A manager that was killed leaves its
zygote, which tells of the death, and ends the workers."""

_REMEMBERED = 1000
"""Ended jobs whose status is kept."""

_PREFACE = """\
#!/usr/bin/env bash
# {name}: {nodes} node(s)

# The job's processes are signalled together: this shell outlives the command, which may need time to end.
trap 'exit 143' TERM
"""


def render(spec: JobSpec, *, launcher: Launcher, worker_init: str = "") -> str:
    """The bash script of a job: its environment, ``worker_init``, and the command as ``launcher`` has it."""
    parts = [_PREFACE.format(name=spec.name, nodes=spec.nodes)]
    if spec.environment:
        parts.append("".join(f"export {key}={shlex.quote(text)}\n" for key, text in spec.environment.items()))
    if worker_init.strip():
        parts.append(f"# worker_init\n{worker_init.strip()}\n")
    parts.append(launcher(shlex.join(spec.command), spec.nodes).rstrip() + "\n")
    return "\n".join(parts)


class _Job:
    """A job that is not known to be gone. ``process`` leads its process group."""

    __slots__ = ("cancelled", "forced", "kill_at", "known", "leftovers_until", "process", "spec", "swept")

    def __init__(self, spec: JobSpec, process: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self.process = process
        self.cancelled = False
        self.forced = False
        self.kill_at = 0.0
        self.leftovers_until = 0.0
        """until when what the leader has left may end by itself, once it has ended"""
        self.swept = False
        """whether the leader has ended, and all that was left of its group has been killed"""
        self.known = True
        """whether the leader's exit status is its own"""


class LocalProvider:
    """Managers on this machine, ``nodes_per_block`` of them in each block.

    ``worker_init`` is bash text that runs first, in each block. ``cmd_timeout`` is how long, in seconds, a
    command of the provider's own may take: bash's check of the script. A job that is cancelled has
    ``cancel_grace`` seconds to end by itself before it is killed. A job ends with its first process: what
    it leaves behind in its process group is killed a second later.

    Raises `ConfigurationError` for a value that cannot work.
    """

    label = "local"
    local = True
    can_exclude = False

    def __init__(
        self,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        nodes_per_block: int = 1,
        worker_init: str = "",
        launcher: Launcher | None = None,
        cmd_timeout: float = 30,
        cancel_grace: float = 5,
        parallelism: float = 1,
    ) -> None:
        self.init_blocks, self.min_blocks, self.max_blocks = parameters.block_counts(
            init_blocks, min_blocks, max_blocks
        )
        self.nodes_per_block = parameters.whole_number("nodes_per_block", nodes_per_block, 1)
        self.worker_init = parameters.text("worker_init", worker_init)
        self.launcher = SingleNodeLauncher() if launcher is None else launcher
        self.cmd_timeout = parameters.seconds("cmd_timeout", cmd_timeout)
        self.cancel_grace = parameters.seconds("cancel_grace", cancel_grace, zero=True)
        self.parallelism = parameters.fraction("parallelism", parallelism)
        self.walltime: float | None = None
        self.cores_per_node: int | None = None
        self.mem_per_node: float | None = None
        self.status_polling_interval = POLLING_INTERVAL
        if not callable(self.launcher):
            raise ConfigurationError(f"launcher={launcher!r} is not a launcher: give SingleNodeLauncher()")
        if self.nodes_per_block > 1 and self.launcher("true", self.nodes_per_block) == "true":
            raise ConfigurationError(
                f"nodes_per_block={nodes_per_block}, but launcher={self.launcher!r} starts one manager only: "
                "give launcher=SingleNodeLauncher(), or nodes_per_block=1"
            )
        self._lock = threading.Lock()
        self._jobs: dict[JobId, _Job] = {}
        self._ended: dict[JobId, JobStatus] = {}
        self._order: deque[JobId] = deque()

    def __repr__(self) -> str:
        return (
            f"LocalProvider(init_blocks={self.init_blocks}, min_blocks={self.min_blocks}, "
            f"max_blocks={self.max_blocks}, nodes_per_block={self.nodes_per_block}, "
            f"worker_init={self.worker_init!r}, launcher={self.launcher!r})"
        )

    def render(self, spec: JobSpec) -> str:
        """The script of ``spec``. `submit` starts a command that needs no script without one, at once."""
        return render(spec, launcher=self.launcher, worker_init=self.worker_init)

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        """Start each of ``specs`` in a session of its own; its id is its first process's, as text."""
        return [self._start(spec) for spec in specs]

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Where the jobs stand. Also kills those that were cancelled and had their time to end."""
        now = time.monotonic()
        with self._lock:
            return {job_id: self._look(job_id, now) for job_id in ids}

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        """Send SIGTERM to all processes of the jobs; SIGKILL with ``force`` or after ``cancel_grace``
        seconds.

        The time is looked at whenever `status` or `cancel` is called; a job of another process's provider, which
        has no such time, is killed with ``force`` only.
        """
        now = time.monotonic()
        verdicts = {}
        with self._lock:
            for job_id in ids:
                job = self._jobs.get(job_id)
                if job is None and job_id not in self._ended:
                    verdicts[job_id] = _cancel_other(job_id, force)
                    continue
                if job is None or self._look(job_id, now).state.terminal:
                    verdicts[job_id] = False
                    continue
                verdicts[job_id] = True
                if not job.cancelled and not job.swept:
                    verdicts[job_id] = job.cancelled = _signal(job, signal.SIGTERM)
                    job.kill_at = now + self.cancel_grace
                    # A stopped process sees SIGTERM only when it goes on.
                    _signal(job, signal.SIGCONT)
                if force and not job.swept:
                    verdicts[job_id] = job.cancelled = job.forced = _signal(job, signal.SIGKILL)
        return verdicts

    def jobs_of(self, run: str) -> list[NamedJob]:
        """The run's jobs that run on this machine, also those of other processes' providers."""
        return [
            NamedJob(JobId(str(job.pid)), job.name, _running(job)) for job in leaders(f"{JOB_PREFIX}{run}-")
        ]

    def record(self) -> ProviderRecord:
        """What another process needs to find the jobs: nothing but their names."""
        return ProviderRecord("throughway.providers.local:LocalProvider")

    def _start(self, spec: JobSpec) -> JobId | SubmitFailure:
        try:
            os.makedirs(spec.folder, mode=0o700, exist_ok=True)
            plain = not self.worker_init.strip()
            line = shlex.join(spec.command)
            if plain and self.launcher(line, spec.nodes) == line:
                # Nothing for a shell to do, and starting one takes time.
                process = _run(spec, list(spec.command), {**os.environ, **spec.environment})
            else:
                complaint = self._write(spec)
                if complaint:
                    return SubmitFailure(complaint)
                process = _run(spec, ["bash", spec.script], None)
        except (OSError, ValueError) as error:
            return SubmitFailure(
                f"job {spec.name} could not be started on this machine: {error}; its command is: "
                f"{shlex.join(spec.command)}"
            )
        job_id = JobId(str(process.pid))
        with self._lock:
            self._jobs[job_id] = _Job(spec, process)
        return job_id

    def _write(self, spec: JobSpec) -> str:
        """Write the job's script; what bash has against it, or nothing."""
        descriptor = os.open(spec.script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(self.render(spec))
        try:
            check = subprocess.run(
                ["bash", "-n", spec.script],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.cmd_timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return (
                f"bash -n {spec.script} took more than cmd_timeout={self.cmd_timeout:g} s: "
                "the disk or the machine is very slow; give a greater cmd_timeout"
            )
        if check.returncode:
            said = check.stderr.decode("utf-8", "replace").strip()
            return (
                f"bash refuses the job's script (bash -n {spec.script}, exit code {check.returncode}): "
                f"{said}; "
                f"correct worker_init={self.worker_init!r} or launcher={self.launcher!r}"
            )
        return ""

    def _look(self, job_id: JobId, now: float) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is None:
            other = None if job_id in self._ended else _other(job_id)
            if other is not None:
                return _running(other)
            return self._ended.get(job_id) or JobStatus(
                JobState.UNKNOWN, message=f"no job {job_id} was started by this provider"
            )
        if job.cancelled and now >= job.kill_at and not job.swept:
            job.forced = _signal(job, signal.SIGKILL)
        if not job.swept:
            _sweep(job, now)
        if not job.swept or _group_lives(job.process.pid):
            return JobStatus(JobState.RUNNING, stdout=job.spec.stdout, stderr=job.spec.stderr)
        status = _verdict(job)
        del self._jobs[job_id]
        self._ended[job_id] = status
        self._order.append(job_id)
        while len(self._order) > _REMEMBERED:
            forgotten = self._order.popleft()
            if forgotten not in self._order:
                self._ended.pop(forgotten, None)
        return status


def _other(job_id: JobId) -> Leader | None:
    """A job that another process's provider has started."""
    return leader(int(job_id)) if job_id.isdecimal() else None


def _running(job: Leader) -> JobStatus:
    base = os.path.join(job.folder, job.name)
    return JobStatus(JobState.RUNNING, stdout=f"{base}.stdout", stderr=f"{base}.stderr")


def _cancel_other(job_id: JobId, force: bool) -> bool:
    if _other(job_id) is None:
        return False
    try:
        os.killpg(int(job_id), signal.SIGKILL if force else signal.SIGTERM)
        os.killpg(int(job_id), signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _run(spec: JobSpec, argv: list[str], environment: dict[str, str] | None) -> subprocess.Popen[bytes]:
    with open(spec.stdout, "ab") as stdout, open(spec.stderr, "ab") as stderr:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )


def _signal(job: _Job, number: signal.Signals) -> bool:
    """Signal the job's process group; False where there is none that could be signalled.

    To be called only before the leader is waited for: until then its number can't be another group's.
    """
    try:
        os.killpg(job.process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _sweep(job: _Job, now: float) -> None:
    """Where the job's leader has ended, kill what it left in its group and is still there, and wait for it."""
    pid = job.process.pid
    ours = True
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
    except ChildProcessError:
        # Other code in this process waited for it. Without its leader, a group of this number is still the
        # job's.
        job.known = False
        ours = not os.path.exists(f"/proc/{pid}")
    if ours and not job.forced and _group_lives(pid):
        job.leftovers_until = job.leftovers_until or now + LEFTOVER_SECONDS
        if now < job.leftovers_until:
            return
    if ours:
        _signal(job, signal.SIGKILL)
    job.process.poll()
    job.swept = True


def _group_lives(group: int) -> bool:
    """Whether a process group has a member that is more than a zombie, which only its parent can remove."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    for entry in os.listdir("/proc"):
        process = live_process(int(entry)) if entry.isdigit() else None
        if process is not None and process.group == group:
            return True
    return False


def _verdict(job: _Job) -> JobStatus:
    """The last status of a job that is gone."""
    code = job.process.returncode if job.known else None
    message = "" if job.known else "its exit code is not known: other code in this process waited for it"
    if code is not None and code < 0:
        message = f"ended by {_signal_name(-code)}"
        code = 128 - code
    ended = JobState.FAILED if code else JobState.COMPLETED
    state = JobState.CANCELLED if job.cancelled else ended
    return JobStatus(state, code, message, job.spec.stdout, job.spec.stderr)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
