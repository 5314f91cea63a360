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
    from throughway.providers.htcondor import CondorProvider, HTCondorProvider
    from throughway.providers.kubernetes import KubernetesProvider
    from throughway.providers.lsf import LSFProvider
    from throughway.providers.pbs import PBSProProvider
    from throughway.providers.slurm import SlurmProvider
    from throughway.providers.torque import TorqueProvider

__all__ = [
    "CondorProvider",
    "GridEngineProvider",
    "HTCondorProvider",
    "JobId",
    "JobSpec",
    "JobState",
    "JobStatus",
    "KubernetesProvider",
    "LSFProvider",
    "LocalProvider",
    "NamedJob",
    "PBSProProvider",
    "Provider",
    "ProviderRecord",
    "SchedulerError",
    "SlurmProvider",
    "SubmitFailure",
    "TorqueProvider",
]

_MODULES = {
    "CondorProvider": "htcondor",
    "GridEngineProvider": "grid_engine",
    "HTCondorProvider": "htcondor",
    "KubernetesProvider": "kubernetes",
    "LSFProvider": "lsf",
    "PBSProProvider": "pbs",
    "SlurmProvider": "slurm",
    "TorqueProvider": "torque",
}
"""Providers that are imported when they are asked for: one machine alone needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
