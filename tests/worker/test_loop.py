"""The loop in this process, between pipes that a test fills first and looks at afterwards."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.worker import tasks
from tests.worker.nursery import Nursery, NurseryWorker, error_of
from throughway.errors import (
    DeserializationError,
    MissingModule,
    ProtocolError,
    ResultTooLarge,
    SerializationError,
)
from throughway.protocol import codec
from throughway.protocol.bundles import Bundle, Mark, Stop
from throughway.protocol.configuration import WorkerConfig
from throughway.protocol.messages import Function, Outcome, Task
from throughway.serialize.exceptions import ExceptionContext
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call, unpack_result
from throughway.transport.arena import Arena, ArenaReader, Lease
from throughway.transport.framing import preamble
from throughway.transport.records import Record, RecordReader
from throughway.worker.loop import Worker, WorkerChannel, flush


class Desk:
    """A worker's pipes, and what goes into and comes out of them."""

    def __init__(self) -> None:
        task_reader, self.tasks = os.pipe()
        self.results, result_writer = os.pipe()
        self.bell, bell_writer = os.pipe()
        self.claims = os.eventfd(0, os.EFD_SEMAPHORE)
        for end in (self.results, self.bell):
            os.set_blocking(end, False)
        self.channel = WorkerChannel(258, task_reader, self.claims, result_writer, bell_writer)
        self._open = [
            task_reader,
            self.tasks,
            self.results,
            result_writer,
            self.bell,
            bell_writer,
            self.claims,
        ]

    def send(self, message: Bundle | Stop, frames: Sequence[bytes] = (), claims: int | None = None) -> None:
        """Add claims, one for each task unless said otherwise, and send a message."""
        if isinstance(message, Bundle) and claims != 0:
            os.eventfd_write(self.claims, len(message.tasks) if claims is None else claims)
        parts = [codec.encode(message), *frames]
        os.write(self.tasks, preamble(parts) + b"".join(parts))

    def work(self, arena: ArenaReader | None = None, **config: Any) -> int:
        """Let a worker work until it has no more messages; returns its exit status."""
        os.close(self.tasks)
        self._open.remove(self.tasks)
        context = ExceptionContext(host="here", manager="m1", worker=3)
        return Worker(self.channel, WorkerConfig(**config), context, arena).run()

    def records(self) -> list[Record]:
        """What it has written since the last call, but for its first mark."""
        return [record for record in RecordReader(self.results).read() if record.outcome != Mark.READY]

    def rings(self) -> int:
        """How often it has rung since the last call."""
        try:
            rung = os.read(self.bell, 1 << 16)
        except BlockingIOError:
            return 0
        assert rung == (258).to_bytes(4, "little") * (len(rung) // 4)
        return len(rung) // 4

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


TABLE = FunctionTable()
_entries: list[object] = []


def bundle(
    *calls: tuple[Any, ...], first: int = 1, known: bool = False, forget: Sequence[int] = ()
) -> Bundle:
    """A bundle of calls, with their functions unless they are ``known``."""
    made: list[Task] = []
    functions: dict[int, Function] = {}
    for number, (fn, *arguments) in enumerate(calls, first):
        entry = TABLE.lookup(fn)
        _entries.append(entry)
        payload, frames = pack_call(tuple(arguments), {})
        made.append(Task(number, entry.function.id, payload, len(frames)))
        functions[entry.function.id] = entry.function
    return Bundle(made, [] if known else list(functions.values()), list(forget))


def values(records: Sequence[Record]) -> list[Any]:
    return [
        unpack_result(record.payload, record.frames) for record in records if record.outcome == Outcome.VALUE
    ]


# ----------------------------------------------------------------------------------------------------------- running


def test_a_worker_says_that_it_is_ready_and_ends_with_its_manager(desk: Desk) -> None:
    assert desk.work() == 0
    (record,) = RecordReader(desk.results).read()
    assert (record.task, record.outcome) == (0, Mark.READY)
    assert record.payload == os.getpid().to_bytes(4, "little")
    assert desk.rings() == 1


def test_tasks_run_in_order_and_each_has_its_record(desk: Desk) -> None:
    desk.send(bundle((tasks.double, 1), (tasks.double, 2), first=7))
    desk.send(bundle((tasks.double, 3), first=9))
    desk.work()
    records = desk.records()
    assert [record.task for record in records] == [7, 8, 9]
    assert values(records) == [2, 4, 6]
    assert all(0 <= record.seconds < 5 for record in records)


def test_a_worker_stops_when_it_is_told_to(desk: Desk) -> None:
    desk.send(bundle((tasks.double, 1)))
    desk.send(Stop())
    desk.send(bundle((tasks.double, 2)))
    assert desk.work() == 0
    assert values(desk.records()) == [2]


def test_a_bundle_is_rung_for_at_its_end(desk: Desk) -> None:
    desk.send(bundle(*[(tasks.double, number) for number in range(20)]))
    desk.work()
    assert 2 <= desk.rings() < 20, "once to be ready, once at the end, and now and then on a slow machine"


def test_a_slow_task_is_rung_for_before_the_bundle_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("throughway.worker.loop._clock", lambda: float(next(moments)))
    desk.send(bundle(*[(tasks.double, number) for number in range(5)]))
    desk.work()
    assert desk.rings() == 1 + 5
    assert [record.seconds for record in desk.records()] == [1.0] * 5


def test_a_function_is_loaded_once_and_kept_over_bundles(desk: Desk) -> None:
    counter = tasks.Counter()
    desk.send(bundle((counter,), (counter,)))
    desk.send(bundle((counter,), known=True))
    desk.work()
    assert values(desk.records()) == [1, 2, 3], "also where it has no truth value"


def test_a_function_that_is_forgotten_is_loaded_anew(desk: Desk) -> None:
    counter = tasks.Counter()
    number = TABLE.lookup(counter).function.id
    desk.send(bundle((counter,), (counter,)))
    desk.send(bundle((tasks.double, 1), forget=[number, 999]))
    desk.send(bundle((counter,)))
    desk.work()
    assert values(desk.records()) == [1, 2, 2, 1]


def test_a_task_whose_function_did_not_come_fails_alone(desk: Desk) -> None:
    desk.send(bundle((tasks.double, 1), known=True))
    desk.send(bundle((tasks.double, 2)))
    desk.work()
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    assert values([done]) == [4]


def test_large_frames_go_to_their_tasks(desk: Desk) -> None:
    first, second = b"a" * (1 << 17), b"b" * (1 << 17)
    made = bundle((len, first), (tasks.double, 5), (bytes.upper, second))
    assert [task.frames for task in made.tasks] == [1, 0, 1]
    sender = threading.Thread(target=desk.send, args=(made, [first, second]))
    sender.start()
    # The pipe holds less than that, so the worker reads while it is written.
    worker = Worker(desk.channel, WorkerConfig(), ExceptionContext())
    message = desk.channel.next_message()
    sender.join()
    assert message is not None
    runner = threading.Thread(target=worker._run_bundle, args=(worker._decode(message[0]), message))
    runner.start()
    reader = RecordReader(desk.results)
    records: list[Record] = []
    while len(records) < 3:
        records += reader.read()
    runner.join()
    assert values(records) == [1 << 17, 10, b"B" * (1 << 17)]
    assert [len(record.frames) for record in records] == [0, 0, 1]


# ----------------------------------------------------------------------------------------------------- shared memory


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(1 << 20)
    yield arena
    arena.close()


@pytest.fixture
def reader(arena: Arena) -> Iterator[ArenaReader]:
    reader = ArenaReader(arena.path, arena.key)
    yield reader
    reader.close()


def placed(arena: Arena, *calls: tuple[Any, ...], first: int = 1) -> tuple[Bundle, list[Lease]]:
    """A bundle of calls whose large arguments are in shared memory."""
    made = bundle(*calls, first=first)
    leases = []
    for task, (_, *arguments) in zip(made.tasks, calls, strict=True):
        _, frames = pack_call(tuple(arguments), {})
        lease = arena.put(task.id, frames) if frames else None
        if lease is not None:
            leases.append(lease)
            task.frames = -lease.place
    return made, leases


def scribble(data: bytearray) -> int:
    """The sum of these, which are then all changed."""
    total = sum(data)
    data[:] = b"x" * len(data)
    return total


def test_arguments_come_from_shared_memory(desk: Desk, arena: Arena, reader: ArenaReader) -> None:
    ones, twos = bytearray(b"\1" * 20_000), b"\2" * 30_000
    made, leases = placed(
        arena, (scribble, ones), (bytes.count, twos, b"\2"), (tasks.double, 5), (type, twos)
    )
    assert [task.frames < 0 for task in made.tasks] == [True, True, False, True]
    for _ in range(2):
        desk.send(made)
    desk.work(reader)
    expected = [20_000, 30_000, 10, bytes]
    assert values(desk.records()) == 2 * expected, "a task that runs again finds what the first run found"
    assert ones == b"\1" * 20_000
    assert len(leases) == 3


def test_shared_memory_and_frames_are_not_mixed_up(desk: Desk, arena: Arena, reader: ArenaReader) -> None:
    data = [bytes([number]) * 16_384 for number in range(4)]
    calls = [(bytes.count, data[number], bytes([number])) for number in range(4)]
    made, leases = placed(arena, calls[0], (tasks.double, 1), calls[1], calls[2], calls[3])
    for index in (0, 3):
        made.tasks[index].frames = 1
    desk.send(made, [data[0], data[2]])
    desk.work(reader)
    assert values(desk.records()) == [16_384, 2, 16_384, 16_384, 16_384]
    assert len(leases) == 4


def test_several_arguments_of_a_task_come_from_shared_memory(
    desk: Desk, arena: Arena, reader: ArenaReader
) -> None:
    made, leases = placed(arena, (max, b"a" * 20_000, b"c" * 40_000, b"b" * 30_000))
    desk.send(made)
    desk.work(reader)
    assert values(desk.records()) == [b"c" * 40_000]
    assert len(leases) == 1


def test_a_worker_without_shared_memory_fails_the_task_alone(desk: Desk, arena: Arena) -> None:
    made, leases = placed(arena, (len, bytes(20_000)), (tasks.double, 1))
    desk.send(made)
    desk.work()
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    error = error_of(failed)
    assert isinstance(error, ProtocolError)
    assert "arguments of task 1 are in memory that this worker does not share" in str(error)
    assert values([done]) == [2]
    assert leases


@pytest.mark.parametrize("what", ["another task's", "wiped", "beyond"])
def test_arguments_that_are_gone_fail_the_task_alone(
    desk: Desk, arena: Arena, reader: ArenaReader, what: str
) -> None:
    made, leases = placed(arena, (len, bytes(20_000)), (len, bytes(30_000)))
    place = leases.pop(0).place
    size = 20_000 if what == "another task's" else 200_000
    other = arena.put(7, [memoryview(b"other" * (size // 5))])
    assert other is not None
    assert (other.place == place) is (what == "another task's")
    if what == "beyond":
        made.tasks[0].frames = -(1 << 30)
    desk.send(made)
    desk.work(reader)
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    error = error_of(failed)
    assert isinstance(error, ProtocolError)
    assert ("place 1073741824" if what == "beyond" else "task 1 are no longer") in str(error)
    assert values([done]) == [30_000]


def test_a_zygote_opens_the_shared_memory_for_its_workers(
    arena: Arena, make_nursery: Callable[..., Nursery]
) -> None:
    nursery = make_nursery(arena=arena.path, arena_key=arena.key)
    one, other = nursery.worker(), nursery.worker()
    data = b"a" * 20_000
    payload, frames = pack_call((data,), {})
    for worker in (one, other):
        (task,), functions, _ = nursery.pack([(tasks.double, data)])
        lease = arena.put(task.id, frames)
        assert lease is not None
        task.frames = -lease.place
        assert task.payload == payload
        worker.process.give([codec.encode(Bundle([task], functions, []))], 1)
        assert worker.outcome(task.id) == data * 2
        found = worker.run(tasks.descriptors)
        assert sum("memfd" in text for text in found.values()) == 1


def test_a_zygote_that_cannot_open_it_goes_on(make_nursery: Callable[..., Nursery]) -> None:
    nursery = make_nursery(arena="/proc/1/no-such-memory", arena_key=1)
    assert nursery.worker().run(tasks.double, b"a" * 20_000) == b"a" * 40_000


# ------------------------------------------------------------------------------------------------------------ claims


@pytest.mark.parametrize("claims", range(4))
def test_what_was_taken_back_is_dropped_and_reported_once(desk: Desk, claims: int) -> None:
    desk.send(bundle(*[(tasks.double, number) for number in range(4)]), claims=claims)
    desk.work()
    records = desk.records()
    assert values(records[:-1]) == [2 * number for number in range(claims)]
    assert (records[-1].task, records[-1].outcome) == (0, Mark.DISCARDED)


def test_each_bundle_that_was_taken_back_is_reported(desk: Desk) -> None:
    for first in (1, 3, 5):
        desk.send(bundle((tasks.double, 1), (tasks.double, 2), first=first), claims=0)
    desk.work()
    assert [record.outcome for record in desk.records()] == [Mark.DISCARDED] * 3
    assert desk.rings() == 1 + 3


def test_a_bundle_that_was_taken_back_leaves_its_functions(worker: NurseryWorker) -> None:
    worker.give((tasks.double, 1), claims=0)
    assert worker.next_record().outcome == Mark.DISCARDED
    assert worker.run(tasks.double, 2) == 4, "the second bundle comes without the function"


def test_a_worker_ends_after_as_many_tasks_as_it_may_run(desk: Desk) -> None:
    desk.send(bundle((tasks.double, 1), (tasks.double, 2)))
    desk.send(bundle((tasks.double, 3), first=3))
    desk.send(bundle((tasks.double, 4), first=4))
    assert desk.work(max_tasks_per_child=3) == 0
    assert [record.task for record in desk.records()] == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------- failures


def test_what_a_function_raises_is_its_outcome(desk: Desk) -> None:
    desk.send(bundle((tasks.fail, "nothing there"), (tasks.double, 1)))
    desk.work()
    failed, done = desk.records()
    assert failed.outcome == Outcome.EXCEPTION
    error = error_of(failed)
    assert type(error) is LookupError and error.args == ("nothing there",)
    assert any("task 'fail' (1) on host here, manager m1, worker 3" in note for note in error.__notes__)
    assert "in fail" in str(error.__cause__)
    assert values([done]) == [2]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, StopIteration, MemoryError])
def test_any_exception_but_an_exit_is_an_outcome(desk: Desk, kind: type[BaseException]) -> None:
    def raising() -> None:
        raise kind("really")

    desk.send(bundle((raising,)))
    desk.work()
    (record,) = desk.records()
    assert record.outcome == Outcome.EXCEPTION
    assert type(error_of(record)) is kind


def test_a_result_that_cannot_be_pickled_fails_its_task(desk: Desk) -> None:
    desk.send(bundle((tasks.give_unpicklable,), (tasks.double, 1)))
    desk.work()
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    assert isinstance(error_of(failed), SerializationError)
    assert values([done]) == [2]


def test_a_result_beyond_the_limit_fails_its_task(desk: Desk) -> None:
    desk.send(bundle((tasks.zeros, 2000), (tasks.zeros, 10)))
    desk.work(max_payload_bytes=1000)
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    assert isinstance(error_of(failed), ResultTooLarge)
    assert values([done]) == [bytes(10)]


@pytest.mark.parametrize(
    ("payload", "kind"),
    [(b"nonsense", DeserializationError), (b"cno_such_module\nf\n.", MissingModule)],
)
@pytest.mark.parametrize("what", ["arguments", "function"])
def test_what_cannot_be_unpickled_fails_its_task(
    desk: Desk, payload: bytes, kind: type[Exception], what: str
) -> None:
    good = bundle((tasks.double, 1))
    if what == "arguments":
        good.tasks[0].payload = payload
    else:
        good.functions[0] = Function(good.functions[0].id, "f", payload)
    desk.send(good)
    desk.send(bundle((tasks.say, "x")))
    desk.work()
    failed, done = desk.records()
    assert failed.outcome == Outcome.FAILED
    assert isinstance(error_of(failed), kind)
    assert values([done]) == [None]


def test_a_function_that_could_not_be_loaded_is_tried_again(desk: Desk) -> None:
    number = TABLE.lookup(tasks.double).function.id
    broken = bundle((tasks.double, 1))
    broken.functions[0] = Function(number, "double", b"nonsense")
    desk.send(broken)
    desk.send(bundle((tasks.double, 2)))
    desk.work()
    assert [record.outcome for record in desk.records()] == [Outcome.FAILED, Outcome.VALUE]


def test_a_failing_initializer_is_reported_and_nothing_runs(desk: Desk) -> None:
    payload, _ = pack_call(("no",), {})
    desk.send(bundle((tasks.double, 1)))
    status = desk.work(initializer=TABLE.lookup(tasks.fail).function.payload, initializer_call=payload)
    assert status == 1
    (record,) = desk.records()
    assert record.outcome == Mark.INITIALIZER_FAILED
    assert "the initializer" in error_of(record._replace(outcome=Outcome.EXCEPTION)).__notes__[0]


# -------------------------------------------------------------------------------------------------------- large ones


def test_a_result_beyond_the_pipe_waits_for_its_reader(worker: NurseryWorker) -> None:
    size = 8 << 20
    numbers = worker.give((tasks.zeros, size), (tasks.double, b"x" * 100), (tasks.zeros, size))
    assert worker.outcome(numbers[0]) == bytes(size)
    assert worker.outcome(numbers[1]) == b"x" * 200
    assert worker.outcome(numbers[2]) == bytes(size)


def test_arguments_beyond_the_pipe_are_written_as_the_worker_reads(worker: NurseryWorker) -> None:
    data = os.urandom(8 << 20)
    task, other = worker.give((tasks.double, data), (len, data))
    assert worker.outcome(task) == data + data
    assert worker.outcome(other) == len(data)


def test_results_of_many_workers_at_once(nursery: Nursery) -> None:
    workers = [nursery.spawn() for _ in range(4)]
    for one in workers:
        one.ready()
    given = [one.give(*[(tasks.zeros, 1 << 20)] * 3) for one in workers]
    for one, numbers in zip(workers, given, strict=True):
        assert [len(one.outcome(number)) for number in numbers] == [1 << 20] * 3


def test_a_worker_that_waits_with_a_large_result_can_be_killed(worker: NurseryWorker) -> None:
    worker.give((tasks.zeros, 8 << 20))
    with select.epoll() as poller:  # nobody reads meanwhile
        poller.register(worker.process.results, select.EPOLLIN)
        assert poller.poll(20.0)
    worker.process.kill()
    assert worker.wait() == signal.SIGKILL
    assert worker.records == []
    assert worker.process.reader.partial


# ------------------------------------------------------------------------------------------------------------ output


class _Stream(io.StringIO):
    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.flushed = 0
        self._error = error

    def flush(self) -> None:
        self.flushed += 1
        if self._error is not None:
            raise self._error


def test_both_streams_are_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = _Stream(None), _Stream(None)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    flush()
    assert (out.flushed, err.flushed) == (1, 1)


@pytest.mark.parametrize(
    "broken", [lambda: _Stream(OSError("full")), lambda: _Stream(RuntimeError()), lambda: None]
)
def test_a_stream_that_cannot_be_flushed_does_not_keep_the_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], broken: Callable[[], Any]
) -> None:
    other = _Stream(None)
    monkeypatch.setattr(sys, "stdout", broken())
    monkeypatch.setattr(sys, "stderr", other)
    flush()
    assert other.flushed == 1
    assert "cannot flush the output" in capfd.readouterr().err
