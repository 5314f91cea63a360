"""Messages in a byte stream: a preamble with the number of frames and their lengths, then the frames.

Preamble: ``u32`` number of frames, then one ``u64`` length a frame, all little-endian. Used by Unix sockets, and by a
manager's pipes to and from its workers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from throughway.errors import ProtocolError, TransportError
from throughway.transport.buffers import frame_buffer
from throughway.transport.interface import MAX_FRAMES, MAX_MESSAGE_BYTES, Buffer

_one = struct.Struct("<IQ")
_two = struct.Struct("<IQQ")
_count = struct.Struct("<I")
_ONE_BYTES = _one.size
_TWO_BYTES = _two.size

DIRECT_BYTES = 1 << 17
"""A frame with at least this much still to come is read straight into its own buffer."""


def preamble(frames: Sequence[Buffer]) -> bytes:
    """The preamble of a message of these frames.

    Raises:
        TransportError: there are no frames, or more than `MAX_FRAMES`.
    """
    return framed(frames)[0]


def framed(frames: Sequence[Buffer]) -> tuple[bytes, int]:
    """The preamble of a message of these frames, and the size of all in bytes, preamble included.

    Raises:
        TransportError: there are no frames, or more than `MAX_FRAMES`.
    """
    count = len(frames)
    if count == 1:
        frame = frames[0]
        size = frame.nbytes if isinstance(frame, memoryview) else len(frame)
        return _one.pack(1, size), _ONE_BYTES + size
    if count == 2:
        frame, other = frames
        size = frame.nbytes if isinstance(frame, memoryview) else len(frame)
        more = other.nbytes if isinstance(other, memoryview) else len(other)
        return _two.pack(2, size, more), _TWO_BYTES + size + more
    if not 0 < count <= MAX_FRAMES:
        raise TransportError(f"a message has 1 to {MAX_FRAMES} frames, not {count}")
    sizes = [frame_bytes(frame) for frame in frames]
    head = struct.pack(f"<I{count}Q", count, *sizes)
    return head, len(head) + sum(sizes)


def frame_bytes(frame: Buffer) -> int:
    """The size of a frame in bytes (`len` of a memoryview counts its items)."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


class Unframer:
    """Cuts a byte stream into messages.

    Feed it what was read with `feed`, which returns the messages that became whole. While a large frame is under
    way, `direct` is the writable rest of its buffer: read into it and tell how much came with `fed`, so that a
    gigabyte is never copied a second time.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._rest: bytes | memoryview = b""
        self._lengths: tuple[int, ...] = ()
        self._frames: list[Buffer] = []
        self.direct: memoryview | None = None

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not whole."""
        return bool(len(self._rest) or self._lengths or self.direct is not None)

    def fed(self, count: int) -> list[list[Buffer]]:
        """``count`` bytes were read into `direct`."""
        assert self.direct is not None
        if count < len(self.direct):
            self.direct = self.direct[count:]
            return []
        self.direct = None
        return self.feed(b"")

    def feed(self, data: bytes) -> list[list[Buffer]]:
        """``data`` was read, with `direct` None. Returns the messages that are whole now.

        Raises:
            ProtocolError: the stream announces more frames or bytes than the limits allow; it cannot go on.
        """
        if len(self._rest):
            data = bytes(self._rest) + data
        view = memoryview(data)
        end = len(data)
        if end >= _ONE_BYTES and not self._lengths:
            # The shortest way for a lone message of one frame, or of a header and a body.
            count, length = _one.unpack_from(data)
            if length <= end <= self._max_message_bytes:
                if count == 1 and _ONE_BYTES + length == end:
                    self._rest = b""
                    return [[view[_ONE_BYTES:]]]
                if count == 2 and end >= _TWO_BYTES:
                    _, _, second = _two.unpack_from(data)
                    middle = _TWO_BYTES + length
                    if middle + second == end:
                        self._rest = b""
                        return [[view[_TWO_BYTES:middle], view[middle:]]]
        at = 0
        messages: list[list[Buffer]] = []
        while True:
            if not self._lengths:
                header = self._read_preamble(view, at, end)
                if header is None:
                    break
                self._lengths, at = header
                self._frames = []
            lengths = self._lengths
            frames = self._frames
            short = False
            for length in lengths[len(frames) :]:
                if end - at >= length:
                    frames.append(view[at : at + length])
                    at += length
                    continue
                short = True
                if length - (end - at) >= DIRECT_BYTES:
                    buffer = frame_buffer(length)
                    have = end - at
                    buffer[:have] = view[at:end]
                    frames.append(buffer)
                    self.direct = memoryview(buffer)[have:]
                    at = end
                break
            if short:
                break
            messages.append(frames)
            self._lengths = ()
            self._frames = []
        self._rest = view[at:end] if at < end else b""
        return messages

    def _read_preamble(self, view: memoryview, at: int, end: int) -> tuple[tuple[int, ...], int] | None:
        if end - at < 4:
            return None
        (count,) = _count.unpack_from(view, at)
        if not 0 < count <= MAX_FRAMES:
            raise ProtocolError(f"a message of {count} frames was announced (limit: {MAX_FRAMES})")
        size = 4 + 8 * count
        if end - at < size:
            return None
        lengths = struct.unpack_from(f"<{count}Q", view, at + 4)
        if sum(lengths) > self._max_message_bytes:
            raise ProtocolError(
                f"a message of {sum(lengths)} bytes was announced (limit: {self._max_message_bytes})"
            )
        return lengths, at + size
