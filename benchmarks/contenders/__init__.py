"""The contenders: one module each, found by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.contenders.interface import Contender

CONTENDERS = {
    "throughway": "throughway:Throughway",
    "process-pool": "process_pool:ProcessPool",
    "multiprocessing-pool": "multiprocessing_pool:MultiprocessingPool",
    "parsl-htex": "parsl_htex:ParslHtex",
    "parsl-throughway": "parsl_throughway:ParslThroughway",
    "dask": "dask_cluster:DaskCluster",
    "ray": "ray_cluster:RayCluster",
}


def make(name: str, options: dict[str, Any], folder: str) -> Contender:
    """The contender of this name; nothing of its library is imported yet."""
    module, _, attribute = CONTENDERS[name].partition(":")
    contender: Contender = getattr(import_module(f"benchmarks.contenders.{module}"), attribute)(
        options, folder
    )
    return contender
