"""Providers: where nodes come from. Each starts, watches and cancels jobs, many at a time."""

from throughway.providers.interface import JobId, JobSpec, JobState, JobStatus, Provider, SubmitFailure
from throughway.providers.local import LocalProvider

__all__ = ["JobId", "JobSpec", "JobState", "JobStatus", "LocalProvider", "Provider", "SubmitFailure"]
