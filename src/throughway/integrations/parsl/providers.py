"""Providers across the border: Throughway's as Parsl's execution providers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from parsl.jobs.states import JobState as ParslState
from parsl.jobs.states import JobStatus as ParslStatus
from parsl.launchers import SimpleLauncher, SingleNodeLauncher
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.providers.errors import SubmitException
from parsl.utils import RepresentationMixin

from throughway.providers import LocalProvider as OwnLocalProvider
from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, Provider, SubmitFailure

_STATES = {
    JobState.PENDING: ParslState.PENDING,
    JobState.RUNNING: ParslState.RUNNING,
    JobState.HELD: ParslState.HELD,
    JobState.UNKNOWN: ParslState.UNKNOWN,
    JobState.COMPLETED: ParslState.COMPLETED,
    JobState.FAILED: ParslState.FAILED,
    JobState.TIMEOUT: ParslState.TIMEOUT,
    JobState.CANCELLED: ParslState.CANCELLED,
    JobState.MISSING: ParslState.MISSING,
    JobState.SCALED_IN: ParslState.SCALED_IN,
}


class ThroughwayProvider(ExecutionProvider, RepresentationMixin):
    """One of Throughway's providers where Parsl expects one of its own; the executor wraps them by itself.

    Its blocks are started and ended by Parsl's strategy, within the ``init_blocks``, ``min_blocks``, ``max_blocks`` and
    ``parallelism`` of the provider.
    """

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.init_blocks = provider.init_blocks
        self.min_blocks = provider.min_blocks
        self.max_blocks = provider.max_blocks
        self.nodes_per_block = provider.nodes_per_block
        self.parallelism = getattr(provider, "parallelism", 1.0)
        self.cores_per_node = getattr(provider, "cores_per_node", None)
        self.mem_per_node = getattr(provider, "mem_per_node", None)
        self.script_dir: str | None = None
        self.resources: dict[object, Any] = {}

    @property
    def label(self) -> str:
        """The provider's own."""
        return self.provider.label

    @property
    def local(self) -> bool:
        """Whether its managers run on this machine."""
        return self.provider.local

    @property
    def status_polling_interval(self) -> float:
        """Seconds between two questions for the status of jobs; the strategy never asks more often."""
        return self.provider.status_polling_interval

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.throughway") -> JobId:
        """Start a job that runs ``command``; returns its id.

        Raises:
            SubmitException: it was not started; the message says why.
        """
        folder = os.path.abspath(self.script_dir or os.curdir)
        spec = JobSpec(
            name=re.sub(r"[^A-Za-z0-9_.-]", "_", job_name),
            command=shlex.split(command),
            nodes=self.nodes_per_block,
            folder=folder,
        )
        (outcome,) = self.provider.submit([spec])
        if isinstance(outcome, SubmitFailure):
            raise SubmitException(job_name, outcome.message)
        self.resources[outcome] = {"job_id": outcome, "status": ParslStatus(ParslState.PENDING)}
        return outcome

    def status(self, job_ids: Sequence[Any]) -> list[ParslStatus]:
        """What is known of these jobs, in their order; what the provider leaves out stays as it was."""
        # An ended job is not asked for again: resource managers forget them.
        asked = [job_id for job_id in job_ids if not self.resources[job_id]["status"].terminal]
        for job_id, status in (self.provider.status(asked) if asked else {}).items():
            if status.state is not JobState.UNKNOWN:
                self.resources[job_id]["status"] = _parsl_status(status)
        return [self.resources[job_id]["status"] for job_id in job_ids]

    def cancel(self, job_ids: Sequence[Any]) -> list[bool]:
        """Ask these jobs to end; True for each that will, or has."""
        verdicts = self.provider.cancel(list(job_ids)) if job_ids else {}
        return [verdicts.get(job_id, False) or self._ended(job_id) for job_id in job_ids]

    def _ended(self, job_id: Any) -> bool:
        status = self.provider.status([job_id]).get(job_id)
        return status is not None and status.state.terminal


def _parsl_status(status: JobStatus) -> ParslStatus:
    return ParslStatus(
        _STATES[status.state],
        message=status.message or None,
        exit_code=status.exit_code,
        stdout_path=status.stdout or None,
        stderr_path=status.stderr or None,
    )


def parsl_provider(provider: Any) -> Any:
    """A provider of either kind as one of Parsl's; None for Parsl's local one. What is neither stays as it is."""
    if provider is None:
        return LocalProvider()
    if isinstance(provider, ExecutionProvider) or not hasattr(provider, "render"):
        return provider
    return ThroughwayProvider(provider)


def is_local(provider: Any) -> bool:
    """Whether the managers of a provider of Parsl's surely run on this machine, and see its files.

    A launcher that wraps the command may take it to another machine, or into a container.
    """
    if isinstance(provider, ThroughwayProvider):
        return provider.local
    return isinstance(provider, LocalProvider) and type(provider.launcher) in (
        SimpleLauncher,
        SingleNodeLauncher,
    )


class ParslProvider(OwnLocalProvider):
    """What Throughway's core is told of a provider that Parsl uses: only where its managers run."""

    label = "parsl"
    record = None  # type: ignore[assignment]  # nobody but Parsl knows the jobs,
    jobs_of = None  # type: ignore[assignment]  # so no watchdog can look after them

    def __init__(self, *, local: bool) -> None:
        super().__init__()
        self.local = local

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        """Refuses: Parsl starts the jobs."""
        return [SubmitFailure("Parsl starts the blocks") for _ in specs]
