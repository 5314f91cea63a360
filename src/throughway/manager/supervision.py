"""A manager's hold on its worker processes: the zygote that forks them, and the pipes to each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from throughway.protocol.bundles import Dismissal, FromZygote, Mark, Setup, Spawn, ToZygote
from throughway.protocol.configuration import WorkerConfig
from throughway.transport.framing import preamble
from throughway.transport.interface import Buffer
from throughway.transport.records import Record, RecordReader

PIPE_BYTES = 1 << 18
"""What a pipe to or from a worker should hold, where the system allows it."""

STDERR_BYTES = 2048
"""How much of the end of a worker's log an error carries."""

_MESSAGE_BYTES = 1 << 16


class WorkerProcess:
    """One worker: its pipes, and what could not be written to it yet."""

    def __init__(self, number: int, slot: int, log: str) -> None:
        self.number = number
        self.slot = slot
        self.log = log
        self.pid = 0
        self.dead = False
        self._doomed = False
        task_reader, self._tasks = os.pipe()
        self.results, result_writer = os.pipe()
        self._claims = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self.for_worker = (task_reader, self._claims, result_writer)
        """the worker's descriptors, to be passed on; then `passed` closes those that only it needs"""
        for pipe in (self._tasks, self.results):
            os.set_blocking(pipe, False)
            # Refused where the user's pipes together hold too much already: then they stay small.
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.reader = RecordReader(self.results)
        self._queue: deque[memoryview] = deque()

    def passed(self) -> None:
        """The worker's ends were passed on: close them here."""
        task_reader, _, result_writer = self.for_worker
        os.close(task_reader)
        os.close(result_writer)

    def give(self, frames: Sequence[Buffer], claims: int) -> bool:
        """Add claims and send a message. False where part of it has to wait until `tasks` is writable."""
        os.eventfd_write(self._claims, claims)
        head = preamble(frames)
        if len(frames) == 1:
            self._queue.append(memoryview(head + frames[0]))
        else:
            self._queue += [memoryview(frame) for frame in (head, *frames) if len(frame)]
        return self.write()

    @property
    def tasks(self) -> int:
        """The pipe that the worker reads."""
        return self._tasks

    def write(self) -> bool:
        """Write what waits; False where some is left."""
        queue = self._queue
        try:
            while queue:
                view = queue[0]
                count = os.write(self._tasks, view)
                if count == len(view):
                    queue.popleft()
                else:
                    queue[0] = view[count:]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            # It is dead: the zygote says so next, and what it was given is settled then.
            queue.clear()
        return True

    def revoke(self, count: int) -> int:
        """Take up to ``count`` claims back; returns how many it were."""
        taken = 0
        try:
            while taken < count:
                os.eventfd_read(self._claims)
                taken += 1
        except BlockingIOError:
            pass
        return taken

    def unclaimed(self) -> int:
        """How many claims are left. Only for a dead worker: they are gone afterwards."""
        return self.revoke(1 << 32)

    def read(self) -> list[Record]:
        """All records that are whole."""
        return self._identified(self.reader.read())

    def read_to_end(self, seconds: float) -> list[Record]:
        """All records of a worker that is about to die: waits until it has closed its pipe, at most for so long."""
        records = self.read()
        poller = select.poll()
        poller.register(self.results, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not (self.reader.ended or self.reader.fault) and (left := deadline - time.monotonic()) > 0:
            poller.poll(left * 1000)
            records += self.read()
        return records

    def _identified(self, records: list[Record]) -> list[Record]:
        """A zygote that died may not have got to say which process this is. Then the worker's first record does."""
        if not self.pid:
            for record in records:
                if record.outcome == Mark.READY and record.payload:
                    self.spawned(int.from_bytes(record.payload, "little"))
        return records

    def spawned(self, pid: int) -> None:
        """The zygote says that it runs, as this process."""
        self.pid = pid
        if self._doomed:
            self.kill()

    def kill(self) -> None:
        """Kill the worker and everything in its process group. It is not reaped before the zygote says so."""
        self._doomed = True
        if self.pid and not self.dead:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, signal.SIGKILL)

    def stderr(self) -> str:
        """The end of its log."""
        return tail(Path(self.log), STDERR_BYTES)

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._tasks, self.results, self._claims):
            os.close(descriptor)


def tail(path: Path, size: int) -> str:
    """The last ``size`` bytes of a text file, from the start of a line; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            data = file.read(size)
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    if end > size:
        text = text.partition("\n")[2] or text
    return text.strip()


class ZygoteClient:
    """The manager's end of the zygote's control socket."""

    def __init__(self, config: WorkerConfig, fork: Callable[[socket.socket], None] | None) -> None:
        """Start a zygote: a fork of this process that calls ``fork`` with a socket, or without it a fresh process."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        if fork is not None:
            self.pid = os.fork()
            if self.pid == 0:
                status = 1
                try:
                    self.control.close()
                    fork(theirs)
                    status = 0
                except BaseException:  # noqa: BLE001 - told, and this process ends
                    sys.excepthook(*sys.exc_info())
                finally:
                    os._exit(status)
        else:
            command = [sys.executable, "-m", "throughway.worker.zygote", str(theirs.fileno())]
            passed = [theirs.fileno()] + ([config.given] if config.given >= 0 else [])
            self._process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL)
            self.pid = self._process.pid
        theirs.close()
        self._decode = msgspec.msgpack.Decoder(FromZygote).decode
        encoded = msgspec.msgpack.encode(config)
        for start in range(0, len(encoded), _MESSAGE_BYTES):
            end = start + _MESSAGE_BYTES
            self._say(Setup(encoded[start:end], end >= len(encoded)), ())

    def spawn(self, order: Spawn, worker: WorkerProcess, bell: int) -> None:
        """Ask for a worker with these pipes."""
        self._say(order, (*worker.for_worker, bell))
        worker.passed()

    def _say(self, message: ToZygote, descriptors: Sequence[int]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A dead zygote is noticed by the end of its socket, and replaced.
            socket.send_fds(self.control, [msgspec.msgpack.encode(message)], list(descriptors))

    def receive(self) -> FromZygote | None:
        """The next message, which must be there; None once the zygote is gone."""
        try:
            data = self.control.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        message: FromZygote | None = self._decode(data) if data else None
        return message

    def close(self, obituary: str = "") -> None:
        """End the zygote, which ends all workers, and reap it; with ``obituary``, it has the interchange told that."""
        with contextlib.suppress(OSError):
            # One that does not read it ends with the socket all the same.
            self.control.send(msgspec.msgpack.encode(Dismissal(obituary)), socket.MSG_DONTWAIT)
        self.control.close()
        if self._process is not None:
            self._process.wait()
        else:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
