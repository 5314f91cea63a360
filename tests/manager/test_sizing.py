"""What a node has, and how many workers it gets."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from throughway.errors import ConfigurationError
from throughway.manager.sizing import (
    GIGABYTE,
    MAX_WORKERS,
    cores_available,
    memory_available,
    validate_sizing,
    worker_count,
)


def count(**given: Any) -> int:
    defaults: dict[str, Any] = {
        "cores": 8,
        "memory": 16 * GIGABYTE,
        "cores_per_worker": 1.0,
        "mem_per_worker": None,
        "max_workers_per_node": None,
        "accelerators": 0,
    }
    return worker_count(**(defaults | given))


class Machine:
    """A made-up ``/proc`` and cgroup file systems."""

    def __init__(self, root: Path, available: int | None = 64 * GIGABYTE) -> None:
        self.root = root
        line = "" if available is None else f"MemAvailable:   {available // 1024} kB\n"
        self.write(
            "proc/meminfo",
            f"MemTotal:       131072000 kB\nMemFree:        1024 kB\n{line}HugePages_Total:  0\n",
        )

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cgroups(self, own: str, mounts: str) -> None:
        self.write("proc/self/cgroup", own)
        self.write("proc/self/mountinfo", mounts)

    def version_2(self, own: str, mount_root: str = "/") -> None:
        self.cgroups(
            f"0::{own}\n",
            "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n"
            f"30 23 0:26 {mount_root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
        )

    def version_1(self, cpu: str, memory: str, mount_root: str = "/") -> None:
        mounts = "".join(
            f"3{index} 31 0:3{index} {mount_root} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
            for index, name in enumerate(("cpuset", "cpu,cpuacct", "memory"))
        )
        self.cgroups(f"5:memory:{memory}\n4:cpu,cpuacct:{cpu}\n3:cpuset:/elsewhere\n0::/user.slice\n", mounts)

    def cores(self) -> int:
        return cores_available(root=str(self.root))

    def memory(self) -> int:
        return memory_available(root=str(self.root))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    return Machine(tmp_path)


# ---------------------------------------------------------------------------------------------- what there is


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= cores_available() <= len(os.sched_getaffinity(0))
    assert 0 < memory_available() <= psutil.virtual_memory().total


def test_without_cgroups_the_affinity_mask_and_the_kernel_decide(machine: Machine) -> None:
    assert machine.cores() == 16
    assert machine.memory() == 64 * GIGABYTE


def test_memory_comes_from_psutil_where_the_kernel_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345))
    assert Machine(tmp_path, available=None).memory() == 12345


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 16),
    ],
)
def test_a_version_2_quota_limits_cores(machine: Machine, quota: str, cores: int) -> None:
    machine.version_2("/job")
    machine.write("sys/fs/cgroup/job/cpu.max", f"{quota}\n")
    assert machine.cores() == cores


def test_the_least_quota_of_all_ancestors_counts(machine: Machine) -> None:
    machine.version_2("/slurm/job_1/step_0")
    machine.write("sys/fs/cgroup/slurm/job_1/step_0/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/slurm/job_1/cpu.max", "300000 100000\n")
    machine.write("sys/fs/cgroup/slurm/cpu.max", "900000 100000\n")
    assert machine.cores() == 3


def test_a_mount_that_shows_only_a_part_of_the_hierarchy_is_followed(machine: Machine) -> None:
    machine.version_2("/docker/abc/inner", mount_root="/docker/abc")
    machine.write("sys/fs/cgroup/cpu.max", "500000 100000\n")
    machine.write("sys/fs/cgroup/inner/cpu.max", "200000 100000\n")
    assert machine.cores() == 2


@pytest.mark.parametrize("own", ["/../../other", "/docker/other", "/docker/abcdef"])
def test_where_a_namespace_hides_the_own_path_the_mount_counts(machine: Machine, own: str) -> None:
    machine.version_2(own, mount_root="/docker/abc")
    machine.write("sys/fs/cgroup/cpu.max", "500000 100000\n")
    assert machine.cores() == 5


def test_a_cgroup_outside_of_the_namespace_is_not_looked_up_by_its_relative_path(machine: Machine) -> None:
    machine.version_2("/../other")
    machine.write("sys/fs/cgroup/cpu.max", "500000 100000\n")
    machine.write("sys/fs/other/cpu.max", "100000 100000\n")
    assert machine.cores() == 5


def test_a_version_2_limit_leaves_room_for_what_is_not_used_yet(machine: Machine) -> None:
    machine.version_2("/job")
    machine.write("sys/fs/cgroup/job/memory.max", f"{8 * GIGABYTE}\n")
    machine.write("sys/fs/cgroup/job/memory.current", f"{3 * GIGABYTE}\n")
    machine.write("sys/fs/cgroup/job/memory.stat", f"anon 5\ninactive_file {GIGABYTE}\nactive_file 7\n")
    assert machine.memory() == 6 * GIGABYTE


def test_a_version_2_throttling_limit_counts_too(machine: Machine) -> None:
    machine.version_2("/job")
    machine.write("sys/fs/cgroup/job/memory.max", "max\n")
    machine.write("sys/fs/cgroup/job/memory.high", f"{2 * GIGABYTE}\n")
    assert machine.memory() == 2 * GIGABYTE


def test_an_unlimited_or_full_cgroup(machine: Machine) -> None:
    machine.version_2("/job")
    machine.write("sys/fs/cgroup/job/memory.max", "max\n")
    assert machine.memory() == 64 * GIGABYTE
    machine.write("sys/fs/cgroup/memory.max", "1000\n")
    machine.write("sys/fs/cgroup/memory.current", "2000\n")
    assert machine.memory() == 0


def test_version_1_quota_and_limit(machine: Machine) -> None:
    machine.version_1("/batch/7", "/batch/7")
    machine.write("sys/fs/cgroup/cpu,cpuacct/batch/7/cpu.cfs_quota_us", "-1\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/batch/7/cpu.cfs_period_us", "100000\n")
    machine.write("sys/fs/cgroup/memory/batch/7/memory.limit_in_bytes", "9223372036854771712\n")
    assert machine.cores() == 16
    assert machine.memory() == 64 * GIGABYTE
    machine.write("sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "350000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "50000\n")
    machine.write("sys/fs/cgroup/memory/batch/memory.limit_in_bytes", f"{4 * GIGABYTE}\n")
    machine.write("sys/fs/cgroup/memory/batch/memory.usage_in_bytes", f"{3 * GIGABYTE}\n")
    machine.write(
        "sys/fs/cgroup/memory/batch/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIGABYTE}\n"
    )
    assert machine.cores() == 7
    assert machine.memory() == 2 * GIGABYTE


def test_a_mount_point_with_blanks(machine: Machine) -> None:
    machine.cgroups("0::/\n", "30 23 0:26 / /mnt/c\\040groups rw - cgroup2 none rw\n")
    machine.write("mnt/c groups/cpu.max", "200000 100000\n")
    assert machine.cores() == 2


def test_sizing_loads_next_to_nothing() -> None:
    code = (
        "import sys, throughway.errors; before = set(sys.modules); from throughway.manager import sizing; "
        "sizing.cores_available(); sizing.memory_available(); print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert set(done.stdout.split()) <= {"throughway.manager", "throughway.manager.sizing", "math"}
    assert "throughway.manager.sizing" in done.stdout.split()


# ----------------------------------------------------------------------------------------------- worker_count


@pytest.mark.parametrize(
    ("parameters", "workers"),
    [
        ({}, 8),
        ({"cores_per_worker": 3}, 2),
        ({"cores_per_worker": 0.5}, 16),
        ({"cores_per_worker": 8}, 1),
        ({"memory": 0.6 * GIGABYTE, "mem_per_worker": 0.2}, 3),
        ({"mem_per_worker": 5}, 3),
        ({"mem_per_worker": 16}, 1),
        ({"mem_per_worker": 0.5}, 8),
        ({"max_workers_per_node": 3}, 3),
        ({"max_workers_per_node": 100}, 8),
        ({"accelerators": 4}, 4),
        ({"accelerators": 12}, 8),
        ({"cores_per_worker": 1e-9, "max_workers_per_node": 1}, 1),
        ({"cores_per_worker": 5e-324, "max_workers_per_node": 2}, 2),
        ({"cores_per_worker": 2, "mem_per_worker": 8, "max_workers_per_node": 3, "accelerators": 6}, 2),
    ],
)
def test_the_least_limit_decides(parameters: dict[str, Any], workers: int) -> None:
    assert count(**parameters) == workers


@settings(deadline=None)
@given(cores=st.integers(1, 64), share=st.integers(1, 512))
@example(cores=1, share=93)
def test_whole_shares_of_a_core_are_all_used(cores: int, share: int) -> None:
    assert count(cores=cores, cores_per_worker=1 / share) == cores * share


@settings(deadline=None)
@given(
    cores=st.integers(1, 512),
    memory=st.integers(0, 1 << 42),
    cores_per_worker=st.floats(0.05, 600),
    mem_per_worker=st.none() | st.floats(0.05, 5000),
    max_workers_per_node=st.none() | st.integers(1, 600),
    accelerators=st.integers(0, 16),
)
def test_every_promise_is_kept_and_one_more_worker_would_break_one(
    cores: int,
    memory: int,
    cores_per_worker: float,
    mem_per_worker: float | None,
    max_workers_per_node: int | None,
    accelerators: int,
) -> None:
    def fits(workers: int, slack: float) -> bool:
        return (
            workers * cores_per_worker <= cores * slack
            and (mem_per_worker is None or workers * mem_per_worker * GIGABYTE <= memory * slack)
            and workers <= (max_workers_per_node or math.inf)
            and workers <= (accelerators or math.inf)
        )

    try:
        workers = worker_count(
            cores=cores,
            memory=memory,
            cores_per_worker=cores_per_worker,
            mem_per_worker=mem_per_worker,
            max_workers_per_node=max_workers_per_node,
            accelerators=accelerators,
        )
    except ConfigurationError:
        assert not fits(1, 1 - 1e-8)
    else:
        assert workers >= 1
        assert fits(workers, 1 + 1e-8)
        assert not fits(workers + 1, 1 - 1e-8)


def test_too_few_cores_are_named_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"cores_per_worker=4, but 2 cores .* at most 2") as caught:
        count(cores=2, cores_per_worker=4)
    assert "mem_per_worker" not in str(caught.value)


def test_too_little_memory_is_named_with_the_remedy() -> None:
    with pytest.raises(
        ConfigurationError, match=r"mem_per_worker=32 GB, but 16 GB .* lower mem_per_worker"
    ) as caught:
        count(mem_per_worker=32)
    assert "cores_per_worker" not in str(caught.value)


def test_both_obstacles_are_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"cores_per_worker=4, but 1 core is .*; and mem_per_worker=2 GB"
    ):
        count(cores=1, memory=0, cores_per_worker=4, mem_per_worker=2)


def test_a_flood_of_workers_is_refused() -> None:
    assert count(cores=1, cores_per_worker=1 / MAX_WORKERS) == MAX_WORKERS
    with pytest.raises(ConfigurationError, match="set max_workers_per_node"):
        count(cores_per_worker=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cores_per_worker", value) for value in (0, -1, math.nan, math.inf, True, None, "1")),
        *(("mem_per_worker", value) for value in (0, -0.5, math.nan, math.inf, True, "1 GB")),
        *(("max_workers_per_node", value) for value in (0, -1, 1.5, math.inf, True, "2")),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(name: str, value: Any) -> None:
    parameters: dict[str, Any] = {"cores_per_worker": 1, "mem_per_worker": None, "max_workers_per_node": None}
    validate_sizing(**parameters)
    parameters[name] = value
    with pytest.raises(ConfigurationError) as caught:
        validate_sizing(**parameters)
    assert str(caught.value).startswith(f"{name}={value!r}: give a ")
    with pytest.raises(ConfigurationError):
        count(**parameters)
