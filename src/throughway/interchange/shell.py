"""The interchange's process: wires and a clock around the reactor."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from throughway.errors import ProtocolError, ThroughwayError
from throughway.interchange.actions import EXECUTOR, Action, Disconnect, Exit, Forward, Note, Send
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import make_selector
from throughway.interchange.state import InterchangeState
from throughway.logs import BackgroundLog, open_log
from throughway.processes import live_process
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.configuration import InterchangeConfig
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.transport.arena import ArenaReader
from throughway.transport.assignments import GIVEN, AssignmentNotes, new_notes, read_notes
from throughway.transport.interface import Arrival, Buffer, Closed, Event, Wire
from throughway.transport.poller import Poller
from throughway.transport.spin import Spin
from throughway.transport.unix import UnixWire

OBSERVER_BACKLOG_BYTES = 16 << 20
"""An observer that leaves more than this unread is let go."""

FAREWELL_SECONDS = 1.0
"""How long the last messages may take to leave."""

TERMINATED_SECONDS = 1.0
"""How long after SIGTERM the executor may take to end, which may have been sent one, too."""

SPIN_SECONDS = 0.00015
"""How long to wait awake for the next task, where the last one came as soon."""

RECONNECT_SECONDS = 10.0
"""How long managers on this machine have to come back to an interchange that was started anew. A process that lives
does so at once."""

_WIRE_SHIFT = 48


class InterchangeShell:
    """Runs one interchange until its executor shuts it down or is gone."""

    def __init__(self, config: InterchangeConfig, logger: logging.Logger) -> None:
        self._config = config
        self._log = logger
        self._debug = config.debug
        self._selector = Poller()
        self._wires: list[Wire] = []
        self._socket_path = ""
        self._executor_wire = UnixWire.over(
            socket.socket(fileno=config.executor_descriptor), label="executor"
        )
        self._add(self._executor_wire)
        if config.local_descriptor is not None:
            limits = {"max_message_bytes": config.max_message_bytes}
            listening = socket.socket(fileno=config.local_descriptor)
            self._socket_path = str(listening.getsockname())
            self._add(UnixWire.listen(listening, **limits))
        self.port: int | None = None
        if config.address is not None:
            self._listen(config)
        self._observers: set[int] = set()
        self._managers: set[int] = set()
        self._given: dict[int, int] = {}
        """peer → descriptor of the notes of a manager on this machine: what it has given to workers"""
        self._exit: str | None = None
        self._leaves_at = math.inf
        self._spin = Spin(SPIN_SECONDS if config.spins else 0.0, SPIN_SECONDS)
        sys.path[:] = config.sys_path or sys.path
        state = InterchangeState(
            run=config.run,
            label=config.label,
            started=time.monotonic(),
            idle=make_selector(config.selector),
            roomy=make_selector(config.selector),
        )
        self._reactor = InterchangeReactor(
            state,
            python=config.python,
            heartbeat_period=config.heartbeat_period,
            heartbeat_threshold=config.heartbeat_threshold,
            reconnect_seconds=(
                min(RECONNECT_SECONDS, config.heartbeat_threshold) if config.address is None else None
            ),
            arena=self._read_arena,
        )
        self._arena: ArenaReader | None = None
        self._notes: AssignmentNotes | None = None
        if config.notes_descriptor is not None:
            self._notes = AssignmentNotes(config.notes_descriptor, state.assignments)

    def _listen(self, config: InterchangeConfig) -> None:
        # Imported here: on one machine nothing needs ZeroMQ, and loading it costs as much as all the rest.
        from throughway.transport.curve import load_interchange_keys, load_manager_keys
        from throughway.transport.zeromq import ZmqListener

        assert config.address is not None
        keys = allowed = None
        if config.certificates is not None:
            keys = load_interchange_keys(config.certificates)
            allowed = {load_manager_keys(config.certificates).own.public: "managers of this run"}
        listener = ZmqListener(
            config.address,
            port=config.port or 0,
            port_range=config.port_range,
            keys=keys,
            allowed=allowed,
            max_message_bytes=config.max_message_bytes,
        )
        self.port = listener.port
        self._add(listener)

    def _read_arena(self, place: int, task: int) -> list[Buffer]:
        """A task's frames in the memory that executor and workers share; none where they are not there any more."""
        try:
            if self._arena is None:
                if self._config.arena_descriptor is None:
                    raise ProtocolError(f"task {task} has its arguments in memory that nobody shares")
                self._arena = ArenaReader(self._config.arena_descriptor, self._config.arena_key)
            return self._arena.read(place, task)
        except ThroughwayError as error:
            # Its worker tells who waits for it, should anybody.
            self._log.error("%s", error)
            return []

    def _add(self, wire: Wire) -> None:
        wire.register(self._selector)
        self._wires.append(wire)

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> str:
        """Serve until the end; returns why it ended."""
        # Messages are structs without cycles: the collector would only walk a million of them in vain.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ, lambda mask: reader.recv(64))
        self._perform(Send(EXECUTOR, m.Listening(self.port)))
        wait = self._selector.wait
        monotonic = time.monotonic
        wires = list(enumerate(self._wires))
        try:
            while self._exit is None:
                if self._reactor.resting:
                    self._wait_at_rest()
                else:
                    wait(self._timeout())
                now = monotonic()
                for index, wire in wires:
                    for event in wire.receive():
                        self._on_event(index, event, now)
                for action in self._reactor.turn(now):
                    self._perform(action)
                if now >= self._leaves_at:
                    # The executor lives: it starts another one, which finds all as it is.
                    return "SIGTERM"
            self._farewell()
        finally:
            signal.set_wakeup_fd(-1)
            for wire in self._wires:
                wire.close()
            self._selector.close()
            reader.close()
            writer.close()
            if self._notes is not None:
                self._notes.close()
            for descriptor in self._given.values():
                os.close(descriptor)
            if self._exit is not None:
                self._remove_socket()
        return self._exit or ""

    def _remove_socket(self) -> None:
        """An executor that was killed leaves the folder of the local socket: it goes here, if nothing else is in it."""
        if self._socket_path:
            with contextlib.suppress(OSError):
                os.unlink(self._socket_path)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self._socket_path))

    def _wait_at_rest(self) -> None:
        """Wait while no task is here: the next may come as soon as the last one's result is there."""
        began = time.monotonic()
        timeout = self._timeout()
        if self._spin.due and timeout != 0.0:
            seconds = self._spin.seconds if timeout is None else min(timeout, self._spin.seconds)
            self._spin.wait(self._selector.ready, began + seconds)
            timeout = self._timeout()
        self._selector.wait(timeout)
        self._spin.waited(began)

    def _timeout(self) -> float | None:
        for wire in self._wires:
            if wire.pending():
                return 0.0
        deadline = self._reactor.next_deadline()
        if self._leaves_at < math.inf:
            deadline = self._leaves_at if deadline is None else min(deadline, self._leaves_at)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._leaves_at = min(self._leaves_at, time.monotonic() + TERMINATED_SECONDS)

    def _farewell(self) -> None:
        """Wait until everybody has heard the last message.

        Those on other machines show it by hanging up: a TCP connection that is closed with anything unread takes what
        was sent over it last away from the other end.
        """
        deadline = time.monotonic() + FAREWELL_SECONDS
        while (left := deadline - time.monotonic()) > 0 and (self._backlogged() or self._far_managers()):
            self._selector.wait(left)
            for index, wire in enumerate(self._wires):
                for event in wire.receive():
                    if isinstance(event, Closed):
                        self._managers.discard(index << _WIRE_SHIFT | event.peer)

    def _far_managers(self) -> bool:
        return any(not isinstance(self._wires[peer >> _WIRE_SHIFT], UnixWire) for peer in self._managers)

    def _backlogged(self) -> bool:
        peers = [*self._managers, *self._observers]
        return any(self._wires[peer >> _WIRE_SHIFT].backlog(peer & (1 << _WIRE_SHIFT) - 1) for peer in peers)

    # --------------------------------------------------------------------------------------------------------- events

    def _on_event(self, index: int, event: Event, now: float) -> None:
        if index == 0:
            self._on_executor(event, now)
            return
        peer = index << _WIRE_SHIFT | event.peer
        if isinstance(event, Arrival):
            frames = event.frames
            try:
                if peer in self._managers:
                    said = codec.decode_from_manager(frames[0])
                    if self._debug:
                        self._note("from", peer, said)
                    self._reactor.manager_said(peer, said, frames, now)
                elif peer in self._observers:
                    message = codec.decode_from_executor(frames[0])
                    if not isinstance(message, m.Ask):
                        raise ProtocolError("an observer may only ask")
                    self._reactor.observer_said(peer, message, now)
                else:
                    self._on_hello(peer, frames[0], now)
            except (ProtocolError, IndexError) as error:
                self._reactor.malformed(peer, str(error))
        elif isinstance(event, Closed):
            self._observers.discard(peer)
            if peer in self._managers:
                self._managers.discard(peer)
                # On one machine a connection ends with its process; between two, it may just have broken.
                gone = isinstance(self._wires[index], UnixWire)
                self._reactor.peer_left(peer, event.reason, now, gone=gone, given=self._given_by(peer))
            elif event.peer < 0:
                self._log.warning("%s", event.reason)

    def _on_executor(self, event: Event, now: float) -> None:
        if isinstance(event, Arrival):
            try:
                message = codec.decode_from_executor(event.frames[0])
            except ProtocolError as error:
                self._reactor.malformed(EXECUTOR, str(error))
            else:
                if self._debug:
                    self._note("from", EXECUTOR, message)
                self._reactor.executor_said(message, event.frames[1:], now)
        elif isinstance(event, Closed):
            self._reactor.executor_left(event.reason, now)

    def _on_hello(self, peer: int, header: bytes | bytearray | memoryview, now: float) -> None:
        try:
            hello = codec.decode_hello(header)
        except ProtocolError:
            # What else there is in the first message of another version, nobody knows.
            version = codec.decode_version(header).protocol
            if version == PROTOCOL_VERSION:
                raise
            self._reactor.malformed(peer, self._refuse_version(peer, f"the other {version}"))
            return
        if isinstance(hello, m.ManagerHello):
            self._managers.add(peer)
            wire = self._wires[peer >> _WIRE_SHIFT]
            if hello.given >= 0 and isinstance(wire, UnixWire):
                # Where they cannot be read, all that the manager has when it dies may have started.
                with contextlib.suppress(OSError):
                    self._given[peer] = _notes_of(hello, wire.process(peer & (1 << _WIRE_SHIFT) - 1))
            self._reactor.manager_said_hello(peer, hello, now)
        elif isinstance(hello, m.ManagerDied):
            self._reactor.manager_died(peer, hello, now)
        elif hello.protocol != PROTOCOL_VERSION:
            self._refuse_version(peer, f"the observer {hello.protocol}")
        else:
            self._observers.add(peer)

    def _refuse_version(self, peer: int, other: str) -> str:
        """Tell a peer that it speaks another version of the protocol, let it go, and return what it was told."""
        reason = f"this run speaks protocol {PROTOCOL_VERSION}, {other}: install the same version of throughway on both"
        self._perform(Send(peer, m.Refused(reason)))
        self._perform(Disconnect(peer, reason))
        return reason

    def _given_by(self, peer: int) -> Collection[int] | None:
        """What a manager that is gone had given to workers, None where that is not known."""
        descriptor = self._given.pop(peer, None)
        if descriptor is None:
            return None
        try:
            return set(read_notes(descriptor).get(GIVEN, ()))
        except (OSError, LookupError, ValueError) as error:
            self._log.warning("cannot read what a dead manager had given to workers: %r", error)
            return None
        finally:
            os.close(descriptor)

    def _note(self, way: str, peer: int, message: m.Message) -> None:
        tasks = getattr(message, "tasks", ())
        name = "the executor" if peer == EXECUTOR else f"peer {peer:x}"
        self._log.debug("%s %s: %s, %d tasks", way, name, type(message).__name__, len(tasks))

    # -------------------------------------------------------------------------------------------------------- actions

    def _perform(self, action: Action) -> None:
        if isinstance(action, Send):
            if self._debug:
                self._note("to", action.peer, action.message)
            self._send(action.peer, [codec.encode(action.message), *action.frames])
        elif isinstance(action, Note):
            if self._notes is not None:
                self._notes.note(action.manager, action.tasks)
        elif isinstance(action, Forward):
            self._send(action.peer, action.frames)
        elif isinstance(action, Disconnect):
            peer = action.peer
            self._managers.discard(peer)
            if peer in self._given:
                os.close(self._given.pop(peer))
            self._observers.discard(peer)
            self._wires[peer >> _WIRE_SHIFT].disconnect(peer & (1 << _WIRE_SHIFT) - 1, action.reason)
        elif isinstance(action, Exit):
            self._exit = action.reason
        else:
            self._log.log(getattr(logging, action.level), "%s", action.text)

    def _send(self, peer: int, frames: Sequence[Buffer]) -> None:
        if peer == EXECUTOR:
            self._executor_wire.send(0, frames)
            return
        wire, number = self._wires[peer >> _WIRE_SHIFT], peer & (1 << _WIRE_SHIFT) - 1
        wire.send(number, frames)
        if peer in self._observers and wire.backlog(number) > OBSERVER_BACKLOG_BYTES:
            self._observers.discard(peer)
            wire.disconnect(number, "it does not read what it asked for")


def _notes_of(hello: m.ManagerHello, process: int) -> int:
    """A descriptor of the notes in which a manager on this machine keeps what it has given to workers.

    ``process`` is its number here, which need not be the one that it knows itself by. Raises `OSError` where its notes
    cannot be had, though there may be something in them.
    """
    path = f"/proc/{process}/fd/{hello.given}"
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if hello.again or not process or live_process(process) is not None:
            raise
        # It died before it was heard, and has never had a task.
        return new_notes()


def serve(config: InterchangeConfig) -> int:
    """Run an interchange as this process; returns the exit status."""
    from setproctitle import setproctitle

    setproctitle(f"throughway-interchange {config.label} {config.run}")
    logger = open_log(Path(config.folder) / "interchange.log", "interchange", debug=config.debug)
    with contextlib.closing(BackgroundLog(logger)):
        logger.info("interchange of run %s starts: process %d", config.run, os.getpid())
        try:
            shell = InterchangeShell(config, logger)
            if shell.port is not None:
                logger.info("managers connect to %s port %d", config.address, shell.port)
            reason = shell.run()
        except Exception:
            logger.exception("the interchange failed")
            raise
        logger.info("interchange ends: %s", reason)
    return 0
