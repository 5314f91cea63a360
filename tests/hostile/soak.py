"""A steady load of all kinds of tasks, and what the processes of the run take meanwhile: the script of `test_soak`.

``python -m tests.hostile.soak FOLDER SECONDS`` prints one line of JSON: for each kind of process, and for memory (bytes
resident), descriptors and threads, the samples that were taken at even intervals.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import throughway
from tests.chaos.trouble import kind_of
from throughway import HighThroughputExecutor

BUSY_TASKS = 500
SAMPLES = 40
_PAGE = os.sysconf("SC_PAGE_SIZE")


def work(size: int) -> bytes:
    """Return so many bytes."""
    return bytes(size)


def fail(text: str) -> None:
    """Raise, with a text."""
    raise ValueError(text)


def submit(executor: HighThroughputExecutor, rng: random.Random) -> Future[Any]:
    """One task of some kind."""
    match rng.randrange(200):
        case 0:
            return executor.options(retries=0).submit(os._exit, 1)
        case 1 | 2:
            return executor.submit(work, rng.randrange(20_000, 500_000))
        case 3 | 4:
            return executor.submit(fail, "x" * rng.randrange(1000))
        case number if number < 15:
            # A function that was never there before, and is forgotten again.
            secret = rng.random()
            return executor.submit(lambda: secret)
        case number if number < 20:
            return executor.submit(len, bytes(rng.randrange(20_000, 200_000)))
        case number if number < 25:
            return executor.options(walltime=rng.choice([5, 50, 500])).submit(work, 5)
        case _:
            return executor.options(priority=rng.randrange(3)).submit(work, 10)


def sample(pid: int) -> tuple[int, int, int] | None:
    """Bytes resident, descriptors and threads of a process; None where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * _PAGE, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None


def descendants() -> list[int]:
    """All processes below this one."""
    parents: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            parents[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found = [os.getpid()]
    for pid in found:
        found += parents[pid]
    return found[1:]


def main(folder: str, seconds: float) -> None:
    """Keep the load up for so long, and print what was sampled."""
    rng = random.Random(1)
    taken: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    futures: set[Future[Any]] = set()
    done = 0
    with HighThroughputExecutor(
        max_workers_per_node=2, cores_per_worker=0.5, run_dir=folder, journal=f"{folder}/soak.journal"
    ) as executor:
        begun = time.monotonic()
        next_sample = begun
        while (now := time.monotonic()) < begun + seconds:
            while len(futures) < BUSY_TASKS:
                futures.add(submit(executor, rng))
            if rng.random() < 0.2:
                next(iter(futures)).cancel()
            ended, futures = wait(futures, 1.0, FIRST_COMPLETED)
            done += len(ended)
            for future in ended:
                error = None if future.cancelled() else future.exception()
                if error is not None and not isinstance(error, ValueError | throughway.WorkerLost):
                    raise error
            if now >= next_sample:
                next_sample += seconds / SAMPLES
                largest: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
                for pid in [os.getpid(), *descendants()]:
                    kind = "script" if pid == os.getpid() else kind_of(pid)
                    numbers = sample(pid)
                    if kind is not None and numbers is not None:
                        largest[kind] = [max(pair) for pair in zip(largest[kind], numbers, strict=True)]
                for kind, values in largest.items():
                    taken[kind].append((values[0], values[1], values[2]))
    print(json.dumps({"done": done, "taken": taken}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
