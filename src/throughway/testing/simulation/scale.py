"""Thousands of managers, a million tasks, and a dead interchange.

The cores of executor and interchange and the notes of assignments are the real ones; managers hold tasks and say what
the protocol has them say. There is no clock and no network: what is measured is what the cores cost.
"""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from throughway.executors.actions import Tell
from throughway.executors.reactor import ExecutorReactor
from throughway.interchange.actions import EXECUTOR, Forward, Note, Send
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import RandomSelector
from throughway.interchange.state import InterchangeState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.testing.simulation.ledger import Entry, Violation
from throughway.transport.assignments import AssignmentNotes, new_notes, read_notes, write_notes

BATCH = 8
"""Results in one message."""

Buffers = Sequence[bytes | bytearray | memoryview]
Spend = Callable[[Callable[[], Any]], None]


class Counted:
    """A future that counts how often it is completed."""

    __slots__ = ("_entry", "_frames", "_retries", "_task", "ends", "value")

    def __init__(self, task: int, entry: Entry) -> None:
        self._task = m.Task(task, entry.function.id, b"")
        self._entry = entry
        self._frames: Sequence[Any] = ()
        self._retries = 0
        self.ends = 0
        self.value: Any = None

    def done(self) -> bool:
        """Whether it is completed."""
        return self.ends > 0

    def _set_running(self) -> None: ...

    def _set_value(self, value: Any) -> None:
        self.ends += 1
        self.value = value

    def _set_plainly(self, value: Any) -> bool:
        self._set_value(value)
        return True

    def _set_error(self, error: BaseException) -> None:
        raise Violation(f"task {self._task.id} got an error") from error

    def _set_cancelled(self) -> None:
        raise Violation(f"task {self._task.id} was cancelled")


class Peer:
    """A manager: what it has, and what it has said and must keep."""

    __slots__ = ("capacity", "functions", "held", "kept", "name", "number", "ran", "workers")

    def __init__(self, name: str, workers: int, capacity: int) -> None:
        self.name = name
        self.workers = workers
        self.capacity = capacity
        self.held: deque[int] = deque()
        self.kept: deque[tuple[m.Results, bytes]] = deque()
        self.functions: list[int] = []
        self.number = 0
        self.ran = 0

    def hello(self, *, again: bool) -> m.ManagerHello:
        """Its first message."""
        ended = [(results.number, results.tasks) for results, _ in self.kept]
        version = python_version()
        return m.ManagerHello(
            PROTOCOL_VERSION, self.name, self.name, "0", 1, version, "", self.workers, self.capacity, 1, 1, 0.0,
            again=again, held=list(self.held), ended=ended, functions=self.functions,
        )  # fmt: skip

    def results(self, count: int) -> tuple[m.Results, bytes]:
        """It ends so many tasks; their values are their numbers."""
        tasks = [self.held.popleft() for _ in range(min(count, len(self.held)))]
        self.number += 1
        self.ran += len(tasks)
        body = codec.encode([pickle.dumps(task) for task in tasks])
        message = m.Results(
            self.name, self.capacity, tasks, bytes(len(tasks)), [0] * len(tasks), number=self.number
        )
        self.kept.append((message, body))
        return message, body

    def received(self, number: int) -> None:
        """The executor has its results up to this number."""
        while self.kept and self.kept[0][0].number <= number:
            self.kept.popleft()


class Report(NamedTuple):
    """What a run cost, in seconds of CPU time, or whatever ``spend`` measures."""

    assigned: int
    """tasks that managers had when the interchange died"""
    waiting: int
    before: float
    """until then"""
    restoring: float
    """from its death until every manager is back and every task was handed in again"""
    after: float
    """from then until the last task"""
    notes: int
    """bytes of notes"""


class Hall:
    """Executor, interchange and managers, in one another's arms."""

    def __init__(self, managers: int, tasks: int, *, workers: int, prefetch: int) -> None:
        self.executor = ExecutorReactor(list)
        self.peers = [Peer(f"manager{number}", workers, workers + prefetch) for number in range(managers)]
        entry = Entry(1)
        self.futures = [Counted(number, entry) for number in range(1, tasks + 1)]
        self.now = 1000.0
        self.starts: set[int] = set()
        self._descriptor = -1
        self._notes: AssignmentNotes | None = None
        self._start(m.Restore(), {})

    def _start(self, restore: m.Restore, assigned: dict[str, list[int]]) -> None:
        """Another interchange."""
        if self._notes is not None:
            self._notes.close()
            os.close(self._descriptor)
        self._descriptor = new_notes()
        write_notes(self._descriptor, assigned)
        self.state = InterchangeState(
            run="run", label="", started=self.now, idle=RandomSelector(1), roomy=RandomSelector(2)
        )
        self.interchange = InterchangeReactor(
            self.state, python=python_version(), heartbeat_period=1e6, heartbeat_threshold=1e7
        )
        self._notes = AssignmentNotes(os.dup(self._descriptor), self.state.assignments)
        self._tell(codec.decode_from_executor(codec.encode(restore)))

    def close(self) -> None:
        """Give the notes back."""
        if self._notes is not None:
            self._notes.close()
            os.close(self._descriptor)
            self._notes = None

    # ---------------------------------------------------------------------------------------------- what passes between

    def _tell(self, message: m.FromExecutor) -> None:
        self.interchange.executor_said(message, (), self.now)

    def flush(self) -> None:
        """Everything goes where it is to go."""
        executor = self.executor
        while (submission := executor.submission()) is not None:
            self._tell(submission[0])
            self._turn()
        executor.turn(self.now)
        for action in executor.actions():
            if isinstance(action, Tell):
                self._tell(action.message)  # type: ignore[arg-type]
        self._turn()

    def _turn(self) -> None:
        notes = self._notes
        assert notes is not None
        for action in self.interchange.turn(self.now):
            if isinstance(action, Note):
                notes.note(action.manager, action.tasks)
            elif isinstance(action, Forward):
                self._heard(codec.decode_to_executor(action.frames[0]), action.frames[1:])
            elif not isinstance(action, Send):
                pass
            elif action.peer == EXECUTOR:
                self._heard(action.message, ())
            else:
                self._reach(self.peers[action.peer - 1], action.message)

    def _heard(self, message: Any, frames: Buffers) -> None:
        self.executor.interchange_said(message, frames, self.now)

    def _reach(self, peer: Peer, message: m.Message) -> None:
        if isinstance(message, m.PackedAssign):
            peer.held.extend(task.id for task in message.tasks)
            peer.functions += [function.id for function in message.functions]
            for task in message.tasks:
                if task.id in self.starts:
                    raise Violation(f"task {task.id} comes to {peer.name} a second time")
                self.starts.add(task.id)
        if isinstance(message, m.PackedAssign | m.Acknowledged) and message.received:
            peer.received(message.received)

    # ---------------------------------------------------------------------------------------------------- what happens

    def join(self, *, again: bool = False) -> None:
        """All managers say hello; those that come back send again what the executor does not have."""
        for number, peer in enumerate(self.peers, 1):
            self.interchange.manager_said_hello(number, peer.hello(again=again), self.now)
            if again:
                seen = self.state.managers[peer.name].seen
                for message, body in peer.kept:
                    if message.number > seen:
                        self._say(number, message, body)
        self.flush()

    def submit(self) -> None:
        """All tasks."""
        for future in self.futures:
            self.executor.add(future)
        self.flush()

    def _say(self, number: int, message: m.Results, body: bytes) -> None:
        self.interchange.manager_said(number, message, [codec.encode(message), body], self.now)

    def work(self, rounds: int | None = None, *, lose: bool = False) -> None:
        """Managers end tasks, so many times, or until there are none. ``lose``: the executor hears nothing of it."""
        for count in itertools.count():
            if count == rounds:
                return
            idle = True
            for number, peer in enumerate(self.peers, 1):
                if peer.held:
                    idle = False
                    message, body = peer.results(BATCH)
                    if not lose:
                        self._say(number, message, body)
                        self._turn()
            self.now += 2.0
            self.flush()
            if idle:
                return

    def crash(self) -> None:
        """The interchange dies, another one starts, and the managers come back."""
        assigned = read_notes(self._descriptor)
        restore = self.executor.interchange_left(assigned, self.now)
        assert restore is not None
        self._start(restore, {one.manager: one.tasks for one in restore.managers})
        self._turn()

    def check(self) -> None:
        """Every task has ended once.

        Raises:
            Violation: one has not.
        """
        for future in self.futures:
            task = future._task.id
            if future.ends != 1 or future.value != task:
                raise Violation(f"task {task} ended {future.ends} times, with {future.value!r}")
        if sum(peer.ran for peer in self.peers) != len(self.futures):
            raise Violation("tasks ran more than once")
        self.state.sanity_check()


def recover(
    managers: int,
    tasks: int,
    *,
    workers: int = 8,
    prefetch: int = 8,
    measure: Callable[[Callable[[], Any]], float],
) -> Report:
    """Run so many tasks on so many managers, and have the interchange die while they work.

    Args:
        managers: how many.
        tasks: how many.
        workers: of each manager.
        prefetch: how many tasks a manager holds beyond its workers'.
        measure: calls what it is given, and returns what that cost.

    Raises:
        Violation: a task was lost, or ran twice.
    """
    hall = Hall(managers, tasks, workers=workers, prefetch=prefetch)
    try:
        before = measure(hall.join)
        before += measure(hall.submit)
        before += measure(lambda: hall.work(1))
        hall.work(1, lose=True)
        assigned, waiting = len(hall.state.owners), len(hall.state.queue)
        restoring = measure(hall.crash)
        restoring += measure(lambda: hall.join(again=True))
        after = measure(hall.work)
        hall.check()
        size = os.fstat(hall._descriptor).st_size
    finally:
        hall.close()
    return Report(assigned, waiting, before, restoring, after, size)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """How much CPU time a call takes."""
    began = time.process_time()
    call()
    return time.process_time() - began
