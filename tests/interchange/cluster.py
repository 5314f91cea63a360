"""Managers and an executor that obey the protocol, around a bench, with wires on which messages take their time.

What a manager says and hears lies on its two wires until somebody delivers it, in order. So messages cross: a
cancellation meets a return, an assignment a farewell. The executor's wire is immediate.

Everything is checked as it happens: each attempt of a task ends exactly once, nobody is given more than it can hold,
nothing goes to those that are held or drain, and each task is in exactly one place, wires included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from tests.interchange.harness import Bench, Gone, Observed, Told, task
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

    def hear(self, started: Callable[[int], None]) -> None:
        """Take the next message from the wire and act on it."""
        told = self.inbox.popleft()
        match told.message:
            case m.Assign(tasks=tasks, functions=functions, forget=forget):
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
            case m.Heartbeat() | m.Welcome():
                pass
            case _:
                raise AssertionError(f"unexpected: {told}")

    def say(self, message: m.FromManager, frames: Iterable[bytes] = ()) -> None:
        assert not self.left
        self.outbox.append((message, list(frames)))

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
        self.say(m.Results(self.name, self.capacity, ended, outcomes, workers, {}, 0.5), [body])
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
        """The last of the queue go back."""
        if count and self.queue:
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
        if self.draining and not self.left and not self.queue and not self.running:
            self.say(m.Leaving(self.name, "drained"))
            self.left = True

    def has(self) -> list[int]:
        """Every task that is here or on the wire in either direction, as far as the interchange can know."""
        here = [task.id for task in self.queue] + self.running
        for told in self.inbox:
            if isinstance(told.message, m.Assign):
                here += [task.id for task in told.message.tasks]
        for message, _ in self.outbox:
            match message:
                case m.Results(tasks=tasks) | m.Returned(tasks=tasks) | m.Verdicts(cancelled=tasks):
                    here += tasks
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
        self.bench = Bench(selector, period=10.0, threshold=30.0, observed=observed)
        self.managers: dict[str, ModelManager] = {}
        self.gone: list[ModelManager] = []
        """those whose connection is over; they may not know it"""
        self.attempts: dict[int, Attempt] = {}
        self.lost: list[m.Task] = []
        """could be submitted again"""
        self.tasks: dict[int, m.Task] = {}
        self.next_task = 1
        self.requests = 0
        self.answers = 0

    # ------------------------------------------------------------------------------------------- the executor

    def submit(self, specifications: Iterable[tuple[int, int, float, int]]) -> None:
        """New tasks of these functions, priorities, walltimes and numbers of frames."""
        new = []
        for function, priority, walltime, frames in specifications:
            new.append(task(self.next_task, fn=function, priority=priority, walltime=walltime, frames=frames))
            self.next_task += 1
        self.send(new)

    def send(self, new: list[m.Task]) -> None:
        for one in new:
            self.attempts[one.id] = Attempt(one.function)
            self.tasks[one.id] = one
        self.bench.submit(new, [b"%d.%d" % (one.id, index) for one in new for index in range(one.frames)])
        self.after_step()

    def retry(self) -> None:
        """Submit again what was lost."""
        again, self.lost = self.lost, []
        self.send(again)

    def cancel(self, numbers: list[int], *, kill: bool) -> None:
        self.bench.executor(m.Cancel(numbers, kill))
        self.after_step()

    def forget(self) -> None:
        """Every function without an outstanding task is forgotten."""
        needed = {attempt.function for attempt in self.attempts.values() if attempt.end is None}
        needed |= {one.function for one in self.lost}
        unused = self.bench._sent_functions - needed
        self.bench.submit([], forget=sorted(unused))
        self.after_step()

    def ask(self, topic: str, subject: str = "") -> None:
        self.requests += 1
        self.bench.ask(topic, subject, request=self.requests)
        self.after_step()

    def open(self) -> list[int]:
        """The tasks that have not ended."""
        return [number for number, attempt in self.attempts.items() if attempt.end is None]

    def started(self, number: int) -> None:
        """A worker has started a task."""
        attempt = self.attempts[number]
        assert attempt.end != "cancelled", f"task {number} was cancelled and runs"
        attempt.started = True

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
            manager.hear(self.started)

    def deliver(self, name: str) -> None:
        """The next message of a manager arrives, where there is one."""
        manager = self.managers[name]
        if manager.outbox:
            message, frames = manager.outbox.popleft()
            self.bench.manager(name, message, frames)
            self.after_step()

    def close(self, name: str) -> None:
        """A manager dies, and its connection with it."""
        self.bench.close(name)
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
        for name, manager in list(self.managers.items()):
            for told in bench.told_with_frames(name):
                if isinstance(told, Gone):
                    del self.managers[name]
                    self.gone.append(manager)
                    break
                if isinstance(told.message, m.Shutdown):
                    continue
                if isinstance(told.message, m.Assign):
                    record = bench.state.managers[name]
                    assert record.open, "nothing new for those that are held or drain"
                    assert record.load <= max(record.capacity, record.workers), "not above its capacity"
                    left = record.ends_at - bench.now
                    assert all(one.walltime <= left for one in told.message.tasks), "time left for each"
                manager.inbox.append(told)
        self.check_places()

    def executor_hears(self, message: Any) -> None:
        match message:
            case m.Results(tasks=tasks, outcomes=outcomes):
                assert len(tasks) == len(outcomes)
                self.ended(tasks, "reported")
            case m.Verdicts(cancelled=cancelled, refused=refused):
                self.ended(cancelled, "cancelled")
                for number in cancelled:
                    assert not self.attempts[number].started, f"task {number} was cancelled and had started"
                for number in refused:
                    attempt = self.attempts.get(number)
                    assert attempt is None or attempt.end or attempt.started, (
                        f"task {number} waits and was refused"
                    )
            case m.Lost(tasks=tasks):
                self.ended(tasks, "lost")
                self.lost += [self.tasks[number] for number in tasks]
            case m.Answer(error=error):
                assert not error
                self.answers += 1

    def ended(self, numbers: Iterable[int], how: str) -> None:
        for number in numbers:
            attempt = self.attempts[number]
            assert attempt.end is None, f"task {number} was {attempt.end} and is {how}"
            attempt.end = how

    def check_places(self) -> None:
        state = self.bench.state
        assert self.managers.keys() == state.managers.keys()
        waiting = set(state.queue.waiting)
        assert waiting | state.owners.keys() == set(self.open()), (
            "what has not ended is here, and nothing else"
        )
        for name, manager in self.managers.items():
            has = manager.has()
            if not manager.left:
                assert sorted(has) == sorted(state.managers[name].tasks), (
                    f"{name}: on the wire or at the manager"
                )
            assert len(manager.running) <= manager.workers

    # ------------------------------------------------------------------------------------------------ the end

    def finish(self) -> None:
        """All behave, and everything completes."""
        for name in list(self.managers):
            self.ask("release", name)
        self.join("last", workers=3, prefetch=2)
        self.retry()
        for _ in range(1000):
            if not self.open() and not any(
                manager.outbox or manager.inbox for manager in self.managers.values()
            ):
                break
            for name in list(self.managers):
                manager = self.managers[name]
                while manager.inbox:
                    self.hear(name)
                if not manager.left:
                    manager.start(self.started)
                    if manager.running:
                        manager.finish(len(manager.running), 2)
                while name in self.managers and manager.outbox:
                    self.deliver(name)
        assert not self.open(), "every task has ended"
        assert self.answers == self.requests, "every question was answered"
        assert not self.bench.state.frames
        assert not self.bench.state.cancelling
        self.forget()
        assert not self.bench.state.functions
        assert not self.bench.state.knowers
