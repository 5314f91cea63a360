"""Trouble for the processes of a run: killed, stopped and cut off at random, by a seed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Self

from tests.processes import ProcessRecord, process_record, title

KINDS = ("worker", "zygote", "manager", "interchange")
"""What the processes of a run are, as their titles say."""


TURN_SECONDS = 0.005

_TITLE = re.compile(rf"throughway[-: ]+({'|'.join(KINDS)})\b")


class Stop(NamedTuple):
    """A process that is stopped, and until when."""

    record: ProcessRecord
    kind: str
    until: float


class Trouble:
    """Makes trouble in a thread of its own, inside a ``with``; afterwards all that was stopped goes on.

    Args:
        rng: decides what, to whom and when.
        members: the living processes of the run, and perhaps others.
        pace: kind → seconds between two kills of such a process, on average; those without are left alone.
        longest_stop: seconds for which a process is stopped, at most.
    """

    def __init__(
        self,
        rng: random.Random,
        members: Callable[[], list[ProcessRecord]],
        *,
        pace: dict[str, float],
        longest_stop: float,
    ) -> None:
        self._rng = rng
        self._members = members
        self._pace = pace
        self._longest_stop = longest_stop
        now = time.monotonic()
        self._due = {kind: now + self._pause(seconds) for kind, seconds in pace.items()}
        self._stops: list[Stop] = []
        self.made: Counter[str] = Counter()
        self.log: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trouble")

    def _pause(self, mean: float) -> float:
        return min(self._rng.expovariate(1 / mean), 4 * mean)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end.wait(TURN_SECONDS):
                self._turn()
        finally:
            for stop in list(self._stops):
                self._go_on(stop)

    def _turn(self) -> None:
        now = time.monotonic()
        for stop in [stop for stop in self._stops if stop.until <= now]:
            self._go_on(stop)
        for kind, due in self._due.items():
            if due <= now:
                self._due[kind] = now + self._pause(self._pace[kind])
                self._strike(kind)

    def _strike(self, kind: str) -> None:
        stopped = {stop.record.pid for stop in self._stops}
        victims = [record for record in self._members() if kind_of(record.pid) == kind]
        victims = [record for record in victims if record.pid not in stopped]
        if not victims:
            return
        victim = self._rng.choice(victims)
        if self._rng.random() < 0.5:
            self._signal(victim, signal.SIGKILL)
            self._note(f"kill {kind} {victim.pid}")
            self.made[f"kill {kind}"] += 1
        elif self._signal(victim, signal.SIGSTOP):
            seconds = self._rng.uniform(0, self._longest_stop) * self._rng.choice([0.05, 0.3, 1])
            self._stops.append(Stop(victim, kind, time.monotonic() + seconds))
            self._note(f"stop {kind} {victim.pid} for {seconds:.2f} s")
            self.made[f"stop {kind}"] += 1

    def _go_on(self, stop: Stop) -> None:
        self._stops.remove(stop)
        self._signal(stop.record, signal.SIGCONT)

    def _signal(self, record: ProcessRecord, number: signal.Signals) -> bool:
        now = process_record(record.pid)
        if now is None or now.started != record.started:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
            return True
        return False

    def _note(self, text: str) -> None:
        self.log.append(f"{time.monotonic():.3f} {text}")
        del self.log[:-200]


def kind_of(pid: int) -> str | None:
    """Which of `KINDS` a process is, None for any other. The title of one that starts does not say it yet."""
    found = _TITLE.match(title(pid))
    return found[1] if found is not None else None
