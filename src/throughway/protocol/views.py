"""What the interchange tells of itself: the payloads of `Answer`, and of the public reports."""

from __future__ import annotations

import msgspec


class ManagerView(msgspec.Struct, omit_defaults=True):
    """One manager, as the interchange sees it. Times are in seconds, ``memory`` in bytes."""

    manager: str
    host: str
    block: str
    pid: int
    worker_count: int
    idle_workers: int
    tasks: int
    idle_duration: float
    active: bool
    draining: bool
    python_version: str
    throughway_version: str
    cores: int
    memory: int
    age: float
    seconds_left: float | None = None
    silence: float = 0.0
    tasks_done: int = 0
    busy_seconds: float = 0.0
    log: str = ""
    absent: bool = False
    """it has no connection, and has some time left to come back"""


class StatusView(msgspec.Struct, omit_defaults=True):
    """The whole executor at one moment. ``core_seconds`` are seconds of running tasks, summed over all workers."""

    run: str
    label: str
    uptime: float
    cores: int = 0
    memory: int = 0
    managers: int = 0
    workers: int = 0
    idle_workers: int = 0
    pending: int = 0
    assigned: int = 0
    submitted: int = 0
    completed: int = 0
    core_seconds: float = 0.0
    refused_managers: int = 0
    lost_managers: int = 0
    malformed_messages: int = 0
    managers_held: int = 0
    late_results: int = 0
    """results of managers that had been given up: discarded"""


class Explanation(msgspec.Struct, omit_defaults=True):
    """Where one task is, since when, and what it waits for.

    ``state`` is one of ``unknown``, ``at the interchange``, ``at a manager``, ``at a worker``, ``running``;
    ``seconds`` is how long it has been so, where that is known.
    """

    task: int
    state: str
    waits_for: str = ""
    manager: str = ""
    host: str = ""
    block: str = ""
    worker: int = -1
    ahead: int = 0
    seconds: float | None = None
    log: str = ""


class RunView(msgspec.Struct, omit_defaults=True):
    """What an observer is shown at once: the whole and each manager."""

    status: StatusView
    managers: list[ManagerView] = []


class BlockLoad(msgspec.Struct, omit_defaults=True):
    """What the managers of one block have to do at this moment."""

    block: str
    managers: int
    workers: int
    tasks: int
    idle_seconds: float = 0.0
    """since the last of them had a task; 0 while one has"""
    seconds_left: float | None = None
    """until the first of them drains by itself"""


class LoadView(msgspec.Struct, omit_defaults=True):
    """All blocks that have managers, and tasks that none of these has the time for."""

    blocks: list[BlockLoad]
    stranded: int = 0


class DrainView(msgspec.Struct, omit_defaults=True):
    """What became of the wish to drain a block: ``accepted`` unless it was to be idle and is not."""

    accepted: bool
    managers: int = 0
    tasks: int = 0


def task_number(text: str) -> int:
    """The task that the subject of a question names; -1 where it names none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1
