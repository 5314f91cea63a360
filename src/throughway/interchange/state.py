"""What the interchange knows: the queue, the managers, and which manager has which task."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Sequence

import msgspec

from throughway.interchange.actions import ABSENT, Buffer
from throughway.interchange.assigned import AssignedTasks, Holder
from throughway.interchange.selectors import ManagerSelector
from throughway.protocol.messages import Function, ManagerHello
from throughway.protocol.views import ManagerView, StatusView
from throughway.scheduling.task_queue import TaskQueue

UNKNOWN_FUNCTION = -1
"""The function of a task of which only the number is known: a former interchange had sent it to a manager."""


class _Touched(Holder):
    """What each message touches of a manager.

    With thousands of managers nothing of any of them is in a cache when its next message comes, so this lies together,
    and refers to as few objects as can be: most of these fields are small numbers or None.
    """

    __slots__ = (
        "busy",
        "capacity",
        "done",
        "draining",
        "familiar",
        "forget",
        "held",
        "id",
        "idle_since",
        "last_heard",
        "last_sent",
        "offered_to",
        "peer",
        "received",
        "running",
        "seen",
        "unsure",
        "workers",
    )


class ManagerRecord(_Touched):
    """One registered manager. Times are seconds of the reactor's clock."""

    __slots__ = (
        "block",
        "died",
        "ends_at",
        "functions",
        "given",
        "hello",
        "host",
        "joined",
        "lost_at",
        "restored",
        "seconds_left",
        "vacated",
        "watched",
    )

    def __init__(
        self, peer: int, hello: ManagerHello, now: float, *, ends_at: float = math.inf, draining: bool = False
    ) -> None:
        super().__init__()
        self.peer = peer
        """the number of its connection, or ABSENT"""
        self.hello = hello
        self.id = hello.id
        self.host = hello.host
        self.block = hello.block
        self.workers = hello.workers
        self.capacity = hello.capacity
        self.joined = now
        self.last_heard = now
        self.last_sent = now
        self.ends_at = ends_at
        self.idle_since = now
        self.offered_to: ManagerSelector | None = None
        """the selector that may pick it"""
        self.functions: set[int] = set()
        self.familiar = UNKNOWN_FUNCTION
        """one of `functions`, that was looked up last"""
        self.forget: list[int] | None = None
        """functions that it is told to forget with its next tasks; None for none"""
        self.running: dict[int, tuple[int, float]] | None = None
        """task id → worker and since when, as far as the manager told; None for none"""
        self.held = False
        self.draining = draining
        self.lost_at = math.inf
        """when it is given up: while it is absent, or known to be dead"""
        self.watched = 0.0
        """when its deadlines are looked at next"""
        self.restored = False
        """whether it is one of a former interchange, and has not come back yet"""
        self.given: Collection[int] | None = None
        """once it is dead: the tasks that it had given to workers, where its notes could be read"""
        self.died = ""
        """how its process ended, where somebody else told"""
        self.vacated = False
        """whether its block's job has ended, as the provider says: it is given up soon after its connection"""
        self.seen = 0
        """the number of its last `Results` that came here"""
        self.received = 0
        """the number of its last `Results` that the executor is known to have"""
        self.unsure: deque[tuple[int, list[int]]] | None = None
        """the `Results` that were passed on, and that the executor is not known to have: number, and tasks; None for
        none"""
        self.done = 0
        self.busy = 0.0
        self.seconds_left = math.inf
        """until it drains by itself, as of the last dispatch"""

    @property
    def open(self) -> bool:
        """Whether it may be given tasks at all."""
        return not self.held and not self.draining and self.peer != ABSENT

    def view(self, now: float) -> ManagerView:
        """For reports."""
        hello = self.hello
        load = self.load
        return ManagerView(
            manager=self.id,
            host=self.host,
            block=self.block,
            pid=hello.pid,
            worker_count=self.workers,
            idle_workers=max(0, self.workers - load),
            tasks=load,
            idle_duration=0.0 if load else now - self.idle_since,
            active=not self.held,
            absent=self.peer == ABSENT,
            draining=self.draining,
            python_version=hello.python,
            throughway_version=hello.version,
            cores=hello.cores,
            memory=hello.memory,
            age=now - self.joined,
            seconds_left=None if self.ends_at == math.inf else max(0.0, self.ends_at - now),
            silence=now - self.last_heard,
            tasks_done=self.done,
            busy_seconds=self.busy,
            log=hello.log,
        )


class SetAside:
    """Managers with room but without the time for any task that waits: nobody asks them before they have.

    `members` maps their peer numbers to them. Each costs O(log managers) to put in; places of those that were dropped
    stay until they come up.
    """

    __slots__ = ("_heap", "_places", "members")

    def __init__(self) -> None:
        self.members: dict[int, ManagerRecord] = {}
        self._heap: list[tuple[float, int]] = []
        self._places: set[int] = set()

    def put(self, manager: ManagerRecord) -> None:
        """No waiting task fits into the time that this manager has left."""
        self.members[manager.peer] = manager
        if manager.peer not in self._places:
            self._places.add(manager.peer)
            heapq.heappush(self._heap, (-manager.ends_at, manager.peer))

    def drop(self, manager: ManagerRecord) -> None:
        """This manager is on offer, has no more room, or is gone. It may not be here."""
        self.members.pop(manager.peer, None)

    def longest(self) -> ManagerRecord | None:
        """The one with the most time left."""
        while self._heap:
            peer = self._heap[0][1]
            if peer in self.members:
                return self.members[peer]
            heapq.heappop(self._heap)
            self._places.discard(peer)
        return None


class InterchangeState(msgspec.Struct, eq=False):
    """Everything the interchange knows, cross-indexed."""

    run: str
    label: str
    started: float
    idle: ManagerSelector
    """managers with a worker that has no task"""
    roomy: ManagerSelector
    """managers whose workers all have tasks, and that are ready to hold more"""
    idle_aside: SetAside = msgspec.field(default_factory=SetAside)
    roomy_aside: SetAside = msgspec.field(default_factory=SetAside)
    """those of either kind that are not on offer, since no waiting task fits into the time that they have left"""
    queue: TaskQueue = msgspec.field(default_factory=TaskQueue)
    functions: dict[int, Function] = msgspec.field(default_factory=dict)
    frames: dict[int, Sequence[Buffer]] = msgspec.field(default_factory=dict)
    """task id → its large frames, for those that have any"""
    owners: AssignedTasks[ManagerRecord] = msgspec.field(default_factory=AssignedTasks)
    """task id → the manager that has it"""
    cancelling: set[int] = msgspec.field(default_factory=set)
    """assigned tasks whose managers were asked to cancel them, and have not answered"""
    killing: set[int] = msgspec.field(default_factory=set)
    """those of them that are to be killed if they run"""
    untold: dict[ManagerRecord, None] = msgspec.field(default_factory=dict)
    """managers that have not been told which of their results the executor has by now"""
    lost: dict[str, None] = msgspec.field(default_factory=dict)
    """managers that were given up lately: should one come back, what it has is settled"""
    fallen: dict[str, list[int]] = msgspec.field(default_factory=dict)
    """what was lost with managers, until the executor is known to know it"""
    knowers: dict[int, set[ManagerRecord]] = msgspec.field(default_factory=dict)
    """function id → the managers that were sent it and not told to forget it"""
    managers: dict[str, ManagerRecord] = msgspec.field(default_factory=dict)
    peers: dict[int, ManagerRecord] = msgspec.field(default_factory=dict)
    drained_blocks: dict[str, None] = msgspec.field(default_factory=dict)
    """blocks that are scaled in: managers that register from them drain at once"""
    refused_hosts: dict[str, None] = msgspec.field(default_factory=dict)
    """hosts from which no new manager is welcome"""
    tells_stranded: bool = False
    """whether the executor wants to know when tasks wait for which nobody has the time"""
    submitted: int = 0
    completed: int = 0
    busy: float = 0.0
    refused_managers: int = 0
    lost_managers: int = 0
    late: int = 0
    """results that came too late, as their manager had been given up"""
    malformed: int = 0

    def assignments(self) -> list[tuple[str, Collection[int]]]:
        """Managers' ids, and tasks that each has or has had, as far as the executor may not know yet what became of
        them. What it has now comes last, as a task may have run elsewhere before."""
        unsure = [
            (manager.id, [task for _, tasks in manager.unsure for task in tasks])
            for manager in self.managers.values()
            if manager.unsure
        ]
        now = [(manager.id, tasks) for manager, tasks in self.owners.by_holder().items()]
        return [*self.fallen.items(), *unsure, *now]

    def status(self, now: float) -> StatusView:
        """The whole at this moment."""
        managers = self.managers.values()
        return StatusView(
            run=self.run,
            label=self.label,
            uptime=now - self.started,
            cores=sum(manager.hello.cores for manager in managers),
            memory=sum(manager.hello.memory for manager in managers),
            managers=len(managers),
            workers=sum(manager.workers for manager in managers),
            idle_workers=sum(max(0, manager.workers - manager.load) for manager in managers),
            pending=len(self.queue),
            assigned=len(self.owners),
            submitted=self.submitted,
            completed=self.completed,
            core_seconds=self.busy,
            refused_managers=self.refused_managers,
            lost_managers=self.lost_managers,
            malformed_messages=self.malformed,
            late_results=self.late,
            managers_held=sum(manager.held for manager in managers),
        )

    def sanity_check(self) -> None:
        """Every cross-index agrees with every other. For tests and simulations."""
        self.queue.sanity_check()
        self.owners.sanity_check(self.managers.values())
        for number in self.owners:
            assert number not in self.queue, f"task {number} waits and is assigned"
        for name, manager in self.managers.items():
            assert manager.id == name
            assert name not in self.lost, f"manager {name} was given up and is here"
            if manager.peer == ABSENT:
                assert manager.lost_at < math.inf, f"nobody gives {name} up"
            else:
                assert self.peers[manager.peer] is manager
                assert not manager.restored, f"manager {name} is back"
            assert manager.received <= manager.seen, "the executor has what came through here"
            assert manager.unsure is None or manager.unsure
            numbers = [number for number, _ in manager.unsure or ()]
            assert numbers == list(range(manager.seen - len(numbers) + 1, manager.seen + 1)), (
                "what the executor may not have are the last results, in order"
            )
            assert not numbers or numbers[0] > manager.received
            assert manager.offered_to in (None, self.idle, self.roomy)
            tasks = self.owners.tasks(manager)
            assert manager.running is None or manager.running
            assert set(manager.running or ()) <= tasks.keys(), "only what it has can run there"
            for task in tasks.values():
                known = task.function == UNKNOWN_FUNCTION or task.function in manager.functions
                assert known, "a manager knows the functions of its tasks"
            assert manager.familiar == UNKNOWN_FUNCTION or manager.familiar in manager.functions
            assert manager.forget is None or manager.forget
            for function in manager.functions:
                assert manager in self.knowers[function], "who knows a function is told to forget it"
        assert sum(map(len, self.knowers.values())) == sum(
            len(manager.functions) for manager in self.managers.values()
        )
        present = sum(manager.peer != ABSENT for manager in self.managers.values())
        assert len(self.peers) == present
        assert self.cancelling <= self.owners.keys(), "only managers are asked to cancel"
        assert self.killing <= self.cancelling, "a task is killed while it is being cancelled"
        for manager in self.untold:
            assert self.managers.get(manager.id) is manager and manager.peer != ABSENT
        for task in self.queue:
            assert task.function in self.functions, "the functions of waiting tasks are known"
        assert self.frames.keys() <= self.queue.waiting.keys() | self.owners.keys()
        offered = sum(manager.open and manager.load < manager.workers for manager in self.managers.values())
        assert len(self.idle) + len(self.idle_aside.members) == offered, (
            "each manager with an idle worker is on offer"
        )
        roomy = sum(
            manager.open and manager.workers <= manager.load < manager.capacity
            for manager in self.managers.values()
        )
        assert len(self.roomy) + len(self.roomy_aside.members) == roomy, "each manager with room is on offer"
        for aside in (self.idle_aside, self.roomy_aside):
            assert all(self.peers[peer] is manager for peer, manager in aside.members.items())
