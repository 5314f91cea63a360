"""What the two ends of a ZeroMQ wire share: a socket in a context of its own, its monitor, reading and writing."""

from __future__ import annotations

import selectors
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from throughway.errors import TransportError
from throughway.transport.framing import frame_bytes
from throughway.transport.interface import (
    MAX_FRAMES,
    Arrival,
    Buffer,
    Event,
)

FAREWELL = b"\xc1throughway: farewell"

HIGH_WATER_MESSAGES = 256
"""Messages that libzmq itself holds for one peer in each direction; further ones wait in the wire's own backlog."""

COPY_BYTES = 1 << 16
"""Frames of at least this size are handed to and taken from libzmq without a copy."""

MESSAGES_PER_TURN = 256
BYTES_PER_TURN = 1 << 24
"""What one `receive` takes at most before others have their turn."""

LINGER_SECONDS = 1.0
"""How long `close` waits for what libzmq has not sent yet."""

HANDSHAKE_SECONDS = 30.0

_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 4,
}
_CURVE_BYTES = 64
"""An encrypted frame is at most this much larger than its content."""
_MAX_REASON_BYTES = 1000
_MONITOR = "inproc://monitor"
_EVENT = struct.Struct("=Hi")

NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)


class ZmqPeer:
    """The other end, as an end sees it."""

    __slots__ = ("descriptor", "identity", "lost", "muted", "number", "queue", "queued")

    def __init__(self, number: int, identity: bytes, descriptor: int) -> None:
        self.number = number
        self.identity = identity
        self.descriptor = descriptor
        self.queue: deque[tuple[Sequence[Buffer], int]] = deque()
        self.queued = 0
        self.muted = False
        """let go by this end: what it still sends is dropped"""
        self.lost = False
        """its connection is gone: what had arrived is still delivered"""


class _Loss(NamedTuple):
    peer: ZmqPeer
    reason: str


class ZmqEnd:
    """What listener and connector share: a socket in a context of its own, its monitor, reading and writing."""

    def __init__(self, kind: int, watched: int, max_message_bytes: int, max_backlog_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_backlog_bytes = max_backlog_bytes
        self.dropped = 0
        """messages dropped: from peers that were let go, or that could not be messages"""
        self.refused = 0
        """handshakes that failed"""
        self.closed = False
        self._simple_bytes = min(COPY_BYTES, max_message_bytes + 1)
        """a lone frame of fewer bytes needs no further look"""
        self._arrived: list[Event] = []
        self._peers: dict[int, ZmqPeer] = {}
        self._backlogged: dict[ZmqPeer, None] = {}
        self._losses: list[_Loss] = []
        # Descriptors tell only of what comes after a first look.
        self._readable = True
        self._touched = True
        self._monitor_ready = True
        self._selector: selectors.BaseSelector | None = None
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        socket = self._context.socket(kind)
        self._socket = socket
        # Without the options that only draft sockets have: half the time of a call.
        self._send: Callable[..., Any] = super(zmq.Socket, socket).send
        self._recv: Callable[..., Any] = super(zmq.Socket, socket).recv
        for option, value in {
            zmq.LINGER: round(LINGER_SECONDS * 1000),
            zmq.SNDHWM: HIGH_WATER_MESSAGES,
            zmq.RCVHWM: HIGH_WATER_MESSAGES,
            zmq.MAXMSGSIZE: max_message_bytes + _CURVE_BYTES,
            zmq.HANDSHAKE_IVL: round(HANDSHAKE_SECONDS * 1000),
            **_KEEPALIVE,
        }.items():
            socket.setsockopt(option, value)
        # The monitor's queue is unbounded: libzmq's I/O thread would wait for room in it, and the wire with it.
        socket.monitor(_MONITOR, watched)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(_MONITOR)
        self._descriptors: dict[int, Callable[[int], None]] = {
            int(socket.getsockopt(zmq.FD)): self._ready,
            int(self._monitor.getsockopt(zmq.FD)): self._monitored,
        }

    # ------------------------------------------------------------------------------------------------ the interface

    def register(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        for descriptor, ready in self._descriptors.items():
            selector.register(descriptor, selectors.EVENT_READ, ready)

    def receive(self) -> list[Event]:
        if self._readable and not self.closed:
            self._readable = False
            if self._monitor_ready:
                self._watch()
            if not self.closed:
                self._read()
        events = self._arrived
        if events:
            self._arrived = []
        return events

    def pending(self) -> bool:
        # libzmq's descriptor tells of each change once, and any call on the socket may take that in. So ask the
        # socket itself after a call, and try again what it had no room for.
        if (self._touched or self._backlogged) and not self.closed:
            self._touched = False
            if int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                self._readable = True
            if self._backlogged:
                self._flush()
        return self._readable or bool(self._arrived)

    def send(self, peer: int, frames: Sequence[Buffer]) -> bool:
        state = self._peers.get(peer)
        if state is None or state.lost:
            return False
        if not 0 < len(frames) <= MAX_FRAMES:
            raise TransportError(f"a message has 1 to {MAX_FRAMES} frames, not {len(frames)}")
        self._touched = True
        if not state.queue:
            taken = self._transmit(state, frames)
            if taken is not None:
                return taken
        size = sum(map(frame_bytes, frames))
        if state.queued + size > self.max_backlog_bytes:
            waiting = f"{state.queued + size} bytes wait (limit: {self.max_backlog_bytes})"
            self._let_go(state, f"it does not read: {waiting}", report=True)
            return False
        state.queue.append((frames, size))
        state.queued += size
        self._backlogged[state] = None
        return True

    def backlog(self, peer: int) -> int:
        """Bytes that wait in the wire; libzmq holds up to `HIGH_WATER_MESSAGES` messages besides."""
        state = self._peers.get(peer)
        return state.queued if state is not None else 0

    def disconnect(self, peer: int, reason: str) -> None:
        state = self._peers.get(peer)
        if state is not None:
            self._touched = True
            self._let_go(state, reason, report=False)

    def close(self) -> None:
        """As `Wire.close`. Waits up to `LINGER_SECONDS` for what was sent and has not left this machine."""
        if not self.closed:
            self._flush()
            self._shut(LINGER_SECONDS)

    # ------------------------------------------------------------------------------------------------- its descriptors

    def _ready(self, mask: int) -> None:
        # Reading waits until `receive`, so that the shell decides how much; writing need not.
        if not self.closed:
            self._readable = self._touched = True

    def _monitored(self, mask: int) -> None:
        self._readable = self._monitor_ready = True

    def _watch(self) -> None:
        """Take in what the monitor tells."""
        self._monitor_ready = False
        while not self.closed:
            try:
                head, _ = self._monitor.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            event, value = _EVENT.unpack(head)
            self._happened(event, value)

    def _happened(self, event: int, value: int) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- writing

    def _transmit(self, peer: ZmqPeer, frames: Sequence[Buffer]) -> bool | None:
        """Hand a message to libzmq. None where it has no room now, False where the peer is lost."""
        send = self._send
        try:
            # Only the first part can find no room: libzmq counts whole messages.
            if peer.identity:
                send(peer.identity, _MORE)
            last = len(frames) - 1
            for index, frame in enumerate(frames):
                send(frame, _MORE if index < last else NOBLOCK, frame_bytes(frame) < COPY_BYTES)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(peer, "connection lost")
            return False
        return True

    def _flush(self) -> None:
        """Send what waits, where there is room now. Costs one attempt for each peer with a backlog."""
        for peer in list(self._backlogged):
            self._flush_peer(peer)

    def _flush_peer(self, peer: ZmqPeer) -> None:
        queue = peer.queue
        while queue:
            frames, size = queue[0]
            if not self._transmit(peer, frames):
                return
            queue.popleft()
            peer.queued -= size
        self._backlogged.pop(peer, None)

    # ------------------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        raise NotImplementedError

    def _take(self, peer: ZmqPeer, frame: zmq.Frame) -> int:
        """Read the rest of a message that begins with ``frame``, and report it. Returns its bytes."""
        frames: list[Buffer] = []
        size = 0
        while True:
            count = len(frame)
            size += count
            frames.append(frame.bytes if count < COPY_BYTES else frame.buffer)
            if not frame.more:
                break
            frame = self._recv(NOBLOCK, False)
        if peer.muted:
            self.dropped += 1
        elif len(frames) == 2 and frames[0] == FAREWELL:
            reason = bytes(frames[1])[:_MAX_REASON_BYTES].decode(errors="replace")
            self._let_go(peer, reason, report=True, answer=False)
        elif size > self.max_message_bytes or len(frames) > MAX_FRAMES:
            self.dropped += 1
            limits = f"{MAX_FRAMES} frames, {self.max_message_bytes} bytes"
            reason = f"it sent a message of {len(frames)} frames and {size} bytes (limits: {limits})"
            self._let_go(peer, reason, report=True)
        else:
            self._arrived.append(Arrival(peer.number, frames))
        return size

    # ------------------------------------------------------------------------------------------------------ partings

    def _let_go(self, peer: ZmqPeer, reason: str, *, report: bool, answer: bool = True) -> None:
        """End it from this side. With ``answer``, say farewell behind what can be sent at once."""
        raise NotImplementedError

    def _lose(self, peer: ZmqPeer, reason: str) -> None:
        """Its connection is gone. `Closed` follows when all that had arrived is read."""
        if not peer.lost:
            peer.lost = True
            self._discard_backlog(peer)
            self._losses.append(_Loss(peer, reason))
            self._readable = True

    def _discard_backlog(self, peer: ZmqPeer) -> None:
        peer.queue.clear()
        peer.queued = 0
        self._backlogged.pop(peer, None)

    def _shut(self, linger: float) -> None:
        """Give everything back."""
        self.closed = True
        self._unregister()
        self._peers.clear()
        self._backlogged.clear()
        self._losses.clear()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(round(linger * 1000))
        self._context.term()

    def _unregister(self) -> None:
        if self._selector is not None:
            for descriptor in self._descriptors:
                self._selector.unregister(descriptor)
            self._selector = None
