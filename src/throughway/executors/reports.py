"""What an executor tells about itself and its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from throughway.protocol.views import Explanation, StatusView


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """Where a task is, since when, and what it waits for. ``str()`` says it in one sentence.

    ``state`` is one of ``done``, ``at the executor``, ``at the interchange``, ``at a manager``, ``at a worker``,
    ``running``, ``unknown``; ``function`` is its name, empty once it is done; ``seconds`` is how long it has
    been running, ``ahead`` how many tasks go before it, and
    ``log`` where on ``host`` its output goes; for a task that is done, the folder of all logs.
    """

    task: int
    function: str
    state: str
    waits_for: str = ""
    manager: str = ""
    host: str = ""
    block: str = ""
    worker: int | None = None
    ahead: int = 0
    seconds: float | None = None
    log: str = ""

    def __str__(self) -> str:
        name = f" ({self.function})" if self.function else ""
        state = self.state
        if self.manager:
            manager = f"manager {self.manager} on {self.host} (block {self.block})"
            if self.worker is None:
                state = f"at {manager}"
            elif state == "running":
                state = f"running, at worker {self.worker} of {manager}"
            else:
                state = f"at worker {self.worker} of {manager}"
        text = f"task {self.task}{name} is {state}"
        if self.seconds is not None:
            text += f" since {self.seconds:.3g} s"
        if self.waits_for:
            text += f"; it waits for {self.waits_for}"
        if self.ahead:
            text += f", with {self.ahead} {'task' if self.ahead == 1 else 'tasks'} ahead of it"
        if self.log:
            text += f"; {'logs' if state == 'done' else 'log'}: {self.log}"
        return text


def task_explanation(function: str, explanation: Explanation) -> TaskExplanation:
    """The interchange's explanation for a user."""
    return TaskExplanation(
        task=explanation.task,
        function=function,
        state=explanation.state,
        waits_for=explanation.waits_for,
        manager=explanation.manager,
        host=explanation.host,
        block=explanation.block,
        worker=explanation.worker if explanation.worker >= 0 else None,
        ahead=explanation.ahead,
        seconds=explanation.seconds,
        log=explanation.log,
    )


class StatusReport(NamedTuple):
    """An executor at one moment.

    ``memory`` is in bytes; ``core_hours`` counts, for the time that tasks ran, the cores of their workers
    (``cores_per_worker``).
    """

    cores: int
    memory: int
    managers: int
    workers: int
    idle_workers: int
    pending: int
    outstanding: int
    completed: int
    core_hours: float


def status_report(view: StatusView, outstanding: int, cores_per_worker: float) -> StatusReport:
    """The interchange's status for a user. ``pending`` are the outstanding tasks that no manager has."""
    return StatusReport(
        cores=view.cores,
        memory=view.memory,
        managers=view.managers,
        workers=view.workers,
        idle_workers=view.idle_workers,
        pending=max(0, outstanding - view.assigned),
        outstanding=outstanding,
        completed=view.completed,
        core_hours=view.core_seconds * cores_per_worker / 3600,
    )
