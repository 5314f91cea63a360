"""What the tests of the integrations run in workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from tests.waiting import wait_until


def square(value: Any) -> Any:
    return value * value


def fail_at(value: int, bad: int) -> int:
    if value == bad:
        raise KeyError(value)
    return value


def fail_at_three(value: int) -> int:
    return fail_at(value, 3)


def hold(gate: str) -> int:
    """Until the file is there."""
    wait_until(lambda: os.path.exists(gate), 50, "the gate")
    return os.getpid()


def touch_and_hold(started: str, gate: str) -> int:
    with open(started, "w"):
        pass
    return hold(gate)


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


def start_and_sleep(started: str) -> None:
    with open(started, "w"):
        pass
    sleep_for_ever()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def die() -> None:
    os._exit(9)


def raise_timeout() -> None:
    raise TimeoutError("the function's own")


def stop_iteration() -> None:
    raise StopIteration("the function's own")


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def fail_behind(started: str) -> None:
    wait_until(lambda: os.path.exists(started), 50, "another task")
    raise KeyError("behind")
