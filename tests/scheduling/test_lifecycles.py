"""The tables of lives, and the real records of workers and futures held against them.

Managers and tasks are watched by every test of `tests/interchange`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import pytest

from tests.scheduling.watching import Watch
from throughway.executors.futures import TaskFuture
from throughway.executors.reactor import ExecutorReactor
from throughway.manager.actions import Exit, Give, Kill, Look, Revoke, Start
from throughway.manager.reactor import ManagerReactor
from throughway.manager.state import ManagerState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.scheduling import lifecycles
from throughway.scheduling.lifecycles import LIFECYCLES, FutureEvent, FutureState, WorkerEvent, WorkerState
from throughway.serialize.payloads import NONE
from throughway.transport.records import Record

SEEDS = range(6)

# ------------------------------------------------------------------------------------------------- the tables


@pytest.fixture(params=LIFECYCLES, ids=lambda lifecycle: lifecycle.name)
def lifecycle(request):
    return request.param


def test_tables_only_speak_of_their_own_states_and_events(lifecycle):
    states = set(lifecycle.states())
    events = {event for _, event, _ in lifecycle.transitions()}
    (kind,) = {type(event) for event in events}
    assert events == set(kind.__members__.values()), "every event changes something somewhere"
    assert lifecycle.table.keys() | {target for _, _, target in lifecycle.transitions()} == states


def test_each_state_can_be_reached(lifecycle):
    reached = {lifecycle.initial}
    while True:
        further = {target for state, _, target in lifecycle.transitions() if state in reached}
        if further <= reached:
            break
        reached |= further
    assert reached == set(lifecycle.states())


def test_the_initial_state_comes_first(lifecycle):
    assert lifecycle.states()[0] is lifecycle.initial


def test_who_cannot_go_on_has_ended(lifecycle):
    assert set(lifecycle.states()) - lifecycle.table.keys() <= lifecycle.ends


def test_every_listed_event_changes_the_state(lifecycle):
    assert all(state is not target for state, _, target in lifecycle.transitions())


def test_an_event_that_is_not_listed_changes_nothing():
    assert lifecycles.FUTURE.after(FutureState.FINISHED, FutureEvent.STARTED) is FutureState.FINISHED


class TestWatch:
    """The watch itself must be able to fail."""

    def watch(self, states: dict[int, Any]) -> Watch:
        return Watch(lifecycles.FUTURE, lambda: dict(states))

    def test_it_accepts_what_the_table_has(self):
        states: dict[int, Enum] = {1: FutureState.PENDING}
        watch = self.watch(states)
        states[1] = FutureState.RUNNING
        watch.look({1: FutureEvent.STARTED})
        assert watch.observed == {(FutureState.PENDING, FutureEvent.STARTED, FutureState.RUNNING)}
        assert len(watch.missing()) == 6

    @pytest.mark.parametrize(
        ("event", "after"),
        [
            (None, FutureState.RUNNING),
            (FutureEvent.STARTED, FutureState.PENDING),
            (FutureEvent.VALUE, FutureState.RUNNING),
        ],
    )
    def test_it_refuses_what_the_table_has_not(self, event, after):
        states: dict[int, Enum] = {1: FutureState.PENDING}
        watch = self.watch(states)
        states[1] = after
        with pytest.raises(AssertionError, match="where the table has"):
            watch.look({} if event is None else {1: event})

    def test_an_entity_is_not_forgotten(self):
        states: dict[int, Enum] = {1: FutureState.PENDING}
        watch = self.watch(states)
        states.clear()
        with pytest.raises(AssertionError, match="forgotten"):
            watch.look({})


# ---------------------------------------------------------------------------------------------------- workers


class ModelWorker:
    """A worker that obeys: claims tasks one by one, and drops the rest of a bundle when there is no claim left."""

    def __init__(self, most: int | None) -> None:
        self.ready = False
        self.bundles: deque[deque[m.Task]] = deque()
        self.claims = 0
        self.running: m.Task | None = None
        self.left = most
        self.killed = False


class Node:
    """A manager's reactor with model workers; whatever becomes of its workers is held against their lifecycle."""

    def __init__(self, seed: int, observed: set[tuple[Any, Any, Any]]) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.most = self.random.choice([None, 3])
        self.state = ManagerState("a", "host", "0", "/logs", 3)
        self.reactor = ManagerReactor(
            self.state,
            now=self.now,
            max_tasks_per_child=self.most,
            heartbeat_threshold=1e9,
            prefetch_capacity=self.random.choice([None, 20]),
        )
        self.workers: dict[int, ModelWorker] = {}
        self.known: set[int] = set()
        self.next_task = 1
        self.ended = False
        self.condemned: set[int] = set()
        self.watch = Watch(lifecycles.WORKER, self.states, observed)
        self.perform(self.reactor.start())
        self.look({})

    # ------------------------------------------------------------------------------------------ the lifecycle

    def states(self) -> Mapping[int, WorkerState]:
        self.known.update(self.state.workers)
        return {number: self.state_of(number) for number in self.known}

    def state_of(self, number: int) -> WorkerState:
        worker = self.state.workers.get(number)
        if worker is None:
            return WorkerState.ENDED
        if worker.stopping or (worker.left == 0 and not worker.pending and not worker.discards):
            return WorkerState.STOPPING
        if not worker.ready:
            return WorkerState.STARTING
        if worker.discards:
            return WorkerState.DISCARDING
        return WorkerState.BUSY if worker.pending else WorkerState.IDLE

    def look(self, events: Mapping[int, WorkerEvent]) -> None:
        self.state.sanity_check()
        condemned = {
            action.worker for action in self.reactor._actions if isinstance(action, Kill)
        } - self.condemned
        self.condemned |= condemned
        self.watch.look({**events, **dict.fromkeys(condemned, WorkerEvent.KILLED)})

    # ---------------------------------------------------------------------------------------------- the shell

    def turn(self) -> None:
        while True:
            actions = self.reactor.turn(self.now)
            self.look({action.worker: WorkerEvent.GIVEN for action in actions if isinstance(action, Give)})
            if not actions or self.ended:
                return
            self.perform(actions)

    def perform(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case Start(worker=number):
                    self.workers[number] = ModelWorker(self.most)
                case Give(worker=number, tasks=tasks):
                    self.workers[number].bundles.append(deque(tasks))
                    self.workers[number].claims += len(tasks)
                case Revoke(number, most):
                    self.revoke(number, most)
                case Look(worker=number):
                    self.reactor.looked(number, self.now)
                    self.look({})
                case Kill(worker=number):
                    if number in self.workers:
                        self.workers[number].killed = True
                case Exit():
                    self.ended = True

    def revoke(self, number: int, count: int) -> None:
        worker = self.workers.get(number)
        if worker is not None:
            taken = min(count, worker.claims)
            worker.claims -= taken
            self.reactor.revoked(number, taken, self.now)
            self.look({number: WorkerEvent.REVOKED} if taken else {})

    def record(
        self, number: int, outcome: int, task: int = 0, payload: bytes = b"", seconds: float = 0.0
    ) -> None:
        """A worker's record arrives."""
        self.reactor.records_came(number, [Record(task, outcome, seconds, payload, ())], self.now)
        worker = self.state.workers[number]
        events: dict[int, WorkerEvent] = {}
        if outcome == Mark.READY:
            events[number] = WorkerEvent.READY
        elif outcome == Mark.INITIALIZER_FAILED:
            events[number] = WorkerEvent.INITIALIZER_FAILED
        elif outcome == Mark.DISCARDED:
            if not worker.discards:
                events[number] = WorkerEvent.CLEARED
        elif not worker.pending:
            events[number] = WorkerEvent.SPENT if worker.left == 0 else WorkerEvent.LAST_RESULT
        self.look(events)

    def exit(self, number: int, status: int) -> None:
        worker = self.workers.pop(number, None)
        if worker is not None:
            self.reactor.worker_ended(number, status, worker.claims, "", "log", self.now)
            self.look({number: WorkerEvent.EXITED})

    # ---------------------------------------------------------------------------------------- what workers do

    def work(self, number: int) -> None:
        """A worker does the next thing that it can do."""
        worker = self.workers[number]
        if worker.killed:
            self.exit(number, 9)
        elif self.random.random() < 0.01:
            # A task wrote into the pipe.
            self.record(number, m.Outcome.VALUE, task=1 << 40)
        elif not worker.ready:
            if self.random.random() < 0.1:
                self.record(number, Mark.INITIALIZER_FAILED, payload=b"record")
                self.exit(number, 1 << 8)
            else:
                worker.ready = True
                self.record(number, Mark.READY)
        elif worker.running is not None:
            seconds = self.random.choice([1e-5, 1e-5, 1e-5, 0.3])
            task, worker.running = worker.running, None
            self.record(number, m.Outcome.VALUE, task.id, NONE, seconds)
            if worker.left is not None:
                worker.left -= 1
                if worker.left == 0:
                    self.exit(number, 0)
        elif worker.bundles:
            bundle = worker.bundles[0]
            if not bundle:
                worker.bundles.popleft()
            elif worker.claims:
                worker.claims -= 1
                worker.running = bundle.popleft()
            else:
                worker.bundles.popleft()
                self.record(number, Mark.DISCARDED)

    # ------------------------------------------------------------------------------------------- what happens

    def step(self) -> None:
        chosen = self.random.random()
        number = self.random.choice(sorted(self.workers)) if self.workers else None
        if chosen < 0.1 and len(self.state.queue) < 40:
            self.assign()
        elif chosen < 0.15 and self.state.holders:
            tasks = self.random.sample(sorted(self.state.holders), min(2, len(self.state.holders)))
            cancel = m.Cancel(tasks, kill=self.random.random() < 0.3)
            self.reactor.interchange_said(cancel, (), self.now)
            self.look({})
        elif chosen < 0.2:
            self.now += self.random.choice([0.001, 0.006, 0.02, 0.2])
        elif chosen < 0.22 and number is not None:
            self.exit(number, 9)
        elif number is not None:
            self.work(number)
        self.turn()

    def assign(self) -> None:
        count = self.random.randint(1, 30)
        tasks = [
            m.Task(self.next_task + index, 1, b"", 0, 0, self.random.choice([0.0] * 20 + [0.1]))
            for index in range(count)
        ]
        self.next_task += count
        self.reactor.interchange_said(m.Assign(tasks, [m.Function(1, "f", b"")]), (), self.now)
        self.look({})


def test_workers_live_by_their_table_and_all_of_it_happens():
    observed: set[tuple[Any, Any, Any]] = set()
    for seed in SEEDS:
        try:
            for life in range(5):
                node = Node(100 * seed + life, observed)
                for _ in range(500):
                    if node.ended:
                        break
                    node.step()
        except AssertionError as error:
            error.add_note(f"with seed {seed}")
            raise
    missing = lifecycles.WORKER.transitions() - observed
    assert not missing, f"transitions that never happened: {sorted(missing, key=str)}"


# ---------------------------------------------------------------------------------------------------- futures


class Entry:
    """Stands for a function of the executor."""

    function = m.Function(1, "f", b"")


class Futures:
    """The executor's reactor with real futures; what becomes of them is held against their lifecycle."""

    def __init__(self, seed: int, observed: set[tuple[Any, Any, Any]]) -> None:
        self.random = random.Random(seed)
        self.reactor = ExecutorReactor(list)
        self.futures: dict[int, TaskFuture[Any]] = {}
        self.watch = Watch(lifecycles.FUTURE, self.states, observed)

    def states(self) -> Mapping[int, FutureState]:
        return {number: FutureState[future._state] for number, future in self.futures.items()}

    def look(self, events: Mapping[int, FutureEvent]) -> None:
        self.reactor.sanity_check()
        self.watch.look(events)

    def open(self) -> list[int]:
        return [number for number, future in self.futures.items() if not future.done()]

    def hear(self, message: Any, frames: list[bytes], events: Mapping[int, FutureEvent]) -> None:
        self.reactor.interchange_said(message, frames, 0.0)
        self.look(events)

    def add(self) -> None:
        number = len(self.futures) + 1
        task = m.Task(number, 1, b"")
        retries = self.random.choice([0, 0, 1])
        future: TaskFuture[Any] = TaskFuture(None, task, Entry(), (), retries)  # type: ignore[arg-type]
        self.reactor.add(future)
        self.reactor.submission()
        self.futures[number] = future
        self.look({})

    def started(self, number: int) -> None:
        self.hear(m.Started("a", [number], [0]), [], {number: FutureEvent.STARTED})

    def value(self, number: int) -> None:
        message = m.Results("a", 1, [number], bytes([m.Outcome.VALUE]), [0])
        self.hear(message, [codec.encode([NONE])], {number: FutureEvent.VALUE})
        assert self.futures[number].result() is None

    def killed(self, number: int) -> None:
        message = m.Results("a", 1, [number], bytes([m.Outcome.KILLED]), [0])
        body = codec.encode([codec.encode(m.Loss(reason="killed"))])
        self.hear(message, [body], {number: FutureEvent.ERROR})
        assert self.futures[number].exception() is not None

    def lost(self, number: int) -> None:
        retried = self.futures[number]._retries > 0
        self.hear(
            m.Lost("a", "host", "gone", "", [number]), [], {} if retried else {number: FutureEvent.ERROR}
        )
        self.reactor.submission()

    def cancelled(self, number: int) -> None:
        self.hear(m.Verdicts([number], []), [], {number: FutureEvent.CANCELLED})
        assert self.futures[number].cancelled()

    def refused(self, number: int) -> None:
        self.hear(m.Verdicts([], [number]), [], {})


def test_futures_live_by_their_table_and_all_of_it_happens():
    observed: set[tuple[Any, Any, Any]] = set()
    for seed in SEEDS:
        run = Futures(seed, observed)
        for _ in range(100):
            deeds: list[Callable[[int], None]] = [
                run.started,
                run.started,
                run.value,
                run.killed,
                run.lost,
                run.cancelled,
                run.refused,
            ]
            run.add()
            # Those that are done hear of it again now and then: nothing must come of it.
            number = run.random.choice(run.open() if run.random.random() < 0.9 else sorted(run.futures))
            if run.futures[number].done():
                run.started(number)
            else:
                run.random.choice(deeds)(number)
    missing = lifecycles.FUTURE.transitions() - observed
    assert not missing, f"transitions that never happened: {sorted(missing, key=str)}"
