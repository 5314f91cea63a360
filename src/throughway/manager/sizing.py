"""How many workers a node gets: what it has, and what each worker is promised.

What the node has is what this process may use: the cores of its affinity mask, and no more than the CPU quota
and the memory limit of each cgroup (version 1 or 2) that it is in. Nothing heavy is imported here, for a
manager sizes itself while somebody waits for the first result.
"""

from __future__ import annotations

import math
import os

from throughway.errors import ConfigurationError

GIGABYTE = 1 << 30
"""Bytes in the GB of ``mem_per_worker``."""

MAX_WORKERS = 1 << 16
"""Workers on one node, at most: beyond it a parameter is mistaken."""

_TOLERANCE = 1e-9
"""Relative: 1 core at 1/93 core for each worker makes 93 workers, whatever floating point says."""


def cores_available(*, root: str = "/") -> int:
    """Cores that this process may use, at least 1: its affinity mask, limited by its cgroups' CPU quotas.

    ``root`` is where ``/proc`` and the cgroup file systems are looked up.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [_quota_v2(folder) for folder in _cgroup_folders("", root)]
    quotas += [_quota_v1(folder) for folder in _cgroup_folders("cpu", root)]
    for quota in quotas:
        if quota is not None:
            cores = min(cores, math.floor(quota))
    return max(1, cores)


def memory_available(*, root: str = "/") -> int:
    """Bytes of memory that can be had without swapping, limited by the room left in each of this process's
    cgroups.

    ``root`` is where ``/proc`` and the cgroup file systems are looked up.
    """
    kibibytes = _fields(_read(os.path.join(root, "proc/meminfo"))).get("MemAvailable:")
    if kibibytes is not None:
        available = kibibytes * 1024
    else:
        # A kernel or container without that line; psutil then estimates it. Imported here, for it costs time.
        import psutil

        available = psutil.virtual_memory().available
    rooms = [_room_v2(folder) for folder in _cgroup_folders("", root)]
    rooms += [_room_v1(folder) for folder in _cgroup_folders("memory", root)]
    return min([available, *(room for room in rooms if room is not None)])


def validate_sizing(
    *, cores_per_worker: float, mem_per_worker: float | None, max_workers_per_node: int | None
) -> None:
    """Refuse values with which no node could be sized.

    Raises:
        ConfigurationError: names the parameter, its value and what is accepted.
    """
    if not _positive(cores_per_worker):
        raise ConfigurationError(
            f"cores_per_worker={cores_per_worker!r}: give a number of cores above 0, such as 1 or 0.5"
        )
    if mem_per_worker is not None and not _positive(mem_per_worker):
        raise ConfigurationError(
            f"mem_per_worker={mem_per_worker!r}: give a number of GB above 0, or None for no limit"
        )
    if max_workers_per_node is not None and (
        isinstance(max_workers_per_node, bool)
        or not isinstance(max_workers_per_node, int)
        or max_workers_per_node < 1
    ):
        raise ConfigurationError(
            f"max_workers_per_node={max_workers_per_node!r}: give a whole number of at least 1, "
            "or None for no limit"
        )


def worker_count(
    *,
    cores: int,
    memory: int,
    cores_per_worker: float,
    mem_per_worker: float | None,
    max_workers_per_node: int | None,
    accelerators: int,
) -> int:
    """How many workers a node runs: the least of what its cores, memory, accelerators and the user's cap
    allow.

    Args:
        cores: cores that the workers may use.
        memory: bytes available; looked at only with ``mem_per_worker``.
        cores_per_worker: cores promised to each worker; below 1, workers share cores.
        mem_per_worker: GB (2**30 bytes) promised to each worker, or None.
        max_workers_per_node: the user's cap, or None.
        accelerators: accelerators of the node, one for each worker; 0 where workers need none.

    Raises: ConfigurationError: a parameter cannot work, no worker fits, or more than `MAX_WORKERS` would be
    started.
    """
    validate_sizing(
        cores_per_worker=cores_per_worker,
        mem_per_worker=mem_per_worker,
        max_workers_per_node=max_workers_per_node,
    )
    limits = [_slots(cores, cores_per_worker)]
    obstacles = []
    if limits[0] == 0:
        obstacles.append(
            f"cores_per_worker={cores_per_worker:g}, but {cores} {'core is' if cores == 1 else 'cores are'} "
            f"available: lower cores_per_worker to at most {cores}, or give the node or its job more cores"
        )
    if mem_per_worker is not None:
        limits.append(_slots(memory / GIGABYTE, mem_per_worker))
        if limits[-1] == 0:
            obstacles.append(
                f"mem_per_worker={mem_per_worker:g} GB, but {memory / GIGABYTE:.3g} GB of memory are "
                "available: lower mem_per_worker, or give the node or its job more memory"
            )
    if obstacles:
        raise ConfigurationError(f"Not one worker fits on this node. {'; and '.join(obstacles)}.")
    if max_workers_per_node is not None:
        limits.append(max_workers_per_node)
    if accelerators:
        limits.append(accelerators)
    workers = min(limits)
    if workers > MAX_WORKERS:
        raise ConfigurationError(
            f"cores_per_worker={cores_per_worker:g} on {cores} cores makes more than {MAX_WORKERS} workers "
            "on one node: raise cores_per_worker, or set max_workers_per_node"
        )
    return workers


def _positive(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )


def _slots(whole: float, share: float) -> int:
    """How often ``share`` goes into ``whole``; anything beyond `MAX_WORKERS` is as good as any other such
    number."""
    return math.floor(min(whole / share * (1 + _TOLERANCE), MAX_WORKERS + 1))


# ---------------------------------------------------------------------------------------------------- cgroups


def _cgroup_folders(controller: str, root: str) -> list[str]:
    """The folders of this process's cgroup and all its ancestors that are visible, innermost first.

    ``controller`` is that of a version 1 hierarchy, or "" for the version 2 hierarchy. A limit may be set at
    any level.
    """
    path = None
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, where = rest.partition(":")
        if (number == "0" and not controllers) if not controller else controller in controllers.split(","):
            path = where
            break
    if path is None:
        return []
    for line in _read(os.path.join(root, "proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        if kind != ("cgroup" if controller else "cgroup2"):
            continue
        if controller and controller not in rest.rpartition(" ")[2].split(","):
            continue
        mount_root, mount_point = (_unescaped(field) for field in before.split(" ")[3:5])
        top = os.path.join(root, mount_point.lstrip("/"))
        parts = _below(path, mount_root)
        return [os.path.join(top, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return []


def _below(path: str, top: str) -> list[str]:
    """The components of ``path`` below ``top``; none where it is elsewhere: a namespace hides the real path
    then, and what is mounted is this process's own cgroup."""
    parts = [part for part in path.split("/") if part]
    tops = [part for part in top.split("/") if part]
    if parts[: len(tops)] != tops or ".." in parts:
        return []
    return parts[len(tops) :]


def _quota_v2(folder: str) -> float | None:
    words = _read(os.path.join(folder, "cpu.max")).split()
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: str) -> float | None:
    quota = _number(os.path.join(folder, "cpu.cfs_quota_us"))
    period = _number(os.path.join(folder, "cpu.cfs_period_us"))
    return quota / period if quota and period else None


def _room_v2(folder: str) -> int | None:
    limits = [_number(os.path.join(folder, name)) for name in ("memory.max", "memory.high")]
    return _room(folder, [limit for limit in limits if limit is not None], "memory.current", "inactive_file")


def _room_v1(folder: str) -> int | None:
    limit = _number(os.path.join(folder, "memory.limit_in_bytes"))
    limits = [] if limit is None else [limit]
    return _room(folder, limits, "memory.usage_in_bytes", "total_inactive_file")


def _room(folder: str, limits: list[int], usage: str, reclaimable: str) -> int | None:
    """Bytes below the least limit that are unused, or hold cached files which the kernel gives up first."""
    if not limits:
        return None
    used = _number(os.path.join(folder, usage)) or 0
    cached = _fields(_read(os.path.join(folder, "memory.stat"))).get(reclaimable, 0)
    return max(0, min(limits) - max(0, used - cached))


def _number(path: str) -> int | None:
    """The number in a file; None where there is no such file, or it says that there is no limit."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _fields(text: str) -> dict[str, int]:
    """The ``name number`` lines of a kernel file."""
    words = (line.split() for line in text.splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) >= 2 and word[1].isdecimal()}


def _read(path: str) -> str:
    """A kernel file's text; empty where it is absent or closed to us, which means that it sets us no limit we
    can know."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    """A path of ``mountinfo``, in which blanks, tabs, line ends and backslashes are octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
