"""Waiting awake: for what comes within a fraction of a millisecond, falling asleep and being woken takes longer.

To wake a process on a core that sleeps takes 5 to 50 µs, many of which the one who wakes it spends. So whoever waits
for the answer to a lone message looks for it again and again, for a bounded time, and only where such waits have been
short. Locks that spin before they block do the same, and so does the kernel's `haltpoll` governor for idle cores.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

YIELD_SECONDS = 40e-6
"""How often the core is offered to whoever else wants it."""

CROWDED_SECONDS = 200e-6
"""Where it came back later than this, somebody else keeps it busy."""

ASLEEP_SECONDS = 0.005
"""Then waits are asleep for so long: whoever sleeps is given a busy core at once when he is woken, who was awake is
not."""

LONGEST_SECONDS = 1.0
"""Each time that it is busy again soon, they are asleep twice as long, up to this."""

SOON_SECONDS = 0.05
"""Waits that were awake for less than this before it was busy again were so in vain: it is ten times what it costs to
lose the core once. It does not grow with the time asleep, or a disturbance now and then would add up to always.
"""


class Spin:
    """Waits of one kind: awake if the last one was short, and nobody else wants the core.

    Args:
        seconds: how long to stay awake, at most; 0 for never.
        short: waits shorter than this many seconds are short.
    """

    __slots__ = ("_asleep", "_asleep_until", "due", "seconds", "short")

    def __init__(self, seconds: float, short: float) -> None:
        self.seconds = seconds
        self.short = short
        self.due = False
        """whether the next wait should be awake"""
        self._asleep = ASLEEP_SECONDS
        self._asleep_until = -math.inf

    def wait(self, ready: Callable[[], object], deadline: float) -> bool:
        """Call ``ready`` again and again until it returns something true. False where it has not by ``deadline``, a
        moment of `time.monotonic`, or where others want this core."""
        clock = time.monotonic
        offered = 0.0
        while not ready():
            now = clock()
            if now < offered + YIELD_SECONDS:
                continue
            if now > deadline:
                return False
            if offered:
                os.sched_yield()
                now, before = clock(), now
                if now - before > CROWDED_SECONDS:
                    self._crowded(now)
                    return bool(ready())
            offered = now
        return True

    def _crowded(self, now: float) -> None:
        soon = now - self._asleep_until < SOON_SECONDS
        self._asleep = min(2 * self._asleep, LONGEST_SECONDS) if soon else ASLEEP_SECONDS
        self._asleep_until = now + self._asleep

    def waited(self, began: float) -> None:
        """A wait that began at this moment is over, awake or asleep."""
        now = time.monotonic()
        self.due = now - began < self.short and now >= self._asleep_until and self.seconds > 0

    def stop(self) -> None:
        """Never again."""
        self.seconds = 0.0
        self.due = False
