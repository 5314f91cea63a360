"""Workers: they claim, run, write and ring, and may be stopped or die at any moment."""

from __future__ import annotations

import math
import pickle
import signal
from collections import deque
from typing import TYPE_CHECKING

from throughway.manager.actions import Give
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.serialize.exceptions import ExceptionContext, pack_exception
from throughway.testing.simulation.processes import Process
from throughway.transport.records import Record
from throughway.worker.loop import RING_SECONDS

if TYPE_CHECKING:
    from throughway.testing.simulation.manager import SimulatedManager

KILLED = int(signal.SIGKILL)

OVERHEAD = 3e-6
"""Seconds from the end of a task to the start of the next."""


class PlannedError(Exception):
    """What a task raises that is to raise."""


RAISED = pack_exception(PlannedError("as planned"), context=ExceptionContext())


def frames_of(task: int, count: int) -> list[bytes]:
    """The large frames of a task: derived from its number, so that mixed up ones are seen."""
    return [b"frame %d of %d" % (index, task) for index in range(count)]


class SimulatedWorker(Process):
    """One worker process with its pipes and its counter of claims."""

    def __init__(self, manager: SimulatedManager, number: int, slot: int, max_tasks: int | None) -> None:
        super().__init__(manager.world, f"{manager.name}/w{number}", manager.site)
        self.manager = manager
        self.number = number
        self.slot = slot
        self.left = max_tasks
        self.forked = False
        self.doomed = False
        self.claims = 0
        self.status = KILLED
        self.pipe: deque[tuple[Give, deque[tuple[m.Task, list[bytes]]]]] = deque()
        """bundles, with what is left of each; the first is being worked through"""
        self.records: list[Record] = []
        """written, and not read yet"""
        self.running: m.Task | None = None
        self.attempt = 0
        self._known: set[int] = set()
        self._opened = False
        self._ready = False
        self._began = 0.0
        self._rung = 0.0

    # ------------------------------------------------------------------------------------- from manager and zygote

    def come_up(self) -> None:
        """The zygote has forked it."""
        if self.alive:
            self.forked = True
            if self.doomed:
                self.kill()
            else:
                self.wake_at(self.clock.now + 0.01 * self.draw.random())

    def give(self, give: Give) -> None:
        """Claims first, then the bundle, as the manager's shell does it."""
        self.claims += len(give.tasks)
        rest: deque[tuple[m.Task, list[bytes]]] = deque()
        at = 0
        for task in give.tasks:
            rest.append((task, [bytes(frame) for frame in give.frames[at : at + task.frames]]))
            at += task.frames
        assert at == len(give.frames), "each frame belongs to a task"
        self.pipe.append((give, rest))
        if self.alive and self._ready and self.running is None:
            self.wake_at(self.clock.now + OVERHEAD)

    def revoke(self, limit: int) -> int:
        """Take claims back; how many there were."""
        taken = min(limit, self.claims)
        self.claims -= taken
        return taken

    def order_kill(self) -> None:
        """What the manager's shell does: a worker that has no process yet is killed once it has."""
        self.doomed = True
        if self.forked:
            self.kill()

    def die(self, *, silent: bool = False) -> None:
        """Its process is gone: what it wrote stays in the pipe."""
        if self.alive:
            self.alive = False
            if self.running is not None:
                self.world.ledger.worker_died(self.running.id, self.attempt)
                self.running = None
            if not silent:
                self.manager.worker_gone(self)

    # --------------------------------------------------------------------------------------------------- its own doing

    def step(self) -> None:
        """End what runs; then claim the next task and begin it."""
        if not self._ready:
            self._ready = True
            self._write(0, Mark.READY)
            self._ring()
        if self.running is not None:
            self._end_task(self.running)
        elif self.pipe:
            self._begin()

    def hurry(self) -> None:
        """Do at once what it would do next: what runs ends, or the next task begins."""
        if self.alive and self._ready and not self.stopped and (self.running is not None or self.pipe):
            self._next = math.inf
            self.step()

    def _begin(self) -> None:
        give, rest = self.pipe[0]
        if not self._opened:
            self._opened = True
            self._known.update(function.id for function in give.functions)
            self._known.difference_update(give.forget)
            self._rung = self.clock.now
        if not self.claims:
            self.say(f"discards {[task.id for task, _ in rest]}")
            self._write(0, Mark.DISCARDED)
            self._ring()
            self._bundle_over()
            return
        self.claims -= 1
        task, frames = rest.popleft()
        assert task.function in self._known, f"{self} was never sent function {task.function}"
        assert frames == frames_of(task.id, task.frames), f"task {task.id} got other frames than its own"
        self.running = task
        self.attempt = self.world.ledger.started(task.id, self.manager)
        self._began = self.clock.now
        if self.left is not None:
            self.left -= 1
        self.say(f"begins {task.id}")
        self.wake_at(self.clock.now + self.world.ledger.job(task.id).seconds)

    def _end_task(self, task: m.Task) -> None:
        job = self.world.ledger.job(task.id)
        if job.does == "die" or (job.does == "die once" and self.attempt == 1):
            self.say(f"dies of {task.id}")
            self.die()
            return
        self.running = None
        if job.does == "raise":
            self._write(task.id, m.Outcome.EXCEPTION, RAISED)
        else:
            buffers: list[pickle.PickleBuffer] = []
            value = (task.id, self.attempt, [pickle.PickleBuffer(f) for f in frames_of(task.id, job.frames)])
            payload = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
            self.records.append(
                Record(
                    task.id,
                    m.Outcome.VALUE,
                    self.clock.now - self._began,
                    payload,
                    [bytes(buffer) for buffer in buffers],
                )
            )
        self.world.ledger.computed(task.id, self.attempt)
        self.say(f"ends {task.id}")
        last = not self.pipe[0][1]
        if last or self.clock.now - self._rung > RING_SECONDS:
            self._ring()
        if last:
            self._bundle_over()
        else:
            self.wake_at(self.clock.now + OVERHEAD)

    def _bundle_over(self) -> None:
        self.pipe.popleft()
        self._opened = False
        if self.left is not None and self.left <= 0:
            self.status = 0
            self.die()
        elif self.pipe:
            self.wake_at(self.clock.now + OVERHEAD)

    def _write(self, task: int, outcome: int, payload: bytes = b"") -> None:
        self.records.append(Record(task, outcome, self.clock.now - self._began if task else 0.0, payload, []))

    def _ring(self) -> None:
        self._rung = self.clock.now
        self.manager.rung(self)
