"""The process that forks workers, so that each starts in milliseconds with everything it needs already loaded.

It has one thread and no user code in it, which makes forking safe. It is the workers' parent: it reaps them, and tells
the manager how each ended. When the manager is gone it kills them all and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from setproctitle import setproctitle

from throughway.errors import TransportError
from throughway.protocol.bundles import Dismissal, Exited, FromZygote, Setup, Spawn, Spawned, ToZygote
from throughway.protocol.configuration import WorkerConfig
from throughway.serialize.exceptions import ExceptionContext
from throughway.transport.arena import ArenaReader
from throughway.transport.buffers import keep_none
from throughway.worker.loop import Worker, WorkerChannel, flush

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES = 1 << 20
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

LAST_SECONDS = 2.0
"""How long the zygote waits, at its end, for the workers that it killed: one may hang in the kernel."""

TELLING_SECONDS = 5.0
"""How long a manager that ends itself stays so that this is told: with it ends its job, and what is left of that."""


class Zygote:
    """Serves one manager over a ``SOCK_SEQPACKET`` socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._config = WorkerConfig()
        self._dismissal: Dismissal | None = None
        """what the manager said as it ended"""
        self._herald = 0
        """the process that tells of the manager's death"""
        self._arena: ArenaReader | None = None
        self._setup = bytearray()
        self._unsent: deque[bytes] = deque()
        self._workers: dict[int, int] = {}
        """process id → worker"""
        self._decode = msgspec.msgpack.Decoder(ToZygote).decode
        self._libc = ctypes.CDLL(None, use_errno=True)
        # What tasks start in sessions of their own, and leave behind, becomes a child of this process.
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Serve until the manager dismisses this process or is gone.

        Where this process fails instead, its workers end with it, and the manager starts another.
        """
        setproctitle("throughway-zygote")
        wake_reader, wake_writer = socket.socketpair()
        for end in (wake_reader, wake_writer):
            end.setblocking(False)
        for number in _STOP_SIGNALS:
            # The manager decides when to end; a signal to the whole process group reaches it as well.
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()
        poller = select.poll()
        poller.register(wake_reader, select.POLLIN)
        try:
            while True:
                poller.register(self._control, select.POLLIN | (select.POLLOUT if self._unsent else 0))
                ready = dict(poller.poll())
                if wake_reader.fileno() in ready:
                    wake_reader.recv(4096)
                    self._reap()
                events = ready.get(self._control.fileno(), 0)
                if events & select.POLLOUT:
                    self._send()
                if events & ~select.POLLOUT and not self._serve():
                    break
            # First: a provider that sees its job's first process gone may kill this one at any moment. To start takes
            # the one that tells far longer than it takes to end the workers.
            self._report_death()
        finally:
            self._kill_all(wake_reader)
        if self._dismissal is not None:
            # The manager waits for this process to end.
            self._reap_until(lambda: not self._herald, TELLING_SECONDS, wake_reader)

    def _report_death(self) -> None:
        """Where the manager died, or wants it told that it ends, have somebody tell so: nothing else here knows."""
        command = self._config.obituary
        if not command:
            return
        if self._dismissal is not None:
            if not self._dismissal.obituary:
                return
            command = [*command, self._dismissal.obituary]
        # In a session of its own: what is left of the manager's may be swept away at any moment.
        notes = [(os.POSIX_SPAWN_DUP2, self._config.given, 0)] if self._config.given >= 0 else []
        try:
            self._herald = os.posix_spawn(command[0], command, os.environ, file_actions=notes, setsid=True)
        except (OSError, ValueError) as error:
            # No more processes, or no memory. What tasks have started must end all the same.
            print(f"cannot tell that the manager is gone, with {command[0]}: {error}", file=sys.stderr)

    def _serve(self) -> bool:
        """Do what the manager says next; false once it says nothing more."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 8)
        except ConnectionResetError:
            # The manager is gone and has left something unread. What it said before, its dismissal perhaps, is next.
            return True
        if not message:
            return False
        order = self._decode(message)
        if isinstance(order, Dismissal):
            self._dismissal = order
            return False
        if isinstance(order, Setup):
            self._setup += order.part
            if order.last:
                self._config = msgspec.msgpack.decode(self._setup, type=WorkerConfig)
                self._setup.clear()
                self._prepare()
        else:
            try:
                self._spawn(order, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _prepare(self) -> None:
        """Take the submitting process's place: its working directory and its import path."""
        config = self._config
        known = set(sys.path)
        sys.path[:0] = [entry for entry in config.sys_path if entry not in known]
        if config.arena:
            # Once for all workers, which inherit it.
            try:
                self._arena = ArenaReader(config.arena, config.arena_key)
            except TransportError as error:
                print(error, file=sys.stderr)
        if config.working_directory:
            try:
                os.chdir(config.working_directory)
            except OSError as error:
                print(
                    f"cannot work in {config.working_directory} on this host: {error.strerror}",
                    file=sys.stderr,
                )

    def _spawn(self, order: Spawn, descriptors: Sequence[int]) -> None:
        flush()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            # No more processes, or no memory: those that run go on.
            reason = error.strerror or str(error)
            _append(order.log, f"cannot start this worker: {reason}\n")
            self._say(Exited(order.worker, 0, 1 << 8, reason))
            return
        if pid == 0:
            status = 1
            try:
                status = self._become_worker(order, descriptors, parent)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                # Whatever a task has left behind, this process must not go on as a second zygote.
                try:
                    flush()
                finally:
                    os._exit(status)
        self._workers[pid] = order.worker
        self._say(Spawned(order.worker, pid))

    def _become_worker(self, order: Spawn, descriptors: Sequence[int], parent: int) -> int:
        os.setpgid(0, 0)
        self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            return 1
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self._control.close()
        if self._config.given >= 0:
            os.close(self._config.given)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        _take_descriptor(os.open(os.devnull, os.O_RDONLY), (0,))
        _take_descriptor(os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), (1, 2))
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.__stdout__ = sys.stdout  # type: ignore[misc]
        sys.__stderr__ = sys.stderr  # type: ignore[misc]
        faulthandler.enable(sys.stderr, all_threads=True)
        os.environ.update(order.environment)
        if order.affinity:
            os.sched_setaffinity(0, order.affinity)
        setproctitle(order.title)
        _reseed()
        keep_none()
        channel = WorkerChannel(order.worker, *descriptors)
        os.register_at_fork(after_in_child=channel.abandon)
        context = ExceptionContext(host=order.host, manager=order.manager, worker=order.slot, log=order.log)
        try:
            return Worker(channel, self._config, context, self._arena).run()
        except OSError:
            if not channel.abandoned:
                raise
            print("a child process that a task forked returned from the task; it ends here", file=sys.stderr)
            return 1

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            worker = self._workers.pop(ended.si_pid, None)
            if worker is not None:
                # While it is not collected its id is nobody else's.
                _kill_group(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            if pid == self._herald:
                self._herald = 0
            if worker is not None:
                self._say(Exited(worker, pid, status))

    def _say(self, message: FromZygote) -> None:
        self._unsent.append(msgspec.msgpack.encode(message))
        self._send()

    def _send(self) -> None:
        """Send what the socket takes. The rest waits: the manager may itself be waiting to be read."""
        unsent = self._unsent
        try:
            while unsent:
                self._control.send(unsent[0], socket.MSG_DONTWAIT)
                unsent.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            # The manager is gone; the loop sees the end of the socket next and ends everything.
            unsent.clear()

    def _kill_all(self, wake_reader: socket.socket) -> None:
        """Kill the workers and wait until they are gone, so that nothing outlives this process."""
        for pid in self._workers:
            _kill_group(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._reap_until(self._none_left, LAST_SECONDS, wake_reader)

    def _none_left(self) -> bool:
        """Whether no worker is left, and no process that one of them has left behind: such are killed as they come."""
        orphans = [pid for pid in _children() if pid not in self._workers and pid != self._herald]
        for pid in orphans:
            _kill_group(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not self._workers and not orphans

    def _reap_until(self, done: Callable[[], bool], seconds: float, wake_reader: socket.socket) -> None:
        """Reap children until ``done()``, for so many seconds at most."""
        poller = select.poll()
        poller.register(wake_reader, select.POLLIN)
        deadline = time.monotonic() + seconds
        self._reap()
        while (left := deadline - time.monotonic()) > 0 and not done():
            if poller.poll(left * 1000):
                wake_reader.recv(4096)
            self._reap()


def _children() -> list[int]:
    """The processes whose parent this one is; none where the kernel does not list them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _kill_group(pid: int) -> None:
    """Kill what a worker's tasks have started and left behind."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _take_descriptor(descriptor: int, places: Sequence[int]) -> None:
    """Put a descriptor in these places."""
    for place in places:
        os.dup2(descriptor, place)
    if descriptor > 2:
        os.close(descriptor)


def _append(path: str, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as log:
            log.write(text)
    except OSError as error:
        print(f"{text.rstrip()}; and its log {path} cannot be written: {error.strerror}", file=sys.stderr)


def _reseed() -> None:
    """Forked workers must not share one random sequence."""
    import random

    random.seed()


def main(arguments: list[str]) -> int:
    """``python -m throughway.worker.zygote DESCRIPTOR``."""
    control = socket.socket(fileno=int(arguments[0]))
    Zygote(control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
