"""What a test may not leave behind: child processes, threads, open descriptors, files in shared folders."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import Family, ProcessRecord, title

_SHARED_MEMORY = "/dev/shm"
_SHARED_MEMORY_PREFIX = "throughway"
_NATIVE_THREADS = "ZMQ"
"""How the names begin of those threads that Python does not know of and that must end: those of ZeroMQ's contexts."""


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment; each mapping from an identity to a description."""

    processes: Mapping[tuple[int, int], str]
    threads: Mapping[object, str]
    descriptors: Mapping[object, str]
    files: Mapping[object, str]
    parents: Mapping[tuple[int, int], int]
    """identity of a process → its parent"""

    @classmethod
    def take(cls, family: Family, runtime_folder: str) -> Snapshot:
        """Look now. Costs about 0.2 ms on a machine with a hundred processes."""
        members = family.members()
        parents = {(record.pid, record.started): record.parent for record in members}
        return cls(_processes(members), _threads(), _descriptors(), _files(runtime_folder), parents)

    def new_since(self, before: Snapshot, *, processes: bool = True, descriptors: bool = True) -> list[str]:
        """A line for each thing that is here and was not ``before``."""
        found = [
            f"thread {text}"
            for key, text in self.threads.items()
            if key not in before.threads
            and (isinstance(key, threading.Thread) or text.startswith(_NATIVE_THREADS))
        ]
        found += [f"file {text}" for key, text in self.files.items() if key not in before.files]
        if processes:
            # An executor of a wider fixture replaces a worker that a former test has killed: its zygote was there.
            zygotes = {
                pid for (pid, _), text in before.processes.items() if text.endswith("(throughway-zygote)")
            }
            found += [
                f"process {text}"
                for key, text in self.processes.items()
                if key not in before.processes and self.parents[key] not in zygotes
            ]
        if descriptors:
            new = [text for key, text in self.descriptors.items() if key not in before.descriptors]
            found += [f"descriptor {text}{_socket_name(text)}" for text in new]
        return found


def _processes(members: Sequence[ProcessRecord]) -> dict[tuple[int, int], str]:
    trackers = resource_trackers("_pid")
    return {
        (record.pid, record.started): f"{record.pid} ({title(record.pid)})"
        for record in members
        if record.pid not in trackers
    }


def resource_trackers(attribute: str) -> set[int]:
    """Processes or descriptors of resource trackers, which live as long as this process by design: multiprocessing's,
    and that of the loky which joblib brings along."""
    modules = ("multiprocessing.resource_tracker", "joblib.externals.loky.backend.resource_tracker")
    trackers = (getattr(sys.modules.get(name), "_resource_tracker", None) for name in modules)
    found = (getattr(tracker, attribute, None) for tracker in trackers)
    return {number for number in found if number is not None}


def _threads() -> dict[object, str]:
    python_threads = threading.enumerate()
    found: dict[object, str] = {thread: f"{thread.name} {thread!r}" for thread in python_threads}
    known = {thread.native_id for thread in python_threads}
    for name in os.listdir("/proc/self/task"):
        if int(name) in known:
            continue
        try:
            with open(f"/proc/self/task/{name}/comm", encoding="utf-8", errors="replace") as comm:
                words = comm.read().strip()
        except OSError:  # it ended
            continue
        found[int(name)] = f"{words} (native)"  # a new one may not have its name yet
    return found


def _descriptors() -> dict[object, str]:
    trackers = resource_trackers("_fd")
    found: dict[object, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue
        if int(name) not in trackers:
            found[int(name), target] = f"{name} → {target}"
    return found


def _socket_name(description: str) -> str:
    """For a description that ends in ``socket:[inode]``: the path or the addresses that the kernel knows it by."""
    _, found, inode = description.rpartition("socket:[")
    if not found:
        return ""
    inode = inode.removesuffix("]")
    for table, column in (("unix", 6), ("tcp", 9), ("tcp6", 9), ("udp", 9)):
        path = Path("/proc/self/net", table)
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if len(words) > column and words[column] == inode:
                names = words[column + 1 :] if table == "unix" else words[1:3]
                return f" ({' '.join([table, *names])})"
    return ""


def _files(runtime_folder: str) -> dict[object, str]:
    """Everything in the runtime folder but its first level of folders, and what is ours in shared memory."""
    found: dict[object, str] = {}
    folders = [runtime_folder]
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError:  # not made yet, or removed meanwhile
            continue
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder:
                folders.append(entry.path)
            if not is_folder or folder != runtime_folder:
                found[entry.path] = entry.path
    for name in os.listdir(_SHARED_MEMORY):
        if name.startswith(_SHARED_MEMORY_PREFIX):
            found[_SHARED_MEMORY, name] = f"{_SHARED_MEMORY}/{name}"
    return found
