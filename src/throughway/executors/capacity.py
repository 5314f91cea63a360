"""How many workers an executor can have, for libraries that ask before they submit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from throughway.manager.sizing import cores_available, memory_available, worker_count

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor


def most_workers(executor: HighThroughputExecutor) -> int:
    """How many workers ``executor`` has or may get once all of its blocks run; at least 1.

    It is exact on this machine. Elsewhere a node is taken to have ``max_workers_per_node`` workers, or what its cores
    allow where the provider knows them, or as many as the nodes that are connected; failing all of that, as many as
    this machine would have.

    Raises:
        ThroughwayError: the executor runs and does not answer.
    """
    connected = executor.connected_managers() if executor._run is not None else []
    provider = executor.provider
    nodes = provider.max_blocks * provider.nodes_per_block
    most_on_a_node = max((manager.worker_count for manager in connected), default=0)
    expected = nodes * (most_on_a_node or _workers_on_a_node(executor))
    return max(1, expected, sum(manager.worker_count for manager in connected))


def _workers_on_a_node(executor: HighThroughputExecutor) -> int:
    cores = cores_available()
    known = True
    if not executor.provider.local:
        given = getattr(executor.provider, "cores_per_node", None)
        known = isinstance(given, int)
        cores = given if isinstance(given, int) else cores
    cap = executor.max_workers_per_node
    if not known and cap is not None:
        return cap
    return worker_count(
        cores=max(cores, math.ceil(executor.cores_per_worker)),  # a node on which none fits says so itself
        memory=memory_available() if executor.provider.local else 0,
        cores_per_worker=executor.cores_per_worker,
        mem_per_worker=executor.mem_per_worker if executor.provider.local else None,
        max_workers_per_node=cap,
        accelerators=len(executor.available_accelerators),
    )
