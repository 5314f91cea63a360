"""What an executor tells the controller of its blocks: how large a node is, and what its users may ask of a block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from throughway.errors import InvalidResourceSpecification
from throughway.executors.options import ResourceSpecification
from throughway.manager.deadline import margin, usable
from throughway.manager.sizing import cores_available
from throughway.providers.interface import Provider

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor


def workers_per_node(executor: HighThroughputExecutor) -> int:
    """How many workers a manager is expected to have before the first one has shown: 1 where nothing tells."""
    provider = executor.provider
    if provider.max_blocks <= 1:
        # There is nothing to work out.
        return 1
    limits = [executor.max_workers_per_node, len(executor.available_accelerators) or None]
    cores = cores_available() if provider.local else getattr(provider, "cores_per_node", None)
    if cores is not None:
        limits.append(math.floor(cores / executor.cores_per_worker + 1e-9))
    memory = getattr(provider, "mem_per_node", None)
    if memory is not None and executor.mem_per_worker is not None:
        limits.append(math.floor(memory / executor.mem_per_worker))
    return max(1, min((limit for limit in limits if limit is not None), default=1))


def scales(provider: Provider, strategy: object) -> bool:
    """Whether the number of blocks can change with the load."""
    return strategy not in (None, "none") and provider.max_blocks > max(1, provider.min_blocks)


def guarded(executor: HighThroughputExecutor, *, own_command: bool) -> bool:
    """Whether jobs could outlive this process: those of a batch scheduler, and local ones that run more than managers,
    which end by themselves."""
    provider = executor.provider
    known = all(callable(getattr(provider, name, None)) for name in ("jobs_of", "record"))
    more = own_command or bool(getattr(provider, "worker_init", "").strip())
    return known and (more or not provider.local)


def check_walltime(executor: HighThroughputExecutor, specification: ResourceSpecification) -> None:
    """Refuse a walltime that no block ever has.

    Raises:
        InvalidResourceSpecification: it is longer than what a fresh block lasts; says how long that is.
    """
    block = getattr(executor.provider, "walltime", None)
    longest = usable(block, executor.drain_period)
    if specification.walltime <= longest:
        return
    if executor.drain_period is not None and longest == executor.drain_period:
        why = f"managers take nothing new after drain_period={executor.drain_period:g} s"
        remedy = "a longer drain_period"
    else:
        why = (
            f"blocks of the {executor.provider.label} provider last for {block:g} s, of which the last "
            f"{margin(block or 0.0):g} s are kept for draining"
        )
        remedy = "the provider a longer walltime"
    raise InvalidResourceSpecification(
        f"walltime={specification.walltime:g}: no block would ever have the time for such a task: {why}; give "
        f"{remedy}, or tasks a walltime of {longest:g} s or less"
    )
