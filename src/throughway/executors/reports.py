"""What an executor tells about itself and its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from throughway.protocol.views import Explanation, StatusView


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """Where a task is, since when, and what it waits for. ``str()`` says it in one sentence.

    ``state`` is one of ``done``, ``at the executor``, ``at the interchange``, ``at a manager``, ``at a worker``,
    ``running``, ``unknown``; ``seconds`` is how long it has been running, ``ahead`` how many tasks go before it, and
    ``log`` where on ``host`` its output goes.
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
        place = ""
        if self.manager:
            place = f" of manager {self.manager} on {self.host} (block {self.block})"
            if self.worker is not None:
                place = f", worker {self.worker}{place}"
        text = f"task {self.task} ({self.function}) is {self.state}{place}"
        if self.seconds is not None:
            text += f" since {self.seconds:.3g} s"
        if self.waits_for:
            text += f"; it waits for {self.waits_for}"
        if self.ahead:
            text += f", with {self.ahead} tasks ahead of it"
        if self.log:
            text += f"; log: {self.log}"
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
    """An executor at one moment. ``memory`` is in bytes; ``core_hours`` counts only the time that tasks ran."""

    cores: int
    memory: int
    managers: int
    workers: int
    idle_workers: int
    pending: int
    outstanding: int
    completed: int
    core_hours: float


def status_report(view: StatusView, outstanding: int) -> StatusReport:
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
        core_hours=view.core_seconds / 3600,
    )
