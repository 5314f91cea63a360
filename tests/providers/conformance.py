"""What every provider has to do, whatever it talks to: a test class subclasses `Conformance`, and one for a batch
scheduler with commands `CommandConformance`, and gives them a fixture ``system``.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import alive
from tests.waiting import wait_until
from throughway.providers import JobId, JobSpec, JobState, JobStatus, Provider, SchedulerError, SubmitFailure
from throughway.providers.interface import job_name
from throughway.providers.records import read_record, restore, write_record

STUBBORN = """\
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    signal.pause()
"""
"""Ignores SIGTERM, once its process id is in the file that is named."""


class System(NamedTuple):
    """A resource manager under test.

    ``make`` makes a provider with further parameters. ``refused`` are parameters with which it accepts no job, and
    ``said`` is what it says then. ``commands`` are its commands by the name of what they are for: ``submit``,
    ``status`` and ``cancel``. Jobs start and end within ``seconds``.
    """

    make: Callable[..., Any]
    refused: Mapping[str, Any] = {}
    said: str = ""
    commands: Mapping[str, str] = {}
    seconds: float = 20.0


class Jobs:
    """Starts the jobs of one run on a system, and ends them."""

    def __init__(self, system: System, folder: Path, run: str) -> None:
        self.system = system
        self.folder = folder
        self.run = run
        self.count = 0
        self.started: list[tuple[Provider, JobId]] = []

    def provider(self, **parameters: Any) -> Any:
        return self.system.make(**parameters)

    def spec(self, *command: str, **environment: str) -> JobSpec:
        self.count += 1
        return JobSpec(job_name(self.run, str(self.count)), command, 1, str(self.folder), environment)

    def bash(self, text: str, **environment: str) -> JobSpec:
        return self.spec("bash", "-c", text, **environment)

    def submit(self, provider: Provider, *specs: JobSpec) -> list[JobId]:
        ids = []
        for outcome in provider.submit(specs):
            assert not isinstance(outcome, SubmitFailure), outcome.message
            ids.append(outcome)
            self.started.append((provider, outcome))
        assert len(ids) == len(specs)
        return ids

    def reach(self, provider: Provider, ids: Sequence[JobId], *states: JobState) -> dict[JobId, JobStatus]:
        """The statuses of jobs once each is in one of ``states``."""
        seen: dict[JobId, JobStatus] = {}

        def there() -> bool:
            seen.update(provider.status(ids))
            return all(job_id in seen and seen[job_id].state in states for job_id in ids)

        wait_until(there, self.system.seconds, lambda: f"{states}: {seen}")
        return seen

    def ended(self, provider: Provider, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        return self.reach(provider, ids, *(state for state in JobState if state.terminal))

    def appears(self, path: Path) -> str:
        wait_until(path.exists, self.system.seconds, str(path))
        return path.read_text()

    def gone(self, pid: int) -> None:
        wait_until(lambda: not alive(pid), self.system.seconds, f"the end of process {pid}")

    def end(self) -> None:
        for provider, job_id in self.started:
            if not provider.status([job_id])[job_id].state.terminal:
                provider.cancel([job_id], force=True)
                self.ended(provider, [job_id])


@pytest.fixture
def jobs(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    run = os.urandom(4).hex()
    path = os.environ["PATH"]
    jobs = Jobs(system, tmp_path / "run's folder", run)
    yield jobs
    monkeypatch.setenv("PATH", path)  # impostors go first
    jobs.end()


class Conformance:
    """For all providers."""

    def test_several_jobs_run_to_their_end(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        go = jobs.folder / "go"
        wait = f"until [ -e {shlex.quote(str(go))} ]; do sleep 0.05; done; echo out; echo err >&2"
        specs = [jobs.bash(wait) for _ in range(3)]
        ids = jobs.submit(provider, *specs)
        assert len(set(ids)) == 3
        jobs.reach(provider, ids, JobState.RUNNING)
        go.touch()
        statuses = jobs.ended(provider, ids)
        for job_id, spec in zip(ids, specs, strict=True):
            status = statuses[job_id]
            assert (status.state, status.exit_code) == (JobState.COMPLETED, 0), status
            assert (status.stdout, status.stderr) == (spec.stdout, spec.stderr)
            assert status.tail() == ("out", "err")
        assert provider.status(ids) == statuses, "an ended job stays as it is"

    def test_the_exit_code_of_a_job_that_failed(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.bash("echo no such thing >&2; exit 7"))
        status = jobs.ended(provider, [job])[job]
        assert (status.state, status.exit_code) == (JobState.FAILED, 7), status
        assert "no such thing" in status.tail().stderr

    def test_what_a_job_has(self, jobs: Jobs) -> None:
        provider = jobs.provider(
            worker_init="export FROM_INIT='a b'; prepared() { echo yes; }; export -f prepared"
        )
        spec = jobs.bash(
            'echo "$GIVEN|$FROM_INIT|$(prepared)|$PWD|$THROUGHWAY_JOB"', GIVEN='it\'s "$HOME" `x`'
        )
        if type(provider).__name__ == "LocalProvider":
            spec = jobs.bash(
                'echo "$GIVEN|$FROM_INIT|$(prepared)|$PWD|' + spec.name + '"', **spec.environment
            )
        (job,) = jobs.submit(provider, spec)
        status = jobs.ended(provider, [job])[job]
        given, init, prepared, folder, name = status.tail().stdout.split("|")
        assert given == 'it\'s "$HOME" `x`'
        assert (init, prepared) == ("a b", "yes")
        assert os.path.realpath(folder) == os.path.realpath(os.getcwd())
        assert jobs.run in name

    def test_worker_init_can_end_the_job(self, jobs: Jobs, tmp_path: Path) -> None:
        provider = jobs.provider(worker_init="echo there is no such module >&2; exit 4")
        (job,) = jobs.submit(provider, jobs.spec("touch", str(tmp_path / "started")))
        status = jobs.ended(provider, [job])[job]
        assert (status.state, status.exit_code) == (JobState.FAILED, 4), status
        assert "there is no such module" in status.tail().stderr
        assert not (tmp_path / "started").exists()

    def test_render_shows_the_script_and_writes_nothing(self, jobs: Jobs) -> None:
        provider = jobs.provider(worker_init="echo prepared")
        spec = jobs.spec("python3", "-m", "a module")
        text = provider.render(spec)
        assert text.startswith("#!")
        assert "echo prepared" in text
        assert "python3 -m 'a module'" in text
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        assert not os.path.exists(spec.folder)

    def test_cancel(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        ids = jobs.submit(provider, *(jobs.spec("sleep", "1000") for _ in range(2)))
        jobs.reach(provider, ids, JobState.RUNNING)
        assert provider.cancel(ids) == dict.fromkeys(ids, True)
        assert {status.state for status in jobs.ended(provider, ids).values()} == {JobState.CANCELLED}
        assert provider.cancel(ids) == dict.fromkeys(ids, False)

    def test_force_ends_what_does_not_want_to(self, jobs: Jobs, tmp_path: Path) -> None:
        provider = jobs.provider()
        ready = tmp_path / "ready"
        (job,) = jobs.submit(provider, jobs.spec(sys.executable, "-c", STUBBORN, str(ready)))
        pid = int(jobs.appears(ready))
        assert provider.cancel([job], force=True) == {job: True}
        jobs.gone(pid)
        assert jobs.ended(provider, [job])[job].state is JobState.CANCELLED

    def test_unknown_jobs(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        unknown = JobId("88888888")
        (known,) = jobs.submit(provider, jobs.spec("sleep", "1000"))
        found = provider.status([unknown, known])
        assert unknown not in found or found[unknown].state is JobState.UNKNOWN
        assert found[known].state in (JobState.PENDING, JobState.RUNNING)
        assert provider.cancel([unknown]) == {unknown: False}
        assert provider.cancel([unknown, known]) == {unknown: False, known: True}

    def test_nothing_is_asked_about_nothing(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        assert provider.submit([]) == []
        assert provider.status([]) == {}
        assert provider.cancel([]) == {}

    def test_another_process_finds_and_cancels_the_jobs_of_a_run(self, jobs: Jobs, tmp_path: Path) -> None:
        provider = jobs.provider()
        specs = [jobs.spec("sleep", "1000") for _ in range(2)]
        ids = jobs.submit(provider, *specs)
        write_record(provider, tmp_path)
        record = read_record(tmp_path)
        assert record is not None
        other = restore(record)
        found = wait_until(lambda: other.jobs_of(jobs.run), jobs.system.seconds, "the jobs")
        assert {(job.id, job.name) for job in found} == {(i, s.name) for i, s in zip(ids, specs, strict=True)}
        assert not any(job.status.state.terminal for job in found)
        assert other.jobs_of("00000000") == []
        assert other.cancel([job.id for job in found], force=True) == dict.fromkeys(ids, True)
        wait_until(lambda: other.jobs_of(jobs.run) == [], jobs.system.seconds, "the end of the jobs")

    def test_a_folder_that_cannot_be_written(self, jobs: Jobs, tmp_path: Path) -> None:
        provider = jobs.provider(worker_init="true")
        (tmp_path / "file").touch()
        spec = JobSpec(job_name(jobs.run, "0"), ["true"], 1, str(tmp_path / "file" / "folder"))
        (failure,) = provider.submit([spec])
        assert isinstance(failure, SubmitFailure)
        assert spec.name in failure.message
        assert f"{tmp_path}/file" in failure.message

    def test_a_full_disk(self, jobs: Jobs) -> None:
        provider = jobs.provider(worker_init="true")
        spec = jobs.spec("true")
        os.makedirs(spec.folder)
        os.symlink("/dev/full", spec.script)
        failure, job = provider.submit([spec, jobs.spec("true")])
        assert isinstance(failure, SubmitFailure)
        assert "No space left on device" in failure.message
        assert not isinstance(job, SubmitFailure), "one job's failure is not the other's"
        jobs.started.append((provider, job))
        assert jobs.ended(provider, [job])[job].state is JobState.COMPLETED


class Impostor:
    """Puts commands into the place of a scheduler's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(self, name: str, script: str) -> None:
        """``$real`` is the command that it stands for."""
        path = os.pathsep.join(
            part for part in os.environ["PATH"].split(os.pathsep) if part != str(self.folder)
        )
        real = shutil.which(name, path=path)
        file = self.folder / name
        file.write_text(f"#!/bin/bash\nreal={shlex.quote(real or '')}\n{script}\n")
        file.chmod(0o755)

    def log(self, name: str) -> Path:
        """Run the real command, and log the arguments of each call on a line of the file that is returned."""
        log = self.folder / f"{name}.log"
        log.touch()
        self.put(name, f'echo "$*" >>{shlex.quote(str(log))}\nexec "$real" "$@"')
        return log

    def hang(self, name: str) -> None:
        self.put(name, "sleep 1000 &\nwait")


@pytest.fixture
def impostor(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Impostor:
    return Impostor(tmp_path / "impostors", monkeypatch)


class CommandConformance(Conformance):
    """For providers that talk to a scheduler by commands."""

    def test_a_refused_job(self, jobs: Jobs) -> None:
        provider = jobs.provider(**jobs.system.refused)
        (failure,) = provider.submit([jobs.spec("true")])
        assert isinstance(failure, SubmitFailure)
        assert failure.permanent
        for part in (jobs.system.said, jobs.system.commands["submit"], "exit code", "Remedy: ", jobs.run):
            assert part in failure.message
        assert provider.jobs_of(jobs.run) == []

    def test_all_jobs_are_asked_about_in_one_command(self, jobs: Jobs, impostor: Impostor) -> None:
        provider = jobs.provider()
        ids = jobs.submit(provider, *(jobs.spec("sleep", "1000") for _ in range(5)))
        status, cancel = (impostor.log(jobs.system.commands[name]) for name in ("status", "cancel"))
        assert set(provider.status(ids)) == set(ids)
        assert len(status.read_text().splitlines()) == 1
        assert provider.cancel(ids) == dict.fromkeys(ids, True)
        assert len(cancel.read_text().splitlines()) == 1

    def test_node_init_runs_before_the_manager_in_its_shell(self, jobs: Jobs) -> None:
        provider = jobs.provider(node_init="export ON_NODE='x y'\nulimit -c 0")
        (job,) = jobs.submit(provider, jobs.bash('echo "$ON_NODE $(ulimit -c)"; exit 3'))
        status = jobs.ended(provider, [job])[job]
        assert (status.exit_code, status.tail().stdout) == (3, "x y 0")

    def test_scheduler_options_are_in_the_script(self, jobs: Jobs) -> None:
        line = f"{jobs.provider().directive} -N other-name"
        script = jobs.provider(scheduler_options=line).render(jobs.spec("true"))
        head = script.partition("\n\n")[0].splitlines()
        assert head[-1] == line
        assert all(entry.startswith("#") for entry in head)

    @pytest.mark.parametrize("what", ["submit", "status", "cancel"])
    def test_a_command_that_hangs(self, jobs: Jobs, impostor: Impostor, what: str) -> None:
        provider = jobs.provider(cmd_timeout=0.5)
        name = jobs.system.commands[what]
        impostor.hang(name)
        said = self._complaint(provider, jobs, what)
        assert name in said
        assert "cmd_timeout=0.5" in said

    @pytest.mark.parametrize("what", ["submit", "status", "cancel"])
    def test_a_command_that_is_missing(self, jobs: Jobs, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        provider = jobs.provider()
        monkeypatch.setenv("PATH", "/nowhere:/nothing")
        said = self._complaint(provider, jobs, what)
        assert f"the command {jobs.system.commands[what]} was not found" in said
        assert "/nowhere:/nothing" in said

    @pytest.mark.parametrize("what", ["submit", "status", "cancel"])
    def test_a_command_that_fails(self, jobs: Jobs, impostor: Impostor, what: str) -> None:
        provider = jobs.provider()
        name = jobs.system.commands[what]
        impostor.put(name, "echo the moon is full >&2; exit 77")
        said = self._complaint(provider, jobs, what)
        assert re.search(rf"\b{name}\b.*\(exit code 77\) said: the moon is full", said), said

    @pytest.mark.parametrize("what", ["submit", "status"])
    def test_output_that_makes_no_sense(self, jobs: Jobs, impostor: Impostor, what: str) -> None:
        provider = jobs.provider()
        name = jobs.system.commands[what]
        impostor.put(name, "printf 'Dear user,\\nthe cluster \\377 is <wonderful>.\\n'")
        said = self._complaint(provider, jobs, what)
        assert name in said
        assert "Dear user" in said

    def _complaint(self, provider: Provider, jobs: Jobs, what: str) -> str:
        """What is said when the command for ``what`` does not do what it should."""
        if what == "submit":
            failures = provider.submit([jobs.spec("true"), jobs.spec("true")])
            assert all(isinstance(failure, SubmitFailure) for failure in failures)
            (failure, _) = failures
            assert isinstance(failure, SubmitFailure)
            assert not failure.permanent
            return failure.message
        ask = provider.status if what == "status" else provider.cancel
        with pytest.raises(SchedulerError) as raised:
            ask([JobId("88888881"), JobId("88888882")])
        return str(raised.value)

    def test_a_job_whose_submission_was_cut_off_is_cancelled(
        self, jobs: Jobs, impostor: Impostor, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider = jobs.provider(cmd_timeout=6)
        submit = jobs.system.commands["submit"]
        impostor.put(submit, '"$real" "$@"\nsleep 1000 &\nwait')
        failure, untried = provider.submit([jobs.spec("sleep", "1000"), jobs.spec("sleep", "1000")])
        provider.cmd_timeout = 60
        assert isinstance(failure, SubmitFailure)
        assert isinstance(untried, SubmitFailure)
        assert "not tried" in untried.message
        assert len(wait_until(lambda: provider.jobs_of(jobs.run), jobs.system.seconds, "the job")) == 1
        with caplog.at_level(logging.WARNING, "throughway.providers"):
            provider.status([])
        assert "although nobody was told" in caplog.text
        wait_until(lambda: provider.jobs_of(jobs.run) == [], jobs.system.seconds, "the end of the job")

    def test_a_scheduler_that_does_not_answer_changes_nothing(self, jobs: Jobs, impostor: Impostor) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("sleep", "1000"))
        jobs.reach(provider, [job], JobState.RUNNING)
        name = jobs.system.commands["status"]
        impostor.put(name, "echo slurm_load_jobs error: Socket timed out on send/recv operation >&2; exit 1")
        with pytest.raises(SchedulerError, match="Nothing is concluded"):
            provider.status([job])
        (impostor.folder / name).unlink()
        assert provider.status([job])[job].state is JobState.RUNNING
