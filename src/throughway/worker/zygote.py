"""The process that forks workers, so that each starts in milliseconds with everything it needs already loaded.

It has one thread and no user code in it, which makes forking safe. It is the workers' parent: it reaps them, and tells
the manager how each ended. When the manager is gone it kills them all and ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec
from setproctitle import setproctitle

from throughway.protocol.bundles import Exited, FromZygote, Setup, Spawn, Spawned, ToZygote
from throughway.protocol.configuration import WorkerConfig
from throughway.serialize.exceptions import ExceptionContext
from throughway.worker.loop import Worker, WorkerChannel, flush

_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 1 << 20
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Zygote:
    """Serves one manager over a ``SOCK_SEQPACKET`` socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._config = WorkerConfig()
        self._workers: dict[int, int] = {}
        """process id → worker"""
        self._decode = msgspec.msgpack.Decoder(ToZygote).decode
        self._libc = ctypes.CDLL(None, use_errno=True)

    def run(self) -> None:
        """Serve until the manager closes the socket."""
        setproctitle("throughway: zygote")
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
        import select

        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wake_reader, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poller.poll()}
                if wake_reader.fileno() in ready:
                    wake_reader.recv(4096)
                    self._reap()
                if self._control.fileno() in ready and not self._serve():
                    return
        finally:
            self._kill_all()

    def _serve(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 8)
        if not message:
            return False
        order = self._decode(message)
        if isinstance(order, Setup):
            self._config = order.worker
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
        if config.working_directory:
            try:
                os.chdir(config.working_directory)
            except OSError as error:
                print(f"cannot work in {config.working_directory} on this host: {error.strerror}", file=sys.stderr)

    def _spawn(self, order: Spawn, descriptors: Sequence[int]) -> None:
        flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = self._become_worker(order, descriptors, parent)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                flush()
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
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.__stdout__ = sys.stdout  # type: ignore[misc]
        sys.__stderr__ = sys.stderr  # type: ignore[misc]
        faulthandler.enable(sys.stderr, all_threads=True)
        os.environ.update(order.environment)
        if order.affinity:
            os.sched_setaffinity(0, order.affinity)
        setproctitle(order.title)
        _reseed()
        channel = WorkerChannel(order.worker, *descriptors)
        context = ExceptionContext(host=order.host, manager=order.manager, worker=order.slot)
        return Worker(channel, self._config, context).run()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                _kill_group(pid)
                self._say(Exited(worker, pid, status))

    def _say(self, message: FromZygote) -> None:
        try:
            self._control.send(msgspec.msgpack.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            # The manager is gone; the loop sees the end of the socket next and ends everything.
            return

    def _kill_all(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _kill_group(pid: int) -> None:
    """Kill what a worker's tasks have started and left behind."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


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
