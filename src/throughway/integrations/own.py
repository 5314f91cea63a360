"""The executor that an integration makes for itself where it is not given one."""

from __future__ import annotations

from typing import Any

from throughway.executors.high_throughput import HighThroughputExecutor
from throughway.executors.view import ExecutorView
from throughway.manager.sizing import cores_available

AnyExecutor = HighThroughputExecutor | ExecutorView


def own_executor(workers: int | None, label: str, parameters: dict[str, Any]) -> HighThroughputExecutor:
    """An executor on this machine with exactly so many workers, also where it has fewer cores, unless
    ``parameters`` (those of `HighThroughputExecutor`) say otherwise. None: one on each core."""
    given: dict[str, Any] = {"label": label}
    if workers is not None:
        given["max_workers_per_node"] = workers
        given["cores_per_worker"] = min(1.0, cores_available() / workers)
    return HighThroughputExecutor(**(given | parameters))


def check_executor(executor: object, wanted: str) -> AnyExecutor:
    """The executor that a user gave, if it is one.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(executor, HighThroughputExecutor | ExecutorView):
        raise TypeError(
            f"executor={executor!r}: {wanted} takes a HighThroughputExecutor, a view that its options() gave, or None"
        )
    return executor


def base_of(executor: AnyExecutor) -> HighThroughputExecutor:
    """The executor itself, of which ``executor`` may be a view."""
    return executor._executor if isinstance(executor, ExecutorView) else executor
