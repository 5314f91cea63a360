"""Providers: where nodes come from. Each starts, watches and cancels jobs, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughway.providers.interface import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    Provider,
    ProviderRecord,
    SchedulerError,
    SubmitFailure,
)
from throughway.providers.local import LocalProvider

if TYPE_CHECKING:
    from throughway.providers.grid_engine import GridEngineProvider
    from throughway.providers.slurm import SlurmProvider

__all__ = [
    "GridEngineProvider",
    "JobId",
    "JobSpec",
    "JobState",
    "JobStatus",
    "LocalProvider",
    "NamedJob",
    "Provider",
    "ProviderRecord",
    "SchedulerError",
    "SlurmProvider",
    "SubmitFailure",
]

_MODULES = {
    "GridEngineProvider": "grid_engine",
    "SlurmProvider": "slurm",
}
"""Providers that are imported when they are asked for: one machine alone needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
