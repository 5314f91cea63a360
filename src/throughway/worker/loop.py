"""The loop that runs functions: claims a task, runs it, writes its record, and rings the manager's bell."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec

from throughway.errors import ProtocolError
from throughway.protocol.bundles import Bundle, Mark, Stop, ToWorker
from throughway.protocol.configuration import WorkerConfig
from throughway.protocol.messages import Function, Outcome, Task
from throughway.serialize.exceptions import ExceptionContext, pack_exception
from throughway.serialize.functions import load_function
from throughway.serialize.payloads import pack_result, unpack_call
from throughway.transport.arena import ArenaReader
from throughway.transport.framing import Unframer
from throughway.transport.interface import Buffer
from throughway.transport.records import HEAD, pack_record

RING_SECONDS = 0.001
"""A worker that works through a bundle rings at least this often, so that no finished result waits for long."""

_READ_BYTES = 1 << 17
_VALUE = int(Outcome.VALUE)
_EXCEPTION = int(Outcome.EXCEPTION)
_FAILED = int(Outcome.FAILED)

_clock = time.perf_counter
"""Taken once: a task may freeze the time, by replacing what the module has, and leave it so."""


class WorkerChannel:
    """A worker's ends of the pipes to its manager."""

    def __init__(self, number: int, tasks: int, claims: int, results: int, bell: int) -> None:
        self._tasks = tasks
        self._claims = claims
        self._results = results
        self._bell = bell
        self._ring_bytes = number.to_bytes(4, "little")
        self._unframer = Unframer()
        self._messages: list[list[Buffer]] = []
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self.abandoned = False
        os.set_blocking(results, False)
        os.set_blocking(claims, False)

    def next_message(self) -> list[Buffer] | None:
        """The next message, waiting for it; None once the manager is gone."""
        while not self._messages:
            direct = self._unframer.direct
            if direct is not None:
                count = os.readv(self._tasks, [direct])
                if not count:
                    return None
                self._messages = self._unframer.fed(count)
            else:
                data = bytes(self._buffer[: os.readv(self._tasks, [self._buffer])])
                if not data:
                    return None
                self._messages = self._unframer.feed(data)
        return self._messages.pop(0)

    def claim(self) -> bool:
        """Claim the next task; False where the manager took it back."""
        try:
            os.eventfd_read(self._claims)
        except BlockingIOError:
            return False
        return True

    def write_small(self, record: bytes) -> None:
        """Write a record that is one piece, as nearly all are."""
        try:
            count = os.write(self._results, record)
        except BlockingIOError:
            count = 0
        if count < len(record):
            self.write([memoryview(record)[count:]])

    def write(self, parts: Sequence[Buffer]) -> None:
        """Write a record. Once it is in the pipe, it outlives this process."""
        for part in parts:
            rest: Buffer = part
            while True:
                try:
                    count = os.write(self._results, rest)
                except BlockingIOError:
                    self.ring()
                    select.select([], [self._results], [])
                    continue
                if count == len(rest):
                    break
                rest = memoryview(rest)[count:]

    def ring(self) -> None:
        """Tell the manager to read the results."""
        os.write(self._bell, self._ring_bytes)

    def abandon(self) -> None:
        """Let go of the pipes, in a child that a task forked: nothing that it does must look like this worker."""
        self.abandoned = True
        for descriptor in (self._tasks, self._claims, self._results, self._bell):
            # They are closed already in the child of a child.
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._tasks = self._claims = self._results = self._bell = -1


class Worker:
    """Runs the tasks that come over a channel until the manager closes it or says stop.

    Args:
        arena: the executor's shared memory, in which tasks may have their large arguments; None for none.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        config: WorkerConfig,
        context: ExceptionContext,
        arena: ArenaReader | None = None,
    ) -> None:
        self._channel = channel
        self._arena = arena
        self._config = config
        self._context = context
        self._functions: dict[int, Function] = {}
        self._loaded: dict[int, Callable[..., Any]] = {}
        self._left = config.max_tasks_per_child
        self._decode = msgspec.msgpack.Decoder(ToWorker).decode

    def run(self) -> int:
        """Serve until the end; returns the exit status."""
        if self._config.initializer and not self._initialise():
            return 1
        self._mark(Mark.READY, os.getpid().to_bytes(4, "little"))
        while True:
            frames = self._channel.next_message()
            if frames is None:
                return 0
            message = self._decode(frames[0])
            if isinstance(message, Stop):
                return 0
            self._run_bundle(message, frames)
            if self._left is not None and self._left <= 0:
                return 0

    def _mark(self, mark: Mark, payload: bytes = b"") -> None:
        self._channel.write(pack_record(0, mark, 0.0, payload, ()))
        self._channel.ring()

    def _initialise(self) -> bool:
        try:
            function = load_function(self._config.initializer, name="the initializer")
            args, kwargs = unpack_call(self._config.initializer_call, ())
            function(*args, **kwargs)
        except Exception as error:
            self._mark(
                Mark.INITIALIZER_FAILED,
                pack_exception(error, context=self._context_of("the initializer", -1)),
            )
            return False
        return True

    def _run_bundle(self, bundle: Bundle, frames: Sequence[Buffer]) -> None:
        for function in bundle.functions:
            self._functions[function.id] = function
        for number in bundle.forget:
            self._functions.pop(number, None)
            self._loaded.pop(number, None)
        channel = self._channel
        claim = channel.claim
        write = channel.write
        write_small = channel.write_small
        pack_head = HEAD.pack
        run_task = self._run_task
        clock = _clock
        at = 1
        began = rung = clock()
        last = len(bundle.tasks) - 1
        for index, task in enumerate(bundle.tasks):
            if not claim():
                self._spend(index)
                self._mark(Mark.DISCARDED)
                return
            count = task.frames
            if count > 0:
                outcome, payload, large = run_task(task, frames[at : at + count])
                at += count
            else:
                outcome, payload, large = run_task(task, ())
            ended = clock()
            if large:
                write(pack_record(task.id, outcome, ended - began, payload, large))
            else:
                write_small(pack_head(task.id, len(payload), ended - began, 0, outcome) + payload)
            if index == last or ended - rung > RING_SECONDS:
                channel.ring()
                rung = ended
            began = ended
        self._spend(len(bundle.tasks))

    def _spend(self, tasks: int) -> None:
        """So many of the tasks that this worker may run have been run."""
        if self._left is not None:
            self._left -= tasks

    def _run_task(self, task: Task, frames: Sequence[Buffer]) -> tuple[int, bytes, Sequence[Buffer]]:
        outcome = _FAILED
        try:
            function = self._loaded.get(task.function)
            if function is None:
                function = self._load(task.function)
            if task.frames < 0:
                args, kwargs = unpack_call(task.payload, self._shared_frames(task), owned=True)
            else:
                args, kwargs = unpack_call(task.payload, frames)
            outcome = _EXCEPTION
            value = function(*args, **kwargs)
            outcome = _FAILED
            payload, large = pack_result(value, max_bytes=self._config.max_payload_bytes)
            return _VALUE, payload, large
        except SystemExit as error:
            self._exit(error)
        except BaseException as error:
            return outcome, self._packed(error, task), ()

    def _shared_frames(self, task: Task) -> list[Buffer]:
        if self._arena is None:
            raise ProtocolError(
                f"the arguments of task {task.id} are in memory that this worker does not share"
            )
        return self._arena.read(-task.frames, task.id)

    def _load(self, number: int) -> Callable[..., Any]:
        function = self._loaded[number] = load_function(self._functions[number].payload)
        return function

    def _packed(self, error: BaseException, task: Task) -> bytes:
        function = self._functions.get(task.function)
        return pack_exception(error, context=self._context_of(function.name if function else "?", task.id))

    def _context_of(self, name: str, task: int) -> ExceptionContext:
        return msgspec.structs.replace(self._context, task=name, task_id=task)

    @staticmethod
    def _exit(error: SystemExit) -> NoReturn:
        """End as the interpreter would: a task that exits takes its worker with it."""
        code = error.code
        if code is None:
            status = 0
        elif isinstance(code, int):
            status = code & 0xFF
        else:
            print(code, file=sys.stderr)
            status = 1
        flush()
        os._exit(status)


def flush() -> None:
    """Get what the tasks printed into the log."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception as error:
            # A task may have closed the streams or put anything in their place; its output is then its own affair.
            with contextlib.suppress(OSError):
                os.write(2, f"cannot flush the output: {error}\n".encode())
