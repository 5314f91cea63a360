"""Managers and an executor that obey the protocol, around a bench, with wires on which messages take their time.

What a manager says and hears lies on its two wires until somebody delivers it, in order. So messages cross: a
cancellation meets a return, an assignment a farewell. Connections break, and what lies on them is lost; managers work
on and come back, or die. Interchanges die and are followed by others. The executor's wire is immediate.

Everything is checked as it happens: each attempt of a task ends exactly once and starts at most once, nobody is given
more than it can hold, nothing goes to those that are held or drain, and each task is in exactly one place, wires
included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from tests.interchange.harness import Bench, Gone, Observed, Told, task
from throughway.interchange.actions import ABSENT
from throughway.interchange.state import ManagerRecord
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.views import Explanation


class ModelManager:
    """One manager: its tasks, its workers, and the two directions of its wire."""

    def __init__(self, name: str, workers: int, prefetch: int) -> None:
        self.name = name
        self.workers = workers
        self.capacity = workers + prefetch
        self.inbox: deque[Told] = deque()
        self.outbox: deque[tuple[m.FromManager, list[bytes]]] = deque()
        self.queue: list[m.Task] = []
        self.running: list[int] = []
        self.told_running: set[int] = set()
        self.functions: set[int] = set()
        self.draining = False
        self.left = False
        self.connected = True
        self.greeting = True
        """whether it waits for its welcome"""
        self.number = 0
        self.kept: list[tuple[m.Results, list[bytes]]] = []
        """results that were not acknowledged"""
        self.unsent: list[m.FromManager] = []
        """what is to be said after the welcome"""
        self.attempts: dict[int, Attempt] = {}

    def hear(self, started: Callable[[int], None]) -> None:
        """Take the next message from the wire and act on it."""
        told = self.inbox.popleft()
        match told.message:
            case m.Welcome(received=received, seen=seen):
                self.greeting = False
                self.acknowledged(received)
                self.outbox.extend(entry for entry in self.kept if entry[0].number > seen)
                self.outbox.extend((message, []) for message in self.unsent)
                self.unsent = []
                if self.draining:
                    self.give_back(len(self.queue))
                self.leave_if_done()
            case m.Acknowledged(received=received):
                self.acknowledged(received)
                self.leave_if_done()
            case m.Assign(tasks=tasks, functions=functions, forget=forget, received=received):
                self.acknowledged(received)
                self.functions.difference_update(forget)
                self.functions.update(function.id for function in functions)
                assert {task.function for task in tasks} <= self.functions, "every function was sent"
                large = [b"%d.%d" % (task.id, index) for task in tasks for index in range(task.frames)]
                assert list(told.frames) == large, "frames come with their tasks"
                self.queue += tasks
                if self.draining:
                    self.give_back(len(self.queue))
            case m.Cancel(tasks=tasks, kill=kill):
                self.cancel(tasks, kill=kill)
            case m.Drain(reason=reason):
                self.drain(reason)
            case m.Ask(request=request, subject=subject):
                known = {task.id for task in self.queue} | set(self.running)
                state = "at a manager" if subject.isdecimal() and int(subject) in known else "unknown"
                self.say(m.Answer(request, codec.encode(Explanation(0, state))))
            case m.Heartbeat():
                pass
            case _:
                raise AssertionError(f"unexpected: {told}")

    def acknowledged(self, number: int) -> None:
        self.kept = [entry for entry in self.kept if entry[0].number > number]

    def say(self, message: m.FromManager) -> None:
        assert not self.left
        if not self.connected:
            return
        if self.greeting:
            self.unsent.append(message)
        else:
            self.outbox.append((message, []))

    def disconnect(self) -> None:
        """The connection is gone, and all that lies on it."""
        self.connected = False
        self.inbox.clear()
        self.outbox.clear()
        self.unsent.clear()

    def hello(self) -> dict[str, Any]:
        """It connects again: what it says first, beside its name."""
        self.connected = self.greeting = True
        return {
            "again": True,
            "workers": self.workers,
            "capacity": self.capacity,
            "held": [task.id for task in self.queue] + self.running,
            "ended": [(message.number, message.tasks) for message, _ in self.kept],
            "functions": sorted(self.functions),
            "draining": "as it likes" if self.draining else None,
        }

    def start(self, started: Callable[[int], None]) -> None:
        """Each free worker starts a task."""
        while self.queue and len(self.running) < self.workers:
            number = self.queue.pop(0).id
            started(number)
            self.running.append(number)

    def tell_started(self, count: int) -> None:
        """What runs is told; and, of the first in the queue, what only seems to."""
        numbers = [*self.running, *[task.id for task in self.queue]][:count]
        numbers = [number for number in numbers if number not in self.told_running]
        if numbers:
            self.told_running.update(numbers)
            self.say(m.Started(self.name, numbers, list(range(len(numbers)))))

    def finish(self, count: int, prefetch: int) -> None:
        """Some of the running tasks end, and it may be ready for more or less than before."""
        ended, self.running = self.running[:count], self.running[count:]
        self.capacity = self.workers + prefetch
        self.report(ended, m.Outcome.VALUE)

    def report(self, ended: list[int], outcome: m.Outcome) -> None:
        self.told_running.difference_update(ended)
        outcomes = bytes([outcome]) * len(ended)
        workers = [0] * len(ended)
        body = codec.encode([b"%d" % number for number in ended])
        self.number += 1
        message = m.Results(
            self.name, self.capacity, ended, outcomes, workers, {}, 0.5, self.number, self.draining
        )
        self.kept.append((message, [body]))
        if self.connected and not self.greeting:
            self.outbox.append(self.kept[-1])
        self.leave_if_done()

    def cancel(self, numbers: list[int], *, kill: bool) -> None:
        queued = {task.id for task in self.queue}
        cancelled = [number for number in numbers if number in queued]
        refused = [number for number in numbers if number not in queued]
        self.queue = [task for task in self.queue if task.id not in cancelled]
        self.told_running.difference_update(cancelled)
        self.say(m.Verdicts(cancelled, refused))
        killed = [number for number in refused if kill and number in self.running]
        if killed:
            self.running = [number for number in self.running if number not in killed]
            self.report(killed, m.Outcome.KILLED)
        self.leave_if_done()

    def give_back(self, count: int) -> None:
        """The last of the queue go back, if there is anybody who takes them."""
        if count and self.queue and self.connected and not self.greeting:
            back, self.queue = self.queue[-count:], self.queue[:-count]
            self.told_running.difference_update(task.id for task in back)
            capacity = 0 if self.draining else self.capacity
            self.say(m.Returned(self.name, [task.id for task in back], capacity))

    def drain(self, reason: str) -> None:
        if not self.draining:
            self.draining = True
            self.say(m.Draining(self.name, reason))
            self.give_back(len(self.queue))
            self.leave_if_done()

    def leave_if_done(self) -> None:
        done = not self.queue and not self.running and not self.kept
        if self.draining and not self.left and done and self.connected and not self.greeting:
            self.say(m.Leaving(self.name, "drained"))
            self.left = True

    def has(self, record: ManagerRecord) -> list[int]:
        """Every task that is here or on the wire in either direction, as far as the interchange can know."""
        here = [task.id for task in self.queue] + self.running
        for told in self.inbox:
            if isinstance(told.message, m.Assign):
                here += [task.id for task in told.message.tasks]
        for message in [*self.unsent, *(message for message, _ in self.outbox)]:
            match message:
                case m.Returned(tasks=tasks) | m.Verdicts(cancelled=tasks):
                    here += tasks
        for message, _ in self.kept:
            if message.number > record.seen:
                here += message.tasks
        return here


class Attempt:
    """One try of a task."""

    def __init__(self, function: int) -> None:
        self.function = function
        self.started = False
        self.end: str | None = None


class Cluster:
    """A bench with managers around it, and what the executor knows of its tasks."""

    def __init__(self, selector: Any, observed: Observed | None = None) -> None:
        self.selector = selector
        self.observed = observed
        self.bench = Bench(selector, period=10.0, threshold=30.0, observed=observed)
        self.managers: dict[str, ModelManager] = {}
        """those whose processes live, with a connection or without"""
        self.known: dict[str, m.ManagerJoined] = {}
        """the managers that the executor knows"""
        self.given_up: list[str] = []
        self.held: set[str] = set()
        self.received: dict[str, int] = {}
        self.unsaid: dict[str, int] = {}
        """what of that managers have not been told"""
        self.cancelling: dict[int, bool] = {}
        """tasks of which no verdict has come, and whether they are to be killed"""
        self.returned: list[int] = []
        """tasks that the executor got back, and will submit again"""
        self.questions: dict[int, m.Ask] = {}
        self.functions: set[int] = set()
        self.attempts: dict[int, Attempt] = {}
        self.lost: list[m.Task] = []
        """could be submitted again"""
        self.tasks: dict[int, m.Task] = {}
        self.next_task = 1
        self.requests = 0

    # ------------------------------------------------------------------------------------------- the executor

    def submit(self, specifications: Iterable[tuple[int, int, float, int]]) -> None:
        """New tasks of these functions, priorities, walltimes and numbers of frames."""
        new = []
        for function, priority, walltime, frames in specifications:
            new.append(task(self.next_task, fn=function, priority=priority, walltime=walltime, frames=frames))
            self.next_task += 1
        self.send(new)

    def send(self, new: list[m.Task]) -> None:
        """Submit tasks, each for a new attempt; what is to be acknowledged rides along."""
        for one in new:
            self.attempts[one.id] = Attempt(one.function)
            self.tasks[one.id] = one
        self.hand_in(new)

    def hand_in(self, some: list[m.Task]) -> None:
        unsaid, self.unsaid = self.unsaid, {}
        self.functions.update(one.function for one in some)
        frames = [b"%d.%d" % (one.id, index) for one in some for index in range(one.frames)]
        self.bench.submit(some, frames, received=unsaid)
        self.after_step()

    def retry(self) -> None:
        """Submit again what was lost, and what never reached its manager."""
        again, self.lost = self.lost, []
        self.send(again)
        returned, self.returned = self.returned, []
        self.hand_in([self.tasks[number] for number in returned])

    def acknowledge(self) -> None:
        """What the executor has of results is said."""
        unsaid, self.unsaid = self.unsaid, {}
        self.bench.executor(m.Acknowledge(unsaid))
        self.after_step()

    def cancel(self, numbers: list[int], *, kill: bool) -> None:
        # As the executor does: what it was to submit is submitted before.
        self.retry()
        for number in numbers:
            if self.attempts[number].end is None:
                self.cancelling[number] = self.cancelling.get(number, False) or kill
        self.bench.executor(m.Cancel(numbers, kill))
        self.after_step()

    def forget(self) -> None:
        """Every function without an outstanding task is forgotten."""
        needed = {attempt.function for attempt in self.attempts.values() if attempt.end is None}
        needed |= {one.function for one in self.lost}
        unused = self.functions - needed
        self.functions -= unused
        self.bench.submit([], forget=sorted(unused))
        self.after_step()

    def ask(self, topic: str, subject: str = "") -> None:
        self.requests += 1
        if topic == "hold" and subject in self.known:
            self.held.add(subject)
        elif topic == "release":
            self.held.discard(subject)
        self.questions[self.requests] = m.Ask(self.requests, topic, subject)
        self.bench.executor(self.questions[self.requests])
        self.after_step()

    def restart(self) -> None:
        """The interchange dies; another follows it, and all connections are gone."""
        noted: dict[str, list[int]] = {name: [] for name in self.known}
        for number, name in self.bench.notes.items():
            waits = self.attempts[number].end is not None or number in self.returned
            if name and name not in self.given_up and not waits:
                noted.setdefault(name, []).append(number)
        expected = []
        for name, numbers in noted.items():
            if numbers or name in self.known:
                known = self.known.get(name, m.ManagerJoined(name, "", "", 0))
                received = self.received.get(name, 0)
                held = name in self.held
                expected.append(m.Expected(name, known.host, known.block, numbers, received, held))
        for name in list(self.managers):
            self.break_connection(name)
        restore = m.Restore(True, expected, list(self.given_up))
        self.bench = Bench(
            self.selector,
            period=10.0,
            threshold=30.0,
            reconnect=20.0,
            observed=self.observed,
            restore=restore,
            now=self.bench.now,
        )
        there = {number for one in expected for number in one.tasks}
        again = [number for number in self.open() if number not in there]
        self.returned = []
        self.hand_in([self.tasks[number] for number in again])
        for kill in (False, True):
            numbers = [number for number, killed in self.cancelling.items() if killed is kill]
            if numbers:
                self.bench.executor(m.Cancel(numbers, kill))
        for question in list(self.questions.values()):
            self.bench.executor(question)
        self.after_step()

    def open(self) -> list[int]:
        """The tasks that have not ended."""
        return [number for number, attempt in self.attempts.items() if attempt.end is None]

    def starter(self, manager: ModelManager) -> Callable[[int], None]:
        """What a manager's workers call when one starts a task."""

        def started(number: int) -> None:
            attempt = manager.attempts[number]
            assert attempt.end != "cancelled", f"task {number} was cancelled and runs"
            assert not attempt.started or attempt.end, f"task {number} runs twice"
            attempt.started = True

        return started

    # ------------------------------------------------------------------------------------------- the managers

    def join(self, name: str, workers: int, prefetch: int, ends_in: float | None = None) -> None:
        manager = ModelManager(name, workers, prefetch)
        self.managers[name] = manager
        self.bench.say_hello(name, workers=workers, capacity=manager.capacity, ends_in=ends_in)
        self.after_step()

    def hear(self, name: str) -> None:
        """The next message to a manager arrives, where there is one and anybody to hear it."""
        manager = self.managers[name]
        if manager.left:
            manager.inbox.clear()
        elif manager.inbox:
            manager.hear(self.starter(manager))

    def deliver(self, name: str) -> None:
        """The next message of a manager arrives, where there is one."""
        manager = self.managers[name]
        if manager.outbox:
            message, frames = manager.outbox.popleft()
            self.bench.manager(name, message, frames)
            self.after_step()

    def close(self, name: str) -> None:
        """A manager dies, and its connection with it, if it has one."""
        manager = self.managers.pop(name)
        if manager.connected:
            self.bench.close(name)
        else:
            self.bench.die(name)
        self.after_step()

    def die(self, name: str) -> None:
        """A manager dies far away: its node tells, while what it said last is still on its way."""
        manager = self.managers[name]
        if not manager.connected:
            self.close(name)
            return
        self.bench.die(name)
        while name in self.managers and manager.outbox:
            self.deliver(name)
        if self.managers.pop(name, None) is not None:
            self.bench.close(name, gone=False)
        self.after_step()

    def break_connection(self, name: str) -> None:
        """What lies on the wires is lost. One that has said farewell is gone for good."""
        manager = self.managers[name]
        manager.disconnect()
        if manager.left:
            del self.managers[name]

    def cut(self, name: str) -> None:
        """The connection to a manager breaks."""
        if self.managers[name].connected:
            self.break_connection(name)
            self.bench.close(name, gone=False)
            self.after_step()

    def reconnect(self, name: str) -> None:
        """A manager connects again; its former connection may not be known to be broken yet."""
        manager = self.managers[name]
        if not manager.left:
            manager.disconnect()
            self.bench.say_hello(name, **manager.hello())
            self.after_step()

    def tick(self, seconds: float) -> None:
        self.bench.tick(seconds)
        self.after_step()

    # --------------------------------------------------------------------------------------------- the checks

    def after_step(self) -> None:
        """Put what was said on the wires, and check everything."""
        bench = self.bench
        for said in bench.told("executor"):
            self.executor_hears(said)
        for peer in [peer for peer in bench.boxes if peer not in bench.peers.values()]:
            # Former connections, and those who bring obituaries.
            assert all(isinstance(told, Gone) for told in bench.boxes.pop(peer)[-1:])
        for name in bench.peers:
            manager = self.managers.get(name)
            for told in bench.told_with_frames(name):
                if manager is None or not manager.connected:
                    continue
                if isinstance(told, Gone):
                    manager.disconnect()
                    if manager.left:
                        del self.managers[name]
                    break
                if isinstance(told.message, m.Refused):
                    # It is told to start over: the process goes on under another id.
                    assert told.message.again
                    assert name in self.given_up or name not in bench.state.managers
                    del self.managers[name]
                    break
                if isinstance(told.message, m.Assign):
                    record = bench.state.managers[name]
                    assert record.open, "nothing new for those that are held or drain"
                    assert record.load <= max(record.capacity, record.workers), "not above its capacity"
                    left = record.ends_at - bench.now
                    assert all(one.walltime <= left for one in told.message.tasks), "time left for each"
                    for one in told.message.tasks:
                        manager.attempts[one.id] = self.attempts[one.id]
                manager.inbox.append(told)
        self.check_places()

    def executor_hears(self, message: Any) -> None:
        match message:
            case m.Results(manager=name, tasks=tasks, outcomes=outcomes, number=number):
                assert len(tasks) == len(outcomes)
                if number > self.received.get(name, 0):
                    assert number == self.received.get(name, 0) + 1, "no message of results is left out"
                    self.received[name] = self.unsaid[name] = number
                    self.ended(tasks, "reported")
            case m.Returned(tasks=tasks):
                for number in tasks:
                    attempt = self.attempts[number]
                    assert attempt.end is None, f"task {number} was {attempt.end} and comes back"
                    assert not attempt.started, f"task {number} runs and comes back"
                    if number in self.cancelling:
                        self.ended([number], "cancelled")
                    else:
                        self.returned.append(number)
            case m.ManagerJoined(manager=name):
                self.known[name] = message
            case m.ManagerLeft(manager=name, lost=lost):
                self.known.pop(name, None)
                self.held.discard(name)
                self.received.pop(name, None)
                self.unsaid.pop(name, None)
                if lost:
                    self.given_up.append(name)
            case m.Verdicts(cancelled=cancelled, refused=refused):
                self.ended(cancelled, "cancelled")
                for number in cancelled:
                    assert not self.attempts[number].started, f"task {number} was cancelled and had started"
                for number in refused:
                    self.cancelling.pop(number, None)
                    known = self.attempts.get(number)
                    assert known is None or known.end or known.started, f"task {number} waits and was refused"
            case m.Lost(tasks=tasks):
                self.ended(tasks, "lost")
                self.lost += [self.tasks[number] for number in tasks]
            case m.Answer(request=request, error=error):
                assert not error
                del self.questions[request]

    def ended(self, numbers: Iterable[int], how: str) -> None:
        for number in numbers:
            attempt = self.attempts[number]
            assert attempt.end is None, f"task {number} was {attempt.end} and is {how}"
            attempt.end = how
            self.cancelling.pop(number, None)

    def check_places(self) -> None:
        state = self.bench.state
        present = {name for name, record in state.managers.items() if record.peer != ABSENT}
        assert present == {name for name, manager in self.managers.items() if manager.connected}
        waiting = set(state.queue.waiting)
        assert not waiting & set(self.returned)
        assert waiting | state.owners.keys() | set(self.returned) == set(self.open()), (
            "what has not ended is here, and nothing else"
        )
        for name, manager in self.managers.items():
            assert len(manager.running) <= manager.workers
            record = state.managers.get(name)
            if record is None or manager.left:
                continue
            has = manager.has(record)
            if manager.connected:
                assert sorted(has) == sorted(state.owners.numbers(record)), (
                    f"{name}: on the wire or at the manager"
                )
            else:
                assert set(state.owners.numbers(record)) >= set(has), (
                    f"{name}: what it has is expected from it"
                )

    # ------------------------------------------------------------------------------------------------ the end

    def finish(self) -> None:
        """All behave, and everything completes."""
        for name in list(self.managers):
            if not self.managers[name].connected:
                self.reconnect(name)
        for name, record in list(self.bench.state.managers.items()):
            if record.peer == ABSENT:
                self.bench.die(name)
                self.after_step()
        for name in list(self.managers):
            self.ask("release", name)
        self.join("last", workers=3, prefetch=2)
        for _ in range(1000):
            self.retry()
            if not self.open() and not any(
                manager.outbox or manager.inbox or manager.kept for manager in self.managers.values()
            ):
                break
            for name in list(self.managers):
                manager = self.managers[name]
                while manager.inbox and not manager.left:
                    self.hear(name)
                if not manager.left:
                    manager.start(self.starter(manager))
                    if manager.running:
                        manager.finish(len(manager.running), 2)
                while name in self.managers and manager.outbox:
                    self.deliver(name)
                if manager.left:
                    manager.inbox.clear()
            self.acknowledge()
        assert not self.open(), "every task has ended"
        assert not self.questions, "every question was answered"
        assert not self.cancelling, "every cancellation was"
        assert not any(manager.kept for manager in self.managers.values()), "all results are acknowledged"
        assert not self.bench.state.frames
        assert not self.bench.state.cancelling
        # All functions, also those of which only managers of a former interchange knew.
        self.functions.update([1, 2, 3])
        self.forget()
        assert not self.bench.state.functions
        assert not self.bench.state.knowers
