"""A zygote with its workers in processes of their own, and a manager's ends of their pipes, which a test drives."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from throughway.manager.supervision import WorkerProcess, ZygoteClient
from throughway.protocol import codec
from throughway.protocol.bundles import Bundle, Exited, Mark, Spawn, Spawned, Stop
from throughway.protocol.configuration import WorkerConfig
from throughway.protocol.messages import Function, Outcome, Task
from throughway.serialize.exceptions import unpack_exception
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call, unpack_result
from throughway.transport.records import Record

ROOT = str(Path(__file__).parents[2])
SECONDS = 20.0


class NurseryWorker:
    """One worker process and what came from it."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self._nursery = nursery
        self.number = number
        self.slot = number
        self.log = nursery.folder / f"worker-{number}.log"
        self.process = WorkerProcess(number, number, str(self.log))
        self.records: list[Record] = []
        self.status: int | None = None
        """how it ended, as `os.waitpid` says it"""
        self.unforked = ""
        """why it could not be forked"""
        self.unclaimed = 0
        """the claims that were left when it ended"""
        self._known: set[int] = set()

    def ready(self) -> NurseryWorker:
        """Wait until it is ready."""
        record = self.next_record()
        assert record.outcome == Mark.READY, record
        self._nursery.pump(lambda: self.process.pid != 0, f"the process of worker {self.number}")
        return self

    def give(
        self, *calls: tuple[Any, ...], claims: int | None = None, forget: Sequence[int] = ()
    ) -> list[int]:
        """Give it a bundle of calls, each a function and its arguments; returns the tasks' numbers.

        ``claims`` is how many claims go with it, if not one for each.
        """
        tasks, functions, frames = self._nursery.pack(calls)
        new = [function for function in functions if function.id not in self._known]
        self._known.update(function.id for function in new)
        self._known.difference_update(forget)
        bundle = Bundle(tasks, new, list(forget))
        count = len(tasks) if claims is None else claims
        self._nursery.unwritten[self.number] = not self.process.give([codec.encode(bundle), *frames], count)
        return [task.id for task in tasks]

    def stop(self) -> None:
        """Tell it to end after what it was given."""
        self.process.give([codec.encode(Stop())], 0)

    def next_record(self) -> Record:
        """Its next record, waiting for it."""
        self._nursery.pump(
            lambda: bool(self.records) or self.status is not None, f"a record of worker {self.number}"
        )
        assert self.records, f"worker {self.number} ended with status {self.status}; its log: {self.text()}"
        return self.records.pop(0)

    def outcome(self, task: int) -> Any:
        """What became of this task, whose record is the next: its value, or its exception."""
        record = self.next_record()
        assert record.task == task
        return (
            unpack_result(record.payload, record.frames)
            if record.outcome == Outcome.VALUE
            else error_of(record)
        )

    def run(self, *call: Any) -> Any:
        """Run one call and return its value, or its exception."""
        (task,) = self.give(call)
        return self.outcome(task)

    def wait(self) -> int:
        """Wait until it has ended, and everything that it wrote was read; returns its wait status."""
        self._nursery.pump(lambda: self.status is not None, f"the end of worker {self.number}")
        assert self.status is not None
        return self.status

    def text(self) -> str:
        """What its log says."""
        return self.log.read_text() if self.log.exists() else ""


def error_of(record: Record) -> BaseException:
    """The exception in a record."""
    assert record.outcome in (Outcome.EXCEPTION, Outcome.FAILED), record.outcome
    return unpack_exception(record.payload)


class Nursery:
    """A zygote and its workers. To be closed."""

    def __init__(self, folder: Path, client: ZygoteClient) -> None:
        self.folder = folder
        self.client = client
        self.bell, self._bell_writer = os.pipe()
        os.set_blocking(self.bell, False)
        self.workers: dict[int, NurseryWorker] = {}
        self.rings: list[int] = []
        """which workers rang, in order"""
        self.unwritten: dict[int, bool] = {}
        """worker → whether it was given more than its pipe took so far"""
        self.ended = False
        """whether the zygote is gone"""
        self._table = FunctionTable()
        self._entries: list[Any] = []
        self._next_worker = 0
        self._next_task = 1

    @classmethod
    def start(cls, folder: Path, **config: Any) -> Nursery:
        """Start a zygote for this configuration."""
        config.setdefault("sys_path", [ROOT])
        return cls(folder, ZygoteClient(WorkerConfig(**config), None))

    def spawn(
        self, *, environment: dict[str, str] | None = None, affinity: Sequence[int] = (), log: str = ""
    ) -> NurseryWorker:
        """Ask for a worker."""
        worker = NurseryWorker(self, self._next_worker)
        self._next_worker += 1
        self.workers[worker.number] = worker
        order = Spawn(
            worker=worker.number,
            slot=worker.slot,
            title=f"throughway-worker {worker.number} of a test",
            log=log or str(worker.log),
            environment=environment or {},
            affinity=list(affinity),
            host="here",
            manager="m1",
        )
        self.client.spawn(order, worker.process, self._bell_writer)
        return worker

    def worker(self, **options: Any) -> NurseryWorker:
        """A worker that is ready."""
        return self.spawn(**options).ready()

    def pack(self, calls: Sequence[tuple[Any, ...]]) -> tuple[list[Task], list[Function], list[memoryview]]:
        """Calls as tasks, their functions and their large frames."""
        tasks, functions, frames = [], [], []
        for fn, *arguments in calls:
            entry = self._table.lookup(fn)
            self._entries.append(entry)
            payload, large = pack_call(tuple(arguments), {})
            functions.append(entry.function)
            frames += large
            tasks.append(Task(self._next_task, entry.function.id, payload, len(large)))
            self._next_task += 1
        return tasks, list({function.id: function for function in functions}.values()), frames

    def function_id(self, fn: Callable[..., Any]) -> int:
        """The number by which workers know this function."""
        return self._table.lookup(fn).function.id

    def pump(self, condition: Callable[[], bool], what: str) -> None:
        """Do a manager's work until the condition holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"waited {SECONDS:g} s in vain for {what}"
            poller = select.poll()
            poller.register(self.bell, select.POLLIN)
            if not self.ended:
                poller.register(self.client.control, select.POLLIN)
            for worker in self.workers.values():
                if worker.status is None and worker.process.reader.partial:
                    poller.register(worker.process.results, select.POLLIN)
                if worker.status is None and self.unwritten.get(worker.number):
                    poller.register(worker.process.tasks, select.POLLOUT)
            ready = {descriptor for descriptor, _ in poller.poll(left * 1000)}
            if self.bell in ready:
                numbers = list(memoryview(os.read(self.bell, 1 << 16)).cast("I"))
                self.rings += numbers
                for number in numbers:
                    self._read(self.workers[number])
            for worker in self.workers.values():
                if worker.status is None and worker.process.results in ready:
                    self._read(worker)
                if worker.status is None and worker.process.tasks in ready:
                    self.unwritten[worker.number] = not worker.process.write()
            if not self.ended and self.client.control.fileno() in ready:
                self._on_zygote()

    def _read(self, worker: NurseryWorker) -> None:
        if worker.status is None:
            worker.records += worker.process.read()

    def _on_zygote(self) -> None:
        message = self.client.receive()
        if message is None:
            self.ended = True
        elif isinstance(message, Spawned):
            self.workers[message.worker].process.spawned(message.pid)
        elif isinstance(message, Exited):
            worker = self.workers[message.worker]
            worker.process.dead = True
            self._read(worker)
            worker.unclaimed = worker.process.unclaimed()
            worker.status = message.status
            worker.unforked = message.unforked

    def end_workers(self) -> None:
        """Kill all workers, wait until they are gone, and close their pipes."""
        for worker in self.workers.values():
            if worker.status is None and not self.ended:
                worker.process.kill()
        for worker in self.workers.values():
            if not self.ended:
                worker.wait()
            worker.process.close()
        self.workers.clear()
        self.unwritten.clear()
        self.rings.clear()

    def close(self) -> None:
        """End the zygote and everything below it."""
        self.client.close()
        self.ended = True
        for worker in self.workers.values():
            worker.process.close()
        os.close(self.bell)
        os.close(self._bell_writer)
