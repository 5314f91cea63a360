"""What is fuzzed: decoding, and the reactors with messages that make no sense, in any order.

Nothing that a peer says may raise out of a reactor: that would end a process, and with it the work of all others.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzzing.maker import FUNCTIONS, PYTHON, Bytes, Maker, Source
from throughway.errors import ProtocolError
from throughway.executors.actions import Notify
from throughway.executors.reactor import ExecutorReactor
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import RandomSelector
from throughway.interchange.state import InterchangeState
from throughway.manager.actions import Exit, Give, Kill, Look, Revoke, Start
from throughway.manager.reactor import ManagerReactor
from throughway.manager.state import ManagerState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.serialize.exceptions import unpack_exception
from throughway.transport.framing import Unframer, preamble
from throughway.transport.records import Record

STEPS = 60
DECODERS: tuple[Callable[[bytes], Any], ...] = (
    codec.decode_from_executor,
    codec.decode_from_manager,
    codec.decode_hello,
    codec.decode_greeting,
    codec.decode_to_manager,
    codec.decode_to_executor,
    codec.decode_result_body,
    codec.decode_loss,
)


def decode(data: bytes) -> None:
    """Every decoder of headers takes any bytes, or says that they are no message."""
    for decoder in DECODERS:
        try:
            message = decoder(data)
        except ProtocolError:
            continue
        codec.encode(message)
    unpack_exception(data)


def frame(data: bytes) -> None:
    """A stream of any bytes, in pieces of any size: messages come out, or a `ProtocolError`; memory stays bounded."""
    source = Bytes(data)
    limit = 1 << 16
    unframer = Unframer(limit)
    if source.choose(2):
        data = preamble([data[:10], data]) + data[:10] + data
    at = 0
    held = 0
    try:
        while at < len(data):
            size = 1 + source.choose(600)
            piece = data[at : at + size]
            if unframer.direct is not None:
                count = min(len(piece), len(unframer.direct))
                unframer.direct[:count] = piece[:count]
                messages = unframer.fed(count)
            else:
                count = len(piece)
                messages = unframer.feed(bytes(piece))
            at += count
            held += sum(sum(map(len, message)) for message in messages)
            assert held <= len(data)
            if unframer.direct is not None:
                assert len(unframer.direct) <= limit
    except ProtocolError:
        pass


class Clock:
    """Time that passes by the source's leave."""

    def __init__(self, source: Source) -> None:
        self.now = 1000.0
        self._source = source

    def tick(self) -> float:
        self.now += (0.0, 0.0, 0.001, 0.1, 3.0, 20.0)[self._source.choose(6)]
        return self.now


class Future:
    """What the executor's reactor must know of a future."""

    def __init__(self, task: m.Task, retries: int) -> None:
        self._task = task
        self._entry = Entry()
        self._frames: Sequence[Any] = [memoryview(b"frame")] * task.frames
        self._retries = retries
        self.outcome: str | None = None

    def _end(self, outcome: str) -> None:
        assert self.outcome is None, f"task {self._task.id} has two outcomes: {self.outcome} and {outcome}"
        self.outcome = outcome

    def _set_running(self) -> None:
        pass

    def _set_value(self, value: Any) -> None:
        self._end("value")

    def _set_plainly(self, value: Any) -> bool:
        self._set_value(value)
        return True

    def _set_error(self, error: BaseException) -> None:
        self._end("error")

    def _set_cancelled(self) -> None:
        self._end("cancelled")

    def done(self) -> bool:
        return self.outcome is not None


class Entry:
    """A function, as a future holds it."""

    function = m.Function(1, "f", b"")


def executor(source: Source) -> None:
    """The executor's reactor, with an interchange that says anything."""
    make = Maker(source)
    clock = Clock(source)
    reactor = ExecutorReactor(list, heartbeat_period=10.0, heartbeat_threshold=30.0)
    ids = itertools.count()
    futures: list[Future] = []
    for _ in range(STEPS):
        now = clock.tick()
        match source.choose(8):
            case 0 | 1:
                task = m.Task(next(ids), 1, b"", source.choose(2))
                futures.append(Future(task, source.choose(3)))
                reactor.add(futures[-1])
            case 2:
                reactor.submission()
            case 3:
                reactor.cancel([make.task()], None if source.choose(2) else lambda cancelled: None)
            case 4:
                reactor.ask("status", "", lambda answer: None)
            case _:
                message = make.message(m.ToExecutor)
                frames = make.body(len(message.tasks)) if isinstance(message, m.Results) else make.frames()
                reactor.interchange_said(message, frames, now)
        reactor.turn(now)
        for action in reactor.actions():
            assert not isinstance(action, Notify), "nobody observes"
        reactor.next_deadline()
    reactor.close()
    assert all(future.done() for future in futures), "every future completes"


def interchange(source: Source) -> None:
    """The interchange's reactor, with an honest executor, and managers and observers that say anything."""
    make = Maker(source)
    clock = Clock(source)
    state = InterchangeState("run", "label", clock.now, RandomSelector(), RandomSelector())
    reactor = InterchangeReactor(state, python=PYTHON, heartbeat_period=10.0, heartbeat_threshold=30.0)
    ids = itertools.count()
    peers = itertools.count(1)
    known: deque[int] = deque([0], maxlen=4)
    reactor.executor_said(m.Restore(), (), clock.now)
    sent: set[int] = set()
    for _ in range(STEPS):
        now = clock.tick()
        match source.choose(10):
            case 0 | 1:
                known.append(next(peers))
                hello = make.struct(m.ManagerHello)
                # What it says wrongly of the functions that it knows harms itself alone.
                hello.functions = list(range(FUNCTIONS))
                reactor.manager_said_hello(known[-1], hello, now)
            case 2 | 3:
                function = source.choose(3)
                tasks = [
                    m.Task(next(ids), function, b"", 0, source.choose(2), (0, 0, 60)[source.choose(3)])
                    for _ in range(source.choose(4))
                ]
                functions = [] if function in sent else [m.Function(function, "f", b"")]
                sent.add(function)
                reactor.executor_said(m.Submit(tasks, functions), (), now)
            case 4:
                message = make.struct(make.pick((m.Cancel, m.Acknowledge, m.Heartbeat)))
                reactor.executor_said(message, (), now)
            case 5:
                reactor.peer_left(make.pick(known), "gone", now)
            case 6:
                reactor.observer_said(99, make.struct(m.Ask), now)
            case _:
                message = make.message(m.FromManager)
                raw = [codec.encode(message), *make.frames()]
                reactor.manager_said(make.pick(known), message, raw, now)
        reactor.turn(now)
        reactor.next_deadline()
        state.sanity_check()


def honest(message: m.Assign, state: ManagerState) -> list[bytes]:
    """Make an assignment one that fits what is there; returns its frames."""
    known = state.queue.waiting.keys() | state.holders.keys()
    fresh = {task.id: task for task in message.tasks if task.id not in known}
    message.tasks[:] = fresh.values()
    for task in message.tasks:
        task.frames = max(0, min(task.frames, 2))
    message.functions[:] = [
        m.Function(number, "f", b"") for number in {task.function for task in message.tasks}
    ]
    here = [*message.tasks, *state.queue, *(task for one in state.workers.values() for task in one.pending)]
    used = {task.function for task in here}
    message.forget[:] = [number for number in message.forget if number not in used]
    return [b"frame" for task in message.tasks for _ in range(task.frames)]


def manager(source: Source, *, trusting: bool = True) -> None:
    """A manager's reactor, with an interchange that says anything, and workers that write anything."""
    make = Maker(source)
    clock = Clock(source)
    state = ManagerState("a", "host", "0", "/logs", 2)
    reactor = ManagerReactor(state, now=clock.now, heartbeat_period=10.0, heartbeat_threshold=30.0)
    actions: deque[Any] = deque(reactor.start())
    given: dict[int, int] = {}
    alive: list[int] = []
    hello = make.struct(m.ManagerHello)
    for _ in range(STEPS):
        now = clock.tick()
        match source.choose(10):
            case 0:
                reactor.hello(hello)
                reactor.welcomed(make.struct(m.Welcome), now)
            case 1:
                reactor.interchange_left("gone")
            case 2 | 3 if alive:
                records = [
                    Record(make.task(), source.choose(8), 0.1, b"", []) for _ in range(source.choose(3))
                ]
                number = make.pick(alive)
                if not source.choose(4):
                    records.append(Record(0, make.pick(list(Mark)), 0.0, b"", []))
                reactor.records_came(number, records, now)
            case 4 if alive:
                number = make.pick(alive)
                alive.remove(number)
                reactor.worker_ended(number, make.pick((9, 256, 0)), source.choose(4), "", "", now)
            case _:
                message = make.message(m.ToManager)
                frames = make.frames()
                if isinstance(message, m.Assign) and trusting:
                    frames = honest(message, state)
                if isinstance(message, m.Ask) and trusting:
                    message.subject = message.subject[:18]
                reactor.interchange_said(message, frames, now)
        actions += reactor.turn(now)
        while actions:
            action = actions.popleft()
            match action:
                case Start(worker=number):
                    alive.append(number)
                    reactor.records_came(number, [Record(0, Mark.READY, 0.0, b"", [])], now)
                case Give(worker=number, tasks=tasks):
                    given[number] = given.get(number, 0) + len(tasks)
                case Revoke(worker=number, limit=limit):
                    worker = state.workers.get(number)
                    held = 0 if worker is None else len(worker.pending)
                    reactor.revoked(number, source.choose(min(limit, held) + 1), now)
                case Look(worker=number):
                    reactor.looked(number, now)
                case Kill(worker=number) if number in alive:
                    alive.remove(number)
                    reactor.worker_ended(number, 9, 0, "", "", now)
                case Exit():
                    return
                case _:
                    pass
            if not actions:
                actions += reactor.turn(now)
        reactor.next_deadline()


REACTORS: dict[str, Callable[[Source], None]] = {
    "executor": executor,
    "interchange": interchange,
    "manager": manager,
}
"""Targets that take decisions."""

STREAMS: dict[str, Callable[[bytes], None]] = {"decode": decode, "frame": frame}
"""Targets that take bytes."""


def header(*lengths: int) -> bytes:
    """The preamble of a message with frames of these lengths, which need not follow."""
    return struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)
