from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from throughway.errors import ConfigurationError
from throughway.launchers import SimpleLauncher, SingleNodeLauncher, WrappedLauncher
from throughway.providers import JobId, JobSpec, JobState, JobStatus, LocalProvider, Provider, SubmitFailure
from throughway.providers.local import render

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


class Jobs:
    """Starts jobs, and sees that nothing of them is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[int] = []
        self.count = 0

    def spec(self, *command: str, nodes: int = 1, **environment: str) -> JobSpec:
        self.count += 1
        name = f"throughway-ab12-{self.count}"
        return JobSpec(name, command, nodes, str(self.folder / "jobs"), environment)

    def submit(self, provider: LocalProvider, *specs: JobSpec) -> list[JobId]:
        ids = []
        for outcome in provider.submit(specs):
            assert not isinstance(outcome, SubmitFailure), outcome
            ids.append(outcome)
            self.groups.append(int(outcome))
        return ids

    def members(self) -> list[int]:
        """Processes of the groups that are not zombies of other parents."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(fields[2]) in self.groups and (fields[0] != "Z" or int(fields[1]) == os.getpid()):
                    found.append(int(entry))
        return found


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path)
    yield jobs
    left = jobs.members()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def ended(provider: LocalProvider, ids: Sequence[JobId], seconds: float = 20) -> dict[JobId, JobStatus]:
    """The statuses of jobs once they are all gone."""
    deadline = time.monotonic() + seconds
    while True:
        statuses = provider.status(ids)
        if all(status.state.terminal for status in statuses.values()):
            return statuses
        assert time.monotonic() < deadline, statuses
        select.select([], [], [], 0.005)


def exited(*pids: int) -> None:
    """Wait until processes, children or not, have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            assert poller.poll(20_000), f"process {pid} lives"
        finally:
            os.close(descriptor)


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def read_lines(path: Path, count: int) -> list[str]:
    """The lines that ``count`` processes write to a fifo. It is never without a reader meanwhile."""
    with open(os.open(path, os.O_RDWR), "rb", buffering=0) as file:
        text = b""
        while text.count(b"\n") < count:
            text += file.read(4096)
    return text.decode().splitlines()


# ------------------------------------------------------------------------------------------------ parameters


def test_is_a_provider() -> None:
    provider: Provider = LocalProvider()
    assert (provider.label, provider.local, provider.walltime) == ("local", True, None)
    assert (provider.init_blocks, provider.min_blocks, provider.max_blocks) == (1, 0, 1)
    assert provider.nodes_per_block == 1
    assert 0 < provider.status_polling_interval <= 0.5
    assert "init_blocks=1" in repr(provider)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"init_blocks": 2}, r"init_blocks=2 is more than max_blocks=1.*give max_blocks=2"),
        ({"init_blocks": -1}, "init_blocks=-1"),
        ({"min_blocks": "1"}, "min_blocks='1'"),
        ({"max_blocks": 0}, "max_blocks=0"),
        ({"nodes_per_block": 0}, "nodes_per_block=0"),
        ({"worker_init": None}, "worker_init=None"),
        ({"cmd_timeout": 0}, "cmd_timeout=0"),
        ({"cancel_grace": -1}, "cancel_grace=-1"),
        ({"launcher": "srun"}, "launcher='srun'"),
        ({"nodes_per_block": 2, "launcher": SimpleLauncher()}, r"nodes_per_block=2.*SingleNodeLauncher"),
    ],
)
def test_values_that_cannot_work_are_refused(parameters: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LocalProvider(**parameters)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- render


def test_render() -> None:
    spec = JobSpec("throughway-ab-0", ["manager", "a b"], 1, "/f", {"KEY": "it's"})
    script = render(spec, launcher=WrappedLauncher("nice"), worker_init="\nmodule load python\n")
    assert script.splitlines()[0] == "#!/usr/bin/env bash"
    export = script.index("export KEY='it'\"'\"'s'\n")
    assert export < script.index("module load python\n") < script.index("nice manager 'a b'\n")
    assert render(spec, launcher=WrappedLauncher("nice"), worker_init="\nmodule load python\n") == script


def test_render_of_a_provider_writes_nothing(tmp_path: Path) -> None:
    provider = LocalProvider(worker_init="echo hello")
    assert "echo hello" in provider.render(JobSpec("x", ["true"], 1, str(tmp_path)))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- status


def test_exit_codes_and_output(jobs: Jobs) -> None:
    provider = LocalProvider()
    ids = jobs.submit(
        provider,
        jobs.spec("true"),
        jobs.spec("bash", "-c", "echo out; echo err >&2; exit 3"),
        jobs.spec("bash", "-c", "kill -SEGV $$"),
        jobs.spec(sys.executable, "-c", "import throughway_is_not_here"),
    )
    assert all(JobId(str(int(job_id))) == job_id for job_id in ids)
    statuses = ended(provider, ids)
    fine, three, fault, missing = (statuses[job_id] for job_id in ids)
    assert (fine.state, fine.exit_code) == (JobState.COMPLETED, 0)
    assert (three.state, three.exit_code) == (JobState.FAILED, 3)
    assert three.tail() == ("out", "err")
    assert (fault.state, fault.exit_code, fault.message) == (JobState.FAILED, 128 + 11, "ended by SIGSEGV")
    assert missing.exit_code == 1
    assert "ModuleNotFoundError: No module named 'throughway_is_not_here'" in missing.tail().stderr
    assert provider.status(ids) == statuses
    assert provider.cancel(ids) == dict.fromkeys(ids, False)


def test_a_job_runs_with_environment_and_worker_init(jobs: Jobs) -> None:
    for provider in (LocalProvider(), LocalProvider(worker_init="OTHER=from_init; export OTHER")):
        (job,) = jobs.submit(provider, jobs.spec("bash", "-c", 'echo "$KEY|$OTHER|$HOME"', KEY="a 'b'"))
        other = "from_init" if provider.worker_init else os.environ.get("OTHER", "")
        assert ended(provider, [job])[job].tail().stdout == f"a 'b'|{other}|{os.environ['HOME']}"


def test_a_script_is_written_only_where_a_shell_is_needed(jobs: Jobs) -> None:
    plain, shell = jobs.spec("true"), jobs.spec("true")
    provider, other = LocalProvider(), LocalProvider(worker_init="export A=1")
    ended(provider, jobs.submit(provider, plain))
    ended(other, jobs.submit(other, shell))
    assert not Path(plain.script).exists()
    assert Path(shell.script).read_text() == other.render(shell)
    assert Path(shell.script).stat().st_mode & 0o777 == 0o700


def test_worker_init_can_fail_the_job(jobs: Jobs) -> None:
    provider = LocalProvider(worker_init="echo no such environment >&2; exit 4")
    (job,) = jobs.submit(provider, jobs.spec("true"))
    status = ended(provider, [job])[job]
    assert (status.state, status.exit_code) == (JobState.FAILED, 4)
    assert status.tail().stderr == "no such environment"


def test_several_managers_in_one_block(jobs: Jobs, tmp_path: Path) -> None:
    provider = LocalProvider(nodes_per_block=3)
    (job,) = jobs.submit(provider, jobs.spec("bash", "-c", f"mktemp -p {tmp_path} m.XXXX", nodes=3))
    assert ended(provider, [job])[job].state is JobState.COMPLETED
    assert len(list(tmp_path.glob("m.*"))) == 3


def test_unknown_jobs() -> None:
    provider = LocalProvider()
    job = JobId("999999999")
    assert provider.status([job])[job].state is JobState.UNKNOWN
    assert provider.cancel([job]) == {job: False}


def test_jobs_have_a_session_of_their_own_and_no_input(jobs: Jobs, tmp_path: Path) -> None:
    provider = LocalProvider()
    (job,) = jobs.submit(provider, jobs.spec("bash", "-c", "cat; cut -d' ' -f6 /proc/$$/stat; echo $$"))
    session, pid = ended(provider, [job])[job].tail().stdout.split()
    assert session == pid == job


def test_an_exit_code_that_other_code_took(jobs: Jobs) -> None:
    provider = LocalProvider()
    (job,) = jobs.submit(provider, jobs.spec("bash", "-c", "exit 5"))
    os.waitpid(int(job), 0)
    status = provider.status([job])[job]
    assert (status.state, status.exit_code) == (JobState.COMPLETED, None)
    assert "other code" in status.message


# ---------------------------------------------------------------------------------------------------- submit


def test_a_command_that_is_not_there(jobs: Jobs) -> None:
    provider = LocalProvider()
    spec, fine = jobs.spec("no-such-command-here", "x y"), jobs.spec("true")
    failure, job = provider.submit([spec, fine])
    assert isinstance(failure, SubmitFailure)
    assert spec.name in failure.message
    assert "No such file or directory" in failure.message
    assert "no-such-command-here 'x y'" in failure.message
    assert not isinstance(job, SubmitFailure)
    ended(provider, [job])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (failure,) = LocalProvider().submit([JobSpec("x", ["true"], 1, str(tmp_path / "file" / "folder"))])
    assert isinstance(failure, SubmitFailure)
    assert f"{tmp_path}/file" in failure.message


def test_worker_init_that_bash_cannot_read(jobs: Jobs) -> None:
    (failure,) = LocalProvider(worker_init="if true; then").submit([jobs.spec("true")])
    assert isinstance(failure, SubmitFailure)
    assert "syntax error" in failure.message
    assert "worker_init='if true; then'" in failure.message


def test_cmd_timeout_bounds_the_check(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "bash"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    (failure,) = LocalProvider(worker_init="true", cmd_timeout=0.1).submit([jobs.spec("true")])
    assert isinstance(failure, SubmitFailure)
    assert "cmd_timeout=0.1" in failure.message


# ---------------------------------------------------------------------------------------------------- cancel


def test_cancel_of_many_at_once(jobs: Jobs) -> None:
    provider = LocalProvider(cancel_grace=1000)
    ids = jobs.submit(provider, *(jobs.spec("sleep", "1000") for _ in range(40)))
    assert {status.state for status in provider.status(ids).values()} == {JobState.RUNNING}
    assert provider.cancel(ids) == dict.fromkeys(ids, True)
    statuses = ended(provider, ids)
    assert {(status.state, status.exit_code) for status in statuses.values()} == {(JobState.CANCELLED, 143)}
    assert jobs.members() == []


STUBBORN = """\
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        break
with open(sys.argv[1], "w") as ready:
    ready.write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""


def stubborn(jobs: Jobs, provider: LocalProvider, ready: Path) -> tuple[JobId, list[int]]:
    """A job of three processes that ignore SIGTERM, and their ids."""
    (job,) = jobs.submit(provider, jobs.spec(sys.executable, "-c", STUBBORN, str(fifo(ready))))
    return job, [int(line) for line in read_lines(ready, 3)]


def test_a_tree_that_ignores_sigterm_is_killed_after_its_grace(jobs: Jobs, tmp_path: Path) -> None:
    provider = LocalProvider(cancel_grace=0.3)
    job, pids = stubborn(jobs, provider, tmp_path / "ready")
    started = time.monotonic()
    assert provider.cancel([job]) == {job: True}
    assert provider.cancel([job]) == {job: True}
    assert provider.status([job])[job].state is JobState.RUNNING
    status = ended(provider, [job])[job]
    assert time.monotonic() - started >= 0.3
    assert (status.state, status.exit_code, status.message) == (JobState.CANCELLED, 137, "ended by SIGKILL")
    exited(*pids)
    assert jobs.members() == []


def test_force_kills_at_once(jobs: Jobs, tmp_path: Path) -> None:
    provider = LocalProvider(cancel_grace=1000)
    job, pids = stubborn(jobs, provider, tmp_path / "ready")
    assert provider.cancel([job]) == {job: True}
    assert provider.cancel([job], force=True) == {job: True}
    exited(*pids)
    assert ended(provider, [job])[job].state is JobState.CANCELLED


def test_what_a_job_leaves_behind_is_killed(jobs: Jobs, tmp_path: Path) -> None:
    """The leader is killed; its children, which ignore SIGTERM, end with it before the job is gone."""
    provider = LocalProvider()
    job, pids = stubborn(jobs, provider, tmp_path / "ready")
    os.kill(int(job), signal.SIGKILL)
    exited(int(job))
    status = ended(provider, [job])[job]
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)
    exited(*pids)
    assert jobs.members() == []


@pytest.mark.parametrize("waited", [False, True], ids=["", "other code waited"])
def test_what_a_killed_job_leaves_behind_may_end_by_itself(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    """So a zygote gets to tell of its manager's death, however soon after it the provider looks."""
    monkeypatch.setattr("throughway.providers.local.LEFTOVER_SECONDS", 15.0)  # below the 20 s of `ended`
    provider = LocalProvider()
    ready, told = fifo(tmp_path / "ready"), tmp_path / "told"
    script = (
        "import os, signal, time\n"
        "reader, writer = os.pipe()\n"
        "if os.fork():\n"
        "    signal.pause()\n"
        "os.close(writer)\n"
        f"print('ready', file=open({str(ready)!r}, 'w'), flush=True)\n"
        "os.read(reader, 1)\n"  # until the leader is gone
        "time.sleep(0.2)\n"  # it is slow: the provider looks meanwhile
        f"open({str(told)!r}, 'w')\n"
    )
    (job,) = jobs.submit(provider, jobs.spec(sys.executable, "-c", script))
    read_lines(ready, 1)
    os.kill(int(job), signal.SIGKILL)
    if waited:
        os.waitpid(int(job), 0)
    else:
        exited(int(job))
    assert ended(provider, [job])[job].exit_code == (None if waited else 137)
    assert told.exists()


def test_what_a_job_leaves_behind_is_killed_also_where_other_code_waited(jobs: Jobs, tmp_path: Path) -> None:
    provider = LocalProvider()
    job, pids = stubborn(jobs, provider, tmp_path / "ready")
    os.kill(int(job), signal.SIGKILL)
    os.waitpid(int(job), 0)
    assert ended(provider, [job])[job].exit_code is None
    exited(*pids)


def test_a_stopped_job_can_be_cancelled(jobs: Jobs, tmp_path: Path) -> None:
    ready, go_on = fifo(tmp_path / "ready"), fifo(tmp_path / "go on")
    provider = LocalProvider(cancel_grace=1000)
    (job,) = jobs.submit(provider, jobs.spec(sys.executable, "-c", DRAINING, str(ready), str(go_on)))
    assert read_lines(ready, 1) == ["ready"]
    os.killpg(int(job), signal.SIGSTOP)
    assert provider.cancel([job]) == {job: True}
    assert read_lines(ready, 1) == ["draining"]
    with open(os.open(go_on, os.O_RDWR), "wb", buffering=0) as file:
        file.write(b".")
        assert ended(provider, [job])[job].exit_code == 0


DRAINING = """\
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def say(text):
    with open(sys.argv[1], "w") as ready:
        ready.write(text)
say("ready\\n")
signal.sigwait([signal.SIGTERM])
say("draining\\n")
with open(sys.argv[2], "rb", buffering=0) as go_on:
    assert go_on.read(1)
"""
"""A manager that drains, once it is signalled, until it is told to go on."""


@pytest.mark.parametrize("nodes", [1, 3])
def test_managers_behind_a_shell_have_time_to_drain(jobs: Jobs, tmp_path: Path, nodes: int) -> None:
    ready, go_on = fifo(tmp_path / "ready"), fifo(tmp_path / "go on")
    provider = LocalProvider(nodes_per_block=nodes, worker_init="export A=1", cancel_grace=1000)
    command = (sys.executable, "-c", DRAINING, str(ready), str(go_on))
    (job,) = jobs.submit(provider, jobs.spec(*command, nodes=nodes))
    assert read_lines(ready, nodes) == ["ready"] * nodes
    assert provider.cancel([job]) == {job: True}
    assert read_lines(ready, nodes) == ["draining"] * nodes
    assert provider.status([job])[job].state is JobState.RUNNING
    with open(os.open(go_on, os.O_RDWR), "wb", buffering=0) as file:
        file.write(b"." * nodes)
        status = ended(provider, [job])[job]
    assert (status.state, status.message) == (JobState.CANCELLED, "")


def test_cancel_during_worker_init_starts_no_manager(jobs: Jobs, tmp_path: Path) -> None:
    ready, started = fifo(tmp_path / "ready"), tmp_path / "started"
    provider = LocalProvider(worker_init=f"sleep 1000 & echo ready >{ready}; wait", cancel_grace=1000)
    (job,) = jobs.submit(provider, jobs.spec("touch", str(started)))
    assert read_lines(ready, 1) == ["ready"]
    assert provider.cancel([job]) == {job: True}
    assert ended(provider, [job])[job].state is JobState.CANCELLED
    assert not started.exists()


def test_single_node_launcher_by_name(jobs: Jobs) -> None:
    provider = LocalProvider(nodes_per_block=2, launcher=SingleNodeLauncher(fail_on_any=False))
    (job,) = jobs.submit(provider, jobs.spec("bash", "-c", "exit 6", nodes=2))
    assert ended(provider, [job])[job].exit_code == 6


def test_import_is_light() -> None:
    """Nothing that takes long to load, beyond what the executor needs anyway."""
    code = (
        "import subprocess, threading, pathlib, msgspec, concurrent.futures, sys; before = set(sys.modules); "
        "import throughway.providers, throughway.launchers, throughway.blocks.controller; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"throughway", "shlex", "importlib"}
