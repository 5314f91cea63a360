"""A cluster without machines: an executor's ledger and plan of blocks, on a clock that jumps from event to event.

Jobs wait in a queue, begin, are ended at their walltime or die; tasks come, are packed onto the newest blocks, and end.
Every start and every drain is judged as it happens.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

from throughway.blocks.plan import Strategy, plan
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.state import Ledger
from throughway.protocol.views import BlockLoad
from throughway.providers.interface import JobId, JobState, JobStatus

COMPLETED = JobStatus(JobState.COMPLETED, 0)


class Load(NamedTuple):
    """Tasks that come at one moment, and how long each takes."""

    at: float
    tasks: int
    seconds: float


class Machine:
    """The managers of one block, as one."""

    def __init__(self, workers: int, now: float) -> None:
        self.workers = workers
        self.tasks: set[int] = set()
        self.idle_since = now


class Cluster:
    def __init__(
        self,
        policy: BlockPolicy,
        strategy: Strategy,
        *,
        workers: int = 4,
        queue_seconds: Callable[[], float] = lambda: 30.0,
        walltime: float = 4 * 3600.0,
        dies: Callable[[], bool] = lambda: False,
    ) -> None:
        self.policy = policy
        self.strategy = strategy
        self.ledger = Ledger(policy)
        self.ledger.workers_per_node = float(workers)
        self.workers = workers
        self.queue_seconds = queue_seconds
        self.walltime = walltime
        self.dies = dies
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.machines: dict[str, Machine] = {}
        self.waiting: list[tuple[int, float]] = []
        self.outstanding = 0
        self.done = 0
        self.starts: list[float] = []
        self.drains: list[float] = []
        self.most = 0
        self.idle_seconds: list[float] = []
        """how long each block that was scaled in had been idle"""
        self.looks = 0
        self.steps = 0
        self.longest_reaction = 0.0
        self.demand_since: float | None = None
        self.wake_at = 0.0

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (moment, next(self.count), event))

    def submit(self, load: Load) -> None:
        def come() -> None:
            self.waiting += [(next(self.count), load.seconds) for _ in range(load.tasks)]
            self.outstanding += load.tasks

        self.at(load.at, come)

    def run(self, until: float) -> None:
        self.step()
        while True:
            moment = min(self.events[0][0] if self.events else until, max(self.wake_at, self.now))
            if moment > until:
                self.now = until
                return
            if not self.events and self.wake_at >= until:
                self.now = until
                return
            self.now = moment
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            self.place()
            self.step()

    # -- what happens

    def place(self) -> None:
        for block in reversed(self.machines):
            machine = self.machines[block]
            if self.ledger.live[block].leaving:
                continue
            while self.waiting and len(machine.tasks) < machine.workers:
                task, seconds = self.waiting.pop()
                machine.tasks.add(task)
                self.at(self.now + seconds, lambda block=block, task=task: self.ended(block, task))

    def ended(self, block: str, task: int) -> None:
        machine = self.machines.get(block)
        if machine is None or task not in machine.tasks:
            return
        machine.tasks.discard(task)
        machine.idle_since = self.now
        self.outstanding -= 1
        self.done += 1
        if not machine.tasks and self.ledger.live[block].scaled_in:
            self.leave(block, lost=False)

    def begin(self, block: str) -> None:
        live = self.ledger.live.get(block)
        if live is None:
            return
        if self.dies():
            self.ledger.heard({self.job(block): JobStatus(JobState.FAILED, 1)}, self.now)
            return
        self.machines[block] = Machine(self.workers, self.now)
        self.ledger.joined(block, self.workers, self.now)
        if live.scaled_in:
            self.leave(block, lost=False)

    def leave(self, block: str, *, lost: bool) -> None:
        machine = self.machines.pop(block, None)
        if machine is None:
            return
        self.waiting += [(task, 60.0) for task in machine.tasks]
        self.ledger.left(block, machine.workers, "over", lost, self.now)

    def over(self, block: str) -> None:
        """The walltime of its job is over."""
        if block in self.ledger.live:
            self.leave(block, lost=False)
            self.ledger.heard({self.job(block): COMPLETED}, self.now)

    def job(self, block: str) -> JobId:
        return JobId(f"j{block}")

    # -- what the controller does

    def step(self) -> None:
        for _ in range(20):
            self.steps += 1
            if not self.plan():
                return
        raise AssertionError("the plan does not come to rest")

    def plan(self) -> bool:
        ledger, now = self.ledger, self.now
        ledger.settle(now)
        view = ledger.view(now, self.outstanding)
        todo = plan(view, self.policy, now, self.strategy)
        assert not todo.give_up
        ledger.note_unneeded(todo.unneeded, now)
        self.wake_at = min(todo.wake_at, ledger.deadline())
        needed = self.outstanding * self.policy.parallelism
        slots = sum(block.slots for block in view.active)
        if todo.look:
            self.looks += 1
            loads = [
                BlockLoad(block, 1, machine.workers, len(machine.tasks), now - machine.idle_since)
                for block, machine in self.machines.items()
            ]
            ledger.looked(loads, 0, now)
            return True
        for block in todo.drain:
            machine = self.machines.get(block)
            assert machine is None or not machine.tasks, "what has a task is not drained"
            self.drains.append(now)
            if machine is not None:
                self.idle_seconds.append(now - machine.idle_since)
            ledger.ask_to_drain(block)
            ledger.drain_answered(block, True, now)
            self.leave(block, lost=False)
        after = sum(block.slots for block in ledger.view(now, self.outstanding).active)
        assert not todo.drain or after >= needed, "what is drained is not needed"
        for job in itertools.chain(*ledger.to_cancel(now)):
            ledger.heard({job: JobStatus(JobState.CANCELLED, 143)}, now)
        if self.outstanding and not view.active:
            self.demand_since = now if self.demand_since is None else self.demand_since
        if todo.start:
            floor = self.policy.min_blocks if ledger.begun else self.policy.first
            justified = slots < needed or len(view.active) < floor or (self.outstanding and not view.active)
            assert justified, "nothing starts that is not needed"
            if self.demand_since is not None:
                self.longest_reaction = max(self.longest_reaction, now - self.demand_since)
                self.demand_since = None
            for opened in ledger.open(todo.start, 1, now):
                self.starts.append(now)
                ledger.submitted(opened, self.job(opened.id))
                wait = self.queue_seconds()
                self.at(now + wait, lambda block=opened.id: self.begin(block))
                self.at(now + wait + self.walltime, lambda block=opened.id: self.over(block))
            self.most = max(self.most, len(ledger.live))
            assert self.most <= self.policy.max_blocks
        ledger.sanity_check()
        return bool(todo.start or todo.drain)


def bursts(seed: int, seconds: float) -> list[Load]:
    """A user's weeks: bursts of short tasks, single long ones, nights without anything."""
    rng = random.Random(seed)
    loads = []
    now = 0.0
    while now < seconds:
        kind = rng.random()
        if kind < 0.5:
            loads.append(Load(now, rng.randint(1, 60), rng.choice((5.0, 60.0, 600.0))))
        elif kind < 0.7:
            loads.append(Load(now, 1, rng.choice((1800.0, 3 * 3600.0))))
        now += rng.choice((10.0, 600.0, 3600.0, 8 * 3600.0)) * rng.random()
    return loads
