"""A load whose every result is known, and whose every execution leaves a trace on the disk."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import throughway

BUSY_TASKS = 400
"""Tasks without an outcome, at most: what one fault can cost."""


def answer(number: int, size: int) -> bytes:
    """What a task returns: bytes that nobody can guess, so that a mixed-up result is found out."""
    seed = blake2b(number.to_bytes(8, "little")).digest()
    return seed * (size // len(seed) + 1)


def work(folder: str, number: int, seconds: float, size: int, ballast: bytes) -> bytes:
    """Leave a mark, take some time, return the answer. Marks are appended in one write, and so are never torn."""
    descriptor = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"%d\n" % number)
    os.close(descriptor)
    if seconds:
        time.sleep(seconds)
    if ballast != bytes(len(ballast)):
        raise AssertionError("the ballast was changed on its way")
    return answer(number, size)


def fail(folder: str, number: int) -> None:
    """As `work`, and raise."""
    work(folder, number, 0.0, 0, b"")
    raise ValueError(f"task {number}")


class Submits(Protocol):
    """What a load is put on: an executor, or a view of one."""

    def options(self, **options: Any) -> Any: ...


@dataclass
class Task:
    """A submitted task and what may become of it."""

    number: int
    retries: int
    size: int
    fails: bool
    cancelled: bool = False


@dataclass
class Load:
    """Keeps an executor busy with tasks of all kinds, and checks what becomes of them.

    Args:
        folder: where executions leave their marks.
    """

    executor: Submits
    folder: Path
    rng: random.Random
    futures: dict[Future[Any], Task] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    submitted: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.ended: dict[int, tuple[Task, str]] = {}

    def feed(self) -> None:
        """Take in what has ended, and submit as much again."""
        self._collect()
        while len(self.futures) < BUSY_TASKS:
            self._submit()
        if self.rng.random() < 0.1:
            future = self.rng.choice(list(self.futures))
            self.futures[future].cancelled |= future.cancel()

    def _submit(self) -> None:
        rng = self.rng
        retries = rng.choice([0, 0, 1, 3])
        large = rng.random() < 0.02
        task = Task(
            self.submitted, retries, rng.randrange(20_000, 300_000) if large else 40, rng.random() < 0.05
        )
        seconds = rng.choice([0, 0, 0, 0.001, 0.01, 0.05]) if rng.random() < 0.98 else rng.uniform(0.2, 1.5)
        ballast = bytes(rng.randrange(20_000, 200_000)) if rng.random() < 0.02 else b""
        view = self.executor.options(retries=retries, priority=rng.choice([0, 0, 1]))
        if task.fails:
            future = view.submit(fail, str(self.folder), task.number)
        else:
            future = view.submit(work, str(self.folder), task.number, seconds, task.size, ballast)
        self.futures[future] = task
        self.submitted += 1

    def _collect(self) -> None:
        for future in [future for future in self.futures if future.done()]:
            task = self.futures.pop(future)
            self.ended[task.number] = (task, self._outcome(future, task))

    def _outcome(self, future: Future[Any], task: Task) -> str:
        """What became of a task; raises `AssertionError` for what may not be."""
        try:
            value = future.result(0)
        except CancelledError:
            outcome = "cancelled"
        except (throughway.WorkerLost, throughway.ManagerLost) as error:
            outcome = type(error).__name__
        except ValueError as error:
            if not task.fails or str(error) != f"task {task.number}":
                raise AssertionError(
                    f"task {task.number} got an error that is not its own: {error}"
                ) from error
            outcome = "raised"
        else:
            assert not task.fails
            assert value == answer(task.number, task.size), f"task {task.number} got another result"
            outcome = "value"
        assert not task.cancelled or outcome == "cancelled", (
            f"task {task.number} was cancelled, and is {outcome}"
        )
        self.outcomes[outcome] += 1
        return outcome

    def settle(self, seconds: float) -> None:
        """Wait until every task has its outcome."""
        deadline = time.monotonic() + seconds
        while self.futures:
            wait(list(self.futures), max(0.0, deadline - time.monotonic()))
            self._collect()
            if time.monotonic() >= deadline:
                break
        left = sorted(task.number for task in self.futures.values())
        assert not left, f"{len(left)} tasks have no outcome after {seconds:g} s, such as {left[:10]}"

    def executions(self) -> Counter[int]:
        """How often each task was begun."""
        counts: Counter[int] = Counter()
        for path in self.folder.iterdir():
            counts.update(map(int, path.read_bytes().split()))
        return counts

    def check(self) -> None:
        """No task ran more often than it may, none that was cancelled ran, and each that ended by itself did run."""
        counts = self.executions()
        assert not self.futures
        assert counts.keys() <= self.ended.keys(), "what was never submitted ran"
        for number, (task, outcome) in self.ended.items():
            count = counts[number]
            assert count <= 1 + task.retries, f"task {number} ran {count} times, with {task.retries} retries"
            if outcome in ("value", "raised"):
                assert count >= 1, f"task {number} has a result and never ran"
            if task.cancelled:
                # A retry may be cancelled: what was lost had run before.
                assert count <= task.retries, f"task {number} was cancelled, and ran {count} times"
