"""Processes of this machine, as the kernel shows them (proc(5), /proc/PID/stat)."""

from __future__ import annotations

from typing import NamedTuple


class LiveProcess(NamedTuple):
    """A process that runs. Its id may be another's later: ``started`` tells the two apart."""

    pid: int
    group: int
    """its process group"""
    session: int
    started: int
    """in clock ticks since the machine started"""


def live_process(pid: int) -> LiveProcess | None:
    """What there is to know of a process; None where it is gone, out of sight, or a zombie.

    Raises:
        OSError: it cannot be told, as where this process has no descriptor left.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Its name comes before, in parentheses, and may contain some.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return LiveProcess(pid, int(fields[2]), int(fields[3]), int(fields[19]))


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where `live_process` finds none."""
    process = live_process(pid)
    return None if process is None else process.started
