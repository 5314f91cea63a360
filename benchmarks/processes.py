"""Processes as /proc shows them: who descends from whom, what they use, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36

_SIGNS = (
    ("HTEX interchange", "interchange"),
    ("interchange.py", "interchange"),
    ("process_worker_pool.py", "manager"),
    ("resource_tracker", "resource tracker"),
    ("forkserver", "fork server"),
    ("multiprocessing.spawn", "multiprocessing helper"),
)
"""What the command lines of the peers' processes contain, and what part they play."""


@dataclass(frozen=True)
class Process:
    """One process at one moment. ``cpu`` is user and system time in seconds, without its children's."""

    pid: int
    parent: int
    started: int
    """clock ticks since boot: with ``pid``, an identity"""
    cpu: float
    state: str
    command: tuple[str, ...]


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, so that none gets out of sight."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _read(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        started=int(fields[19]),
        cpu=(int(fields[11]) + int(fields[12])) * _TICK,
        state=fields[0],
        command=tuple(part.decode(errors="replace") for part in command.split(b"\0") if part),
    )


def descendants(root: int) -> dict[int, Process]:
    """All processes below ``root`` (without itself), by process id."""
    everything = [process for name in os.listdir("/proc") if name.isdigit() and (process := _read(int(name)))]
    children: dict[int, list[Process]] = {}
    for process in everything:
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found[child.pid] = child
            todo.append(child.pid)
    return found


def machine_busy_seconds() -> float:
    """CPU seconds that anything on this machine has used since boot."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) * _TICK


def proportional_memory(pid: int) -> int:
    """Bytes of memory of a process, pages that it shares counted by its share (PSS). 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def tcp_connections(pid: int) -> int:
    """Established TCP connections of a process."""
    established = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "01":
                established.add(f"socket:[{fields[9]}]")
    links = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return sum(link in established for link in links)


def role(process: Process, *, client: int, workers: frozenset[int]) -> str:
    """What part a process plays: client, worker, interchange, manager, or the name of its program."""
    if process.pid == client:
        return "client"
    if process.pid in workers:
        return "worker"
    title = " ".join(process.command)
    if title.startswith("throughway-"):
        return title.split()[0].partition("-")[2]
    for sign, name in _SIGNS:
        if sign in title:
            return name
    if not process.command:
        return "kernel or ended"
    return os.path.basename(process.command[0].split()[0])


@dataclass(frozen=True)
class CpuUse:
    """CPU seconds used between two moments."""

    by_process: dict[int, float]
    by_role: dict[str, float]
    total: float
    foreign: float
    """by everything else on the machine"""
    vanished: int
    """processes that ended in between, and whose last part is therefore not counted"""


class CpuMeter:
    """Measures the CPU time of all processes below ``root`` from its construction to `read`."""

    def __init__(self, root: int, workers: frozenset[int]) -> None:
        self._root = root
        self._workers = workers
        self._busy = machine_busy_seconds()
        self._before = descendants(root)

    def read(self) -> CpuUse:
        """What was used since."""
        after = descendants(self._root)
        busy = machine_busy_seconds() - self._busy
        by_process: dict[int, float] = {}
        by_role: dict[str, float] = {}
        for pid, process in after.items():
            old = self._before.get(pid)
            used = process.cpu - (old.cpu if old is not None and old.started == process.started else 0.0)
            by_process[pid] = used
            name = role(process, client=os.getpid(), workers=self._workers)
            by_role[name] = by_role.get(name, 0.0) + used
        total = sum(by_process.values())
        vanished = sum(pid not in after for pid in self._before)
        return CpuUse(by_process, by_role, total, max(0.0, busy - total), vanished)


def memory_by_role(root: int, workers: frozenset[int]) -> dict[str, int]:
    """Bytes of memory (PSS) of all processes below ``root``, by role."""
    found: dict[str, int] = {}
    for process in descendants(root).values():
        name = role(process, client=os.getpid(), workers=workers)
        found[name] = found.get(name, 0) + proportional_memory(process.pid)
    return found


def end_descendants(root: int, *, patience: float = 10.0) -> list[str]:
    """Kill everything below ``root``, which must be this process, and wait until it is gone.

    Returns:
        The command lines of what was still alive.

    Raises:
        TimeoutError: something is still there after ``patience`` seconds.
    """
    left: dict[int, str] = {}
    deadline = time.monotonic() + patience
    while True:
        alive = [process for process in descendants(root).values() if process.state != "Z"]
        for process in alive:
            left.setdefault(process.pid, " ".join(process.command)[:120])
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not alive and not descendants(root):
            return list(left.values())
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes survive SIGKILL: {left}")
        time.sleep(0.02)
