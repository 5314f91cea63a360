"""The manager's process: a wire, pipes to workers, a zygote and a clock around the reactor."""

from __future__ import annotations

import gc
import logging
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from throughway.errors import ProtocolError, TransportError
from throughway.logs import BackgroundLog, open_log
from throughway.manager.accelerators import AcceleratorPool
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
from throughway.manager.affinity import affinity_plan
from throughway.manager.connections import connections
from throughway.manager.deadline import seconds_to_drain
from throughway.manager.environment import worker_environment
from throughway.manager.reactor import Link, ManagerReactor
from throughway.manager.sizing import cores_available, memory_available, worker_count
from throughway.manager.state import ManagerState
from throughway.manager.supervision import WorkerProcess, ZygoteClient
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import Bundle, Exited, Spawn, Spawned
from throughway.protocol.configuration import ManagerConfig, WorkerConfig, read_configuration
from throughway.protocol.identifiers import new_manager_id
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.transport.arena import ArenaReader
from throughway.transport.assignments import GIVEN, AssignmentNotes, new_notes
from throughway.transport.interface import Arrival, Closed, Opened
from throughway.transport.poller import Poller

DEATH_SECONDS = 1.0
"""How long killed workers may take to be gone, where there is no zygote to say so."""

FAREWELL_SECONDS = 1.0
"""How long the last messages may be kept from leaving: as long as they move, they are waited for."""

SIGTERM_SECONDS = 1.0
"""A second SIGTERM after so long means to end at once. One that comes sooner is the same: a batch system and a launcher
both may hand it on."""

OBITUARY_CHARACTERS = 500
"""How much is told, at most, of why a manager ended itself."""

RECONNECT_SECONDS = 0.2
"""After a connection to another machine was lost, how long to wait before the next."""

_BELL_BYTES = 1 << 16
_KILLED = int(signal.SIGKILL)


class ManagerShell:
    """Runs one manager until its interchange or its user ends it.

    Args:
        config: its document.
        document: the path of it.
        fork: runs a zygote over a socket; see `ZygoteClient`.
        logger: where it logs.
    """

    def __init__(
        self,
        config: ManagerConfig,
        document: str,
        fork: Callable[[socket.socket], None],
        logger: logging.Logger,
    ) -> None:
        self._config = config
        self._log = logger
        self._host = socket.gethostname()
        self._cores = cores_available()
        self._memory = memory_available()
        self.slots = worker_count(
            cores=self._cores,
            memory=self._memory,
            cores_per_worker=config.cores_per_worker,
            mem_per_worker=config.mem_per_worker,
            max_workers_per_node=config.max_workers_per_node,
            accelerators=len(config.available_accelerators),
        )
        self._affinity = affinity_plan(config.cpu_affinity, self.slots, sorted(os.sched_getaffinity(0)))
        self._accelerators = AcceleratorPool(config.available_accelerators)
        self._id = new_manager_id()
        self._folder = Path(config.folder) / str(self._id)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._worker_config = self._with_arena(config.worker)
        self._given = -1
        if config.socket is None:
            # The zygote outlives this process, and has the notes read by whom it starts then.
            self._given = new_notes()
            # On one machine the end of the connection tells.
            obituary = [sys.executable, "-P", "-m", "throughway.manager.obituary", document, str(self._id)]
            self._worker_config = msgspec.structs.replace(
                self._worker_config, obituary=obituary, given=self._given
            )
        self._zygote = ZygoteClient(self._worker_config, fork)
        if config.socket is not None:
            self._given = new_notes()
        _raise_descriptor_limit(self.slots)
        self._selector = Poller()
        self._processes: dict[int, WorkerProcess] = {}
        self._watched: set[int] = set()
        self._bell, self._bell_writer = os.pipe()
        os.set_blocking(self._bell, False)
        self._exit: Exit | None = None
        self._answered = False
        """whether the reactor was told something by what it asked for: then it has another turn at once"""
        now = time.monotonic()
        drain_in = seconds_to_drain(
            os.environ, time.time(), walltime=config.walltime, drain_period=config.drain_period
        )
        self._drain_at = None if drain_in is None else now + drain_in
        self._terminated_at = math.inf
        self._reactor = ManagerReactor(
            ManagerState(str(self._id), self._host, config.block, str(self._folder), self.slots),
            now=now,
            prefetch_capacity=config.prefetch_capacity,
            max_tasks_per_child=config.worker.max_tasks_per_child,
            heartbeat_period=config.heartbeat_period,
            heartbeat_threshold=config.heartbeat_threshold,
            drain_at=self._drain_at,
        )
        self._notes = AssignmentNotes(os.dup(self._given), lambda: [(GIVEN, self._reactor.state.holders)])
        self._connections = connections(config, logger)
        try:
            self._wire = self._connections()
        except BaseException:
            # Nobody knows of this manager: there is nothing to tell of its end.
            self._zygote.close()
            raise
        self._reconnect_at = math.inf
        self._peer = 0

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> Exit:
        """Serve until the end; returns why it ended, and the exit status."""
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        # What it asks for is done between two events, when its number arrives over the socket: see `_on_signals`.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        read = selectors.EVENT_READ
        self._selector.register(reader, read, lambda mask: self._on_signals(reader.recv(64)))
        self._selector.register(self._bell, read, self._on_bell)
        self._selector.register(self._zygote.control, read, self._on_zygote)
        self._wire.register(self._selector)
        self._perform_all(self._reactor.start())
        wait = self._selector.wait
        monotonic = time.monotonic
        try:
            while self._exit is None:
                moment = min(self._reactor.next_deadline(), self._reconnect_at)
                timeout = 0.0 if self._wire.pending() else max(0.0, moment - monotonic())
                wait(timeout)
                now = monotonic()
                if now >= self._reconnect_at:
                    self._connect_again()
                for event in self._wire.receive():
                    self._on_event(event, now)
                actions = self._reactor.turn(now)
                while actions and self._exit is None:
                    self._perform_all(actions)
                    if not self._answered:
                        break
                    self._answered = False
                    actions = self._reactor.turn(monotonic())
            self._farewell()
            obituary = "" if self._exit.knows else f"it ended itself: {self._exit.reason}"
        except BaseException as error:
            obituary = f"it failed: {type(error).__name__}: {error}"
            raise
        finally:
            signal.set_wakeup_fd(-1)
            self._wire.close()
            self._end_workers(obituary)
            self._selector.close()
            reader.close()
            writer.close()
        return self._exit

    def _with_arena(self, config: WorkerConfig) -> WorkerConfig:
        """The workers' document, without the executor's shared memory where it cannot be had."""
        if config.arena:
            try:
                ArenaReader(config.arena, config.arena_key).close()
            except TransportError as error:
                self._log.warning("%s: large arguments come over the socket", error)
                return msgspec.structs.replace(config, arena="")
        return config

    def _greet(self) -> None:
        from throughway import __version__

        config = self._config
        hello = m.ManagerHello(
            protocol=PROTOCOL_VERSION,
            id=str(self._id),
            host=self._host,
            block=config.block,
            pid=os.getpid(),
            python=python_version(),
            version=__version__,
            workers=self.slots,
            capacity=self._reactor.capacity,
            cores=self._cores,
            memory=self._memory,
            started=time.time(),
            ends_in=None if self._drain_at is None else max(0.0, self._drain_at - time.monotonic()),
            log=str(self._folder),
            given=self._given if config.socket is not None else -1,
            shares=bool(self._worker_config.arena),
        )
        self._wire.send(self._peer, [codec.encode(self._reactor.hello(hello))])

    def _connect_again(self) -> None:
        """The connection was lost: make another. On one machine nobody may be left to connect to."""
        self._reconnect_at = math.inf
        self._wire.close()
        try:
            self._wire = self._connections()
        except TransportError as error:
            self._exit = self._exit or Exit(f"the interchange is gone: {error}", 1)
            return
        self._wire.register(self._selector)

    def _farewell(self) -> None:
        left = self._wire.backlog(self._peer)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while left and time.monotonic() < deadline:
            self._selector.wait(0.05)
            before, left = left, self._wire.backlog(self._peer)
            if left < before:
                deadline = time.monotonic() + FAREWELL_SECONDS

    def _end_workers(self, obituary: str) -> None:
        # The interchange may have given it tasks until now, and would know of its end only by its silence.
        self._zygote.close(_printable(obituary[:OBITUARY_CHARACTERS]))
        for process in self._processes.values():
            process.close()
        os.close(self._bell)
        os.close(self._bell_writer)
        self._notes.close()
        os.close(self._given)

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGUSR1 in numbers:
            self._reactor.drain("SIGUSR1: the walltime of its block is nearly over")
        if signal.SIGTERM in numbers:
            now = time.monotonic()
            if now - self._terminated_at > SIGTERM_SECONDS:
                self._exit = self._exit or Exit("SIGTERM, again")
            self._terminated_at = min(self._terminated_at, now)
            self._reactor.drain("SIGTERM")

    # --------------------------------------------------------------------------------------------------------- events

    def _on_event(self, event: object, now: float) -> None:
        match event:
            case Arrival(frames=frames):
                try:
                    if self._reactor.link is Link.UP:
                        said = codec.decode_to_manager(frames[0])
                        if self._config.debug:
                            self._note("from the interchange", said)
                        self._reactor.interchange_said(said, frames[1:], now)
                    else:
                        self._on_greeting(codec.decode_greeting(frames[0]), now)
                except ProtocolError as error:
                    self._log.warning("dropped a message of the interchange: %s", error)
            case Opened(peer=peer):
                self._peer = peer
                self._greet()
            case Closed(reason=reason):
                self._reactor.interchange_left(reason)
                # On one machine, whether anybody still listens is known at once.
                pause = 0.0 if self._config.socket is not None else RECONNECT_SECONDS
                self._reconnect_at = now + pause

    def _on_greeting(self, greeting: m.Welcome | m.Refused, now: float) -> None:
        if isinstance(greeting, m.Refused):
            reason = f"refused by the interchange: {greeting.reason}"
            self._exit = self._exit or Exit(reason, 1, again=greeting.again, knows=True)
        else:
            self._reactor.welcomed(greeting, now)
            self._log.info("registered with the interchange")

    def _on_bell(self, mask: int) -> None:
        now = time.monotonic()
        data = os.read(self._bell, _BELL_BYTES)
        rang = set(memoryview(data).cast("I")) if len(data) % 4 == 0 else set()
        # A task that writes here itself puts the numbers out of step: then any worker may have rung.
        for number in rang if rang and rang <= self._processes.keys() else list(self._processes):
            self._read(number, now)

    def _read(self, number: int, now: float) -> None:
        process = self._processes.get(number)
        if process is None:
            return
        records = process.read()
        if records:
            self._reactor.records_came(number, records, now)
        if process.reader.fault:
            self._reactor.worker_broke(number, process.reader.fault)
        partial = process.reader.partial
        if partial or process.results in self._watched:
            # A large result under way is read as it comes; otherwise the bell tells.
            self._watch(process.results, partial, lambda mask: self._read(number, time.monotonic()))

    def _watch(
        self, descriptor: int, wanted: bool, ready: Callable[[int], None], write: bool = False
    ) -> None:
        if wanted and descriptor not in self._watched:
            self._watched.add(descriptor)
            self._selector.register(
                descriptor, selectors.EVENT_WRITE if write else selectors.EVENT_READ, ready
            )
        elif not wanted and descriptor in self._watched:
            self._watched.discard(descriptor)
            self._selector.unregister(descriptor)

    def _write(self, process: WorkerProcess) -> None:
        self._watch(process.tasks, not process.write(), lambda mask: self._write(process), write=True)

    def _on_zygote(self, mask: int) -> None:
        message = self._zygote.receive()
        if message is None:
            self._replace_zygote()
        elif isinstance(message, Spawned):
            if message.worker in self._processes:
                self._processes[message.worker].spawned(message.pid)
        elif isinstance(message, Exited):
            self._on_exit(message.worker, message.status, message.unforked)

    def _on_exit(self, number: int, status: int, unforked: str = "") -> None:
        process = self._processes.pop(number, None)
        if process is None:
            return
        process.dead = True
        now = time.monotonic()
        self._reactor.records_came(number, process.read(), now)
        for descriptor in (process.results, process.tasks):
            self._watch(descriptor, False, lambda mask: None)
        if self._config.available_accelerators:
            self._accelerators.release(process.slot)
        if unforked:
            self._reactor.worker_not_started(number, unforked, now)
        else:
            self._reactor.worker_ended(
                number, status, process.unclaimed(), process.stderr(), process.log, now
            )
        process.close()

    def _replace_zygote(self) -> None:
        """The zygote died, and with it all workers: each is settled as killed, and a fresh zygote starts others."""
        self._log.error("the zygote is gone; starting another")
        self._selector.unregister(self._zygote.control)
        self._zygote.close()
        for process in self._processes.values():
            process.kill()
        self._zygote = ZygoteClient(self._worker_config, None)
        self._selector.register(self._zygote.control, selectors.EVENT_READ, self._on_zygote)
        deadline = time.monotonic() + DEATH_SECONDS
        for number, process in self._processes.items():
            # What it may yet claim is settled only once it is dead.
            records = process.read_to_end(deadline - time.monotonic())
            self._reactor.records_came(number, records, time.monotonic())
        # By now it is known which of them had got ready.
        self._reactor.zygote_ended()
        for number in list(self._processes):
            self._on_exit(number, _KILLED)

    # -------------------------------------------------------------------------------------------------------- actions

    def _perform_all(self, actions: list[Action]) -> None:
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(message=message, frames=frames):
                if self._config.debug:
                    self._note("to the interchange", message)
                self._wire.send(self._peer, [codec.encode(message), *frames])
            case Give(worker=number, tasks=tasks, functions=functions, forget=forget, frames=frames):
                process = self._processes[number]
                if self._config.debug:
                    self._log.debug("to worker %d: %d tasks", process.slot, len(tasks))
                # First: what is not noted when this process dies has not started.
                self._notes.note(GIVEN, [task.id for task in tasks])
                bundle = Bundle(tasks, functions, forget)
                if not process.give([codec.encode(bundle), *frames], len(tasks)):
                    self._watch(process.tasks, True, lambda mask: self._write(process), write=True)
            case Look(worker=number):
                self._answered = True
                now = time.monotonic()
                self._read(number, now)
                self._reactor.looked(number, now)
            case Revoke(worker=number, limit=limit):
                self._answered = True
                if number in self._processes:
                    self._reactor.revoked(number, self._processes[number].revoke(limit), time.monotonic())
            case Kill(worker=number):
                if number in self._processes:
                    self._processes[number].kill()
            case Start(worker=number, slot=slot):
                self._start_worker(number, slot)
            case ReportPackages(request=request):
                self._wire.send(
                    self._peer, [codec.encode(m.Answer(request, codec.encode(installed_packages())))]
                )
            case Exit():
                self._exit = self._exit or action
            case Log(level=level, text=text):
                self._log.log(getattr(logging, level), "%s", text)

    def _note(self, way: str, message: m.Message) -> None:
        tasks = getattr(message, "tasks", ())
        self._log.debug("%s: %s, %d tasks", way, type(message).__name__, len(tasks))

    def _start_worker(self, number: int, slot: int) -> None:
        config = self._config
        try:
            process = WorkerProcess(number, slot, self._reactor.state.worker_log(slot))
        except OSError as error:
            # Most likely there are no descriptors left: those that run go on, and it is tried again.
            self._answered = True
            self._reactor.worker_not_started(number, error.strerror or str(error), time.monotonic())
            return
        self._processes[number] = process
        cores = self._affinity[slot]
        environment = worker_environment(
            rank=slot,
            workers=self.slots,
            manager_id=str(self._id),
            block=config.block,
            run_id=config.run,
            affinity=cores,
            accelerator=self._accelerators.assign(slot) if config.available_accelerators else None,
        )
        order = Spawn(
            number,
            slot,
            f"throughway-worker {slot} of manager {self._id}",
            process.log,
            environment,
            list(cores),
            self._host,
            str(self._id),
        )
        self._zygote.spawn(order, process, self._bell_writer)


def installed_packages() -> dict[str, str]:
    """The installed distributions and their versions."""
    from importlib.metadata import distributions

    return {distribution.metadata["Name"]: distribution.version for distribution in distributions()}


def _printable(text: str) -> str:
    """Fit to be a process's argument, and a line of a log."""
    return "".join(character if character.isprintable() else " " for character in text)


def _raise_descriptor_limit(slots: int) -> None:
    """Each worker needs three descriptors here: take as many as the system lets this user have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5 * slots + 64
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def serve(document: str, fork: Callable[[socket.socket], None]) -> int:
    """Run a manager as this process, with the document at this path; returns the exit status.

    Raises:
        ThroughwayError: the document cannot be read, or the interchange cannot be reached.
    """
    from setproctitle import setproctitle

    config = read_configuration(document, ManagerConfig)
    # A batch system may send this warning to every process of a job. Only the manager knows what to do about it; what
    # it starts inherits that it is ignored.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    logger = open_log(Path(config.folder) / f"manager-{os.getpid()}.log", "manager", debug=config.debug)
    background: BackgroundLog | None = None
    try:
        shell = ManagerShell(config, document, fork, logger)
        background = BackgroundLog(logger)
        # No space near the start: else Slurm's proctrack/linuxproc does not find the process when it kills the job.
        setproctitle(f"throughway-manager {shell._id} block {config.block}")
        logger.info("manager %s of run %s starts: process %d", shell._id, config.run, os.getpid())
        end = shell.run()
    except Exception:
        logger.exception("the manager failed")
        raise
    finally:
        if background is not None:
            background.close()
    logger.log(logging.ERROR if end.status else logging.INFO, "manager ends: %s", end.reason)
    if end.again:
        logger.info("the manager starts over")
        os.execv(sys.executable, [sys.executable, "-P", "-m", "throughway.manager", document])
    if end.status:
        # The job's output is where the executor looks when a block has failed.
        sys.stdout.write(f"throughway manager: {end.reason}\n")
        sys.stdout.flush()
    return end.status
