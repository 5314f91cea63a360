"""The environment variables by which a worker, and what it runs, knows its place."""

from __future__ import annotations

from collections.abc import Sequence

from throughway.manager.accelerators import accelerator_environment
from throughway.manager.affinity import affinity_environment


def worker_environment(
    *,
    rank: int,
    workers: int,
    manager_id: str,
    block: str,
    run_id: str,
    affinity: Sequence[int],
    accelerator: str | None,
) -> dict[str, str]:
    """What is added to a worker's environment.

    Args:
        rank: which of its node's workers it is, from 0. A worker that replaces a dead one has the same.
        workers: how many there are.
        manager_id: the id of the manager that started it.
        block: the id of its block.
        run_id: the id of the executor's run.
        affinity: the cores it is pinned to; empty for none.
        accelerator: the name of its accelerator, or None.

    Raises:
        ValueError: the rank is not one of that many workers.
    """
    if not 0 <= rank < workers:
        raise ValueError(f"rank={rank} is not one of {workers} workers: ranks count from 0")
    environment = {
        "THROUGHWAY_WORKER_RANK": str(rank),
        "THROUGHWAY_WORKER_COUNT": str(workers),
        "THROUGHWAY_MANAGER_ID": manager_id,
        "THROUGHWAY_BLOCK_ID": block,
        "THROUGHWAY_RUN_ID": run_id,
    }
    environment.update(affinity_environment(affinity))
    if accelerator is not None:
        environment.update(accelerator_environment(accelerator))
    return environment
