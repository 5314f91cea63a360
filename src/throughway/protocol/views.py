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
