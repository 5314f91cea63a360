"""What holds for every provider over a batch scheduler whose commands are faked: one real job after the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.providers.conformance import CommandConformance, System
from tests.providers.fakes.cluster import FakeCluster
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.providers.interface import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    Provider,
    SchedulerError,
    SubmitFailure,
    job_name,
)

SLEEPS = [sys.executable, "-c", "import signal; signal.sigwait([signal.SIGALRM])"]
"""A manager that knows no signal but its end."""


class BatchCases(CommandConformance):
    """Each test has ``system``, and ``cluster``, the fake behind it."""

    def spec(
        self, folder: Path, *command: str, block: str = "0", nodes: int = 1, run: str = "run1"
    ) -> JobSpec:
        return JobSpec(
            job_name(run, block), list(command) or SLEEPS, nodes, str(folder / "jobs"), {"GREETING": "a b"}
        )

    def submit(self, provider: Provider, *specs: JobSpec) -> list[JobId]:
        found = provider.submit(specs)
        assert all(isinstance(entry, str) for entry in found), found
        return found  # type: ignore[return-value]

    def ended(self, provider: Provider, job_id: JobId) -> JobStatus:
        def look() -> JobStatus | None:
            status = provider.status([job_id])[job_id]
            return status if status.state.terminal else None

        return wait_until(look, 20, what=lambda: str(provider.status([job_id])))  # type: ignore[return-value]

    def test_a_signal_ends_a_job_with_128_and_its_number(self, system: System, tmp_path: Path) -> None:
        provider = system.make()
        (job_id,) = self.submit(provider, self.spec(tmp_path, "bash", "-c", "kill -SEGV $$"))
        status = self.ended(provider, job_id)
        assert (status.state, status.exit_code) == (JobState.FAILED, 139)

    def test_cancelled_while_it_waits(self, system: System, cluster: FakeCluster, tmp_path: Path) -> None:
        cluster.set("full")
        provider = system.make()
        (job_id,) = self.submit(provider, self.spec(tmp_path))
        assert provider.status([job_id])[job_id].state is JobState.PENDING
        assert provider.cancel([job_id]) == {job_id: True}
        assert self.ended(provider, job_id).state is JobState.CANCELLED

    def test_held_is_said_with_its_reason(self, system: System, cluster: FakeCluster, tmp_path: Path) -> None:
        cluster.set("held")
        provider = system.make()
        (job_id,) = self.submit(provider, self.spec(tmp_path))
        status = provider.status([job_id])[job_id]
        assert status.state is JobState.HELD
        assert status.message
        provider.cancel([job_id])

    def test_an_end_that_the_scheduler_has_forgotten_is_known_from_the_script(
        self, system: System, cluster: FakeCluster, tmp_path: Path
    ) -> None:
        provider = system.make()
        cluster.forget()
        (job_id,) = self.submit(provider, self.spec(tmp_path, "bash", "-c", "exit 5"))
        status = self.ended(provider, job_id)
        assert (status.state, status.exit_code) == (JobState.FAILED, 5)

    def test_a_scheduler_that_does_not_answer_says_nothing(
        self, system: System, cluster: FakeCluster, tmp_path: Path
    ) -> None:
        provider = system.make()
        (job_id,) = self.submit(provider, self.spec(tmp_path))
        cluster.set("down")
        for ask in (provider.status, provider.cancel):
            with pytest.raises(SchedulerError, match=r"exit code"):
                ask([job_id])
        with pytest.raises(SchedulerError):
            provider.jobs_of("run1")
        (outcome,) = provider.submit([self.spec(tmp_path, block="1")])
        assert isinstance(outcome, SubmitFailure)
        assert "Remedy" in outcome.message
        assert not outcome.permanent
        cluster.set("down", False)
        assert provider.status([job_id])[job_id].state is JobState.RUNNING
        assert provider.cancel([job_id], force=True) == {job_id: True}

    def test_an_executor_works_on_it(self, system: System, tmp_path: Path) -> None:
        provider = system.make(init_blocks=1, max_blocks=1, walltime="01:00:00", status_polling_interval=0.2)
        with HighThroughputExecutor(
            provider=provider,
            run_dir=str(tmp_path / "runs"),
            max_workers_per_node=2,
            address="127.0.0.1",
        ) as executor:
            assert list(executor.map(pow, range(50), range(50))) == [n**n for n in range(50)]
        wait_until(lambda: not provider.jobs_of(""), 20)
