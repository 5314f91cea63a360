"""Processes as /proc shows them: which there are, whose they are, and how to end them for sure."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
from collections.abc import Iterable
from typing import NamedTuple

from tests.waiting import wait_until

_LIMIT_LINE = b"Max msgqueue size"


class ProcessRecord(NamedTuple):
    """One process. ``started`` (clock ticks since boot) tells it from a later one with the same id."""

    pid: int
    started: int
    parent: int
    zombie: bool


def process_record(pid: int) -> ProcessRecord | None:
    """What there is to know of this process, None where it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return ProcessRecord(pid, int(fields[19]), int(fields[1]), fields[0] in (b"Z", b"X"))


def process_ids() -> set[int]:
    """The ids of all processes of this machine, zombies included."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def alive(pid: int) -> bool:
    """Whether this process is there and not a zombie: who has to collect one that has ended may be slow to do so."""
    record = process_record(pid)
    return record is not None and not record.zombie


def living(pids: Iterable[int]) -> list[ProcessRecord]:
    """The records of those of these processes that are alive."""
    records = (process_record(pid) for pid in pids)
    return [record for record in records if record is not None and not record.zombie]


class Family:
    """All that this process starts from now on, at any depth and wherever it goes.

    An orphan has another parent, a daemon another session, and a process that changes its title may overwrite the
    environment that /proc shows. What all of them inherit and keep is a resource limit: this process is given a soft
    limit for POSIX message queues that no other has.
    """

    def __init__(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
        highest = hard if hard != resource.RLIM_INFINITY else 1 << 30
        self._mark = random.SystemRandom().randrange(highest // 2, highest)
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (self._mark, hard))
        self._members: set[int] = set()
        self._others: set[int] = set()

    def members(self, *, afresh: bool = False) -> list[ProcessRecord]:
        """Those that live, this process excepted. Only new processes are looked into, or all of them ``afresh``."""
        pids = process_ids()
        if afresh:
            self._members, self._others = set(), {os.getpid()}
        self._members &= pids
        self._others &= pids
        for pid in pids - self._members - self._others:
            is_member = pid != os.getpid() and _message_queue_limit(pid) == self._mark
            (self._members if is_member else self._others).add(pid)
        return living(sorted(self._members))


def _message_queue_limit(pid: int) -> int | None:
    """The soft limit in bytes, None where this process is gone or another user's, or has no limit."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as limits:
            text = limits.read()
    except OSError:
        return None
    _, _, rest = text.partition(_LIMIT_LINE)
    words = rest.split(maxsplit=1)
    return int(words[0]) if words and words[0].isdigit() else None


def started_with(variable: str, value: str) -> list[ProcessRecord]:
    """The living processes whose environment was started with ``variable=value``, this one excepted."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in process_ids() - {os.getpid()}:
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                marked = wanted in environ.read().split(b"\0")
        except OSError:  # another user's, or gone
            continue
        if marked:
            found.append(pid)
    return living(found)


def title(pid: int) -> str:
    """What `ps` shows of this process: its title or command line, at most 200 characters."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"
    return words[:200] or "no title"


def kill_all(records: Iterable[ProcessRecord]) -> None:
    """Kill these processes, where they still are who they were, and wait until none of them lives."""
    pids = []
    for record in records:
        now = process_record(record.pid)
        if now is not None and now.started == record.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
                pids.append(record.pid)
    wait_until(lambda: not any(map(alive, pids)), what=lambda: f"the end of {list(filter(alive, pids))}")
