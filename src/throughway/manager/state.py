"""What a manager knows: its queue, its workers, and which worker has which tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from throughway.manager.actions import Buffer
from throughway.protocol.messages import Function, Outcome, Task
from throughway.scheduling.task_queue import TaskQueue


class WorkerRecord(msgspec.Struct, eq=False):
    """One worker process. Times are seconds of the reactor's clock."""

    number: int
    slot: int
    ready: bool = False
    pending: deque[Task] = msgspec.field(default_factory=deque)
    """tasks that it has, in the order in which it runs them; the first runs, or is about to"""
    bundles: deque[int] = msgspec.field(default_factory=deque)
    """how many of `pending` each bundle under way still holds"""
    discards: int = 0
    """bundles of which tasks were taken back, and that the worker has not yet reported as discarded"""
    cut: bool = False
    """whether the last of `bundles` is one of those"""
    revoking: bool = False
    """whether claims are about to be taken back: until then it is given nothing ahead"""
    functions: set[int] = msgspec.field(default_factory=set)
    forget: list[int] = msgspec.field(default_factory=list)
    head_since: float = 0.0
    """when the first of `pending` can have started"""
    reported: int = -1
    """the task that was last reported as started"""
    look_at: float = 0.0
    """when its progress is next looked at; 0 for never"""
    left: int | None = None
    """tasks that it may still be given (``max_tasks_per_child``); None for any number"""
    kills: set[int] = msgspec.field(default_factory=set)
    """tasks that are to be killed if they turn out to run"""
    kill: tuple[int, Outcome] | None = None
    """the task for which it was killed, and the outcome to report for it"""
    walltime_at: float = 0.0
    """when its task's walltime is over; 0 for never"""
    stopping: bool = False
    """it ends, and gets no more work"""
    broken: bool = False
    """what it writes is not believed any more"""
    orphan: bool = False
    """the process that it was forked from died, and it dies with it"""

    @property
    def available(self) -> bool:
        """Whether it waits for work."""
        return self.ready and not self.pending and not self.discards and not self.stopping and self.left != 0


class ManagerState(msgspec.Struct, eq=False):
    """Everything a manager knows, cross-indexed."""

    id: str
    host: str
    block: str
    folder: str
    """where its workers' logs are"""
    slots: int
    """how many workers it keeps"""
    queue: TaskQueue = msgspec.field(default_factory=TaskQueue)
    functions: dict[int, Function] = msgspec.field(default_factory=dict)
    frames: dict[int, Sequence[Buffer]] = msgspec.field(default_factory=dict)
    """task id → its large frames, for those that have any"""
    workers: dict[int, WorkerRecord] = msgspec.field(default_factory=dict)
    holders: dict[int, WorkerRecord] = msgspec.field(default_factory=dict)
    """task id → the worker that has it"""
    idle: dict[int, WorkerRecord] = msgspec.field(default_factory=dict)
    """workers that wait for work, by their number"""
    stuck: set[int] = msgspec.field(default_factory=set)
    """workers whose task has been running for long"""
    draining: str | None = None
    """why nothing new is taken"""

    def worker_log(self, slot: int) -> str:
        """The path of the log of the workers in this slot."""
        return f"{self.folder}/worker-{slot}.log"

    @property
    def held(self) -> int:
        """Tasks here, waiting and given to workers."""
        return len(self.queue) + len(self.holders)

    def sanity_check(self) -> None:
        """Every cross-index agrees with every other. For tests and simulations."""
        self.queue.sanity_check()
        for number, worker in self.workers.items():
            assert worker.number == number
            assert sum(worker.bundles) == len(worker.pending), "bundles add up to what is pending"
            assert (number in self.idle) == worker.available, f"worker {number}: idle and available disagree"
            assert worker.discards or not worker.cut, "a cut bundle will be reported as discarded"
            for task in worker.pending:
                assert self.holders[task.id] is worker
                assert task.id not in self.queue, f"task {task.id} waits and is given"
                assert task.function in worker.functions, "a worker knows the functions of its tasks"
        assert sum(len(worker.pending) for worker in self.workers.values()) == len(self.holders)
        assert self.idle.keys() <= self.workers.keys()
        assert self.stuck <= self.workers.keys()
        assert self.frames.keys() <= self.queue.waiting.keys() | self.holders.keys()
        slots = [worker.slot for worker in self.workers.values()]
        assert len(set(slots)) == len(slots), "each slot has one worker"
