"""The records that a worker writes into its result pipe, and how a manager cuts them out of the stream.

A record is a fixed head (task id ``u64``, payload length ``u64``, seconds ``f32``, number of large frames ``u32``,
outcome ``u8``; little-endian), the ``u64`` lengths of the large frames, the payload, and the frames.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from throughway.errors import ProtocolError
from throughway.transport.buffers import frame_buffer
from throughway.transport.interface import MAX_FRAMES, Buffer

HEAD = struct.Struct("<QQfIB")
READ_BYTES = 1 << 18
_buffer = memoryview(bytearray(READ_BYTES))
_DIRECT_BYTES = 1 << 17

MAX_RECORD_BYTES = 1 << 40
"""Bytes in one record, at most: what announces more is no record."""


class Record(NamedTuple):
    """One record; ``seconds`` is how long the task ran."""

    task: int
    outcome: int
    seconds: float
    payload: bytes
    frames: Sequence[Buffer]


def pack_record(
    task: int, outcome: int, seconds: float, payload: bytes, frames: Sequence[Buffer]
) -> list[Buffer]:
    """The parts of a record, to be written one after the other."""
    head = HEAD.pack(task, len(payload), seconds, len(frames), outcome)
    if not frames:
        return [head + payload]
    lengths = struct.pack(f"<{len(frames)}Q", *[len(frame) for frame in frames])
    return [head + lengths + payload, *frames]


class RecordReader:
    """Reads whole records from the non-blocking end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._large: _LargeRecord | None = None
        self.ended = False
        self.fault = ""
        """what cannot be understood, once there was something like that; nothing more is read then"""

    @property
    def partial(self) -> bool:
        """Whether a record has begun and is not whole."""
        return self._large is not None or bool(self._rest)

    def read(self) -> list[Record]:
        """All records that are whole by now. `ended` is true once the other end is closed and all is read."""
        records: list[Record] = []
        while not self.fault:
            try:
                if self._large is not None:
                    if not self._large.read(self._descriptor):
                        self.ended = True
                        return records
                    if self._large.complete:
                        records.append(self._large.record())
                        self._large = None
                    continue
                # Into a buffer that is there: to make one of this size for each read costs more than small records do.
                data = bytes(_buffer[: os.readv(self._descriptor, [_buffer])])
            except (BlockingIOError, InterruptedError):
                return records
            if not data:
                self.ended = True
                return records
            size = len(data)
            self._cut(self._rest + data if self._rest else data, records)
            if size < READ_BYTES and self._large is None:
                return records
        return records

    def _cut(self, data: bytes, records: list[Record]) -> None:
        at = 0
        end = len(data)
        size = HEAD.size
        unpack = HEAD.unpack_from
        append = records.append
        # Made without the constructor's own frame: there is one for each task.
        make = tuple.__new__
        kind = Record
        while end - at >= size:
            task, length, seconds, count, outcome = unpack(data, at)
            body = at + size
            if not count and body + length <= end:
                at = body + length
                append(make(kind, (task, outcome, seconds, data[body:at], ())))
                continue
            if count > MAX_FRAMES or length > MAX_RECORD_BYTES:
                self._fail(f"wrote the head of a record of {count} frames and {length} bytes")
                return
            if end - body < 8 * count:
                break
            lengths = struct.unpack_from(f"<{count}Q", data, body)
            body += 8 * count
            total = length + sum(lengths)
            if end - body < total < _DIRECT_BYTES:
                break
            try:
                large = _LargeRecord(task, outcome, seconds, length, lengths)
            except (MemoryError, OverflowError, ProtocolError):
                self._fail(f"wrote the head of a record of {total} bytes, for which there is no memory")
                return
            at = body + large.fill(memoryview(data)[body:])
            if not large.complete:
                self._large = large
                break
            append(large.record())
        self._rest = data[at:] if at < end else b""

    def _fail(self, fault: str) -> None:
        self.fault = fault
        self._rest = b""


class _LargeRecord:
    """A record that is read straight into the buffers that will be passed on."""

    def __init__(self, task: int, outcome: int, seconds: float, length: int, lengths: Sequence[int]) -> None:
        self._head = (task, outcome, seconds)
        self._buffers = [bytearray(length), *map(frame_buffer, lengths)]
        self._views = [memoryview(buffer) for buffer in self._buffers if len(buffer)]

    @property
    def complete(self) -> bool:
        return not self._views

    def fill(self, data: memoryview) -> int:
        used = 0
        while self._views and used < len(data):
            view = self._views[0]
            count = min(len(view), len(data) - used)
            view[:count] = data[used : used + count]
            used += count
            self._advance(count)
        return used

    def read(self, descriptor: int) -> bool:
        count = os.readv(descriptor, [self._views[0]])
        self._advance(count)
        return count > 0

    def _advance(self, count: int) -> None:
        view = self._views[0]
        if count == len(view):
            self._views.pop(0)
        else:
            self._views[0] = view[count:]

    def record(self) -> Record:
        payload, *frames = self._buffers
        return Record(*self._head, bytes(payload), frames)
