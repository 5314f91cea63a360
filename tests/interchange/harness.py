"""A bench for the interchange's reactor: events in, one by one, and every action looked at.

Messages go over the bench as they go over a wire: each is encoded, and decoded as its receiver would decode it, so a
message that does not belong to the receiver's union fails the test. After every event the reactor takes its turn, the
state checks itself, and what was done lies in boxes by peer until the test takes it out. `emptiness_check` fails where
something was done that no test asked about. Whatever becomes of managers and tasks is held against their lifecycles,
and what is noted of assignments against who has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from tests.scheduling.watching import Watch
from throughway.interchange.actions import (
    ABSENT,
    EXECUTOR,
    Action,
    Buffer,
    Disconnect,
    Exit,
    Forward,
    Log,
    Note,
    Send,
)
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import LeastLoadedSelector, ManagerSelector
from throughway.interchange.state import InterchangeState, ManagerRecord
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.scheduling import lifecycles
from throughway.scheduling.lifecycles import ManagerEvent, ManagerState, TaskEvent, TaskState

PYTHON = "3.11.7"
PERIOD = 30.0
THRESHOLD = 120.0


class Told(NamedTuple):
    """A message as its receiver sees it: decoded, and its payload frames."""

    message: Any
    frames: tuple[Buffer, ...] = ()


class Gone(NamedTuple):
    """The interchange let the peer go."""

    reason: str


Box: TypeAlias = list[Told | Gone]
TaskEvents: TypeAlias = dict[int, TaskEvent]
ManagerEvents: TypeAlias = dict[str, ManagerEvent]
Observed: TypeAlias = dict[str, set[tuple[Any, Any, Any]]]


def function(number: int, payload: bytes = b"") -> m.Function:
    """A function; its payload is derived from its number, so that a mixed up one is seen."""
    return m.Function(number, f"f{number}", payload or b"code of %d" % number)


def task(number: int, *, fn: int = 1, frames: int = 0, priority: int = 0, walltime: float = 0.0) -> m.Task:
    """A task; its payload is derived from its number."""
    return m.Task(number, fn, b"arguments of %d" % number, frames, priority, walltime)


def tasks(*numbers: int, **options: Any) -> list[m.Task]:
    """Several alike."""
    return [task(number, **options) for number in numbers]


def hello(name: str, **options: Any) -> m.ManagerHello:
    """How manager ``name`` introduces itself; two workers that prefetch nothing unless said otherwise."""
    workers = options.pop("workers", 2)
    fields: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "id": name,
        "host": f"host-{name}",
        "block": "0",
        "pid": 4000,
        "python": PYTHON,
        "version": "1.0",
        "workers": workers,
        "capacity": workers,
        "cores": workers,
        "memory": 1 << 30,
        "started": 0.0,
        "log": f"/logs/{name}",
    }
    return m.ManagerHello(**{**fields, **options})


_FIRST = m.Restore()
"""What an executor says to its first interchange."""


class Bench:
    """One reactor, its clock, and the peers around it. Managers are called by their names.

    Args:
        selector: makes the selector, once for managers with idle workers, once for those with room.
        restore: the executor's first message; with None it has not said it yet.
        observed: gathers the transitions of lifecycles that were seen, over several benches.
        arena: the reactor's way to read what tasks have in the executor's shared memory.
    """

    def __init__(
        self,
        selector: type[ManagerSelector] | Any = LeastLoadedSelector,
        *,
        period: float = PERIOD,
        threshold: float = THRESHOLD,
        reconnect: float | None = None,
        restore: m.Restore | None = _FIRST,
        now: float = 1000.0,
        observed: Observed | None = None,
        arena: Callable[[int, int], Sequence[Buffer]] = lambda place, task: [],
    ) -> None:
        self.now = now
        self.state = InterchangeState("run", "label", self.now, selector(), selector())
        self.reactor = InterchangeReactor(
            self.state,
            python=PYTHON,
            heartbeat_period=period,
            heartbeat_threshold=threshold,
            reconnect_seconds=reconnect,
            arena=arena,
        )
        self.peers: dict[str, int] = {}
        """each manager's last connection"""
        self.boxes: dict[int, Box] = {}
        self.logs: list[Log] = []
        self.exit: str | None = None
        self.trace: list[Action] = []
        """every action of the last step, in order"""
        self.history: list[tuple[float, Action]] = []
        """every action since the start, and when"""
        self.raw: list[Buffer] = []
        """the frames of the last message that a manager sent"""
        self.notes: dict[int, str] = {}
        """task → the manager that it was last noted to be sent to, or "" """
        self._numbers: dict[str, int] = {}
        self._sent_functions: set[int] = set()
        self._last_peer = 0
        self._known_tasks: set[int] = set()
        self._entities: dict[str, str] = {}
        """manager → its name in the watch: a manager that left may be followed by another of its id"""
        self._departed: dict[str, ManagerState] = {}
        observed = {} if observed is None else observed
        self.watched_tasks = Watch(lifecycles.TASK, self._task_states, observed.setdefault("task", set()))
        self.watched_managers = Watch(
            lifecycles.MANAGER, self._manager_states, observed.setdefault("manager", set())
        )
        if restore is not None:
            self.executor(restore)

    # ---------------------------------------------------------------------------------------------- events in

    def executor(self, message: m.FromExecutor, frames: Sequence[Buffer] = (), *, turn: bool = True) -> None:
        """The executor says something; without ``turn``, something else is said before the reactor takes its turn."""
        decoded = codec.decode_from_executor(codec.encode(message))
        before = {name: (manager.held, manager.draining) for name, manager in self.state.managers.items()}
        dropped = self.state.malformed
        waiting = set(self.state.queue.waiting)
        early = bool(self.reactor._early)
        self.reactor.executor_said(decoded, list(frames), self.now)
        tasks: TaskEvents = {}
        managers: ManagerEvents = {}
        match message:
            case m.Submit() if self.state.malformed == dropped:
                tasks = {task.id: TaskEvent.SUBMIT for task in message.tasks if task.id not in waiting}
            case m.Cancel():
                tasks = dict.fromkeys(message.tasks, TaskEvent.CANCEL)
            case m.Restore() if self.state.malformed == dropped:
                for expected in message.managers:
                    tasks |= dict.fromkeys(expected.tasks, TaskEvent.EXPECT)
                    event = ManagerEvent.EXPECT_HELD if expected.held else ManagerEvent.EXPECT
                    managers[self._entities.setdefault(expected.manager, expected.manager)] = event
            case m.Ask():
                for name, (held, draining) in before.items():
                    manager = self.state.managers[name]
                    if manager.draining and not draining:
                        managers[self._entities[name]] = ManagerEvent.DRAIN
                    elif manager.held != held:
                        managers[self._entities[name]] = (
                            ManagerEvent.HOLD if manager.held else ManagerEvent.RELEASE
                        )
        if early and self.reactor._restored:
            # Those that were early are welcome, or refused, in the same step.
            for name, peer in self.peers.items():
                self._entities.setdefault(name, name)
                if peer not in self.state.peers and name not in self.state.managers:
                    self._departed[name] = ManagerState.REFUSED
            tasks, managers = {}, {}
            self._note_what_was()
            self.watched_tasks.begin()
            self.watched_managers.begin()
        self.look(tasks, managers)
        if turn:
            self.step()

    def submit(
        self,
        tasks: Sequence[m.Task],
        frames: Sequence[Buffer] = (),
        forget: Iterable[int] = (),
        received: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """The executor submits tasks, with those of their functions that it has not sent before."""
        new = sorted({task.function for task in tasks} - self._sent_functions)
        self._sent_functions.update(new)
        self._sent_functions.difference_update(forget)
        functions = [function(number) for number in new]
        self.executor(m.Submit(list(tasks), functions, list(forget), dict(received)), frames)

    def ask(self, topic: str, subject: str = "", *, request: int = 1) -> None:
        """The executor asks."""
        self.executor(m.Ask(request, topic, subject))

    def join(self, name: str, **options: Any) -> ManagerRecord:
        """A manager introduces itself and is expected to be welcomed; what this causes is taken out of the boxes."""
        self.say_hello(name, **options)
        manager = self.state.managers[name]
        first, *rest = self.box(name)
        assert first == Told(m.Welcome(PROTOCOL_VERSION, self.reactor._period, self.reactor._threshold))
        self.boxes[manager.peer] = rest
        joined = Told(m.ManagerJoined(name, manager.host, manager.block, manager.workers))
        self.boxes[EXECUTOR].remove(joined)
        return manager

    def resume(self, name: str, **options: Any) -> m.Welcome:
        """A manager that was registered comes back, with no task unless said otherwise. Returns what it is told
        first, which is taken out."""
        self.say_hello(name, again=True, **options)
        first, *rest = self.box(name)
        assert isinstance(first, Told)
        assert isinstance(first.message, m.Welcome)
        self.boxes[self.peers[name]] = rest
        return first.message

    def say_hello(self, name: str, **options: Any) -> None:
        """A fresh peer introduces itself as manager ``name``."""
        self._last_peer += 1
        peer = self.peers[name] = self._last_peer
        said = codec.decode_hello(codec.encode(hello(name, **options)))
        assert isinstance(said, m.ManagerHello)
        known = self.state.managers.get(said.id)
        has = set() if known is None else set(self.state.owners.numbers(known))
        self.reactor.manager_said_hello(peer, said, self.now)
        record = self.state.peers.get(peer)
        tasks: TaskEvents = {}
        managers: ManagerEvents = {}
        if record is not None:
            if known is None:
                self._entities[name] = name if name not in self._entities else f"{name} over {peer}"
                self._departed.pop(self._entities[name], None)
            welcome = ManagerEvent.WELCOME_DRAINING if record.draining else ManagerEvent.WELCOME
            managers = {self._entities[name]: welcome}
            tasks = self._fates(has.difference(self.state.owners.numbers(record)), TaskEvent.MISSING)
        elif self.reactor._restored:
            managers = {f"{name} over {peer}": ManagerEvent.REFUSE}
            self._departed[f"{name} over {peer}"] = ManagerState.REFUSED
        self.look(tasks, managers)
        self.step()

    def _fates(self, numbers: Iterable[int], event: TaskEvent) -> TaskEvents:
        """The same event for all these, but for those that the executor got back."""
        handed_back = {
            number
            for action in self.reactor._actions
            if isinstance(action, Send) and isinstance(action.message, m.Returned)
            for number in action.message.tasks
        }
        return {number: TaskEvent.HANDED_BACK if number in handed_back else event for number in numbers}

    def manager(self, name: str, message: m.FromManager, frames: Sequence[Buffer] = ()) -> None:
        """A manager says something."""
        self.raw = [codec.encode(message), *frames]
        decoded = codec.decode_from_manager(self.raw[0])
        peer = self.peers[name]
        record = self.state.peers.get(peer)
        has = self.state.owners.numbers(record) if record is not None else []
        seen = record.seen if record is not None else 0
        self.reactor.manager_said(peer, decoded, self.raw, self.now)
        tasks: TaskEvents = {}
        managers: ManagerEvents = {}
        match message:
            case m.Results(tasks=ended, number=number) if not 0 < number <= seen:
                tasks = dict.fromkeys(ended, TaskEvent.RESULT)
            case m.Started(tasks=started):
                tasks = dict.fromkeys(started, TaskEvent.STARTED)
            case m.Returned(tasks=returned):
                tasks = self._fates(returned, TaskEvent.RETURNED)
            case m.Verdicts(cancelled=cancelled, refused=refused):
                tasks = dict.fromkeys(cancelled, TaskEvent.CANCELLED) | dict.fromkeys(
                    refused, TaskEvent.REFUSED
                )
            case m.Draining() if record is not None:
                managers = {self._entities[record.id]: ManagerEvent.DRAIN}
            case m.Leaving() if record is not None:
                tasks = self._fates(has, TaskEvent.LEFT)
                event = ManagerEvent.FAIL if message.failed else ManagerEvent.LEAVE
                managers = {self._entities[record.id]: event}
        self.look({number: event for number, event in tasks.items() if number in has}, managers)
        self.step()

    def results(
        self,
        name: str,
        *numbers: int,
        capacity: int | None = None,
        busy: float = 0.0,
        number: int | None = None,
        waiting: bool = False,
    ) -> None:
        """A manager reports that these tasks returned, in its next message of results unless ``number`` is given."""
        manager = self.state.managers.get(name)
        if capacity is None:
            capacity = manager.capacity if manager is not None else 0
        if number is None:
            number = self._numbers.get(name, 0) + 1
        self._numbers[name] = max(number, self._numbers.get(name, 0))
        message = m.Results(
            name,
            capacity,
            list(numbers),
            bytes(len(numbers)),
            [0] * len(numbers),
            {},
            busy,
            number,
            waiting,
        )
        self.manager(name, message, [codec.encode([b"value of %d" % number for number in numbers])])

    def close(
        self, name: str, reason: str = "closed", *, gone: bool = True, given: set[int] | None = None
    ) -> None:
        """A peer's connection ends, and, if ``gone``, its process with it; ``given`` is what its notes say."""
        peer = self.peers[name]
        record = self.state.peers.get(peer)
        gone = gone or (record is not None and bool(record.died))
        lost = self.state.owners.numbers(record) if record is not None and gone else []
        managers: ManagerEvents = {}
        if record is not None:
            managers = {self._entities[record.id]: ManagerEvent.CLOSE if gone else ManagerEvent.CUT}
        self.reactor.peer_left(peer, reason, self.now, gone=gone, given=given)
        events = {
            task: TaskEvent.LOST if given is None or task in given else TaskEvent.RETURNED for task in lost
        }
        self.look(events, managers)
        self.step()

    def die(self, name: str, reason: str = "killed by signal 9", given: list[int] | None = None) -> int:
        """A manager's node tells that its process is gone, and what its notes say. Returns the number of the peer that
        said so."""
        self._last_peer += 1
        said = codec.decode_hello(codec.encode(m.ManagerDied(PROTOCOL_VERSION, name, reason, given)))
        assert isinstance(said, m.ManagerDied)
        record = self.state.managers.get(name)
        self.reactor.manager_died(self._last_peer, said, self.now)
        tasks: TaskEvents = {}
        managers: ManagerEvents = {}
        if record is not None and record.peer == ABSENT and self.reactor._restored:
            gone = self._known_tasks - self.state.owners.keys()
            tasks = {
                task: TaskEvent.LOST if given is None or task in given else TaskEvent.RETURNED
                for task in gone
            }
            managers = {self._entities[name]: ManagerEvent.DIED}
        self.look(tasks, managers)
        self.step()
        return self._last_peer

    def observe(self, peer: int, ask: m.Ask) -> None:
        """A peer that is no manager asks."""
        self.reactor.observer_said(peer, ask, self.now)
        self.step()

    def tick(self, seconds: float) -> None:
        """Time passes; the reactor is woken at each of its deadlines, as a shell would."""
        end = self.now + seconds
        while True:
            deadline = self.reactor.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.step()
        self.now = end
        self.step()

    def step(self) -> None:
        """The reactor takes its turn, and the state is checked before and after."""
        said = len(self.reactor._actions)
        open_ = [manager for manager in self.state.managers.values() if not manager.draining]
        self.trace = self.reactor.turn(self.now)
        tasks: TaskEvents = {}
        managers: ManagerEvents = {
            self._entities[manager.id]: ManagerEvent.DRAIN for manager in open_ if manager.draining
        }
        for action in self.trace[said:]:
            match action:
                case Send(message=m.PackedAssign(tasks=assigned)):
                    tasks |= dict.fromkeys([task.id for task in assigned], TaskEvent.ASSIGN)
                case Send(message=m.Lost(tasks=lost)):
                    tasks |= dict.fromkeys(lost, TaskEvent.LOST)
                case Send(message=m.ManagerLeft(manager=name)):
                    managers[self._entities[name]] = ManagerEvent.SILENCE
        self.look(tasks, managers)
        for action in self.trace:
            self.history.append((self.now, action))
            self._file(action)
        for number, owner in self.state.owners.items():
            assert self.notes.get(number) == owner.id, f"it is not noted that {owner.id} has task {number}"

    def look(self, tasks: TaskEvents, managers: ManagerEvents) -> None:
        """Check the state, and what became of tasks and managers to which these events happened."""
        self.state.sanity_check()
        limited = sum(manager.ends_at != math.inf for manager in self.state.managers.values())
        assert self.reactor._limited == limited, "it knows whether anybody's time is limited"
        deadline = self.reactor.next_deadline()
        for manager in self.state.managers.values():
            assert deadline is not None and deadline <= manager.watched, "somebody watches it"
        assert not self.state.untold or self.reactor._acknowledge_at < math.inf, "they are told before long"
        self._note_what_was()
        self.watched_tasks.look(tasks)
        self.watched_managers.look(managers)

    def _note_what_was(self) -> None:
        for action in self.reactor._actions or self.trace:
            match action:
                case Send(message=m.ManagerLeft(manager=name, lost=lost)):
                    key = self._entities[name]
                    self._departed[key] = ManagerState.LOST if lost else ManagerState.LEFT
        self._known_tasks.update(self.state.queue.waiting, self.state.owners)

    def _task_states(self) -> Mapping[int, TaskState]:
        return {number: self._task_state(number) for number in self._known_tasks}

    def _task_state(self, number: int) -> TaskState:
        if number in self.state.queue:
            return TaskState.QUEUED
        owner = self.state.owners.get(number)
        if owner is None:
            return TaskState.SETTLED
        cancelling = number in self.state.cancelling
        if number in (owner.running or ()):
            return TaskState.RUNNING_CANCELLING if cancelling else TaskState.RUNNING
        return TaskState.ASSIGNED_CANCELLING if cancelling else TaskState.ASSIGNED

    def _manager_states(self) -> Mapping[str, ManagerState]:
        states = dict(self._departed)
        for name, manager in self.state.managers.items():
            kind = "DRAINING" if manager.draining else "HELD" if manager.held else "OPEN"
            if manager.peer == ABSENT:
                kind = "ABSENT" if kind == "OPEN" else f"ABSENT_{kind}"
            states[self._entities[name]] = ManagerState[kind]
        return states

    def _file(self, action: Action) -> None:
        match action:
            case Note(manager=name, tasks=noted):
                self.notes.update(dict.fromkeys(noted, name))
            case Send(peer=peer, message=message, frames=frames):
                if isinstance(message, m.PackedAssign):
                    message = m.Assign(message.tasks, message.functions, message.forget, message.received)
                    for task in message.tasks:
                        assert self.peers[self.notes[task.id]] == peer, "it is noted before it is sent"
                header = codec.encode(message)
                decoded = self._decode(peer, message, header)
                assert decoded == message
                self.boxes.setdefault(peer, []).append(Told(decoded, tuple(frames)))
            case Forward(peer=peer, frames=frames):
                assert peer == EXECUTOR, "only an executor is sent what managers said"
                self.boxes.setdefault(peer, []).append(
                    Told(codec.decode_to_executor(frames[0]), tuple(frames[1:]))
                )
            case Disconnect(peer=peer, reason=reason):
                self.boxes.setdefault(peer, []).append(Gone(reason))
            case Exit(reason=reason):
                assert self.exit is None, "it ends once"
                self.exit = reason
            case Log():
                self.logs.append(action)

    def _decode(self, peer: int, message: m.Message, header: bytes) -> Any:
        if isinstance(message, m.Welcome | m.Refused):
            return codec.decode_greeting(header)
        # An observer, as the executor, is sent answers.
        return (codec.decode_to_executor if peer not in self.peers.values() else codec.decode_to_manager)(
            header
        )

    # ---------------------------------------------------------------------------------------------- what came

    def box(self, name: str) -> Box:
        """What lies there for a manager, or for ``"executor"``; it stays there."""
        return self.boxes.get(EXECUTOR if name == "executor" else self.peers[name], [])

    def told(self, name: str) -> list[Any]:
        """What a manager, or ``"executor"``, was told since the last look, frames left out; it is taken out."""
        peer = EXECUTOR if name == "executor" else self.peers[name]
        return [entry.message if isinstance(entry, Told) else entry for entry in self.boxes.pop(peer, [])]

    def told_with_frames(self, name: str) -> Box:
        """As `told`, with the frames."""
        return self.boxes.pop(EXECUTOR if name == "executor" else self.peers[name], [])

    def assigned(self, name: str) -> list[int]:
        """The tasks that a manager was assigned since the last look, and nothing else was said to it."""
        told = self.told(name)
        assert all(isinstance(message, m.Assign) for message in told), told
        return [task.id for message in told for task in message.tasks]

    def answer(self, *, request: int = 1) -> bytes:
        """The payload of the only thing that the executor was told: an answer."""
        (message,) = self.told("executor")
        assert isinstance(message, m.Answer)
        assert message.request == request
        assert not message.error
        return message.payload

    def logged(self, level: str) -> list[str]:
        """What was logged at this level since the last look; it is taken out."""
        found = [log.text for log in self.logs if log.level == level]
        self.logs = [log for log in self.logs if log.level != level]
        return found

    def emptiness_check(self) -> None:
        """Nothing was sent, logged as a warning or an error, or ended that the test did not take out."""
        left = {peer: box for peer, box in self.boxes.items() if box}
        assert not left, f"unexpected, by peer: {left}"
        unexpected = [log for log in self.logs if log.level != "INFO"]
        assert not unexpected, f"unexpected in the log: {unexpected}"
        assert self.exit is None, f"unexpected exit: {self.exit}"

    def waiting(self) -> list[int]:
        """The tasks that wait at the interchange, in no order."""
        return sorted(self.state.queue.waiting)
