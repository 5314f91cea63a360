"""A node for the manager's reactor: events in, one by one, and every action looked at.

A `Node` has the reactor, its clock, and workers that obey the claim protocol of `protocol.bundles` in steps that a
test chooses: to begin a task (claim it), to end it (write its record), to find its bundle taken back, to die. What a
worker wrote is seen by the reactor when the test says that it is read, and its death when it is reaped, as both may
come late. The node performs the reactor's actions as the shell does: `Revoke` and `Look` are answered within the turn,
and the reactor takes its turn again until nothing is left to do. Its connection breaks and comes back when the test
says so, and results are acknowledged when the test says so.

Everything that happens is a line of the trace, such as ``give w0: 1 2 +f1``; the test takes the lines out, and
`emptiness_check` fails where something was done that no test asked about. Every message is encoded and decoded as its
receiver would decode it, and the state checks itself after every event.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from throughway.manager.actions import (
    Action,
    Exit,
    Give,
    Kill,
    Log,
    Look,
    ReportPackages,
    Revoke,
    Start,
    Tell,
)
from throughway.manager.reactor import Link, ManagerReactor
from throughway.manager.state import ManagerState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.protocol.views import Explanation
from throughway.transport.records import Record

PERIOD = 30.0
THRESHOLD = 120.0
TINY = 2.0**-16
"""How long a tiny task takes, in seconds: 15 µs, and as many of them as you like are summed without rounding."""

BUNDLE = 56
"""Tiny tasks in a bundle of a millisecond, with an overhead of 2.5 µs each."""

LATE = 1e-6
"""How late a shell wakes up, in seconds."""

_SPEC = re.compile(
    r"(?P<id>\d+)(?::f(?P<fn>\d+))?(?:~(?P<walltime>[\d.]+))?(?:!(?P<priority>-?\d+))?(?:\+(?P<frames>-?\d+))?"
)


def task(spec: int | str) -> m.Task:
    """A task from a number, or from a text such as ``7:f2~1.5!3+2``: function 2, walltime 1.5 s, priority 3, two large
    frames; ``+-9`` is the ninth place in shared memory. Its payload is derived from its number, so that a mixed up one
    is seen."""
    found = _SPEC.fullmatch(str(spec))
    assert found, f"{spec!r} is no task"
    number = int(found["id"])
    return m.Task(
        number,
        int(found["fn"] or 1),
        b"arguments of %d" % number,
        int(found["frames"] or 0),
        int(found["priority"] or 0),
        float(found["walltime"] or 0.0),
    )


def function(number: int) -> m.Function:
    """A function; its payload is derived from its number."""
    return m.Function(number, f"f{number}", b"code of %d" % number)


def frames_of(task: m.Task) -> list[bytes]:
    """The large frames of a task, derived from its number."""
    return [b"frame %d of %d" % (index, task.id) for index in range(task.frames)]


def span(tasks: Iterable[int]) -> str:
    """``1-4 7`` for 1, 2, 3, 4 and 7: runs of three or more, up or down, are shortened."""
    runs: list[list[int]] = []
    for number in tasks:
        run = runs[-1] if runs else [number]
        step = number - run[-1]
        if runs and (step in (1, -1) if len(run) == 1 else step == run[1] - run[0]):
            run.append(number)
        else:
            runs.append([number])
    words = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return " ".join(word for run in words for word in run)


class FakeWorker:
    """A worker that obeys the claim protocol, one step at a time."""

    def __init__(self, number: int, slot: int, max_tasks: int | None) -> None:
        self.number = number
        self.slot = slot
        self.claims = 0
        self.inbox: deque[tuple[Give, deque[tuple[m.Task, list[bytes]]]]] = deque()
        """bundles in the pipe, with what is left of each; the first is being worked through"""
        self.running: m.Task | None = None
        self.unread: list[Record] = []
        self.known: dict[int, m.Function] = {}
        self.left = max_tasks
        self.status: int | None = None
        """how it ended, as `os.waitpid` says it; None while it lives"""
        self.ran: list[int] = []
        self._opened = False

    @property
    def alive(self) -> bool:
        return self.status is None

    def write(
        self, task: int, outcome: int, payload: bytes = b"", seconds: float = TINY, frames: int = 0
    ) -> None:
        """Write a record, honest or not."""
        large = [b"result %d of %d" % (index, task) for index in range(frames)]
        self.unread.append(Record(task, outcome, seconds, payload, large))

    def can_step(self) -> bool:
        """Whether there is something for it to do by itself."""
        return self.alive and (self.running is not None or bool(self.inbox))

    def step(self) -> str:
        """Do the next thing: begin a task, end it, or drop a bundle. Returns what it was."""
        return self.end() if self.running is not None else self.begin()

    def begin(self) -> str:
        """Claim the next task of the bundles that it has, or find the first bundle taken back."""
        assert self.alive and self.running is None and self.inbox, (
            f"worker {self.number} has nothing to begin"
        )
        give, rest = self.inbox[0]
        if not self._opened:
            self._opened = True
            self.known.update((function.id, function) for function in give.functions)
            for number in give.forget:
                self.known.pop(number, None)
        if not self.claims:
            self.write(0, Mark.DISCARDED, seconds=0.0)
            dropped = [task.id for task, _ in rest]
            self._bundle_over()
            return f"discards {span(dropped)}"
        self.claims -= 1
        self.running, frames = rest.popleft()
        assert self.running.function in self.known, (
            f"worker {self.number} was not sent function {self.running.function}"
        )
        assert frames == frames_of(self.running), "each task gets its own frames"
        self.ran.append(self.running.id)
        if self.left is not None:
            self.left -= 1
        return f"begins {self.running.id}"

    def end(self, outcome: int = m.Outcome.VALUE, seconds: float = TINY, frames: int = 0) -> str:
        """End the task that runs: its record is in the pipe, and not read yet."""
        assert self.alive and self.running is not None, f"worker {self.number} runs nothing"
        ended = self.running.id
        self.write(ended, outcome, b"value of %d" % ended, seconds, frames)
        self.running = None
        if not self.inbox[0][1]:
            self._bundle_over()
        return f"ends {ended}"

    def _bundle_over(self) -> None:
        self.inbox.popleft()
        self._opened = False
        if self.left is not None and self.left <= 0:
            self.status = 0


class Node:
    """One reactor, its clock and its workers.

    Args:
        slots: how many workers.
        ready: whether they are started and ready at once, and that is left out of the trace.
        connected: whether it is registered at once, and that is left out of the trace.
        options: the reactor's.
    """

    def __init__(self, slots: int = 1, *, ready: bool = True, connected: bool = True, **options: Any) -> None:
        self.now = 1000.0
        self.state = ManagerState("m1", "node1", "0", "/logs", slots)
        self.max_tasks = options.get("max_tasks_per_child")
        options.setdefault("heartbeat_period", PERIOD)
        options.setdefault("heartbeat_threshold", THRESHOLD)
        self.reactor = ManagerReactor(self.state, now=self.now, **options)
        self.workers: dict[int, FakeWorker] = {}
        """those that are not reaped"""
        self.trace: list[str] = []
        self.told: list[m.Message] = []
        """every message to the interchange"""
        self.reported: dict[int, m.Results] = {}
        """every message of results, by its number"""
        self.losses: dict[int, m.Loss] = {}
        self.outcomes: dict[int, m.Outcome] = {}
        """task → its outcome, of those that were reported"""
        self.actions: list[Action] = []
        """every action"""
        self.before: Callable[[Action], None] = lambda action: None
        """called before each action is performed: where a test lets a worker do something in between"""
        self._sent_functions: set[int] = set()
        self._checked = True
        self._over = False
        self._perform(self.reactor.start())
        if connected:
            started = len(self.trace)
            self.hello()
            self.welcome()
            del self.trace[started:]
        if ready:
            for number in list(self.workers):
                self.get_ready(number)
            self.take()

    # ------------------------------------------------------------------------------------------------ the connection

    def hello(self) -> m.ManagerHello:
        """A connection stands, and the manager says who it is and what it has."""
        bare = m.ManagerHello(
            PROTOCOL_VERSION, "m1", "node1", "0", 4000, "3.11.7", "1.0", self.state.slots, 0, 1, 0, 0.0
        )
        hello = self.reactor.hello(bare)
        assert codec.decode_hello(codec.encode(hello)) == hello
        words = [f"capacity {hello.capacity}"]
        words += [f"held {span(hello.held)}"] * bool(hello.held)
        words += [f"ended #{number}: {span(tasks)}" for number, tasks in hello.ended]
        words += [f"functions {span(sorted(hello.functions))}"] * bool(hello.functions)
        words += [f"drains: {hello.draining}"] * (hello.draining is not None)
        self.trace.append(f"hello{' again' * hello.again}; {'; '.join(words)}")
        self._check()
        return hello

    def welcome(self, received: int = 0, seen: int | None = None) -> list[str]:
        """The interchange welcomes it: the executor has results up to one number, the interchange up to another."""
        welcome = m.Welcome(
            PROTOCOL_VERSION,
            self.reactor._period,
            self.reactor._threshold,
            received,
            received if seen is None else seen,
        )
        assert codec.decode_greeting(codec.encode(welcome)) == welcome
        self.reactor.welcomed(welcome, self.now)
        return self.turn()

    def disconnect(self, reason: str = "reset") -> list[str]:
        """The connection to the interchange ends, and the reactor takes its turn."""
        self.reactor.interchange_left(reason)
        return self.turn()

    def acknowledge(self, number: int | None = None) -> list[str]:
        """The executor has results up to this number, or all."""
        return self.say(m.Acknowledged(max(self.reported, default=0) if number is None else number))

    # ------------------------------------------------------------------------------------------- from the interchange

    def said(self, message: m.ToManager, frames: Sequence[bytes] = ()) -> None:
        """The interchange says something; the reactor's turn comes later."""
        self.reactor.interchange_said(codec.decode_to_manager(codec.encode(message)), list(frames), self.now)

    def say(self, message: m.ToManager, frames: Sequence[bytes] = ()) -> list[str]:
        """The interchange says something, and the reactor takes its turn."""
        self.said(message, frames)
        return self.turn()

    def assignment(
        self, specs: Iterable[int | str | m.Task], forget: Iterable[int] = ()
    ) -> tuple[m.Assign, list[bytes]]:
        """The message with these tasks and those of their functions that were not sent before; and its frames."""
        tasks = [spec if isinstance(spec, m.Task) else task(spec) for spec in specs]
        new = sorted({one.function for one in tasks} - self._sent_functions)
        self._sent_functions.update(new)
        forgotten = list(forget)
        self._sent_functions.difference_update(forgotten)
        frames = [frame for one in tasks for frame in frames_of(one)]
        return m.Assign(tasks, [function(number) for number in new], forgotten), frames

    def assign(self, *specs: int | str | m.Task, forget: Iterable[int] = ()) -> list[str]:
        """Tasks come, and the reactor takes its turn."""
        return self.say(*self.assignment(specs, forget))

    def cancel(self, *tasks: int, kill: bool = False) -> list[str]:
        """The interchange cancels tasks, and the reactor takes its turn."""
        return self.say(m.Cancel(list(tasks), kill))

    def explain(self, task: int) -> Explanation:
        """What the reactor answers when it is asked where a task is."""
        self.said(m.Ask(1, "explain", str(task)))
        (answer,) = [action.message for action in self.reactor._actions if isinstance(action, Tell)]
        self.reactor._actions.clear()
        assert isinstance(answer, m.Answer)
        return explanation_of(answer)

    # ---------------------------------------------------------------------------------------------- from the workers

    def get_ready(self, number: int) -> list[str]:
        """A worker says that it is ready, and that is read."""
        self.workers[number].write(0, Mark.READY, seconds=0.0)
        return self.read(number)

    def begin(self, number: int = 0) -> None:
        """A worker claims its next task, or finds the first of its bundles taken back."""
        self.trace.append(f"w{number} {self.workers[number].begin()}")

    def end(self, number: int = 0, **how: Any) -> None:
        """A worker's task ends; see `FakeWorker.end`."""
        self.trace.append(f"w{number} {self.workers[number].end(**how)}")

    def read(self, number: int = 0) -> list[str]:
        """The bell of a worker rings: what it wrote is read, and the reactor takes its turn."""
        self._read(number)
        return self.turn()

    def _read(self, number: int) -> None:
        worker = self.workers[number]
        if worker.unread:
            records, worker.unread = worker.unread, []
            self.reactor.records_came(number, records, self.now)

    def die(self, number: int = 0, status: int = 9) -> None:
        """A worker's process ends; nobody has noticed yet. ``status`` is that of `os.waitpid`."""
        self.workers[number].status = status
        self.trace.append(f"w{number} dies")

    def reap(self, number: int = 0, stderr: str = "") -> list[str]:
        """The end of a worker is noticed, and the reactor takes its turn."""
        worker = self.workers.pop(number)
        assert worker.status is not None, f"worker {number} lives"
        records, worker.unread = worker.unread, []
        self.reactor.records_came(number, records, self.now)
        log = self.state.worker_log(worker.slot)
        self.reactor.worker_ended(number, worker.status, worker.claims, stderr, log, self.now)
        return self.turn()

    def refuse(self, number: int = 0, reason: str = "Resource temporarily unavailable") -> list[str]:
        """A worker that was to start was not: there is no process, and the reactor takes its turn."""
        del self.workers[number]
        self.reactor.worker_not_started(number, reason, self.now)
        return self.turn()

    def lose_zygote(self) -> list[str]:
        """What forks the workers is killed, and all of them with it; then the reactor takes its turn."""
        dead = list(self.workers.values())
        for worker in dead:
            if worker.alive:
                worker.status = 9
            records, worker.unread = worker.unread, []
            self.reactor.records_came(worker.number, records, self.now)
        self.reactor.zygote_ended()
        for worker in dead:
            del self.workers[worker.number]
            log = self.state.worker_log(worker.slot)
            self.reactor.worker_ended(worker.number, 9, worker.claims, "", log, self.now)
        return self.turn()

    def finish(self, *, seconds: float = TINY) -> None:
        """All workers work, and all they write is read, until nothing is left to do."""
        while busy := [worker for worker in self.workers.values() if worker.can_step() or worker.unread]:
            for worker in busy:
                if worker.can_step():
                    did = worker.begin() if worker.running is None else worker.end(seconds=seconds)
                    self.trace.append(f"w{worker.number} {did}")
                else:
                    self.read(worker.number)
            self._reap_the_dead()

    def _reap_the_dead(self) -> None:
        for worker in [worker for worker in self.workers.values() if not worker.alive]:
            self.reap(worker.number)
        for worker in list(self.workers.values()):
            if not self.state.workers[worker.number].ready:
                self.get_ready(worker.number)

    def learn(self) -> None:
        """Run tiny tasks, until the manager knows how long they take and gives `BUNDLE` of them at once. Their results
        are acknowledged."""
        number = 1_000_000
        self._checked = False  # for its time
        while self.reactor._bundle_guess <= BUNDLE // 2:
            first, number = number, number + 4 * BUNDLE * self.state.slots
            self.assign(*range(first, number))
            self.finish()
        # Whoever ended last would be given work first: what follows should not hang on that.
        self.state.idle = dict(sorted(self.state.idle.items()))
        self._checked = True
        self._check()
        self.acknowledge()
        self.take()

    def _check(self) -> None:
        if self._checked:
            self.state.sanity_check()
            self.reactor.sanity_check()

    # ----------------------------------------------------------------------------------------------------- the clock

    def pass_time(self, seconds: float) -> list[str]:
        """Time passes; the reactor is woken at each of its deadlines, as the shell would."""
        end = self.now + seconds
        while (deadline := self.reactor.next_deadline()) <= end and not self.exited:
            self.now = max(self.now, deadline + LATE)
            self.turn()
        self.now = max(self.now, end)
        return self.turn()

    @property
    def exited(self) -> bool:
        """Whether the process has ended: nothing happens any more."""
        return self._over

    def turn(self) -> list[str]:
        """The reactor takes its turn, again and again until it has nothing to do. Returns the trace so far."""
        self._check()
        while not self._over and (actions := self.reactor.turn(self.now)):
            self._perform(actions)
        self._check()
        return self.trace

    def take(self) -> list[str]:
        """The trace so far, which is taken out."""
        taken, self.trace = self.trace, []
        return taken

    def emptiness_check(self) -> None:
        """Fail where something happened that the test did not look at."""
        assert self.trace == [], "the test did not look at this"

    # ------------------------------------------------------------------------------------------------------- actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            self._check()
            self.before(action)
            self.actions.append(action)
            match action:
                case Tell(message=message, frames=frames) if self.reactor.link is Link.DOWN:
                    # It was said in the turn in which the connection ended.
                    assert not isinstance(message, m.Results | m.Returned), "nobody takes it"
                    self.trace.append(f"in vain: {describe(message, frames)}")
                case Tell(message=message, frames=frames):
                    assert self.reactor.link is Link.UP, "nothing is said before the welcome"
                    assert codec.decode_from_manager(codec.encode(message)) == message
                    self.told.append(message)
                    again = isinstance(message, m.Results) and message.number in self.reported
                    if isinstance(message, m.Results):
                        self._note_results(message, frames)
                    self.trace.append("again: " * again + describe(message, frames))
                case Give():
                    self._give(action)
                case Revoke(worker=number, limit=count):
                    self._revoke(number, count)
                case Look(worker=number):
                    self.trace.append(f"look w{number}")
                    if number in self.workers:
                        self._read(number)
                    self.reactor.looked(number, self.now)
                case Kill(worker=number):
                    self.trace.append(f"kill w{number}")
                    if number in self.workers and self.workers[number].alive:
                        self.workers[number].status = 9
                case Start(worker=number, slot=slot):
                    self.workers[number] = FakeWorker(number, slot, self.max_tasks)
                    self.trace.append(f"start w{number} in slot {slot}")
                case ReportPackages(request=request):
                    self.trace.append(f"report packages for request {request}")
                case Exit(reason=reason, status=status):
                    self._over = True
                    self.trace.append(f"exit {status}: {reason}")
                case Log(level=level, text=text):
                    self.trace.append(f"log {level}: {text}")
        self._check()

    def _give(self, give: Give) -> None:
        worker = self.workers[give.worker]
        worker.claims += len(give.tasks)
        rest: deque[tuple[m.Task, list[bytes]]] = deque()
        at = 0
        for one in give.tasks:
            count = max(0, one.frames)
            rest.append((one, [bytes(frame) for frame in give.frames[at : at + count]]))
            at += count
        assert at == len(give.frames), "all frames belong to tasks"
        worker.inbox.append((give, rest))
        extra = "".join(
            [f" +f{function.id}" for function in give.functions] + [f" -f{number}" for number in give.forget]
        )
        self.trace.append(f"give w{give.worker}: {span(task.id for task in give.tasks)}{extra}")

    def _revoke(self, number: int, count: int) -> None:
        worker = self.workers.get(number)
        if worker is None:
            self.trace.append(f"revoke {count} of w{number}, which is gone")
            return
        taken = min(count, worker.claims)
        worker.claims -= taken
        self.trace.append(f"revoke {count} of w{number}: {taken} came back")
        self.reactor.revoked(number, taken, self.now)

    def _note_results(self, message: m.Results, frames: Sequence[Any]) -> None:
        payloads = codec.decode_result_body(frames[0])
        assert len(message.tasks) == len(message.outcomes) == len(message.workers) == len(payloads)
        assert sum(message.frames.values()) == len(frames) - 1
        if message.number in self.reported:
            assert self.reported[message.number] == message, "what is said again is the same"
            return
        assert message.number == 1 + max(self.reported, default=0), "messages of results are counted"
        self.reported[message.number] = message
        for number, outcome, payload in zip(message.tasks, message.outcomes, payloads, strict=True):
            assert number not in self.outcomes, f"task {number} has two outcomes"
            self.outcomes[number] = m.Outcome(outcome)
            if outcome >= m.Outcome.WORKER_LOST:
                self.losses[number] = codec.decode_loss(payload)


def explanation_of(answer: m.Answer) -> Explanation:
    """What an answer to an ``explain`` says."""
    import msgspec

    return msgspec.msgpack.decode(answer.payload, type=Explanation)


def describe(message: m.Message, frames: Sequence[Any] = ()) -> str:
    """A message to the interchange as one line of the trace."""
    match message:
        case m.Results(tasks=tasks, outcomes=outcomes, workers=workers, frames=counts):
            capacity = f"{message.capacity}{', waits' * message.waiting}"
            plain = not counts and set(outcomes) == {m.Outcome.VALUE} and len(set(workers)) == 1
            if plain and len(tasks) > 2:
                return f"results {span(tasks)} @{workers[0]}; capacity {capacity}"
            words = []
            for index, (number, outcome, worker) in enumerate(zip(tasks, outcomes, workers, strict=True)):
                name = "" if outcome == m.Outcome.VALUE else f"={m.Outcome(outcome).name.lower()}"
                large = f"+{counts[index]}" if index in counts else ""
                words.append(f"{number}{name}{large}@{worker}")
            return f"results {' '.join(words)}; capacity {capacity}"
        case m.Started(tasks=tasks, workers=workers):
            return "started " + " ".join(
                f"{number}@{worker}" for number, worker in zip(tasks, workers, strict=True)
            )
        case m.Verdicts(cancelled=cancelled, refused=refused):
            parts = [f"cancelled {span(cancelled)}"] * bool(cancelled) + [f"refused {span(refused)}"] * bool(
                refused
            )
            return "verdicts: " + ", ".join(parts)
        case m.Returned(tasks=tasks, capacity=capacity):
            return f"returned {span(tasks)}; capacity {capacity}"
        case m.Draining(reason=reason):
            return f"draining: {reason}"
        case m.Leaving(reason=reason):
            return f"leaving: {reason}"
        case m.Heartbeat():
            return "heartbeat"
        case m.Broken(reason=reason, record=record):
            return f"broken: {reason} ({record.decode()})"
        case m.Answer():
            found = explanation_of(message)
            where = f"{found.state}; waits for: {found.waits_for or 'nothing'}; ahead: {found.ahead}"
            return f"answer {message.request}: {where}; worker {found.worker}; seconds {found.seconds}"
        case _:
            raise AssertionError(f"a manager does not send {type(message).__name__}")
