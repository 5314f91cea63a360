"""Waiting awake: for what comes within a fraction of a millisecond, falling asleep and being woken takes longer.

To wake a process on a core that sleeps takes 5 to 50 µs, many of which the one who wakes it spends. So whoever waits
for the answer to a lone message looks for it again and again, for a bounded time, and only where such waits have been
short. Locks that spin before they block do the same, and so does the kernel's `haltpoll` governor for idle cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

YIELD_SECONDS = 40e-6
"""How often a core is offered to whoever else wants it."""


class Spin:
    """Whether to wait awake for what comes next: if the last wait of this kind was short.

    Args:
        seconds: how long to stay awake, at most; 0 for never.
        short: waits shorter than this many seconds are short.
    """

    __slots__ = ("due", "seconds", "short")

    def __init__(self, seconds: float, short: float) -> None:
        self.seconds = seconds
        self.short = short
        self.due = False
        """whether the next wait should be awake"""

    def waited(self, seconds: float) -> None:
        """A wait took this long, awake or asleep."""
        self.due = seconds < self.short and self.seconds > 0

    def stop(self) -> None:
        """Never again."""
        self.seconds = 0.0
        self.due = False


def wait_awake(ready: Callable[[], object], deadline: float) -> bool:
    """Call ``ready`` again and again until it returns something true; False where it has not by ``deadline``.

    ``deadline`` is a moment of `time.monotonic`.
    """
    clock = time.monotonic
    patience = 0.0
    while not ready():
        now = clock()
        if now > patience:
            if now > deadline:
                return False
            if patience:
                os.sched_yield()
            patience = now + YIELD_SECONDS
    return True
