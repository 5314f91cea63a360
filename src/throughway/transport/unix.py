"""Wires on one machine: Unix stream sockets, guarded by file permissions and by the peer's user id."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice

from throughway.errors import ProtocolError, TransportError
from throughway.transport.framing import Unframer, frame_bytes, framed
from throughway.transport.interface import (
    MAX_BACKLOG_BYTES,
    MAX_MESSAGE_BYTES,
    Arrival,
    Buffer,
    Closed,
    Event,
    Opened,
)

READ_BYTES = 1 << 18
"""Bytes asked for in one read."""

READS_PER_TURN = 8
"""Reads from one peer before the others have their turn."""

_BUFFER_BYTES = 1 << 21
_IOV_MAX = 512
_JOINED_BYTES = 1 << 14
_LAST_READS = 64
_MAX_PATH_BYTES = 107

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


class _Stream:
    """One connected socket of a wire."""

    def __init__(self, wire: UnixWire, peer: int, sock: socket.socket) -> None:
        self.wire = wire
        self.peer = peer
        self.sock = sock
        self.unframer = Unframer(wire.max_message_bytes)
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.mask = 0
        """what the selector waits for; 0 where the socket is not registered"""
        self.paused = False

    def ready(self, mask: int) -> None:
        if mask & _WRITE:
            with self.wire.writing:
                self.write()
        if mask & _READ and self.peer in self.wire.streams:
            self.read()

    def read(self) -> bool:
        """Take in what is there, up to a fair share. False where nothing more is."""
        wire = self.wire
        unframer = self.unframer
        try:
            for _ in range(READS_PER_TURN):
                if unframer.direct is not None:
                    count = self.sock.recv_into(unframer.direct)
                    messages = unframer.fed(count) if count else []
                else:
                    # Read into a buffer that is there, and copy what came: to make one of this size for each read
                    # costs more than a small message does.
                    count = self.sock.recv_into(wire.buffer)
                    messages = unframer.feed(bytes(wire.buffer[:count])) if count else []
                if not count:
                    wire.drop(self, "cut off in the middle of a message" if unframer.partial else "closed")
                    return False
                for frames in messages:
                    wire.arrived.append(Arrival(self.peer, frames))
                if count < READ_BYTES and unframer.direct is None:
                    break
        except (BlockingIOError, InterruptedError):
            return False
        except ProtocolError as error:
            wire.drop(self, str(error))
            return False
        except OSError as error:
            wire.drop(self, error.strerror or str(error))
            return False
        return True

    def write(self) -> None:
        queue = self.queue
        try:
            while queue:
                sent = self.sock.sendmsg(islice(queue, _IOV_MAX))
                self.queued -= sent
                while sent:
                    size = queue[0].nbytes
                    if sent < size:
                        queue[0] = queue[0][sent:]
                        break
                    queue.popleft()
                    sent -= size
                while queue and not queue[0].nbytes:
                    queue.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.lost(error)
            return
        self.wire.watch(self)

    def lost(self, error: OSError) -> None:
        """Writing failed: the peer is gone. What it sent before that is still to be read: a socket buffer at most."""
        if self.wire.read_elsewhere:
            # That may be under way at this moment, and comes to the same end.
            self.queue.clear()
            self.queued = 0
            return
        for _ in range(_LAST_READS):
            if not self.read():
                break
        self.wire.drop(self, error.strerror or str(error))


class UnixWire:
    """One end over Unix sockets: a listener, a connector, or an already connected socket."""

    def __init__(
        self,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_backlog_bytes = max_backlog_bytes
        self.writing: AbstractContextManager[object] = nullcontext()
        """held while the wire writes by itself; whoever calls `send` from another thread holds it, too"""
        self.read_elsewhere = False
        """whether other threads than those that write read, and find out who is gone"""
        self.streams: dict[int, _Stream] = {}
        self.arrived: list[Event] = []
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.turned_away = 0
        """connections refused: of another user, or for want of descriptors"""
        self._listening: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._next_peer = 0
        self._reserve = -1

    @classmethod
    def listen(cls, sock: socket.socket, **limits: int) -> UnixWire:
        """A listener on a socket made by `listening_socket`."""
        wire = cls(**limits)
        sock.setblocking(False)
        wire._listening = sock
        wire._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return wire

    @classmethod
    def connect(cls, path: str, **limits: int) -> UnixWire:
        """Connect to a listener's path.

        Raises:
            TransportError: nothing listens there, or it may not be reached.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise TransportError(f"cannot connect to {path}: {error.strerror or error}") from error
        return cls.over(sock, label=path, **limits)

    @classmethod
    def over(cls, sock: socket.socket, *, label: str = "", **limits: int) -> UnixWire:
        """Use a connected stream socket, such as one of a pair."""
        wire = cls(**limits)
        wire.add(sock, label)
        return wire

    def add(self, sock: socket.socket, label: str) -> int:
        """Take a connected socket as a further peer."""
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        peer = self._next_peer
        self._next_peer += 1
        stream = _Stream(self, peer, sock)
        self.streams[peer] = stream
        self.arrived.append(Opened(peer, label))
        self.watch(stream)
        return peer

    # ------------------------------------------------------------------------------------------------ the interface

    def register(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        if self._listening is not None:
            selector.register(self._listening, _READ, self._accept)
        for stream in self.streams.values():
            self.watch(stream)

    def receive(self) -> list[Event]:
        events = self.arrived
        if events:
            self.arrived = []
        return events

    def pending(self) -> bool:
        return bool(self.arrived)

    def send(self, peer: int, frames: Sequence[Buffer]) -> bool:
        stream = self.streams.get(peer)
        if stream is None:
            return False
        head, total = framed(frames)
        sent = 0
        if not stream.queue and len(frames) < _IOV_MAX:
            try:
                # A copy of a few pages costs less than a vector for the kernel to walk.
                if total <= _JOINED_BYTES:
                    sent = stream.sock.send(b"".join((head, *frames)))
                else:
                    sent = stream.sock.sendmsg((head, *frames))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                stream.lost(error)
                return False
            if sent == total:
                return True
        for part in (head, *frames):
            if not frame_bytes(part):
                continue
            view = memoryview(part).cast("B")
            if sent >= view.nbytes:
                sent -= view.nbytes
                continue
            rest = view[sent:] if sent else view
            sent = 0
            stream.queue.append(rest)
            stream.queued += rest.nbytes
        if stream.queued > self.max_backlog_bytes:
            self.drop(
                stream, f"it does not read: {stream.queued} bytes wait (limit: {self.max_backlog_bytes})"
            )
            return False
        self.watch(stream)
        return True

    def process(self, peer: int) -> int:
        """The process that made a peer's connection, by the number that it has here; 0 where that is not known, as of
        one in a container with process numbers of its own."""
        stream = self.streams.get(peer)
        credentials = None if stream is None else _credentials(stream.sock)
        return 0 if credentials is None else credentials[0]

    def backlog(self, peer: int) -> int:
        stream = self.streams.get(peer)
        return stream.queued if stream is not None else 0

    def disconnect(self, peer: int, reason: str) -> None:
        stream = self.streams.get(peer)
        if stream is None:
            return
        if stream.queue:
            known = len(self.arrived)
            stream.write()
            del self.arrived[known:]
        self._release(stream)

    def close(self) -> None:
        for stream in list(self.streams.values()):
            self.disconnect(stream.peer, "closed")
        if self._listening is not None:
            if self._selector is not None:
                self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None
            if self._reserve >= 0:
                os.close(self._reserve)
                self._reserve = -1

    # --------------------------------------------------------------------------------------------------- its parts

    def drop(self, stream: _Stream, reason: str) -> None:
        """A peer is gone by itself: release it and report it."""
        if self._release(stream):
            self.arrived.append(Closed(stream.peer, reason))

    def watch(self, stream: _Stream) -> None:
        """Have the selector wait for what this stream needs now."""
        selector = self._selector
        if selector is None or stream.peer not in self.streams:
            return
        mask = (0 if stream.paused else _READ) | (_WRITE if stream.queue else 0)
        if mask == stream.mask:
            return
        if not mask:
            selector.unregister(stream.sock)
        elif stream.mask:
            selector.modify(stream.sock, mask, stream.ready)
        else:
            selector.register(stream.sock, mask, stream.ready)
        stream.mask = mask

    def take(self, peer: int) -> None:
        """Read what a peer has sent, without waiting and without the selector: for one who has paused it."""
        stream = self.streams.get(peer)
        if stream is not None:
            stream.read()

    def pause(self, peer: int, paused: bool) -> None:
        """Stop or go on reading from a peer, so that one who is slow to take results slows those who make them.

        That a paused peer is gone is noticed when something is sent to it, or when it is no longer paused.
        """
        stream = self.streams.get(peer)
        if stream is not None:
            stream.paused = paused
            self.watch(stream)

    def _release(self, stream: _Stream) -> bool:
        if self.streams.pop(stream.peer, None) is None:
            return False
        if stream.mask and self._selector is not None:
            self._selector.unregister(stream.sock)
            stream.mask = 0
        stream.sock.close()
        stream.queue.clear()
        stream.queued = 0
        return True

    def _accept(self, mask: int) -> None:
        assert self._listening is not None
        while True:
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._turn_away():
                    continue
                return
            user = peer_user(sock)
            if user is not None and user not in (os.getuid(), 0):
                sock.close()
                self.turned_away += 1
                continue
            self.add(sock, f"user {user}")

    def _turn_away(self) -> bool:
        """Out of descriptors: accept one connection on the descriptor kept for this, and hang up. Left in the kernel's
        queue, it would keep the listening socket ready and the process spinning. False where that was not possible."""
        assert self._listening is not None
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            sock, _ = self._listening.accept()
        except OSError:
            # Also where nobody is there: the kernel wants a descriptor before it looks.
            turned_away = False
        else:
            sock.close()
            self.turned_away += 1
            turned_away = True
        with suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return turned_away


def peer_user(sock: socket.socket) -> int | None:
    """The user id at the other end of a Unix socket, None where the system does not tell."""
    credentials = _credentials(sock)
    return None if credentials is None else credentials[1]


def _credentials(sock: socket.socket) -> tuple[int, int, int] | None:
    """Process, user and group that connected this socket, as this process's namespaces have them."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    process, user, group = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, 12))
    return process, user, group


def listening_socket(path: str) -> socket.socket:
    """A socket that listens at ``path``, for this user only.

    Raises:
        TransportError: the path is too long for a Unix socket, or cannot be made.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise TransportError(
            f"the socket path {path} is longer than {_MAX_PATH_BYTES} bytes: choose a shorter runtime folder "
            "(XDG_RUNTIME_DIR or TMPDIR)"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise TransportError(f"cannot listen at {path}: {error.strerror or error}") from error
    return sock
