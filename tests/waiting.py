"""Waiting in tests: for a condition and with a deadline, never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str | Callable[[], str] = "") -> T:
    """Ask ``predicate`` again and again until it gives something true, and return that.

    The pauses grow from 0.5 to 20 ms, so that what happens soon is seen soon and a long wait costs next to nothing.

    Args:
        predicate: what is waited for; it is asked at least once, and once more after the deadline.
        timeout: seconds until the wait fails.
        what: names what is waited for; a callable is asked at the deadline, and can say how far things got.

    Raises:
        AssertionError: the deadline passed; names what was waited for, for how long, and what was seen last.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        late = time.monotonic() >= deadline
        seen = predicate()
        if seen:
            return seen
        if late:
            name = what() if callable(what) else what
            name = name or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"waited {timeout:g} s in vain for {name} (seen last: {seen!r})")
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE)
