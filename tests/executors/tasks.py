"""Functions that the tests run on workers, by reference: a worker imports this module from the import path."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

HOLD_SECONDS = 90
"""More than a test may take."""


def add(left: int, right: int = 0) -> int:
    return left + right


def worker_pid(_: object = None) -> int:
    return os.getpid()


def environment(name: str) -> str | None:
    return os.environ.get(name)


def fail(message: str) -> None:
    raise ValueError(message)


def hold(gate: str, started: str = "") -> int:
    """Run until the file ``gate`` is there; says that it runs by making ``started``.

    A test that failed does not make it, and must not wait forever for what it has submitted.
    """
    if started:
        Path(started).write_text(str(os.getpid()))
    deadline = time.monotonic() + HOLD_SECONDS
    while not os.path.exists(gate):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {gate} within {HOLD_SECONDS} s")
        time.sleep(0.002)
    return os.getpid()


def count_run(folder: str, name: object) -> None:
    """Leave a mark for each execution."""
    descriptor = os.open(os.path.join(folder, str(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"x")
    os.close(descriptor)


def die_once(folder: str, number: int) -> int:
    """Kill this worker at the first execution."""
    count_run(folder, number)
    if os.path.getsize(os.path.join(folder, str(number))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def give(value: Any) -> Any:
    return value


def total(data: Any) -> int:
    """The sum of the bytes of a buffer."""
    return sum(bytes(data))


def hold_and_total(gate: str, data: Any, started: str = "") -> int:
    hold(gate, started)
    return total(data)


def overwrite_and_die_once(folder: str, number: int, data: Any) -> int:
    """The sum of the bytes of a writable buffer; at the first execution they are changed, and this worker is killed."""
    found = total(data)
    memoryview(data).cast("B")[:] = b"\xee" * memoryview(data).nbytes
    die_once(folder, number)
    return found


def append_order(path: str, value: int) -> None:
    with open(path, "a") as file:
        file.write(f"{value}\n")


class NeedsTwo(Exception):
    """The classic that breaks process pools: it cannot be unpickled from its args."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raise_needs_two() -> None:
    raise NeedsTwo("a", "b")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("this object refuses to travel")


def _explode() -> None:
    raise RuntimeError("this object refuses to arrive")


class Unloadable:
    def __reduce__(self) -> Any:
        return (_explode, ())


def make(kind: str) -> Any:
    return {"unpicklable": Unpicklable, "unloadable": Unloadable}[kind]()
