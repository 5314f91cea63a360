"""The file of a journal: records that are appended, and found again whatever happened to the one who wrote them.

The file begins with a line that names the format and its version. Each record has a head with a mark, the lengths of
what follows and two checksums, then its MessagePack `Meta`, then bytes that only its kind knows. So a record that was
written in part is found out, and one that was damaged costs itself alone: reading goes on at the next mark.

One process writes at a time. The lock is on a file of its own beside the journal, which says who holds it.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from throughway.errors import JournalError

Buffer = bytes | bytearray | memoryview

VERSION = 1
"""Version of the format. A record of an unknown kind is passed over, and so are further fields of a `Meta`; what
older versions cannot pass over needs another version."""

_TITLE = b"throughway journal %d\n" % VERSION
_TITLES = re.compile(rb"throughway journal (\d{1,9})\n")
_TITLE_BYTES = 64

_HEAD = struct.Struct("<4sB3xIQI")
_CHECK = struct.Struct("<I")
_MARK = b"\xabTJ\n"
HEAD_BYTES = _HEAD.size + _CHECK.size

_MAX_META_BYTES = 1 << 20
_SCAN_BYTES = 1 << 20
_FIRST_READ = 1 << 14
_CHECKED_TAIL_BYTES = 16 << 20
_IOV_MAX = 512
_LOCK_SECONDS = 0.2

KEY_BYTES = 16


class Kind(IntEnum):
    """What a record holds behind its `Meta`."""

    RESULT = 1
    """the payload of a task's result, then its large frames; ``frames`` has the length of each"""
    SUBMITTED = 2
    """keys of `KEY_BYTES` each of tasks that were submitted, and had no result in the journal then"""


class Meta(msgspec.Struct, array_like=True):
    """What is known of a record without opening it. ``time`` is in seconds since the epoch, for people only."""

    key: bytes = b""
    time: float = 0.0
    function: str = ""
    label: str = ""
    """the key that the user gave, empty where the content is the key"""
    frames: list[int] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Meta).decode


class Found(NamedTuple):
    """A record, as a scan finds it."""

    kind: int
    offset: int
    size: int
    """bytes of the whole record"""
    meta: Meta
    body: int
    """offset of what is behind the meta"""


class Damage(NamedTuple):
    """Bytes in which no record is whole."""

    offset: int
    size: int
    tail: bool
    """whether they are the last of the file: what a process left that was killed while it wrote"""


def encode_record(kind: int, meta: Meta, body: Sequence[Buffer]) -> bytes:
    """The head and the meta of a record; ``body`` is to be written behind them."""
    packed = _encode(meta)
    check = 0
    size = 0
    for part in body:
        check = zlib.crc32(part, check)
        size += part.nbytes if type(part) is memoryview else len(part)
    head = _HEAD.pack(_MARK, kind, len(packed), size, check)
    return b"".join((head, _CHECK.pack(zlib.crc32(packed, zlib.crc32(head))), packed))


def _head(data: Buffer, at: int) -> tuple[int, int, int, int] | None:
    """Kind, lengths of meta and body, and the body's checksum, where a head is; its own checksum is not looked at."""
    mark, kind, meta, body, check = _HEAD.unpack_from(data, at)
    if mark != _MARK or meta > _MAX_META_BYTES:
        return None
    return kind, meta, body, check


class JournalFile:
    """An open journal.

    Args:
        path: where it is; it is made where nothing is there.
        writable: take the lock, and be able to append. Otherwise what is there is read, whoever writes.
        holder: what the lock says of who holds it.

    Raises:
        JournalError: it is in use, no journal, of a later version, or cannot be opened; the message says what to do.
    """

    def __init__(self, path: str, *, writable: bool = True, holder: str = "") -> None:
        self.path = path
        self.begin = self.end = len(_TITLE)
        """where the first record is, and where the next one goes"""
        self._lock = -1
        self._descriptor = -1
        try:
            if writable:
                self._lock = _take_lock(path, holder)
            self._open(writable)
        except BaseException:
            self.close()
            raise

    def _open(self, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        try:
            self._descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
            status = os.fstat(self._descriptor)
            title = os.pread(self._descriptor, _TITLE_BYTES, 0)
        except OSError as error:
            raise JournalError(
                f"journal={self.path!r} cannot be opened: {error.strerror}: give a file in a folder of yours"
            ) from error
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise JournalError(
                f"journal={self.path!r} can be written by others, who could have this process run anything: "
                "it must belong to you, with mode 0600"
            )
        if len(title) < len(_TITLE) and _TITLE.startswith(title):
            # New, or its first writer did not get any further.
            if writable:
                self._write_title()
            return
        found = _TITLES.match(title)
        if found is None:
            raise JournalError(
                f"journal={self.path!r} is there and is no journal: give the path of another file"
            )
        if int(found[1]) > VERSION:
            raise JournalError(
                f"journal={self.path!r} was written by a later version of Throughway (format {int(found[1])}, "
                f"this one knows {VERSION}): upgrade, or give the path of another file"
            )
        self.begin = self.end = found.end()

    def _write_title(self) -> None:
        try:
            os.pwrite(self._descriptor, _TITLE, 0)
            os.fsync(self._descriptor)
            _sync_folder(self.path)
        except OSError as error:
            raise JournalError(
                f"journal={self.path!r} cannot be written: {error.strerror}: give a path where there is room"
            ) from error

    @property
    def size(self) -> int:
        """The size of the file now."""
        return os.fstat(self._descriptor).st_size

    # -------------------------------------------------------------------------------------------------------- reading

    def scan(self) -> Iterator[Found | Damage]:
        """Every record in order, and what is damaged between them; afterwards `end` is behind the last whole one.

        Bodies are not read, but for those near the end of the file, which may not have been written whole.
        """
        size = self.size
        at = self.end = self.begin
        damaged = -1
        window = b""
        start = at
        while at < size:
            if at + HEAD_BYTES > start + len(window) or at < start:
                window, start = os.pread(self._descriptor, _SCAN_BYTES, at), at
            found = self._record_at(window, at - start, at, size)
            if found is None:
                if damaged < 0:
                    damaged = at
                at, window, start = self._next_mark(at + 1, size, window, start)
                continue
            if damaged >= 0:
                yield Damage(damaged, at - damaged, False)
                damaged = -1
            yield found
            at += found.size
            self.end = at
        if damaged >= 0:
            yield Damage(damaged, size - damaged, True)

    def _record_at(self, window: bytes, index: int, at: int, size: int) -> Found | None:
        if index + HEAD_BYTES > len(window):
            return None
        head = _head(window, index)
        if head is None:
            return None
        kind, meta_size, body_size, check = head
        total = HEAD_BYTES + meta_size + body_size
        if at + total > size:
            return None
        meta_at = index + HEAD_BYTES
        packed = window[meta_at : meta_at + meta_size]
        if len(packed) < meta_size:
            packed = os.pread(self._descriptor, meta_size, at + HEAD_BYTES)
        (wanted,) = _CHECK.unpack_from(window, index + _HEAD.size)
        if zlib.crc32(packed, zlib.crc32(window[index : index + _HEAD.size])) != wanted:
            return None
        if size - at <= _CHECKED_TAIL_BYTES + body_size and not self._whole(
            at + HEAD_BYTES + meta_size, body_size, check
        ):
            return None
        try:
            meta = _decode(packed)
        except msgspec.MsgspecError:
            return None
        return Found(kind, at, total, meta, at + HEAD_BYTES + meta_size)

    def _whole(self, at: int, size: int, check: int) -> bool:
        found = 0
        end = at + size
        while at < end:
            part = os.pread(self._descriptor, min(_SCAN_BYTES, end - at), at)
            if not part:
                return False
            found = zlib.crc32(part, found)
            at += len(part)
        return found == check

    def _next_mark(self, at: int, size: int, window: bytes, start: int) -> tuple[int, bytes, int]:
        while at < size:
            index = window.find(_MARK, at - start) if start <= at < start + len(window) else -1
            if index >= 0:
                return start + index, window, start
            # The mark may lie across the end of what was read.
            at = max(at, start + len(window) - len(_MARK) + 1)
            window, start = os.pread(self._descriptor, _SCAN_BYTES, at), at
            if len(window) < len(_MARK):
                break
        return size, b"", size

    def read(self, offset: int) -> tuple[Meta, list[memoryview]] | None:
        """The record at an offset: its meta, and its payload with its large frames, in memory of their own.

        None where it is damaged.

        Raises:
            OSError: it cannot be read.
        """
        data = os.pread(self._descriptor, _FIRST_READ, offset)
        if len(data) < HEAD_BYTES:
            return None
        head = _head(data, 0)
        if head is None:
            return None
        _, meta_size, body_size, check = head
        meta_end = HEAD_BYTES + meta_size
        if len(data) < meta_end:
            data = os.pread(self._descriptor, meta_end, offset)
        packed = data[HEAD_BYTES:meta_end]
        (wanted,) = _CHECK.unpack_from(data, _HEAD.size)
        if zlib.crc32(packed, zlib.crc32(data[: _HEAD.size])) != wanted:
            return None
        if offset + meta_end + body_size > self.size:
            return None
        body = bytearray(body_size)
        have = data[meta_end : meta_end + body_size]
        body[: len(have)] = have
        at = len(have)
        while at < body_size:
            count = os.preadv(self._descriptor, [memoryview(body)[at:]], offset + meta_end + at)
            if not count:
                return None
            at += count
        if zlib.crc32(body) != check:
            return None
        try:
            meta = _decode(packed)
        except msgspec.MsgspecError:
            return None
        return meta, _parts(memoryview(body), meta.frames)

    # -------------------------------------------------------------------------------------------------------- writing

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write whole records at the end, so that they outlive this process; `sync` lets them outlive the machine.

        Raises:
            OSError: nothing of it counts as written; the next call writes at the same place.
        """
        at = self.end
        views = [view for view in (memoryview(buffer) for buffer in buffers) if view.nbytes]
        try:
            while views:
                written = os.pwritev(self._descriptor, views[:_IOV_MAX], at)
                at += written
                while written and written >= views[0].nbytes:
                    written -= views.pop(0).nbytes
                if written:
                    views[0] = views[0].cast("B")[written:]
        except OSError:
            self.cut()
            raise
        self.end = at

    def cut(self) -> None:
        """Remove whatever is behind the last whole record; what cannot be removed is written over."""
        try:
            os.ftruncate(self._descriptor, self.end)
        except OSError:
            return

    def sync(self) -> None:
        """Have everything that was appended reach the disk.

        Raises:
            OSError: it did not.
        """
        os.fdatasync(self._descriptor)

    def replace(self, records: Iterator[Found]) -> None:
        """Write the file anew with these of its records only, and put it in the old one's place.

        Raises:
            OSError: it cannot be written; then the old one is there as it was.
        """
        path = f"{self.path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fresh = os.open(path, flags, 0o600)
        try:
            end = os.pwrite(fresh, _TITLE, 0)
            for record in records:
                end = _copy(self._descriptor, record.offset, fresh, end, record.size)
            os.fsync(fresh)
            os.replace(path, self.path)
        except BaseException:
            os.close(fresh)
            os.unlink(path)
            raise
        _sync_folder(self.path)
        os.close(self._descriptor)
        self._descriptor, self.begin, self.end = fresh, len(_TITLE), end

    def close(self) -> None:
        """Give the lock and all descriptors back. May be called again."""
        for name in ("_descriptor", "_lock"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                os.close(descriptor)


def _parts(body: memoryview, frames: Sequence[int]) -> list[memoryview]:
    at = len(body) - sum(frames)
    parts = [body[:at]]
    for size in frames:
        parts.append(body[at : at + size])
        at += size
    return parts


def _copy(source: int, at: int, target: int, end: int, size: int) -> int:
    """Copy bytes from one file into another; returns where they end there."""
    last = at + size
    while at < last:
        data = os.pread(source, min(_SCAN_BYTES, last - at), at)
        if not data:
            raise OSError(f"the journal ends at byte {at}, where {last - at} more were expected")
        at += len(data)
        view = memoryview(data)
        while view.nbytes:
            written = os.pwrite(target, view, end)
            end += written
            view = view[written:]
    return end


def _sync_folder(path: str) -> None:
    """Have the name of a file reach the disk, where the file system knows how."""
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- the lock


class Holder(msgspec.Struct):
    """What the lock file says of who writes a journal. ``since`` is in seconds since the epoch."""

    pid: int
    host: str
    since: float
    label: str = ""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return (
            f"process {self.pid} on {self.host}"
            + (f" ({self.label})" if self.label else "")
            + f" since {since}"
        )


def lock_path(path: str) -> str:
    """The lock file of a journal."""
    return f"{path}.lock"


def _take_lock(path: str, label: str) -> int:
    name = lock_path(path)
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(
            f"journal={path!r}: cannot make {name}: {error.strerror}: give a path in a folder of yours"
        ) from error
    try:
        _lock_soon(descriptor)
        os.ftruncate(descriptor, 0)
        holder = Holder(os.getpid(), socket.gethostname(), time.time(), label)
        os.pwrite(descriptor, msgspec.json.encode(holder), 0)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalError(
            f"journal={path!r} is in use by {lock_holder(path) or 'another process'}: wait for its end, or give the "
            "path of another file: one executor writes a journal at a time"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise JournalError(
            f"journal={path!r}: cannot lock {name}: {error.strerror}: give a path on a file system that has "
            "locks and room"
        ) from error
    return descriptor


def _lock_soon(descriptor: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # Who only looks whether it is in use has it for a moment.
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOCK_SECONDS / 10)


def lock_holder(path: str) -> Holder | None:
    """Who holds a journal's lock, as far as its lock file says; None where nobody is named there."""
    try:
        with open(lock_path(path), "rb") as file:
            return msgspec.json.decode(file.read(_MAX_META_BYTES), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def in_use(path: str) -> bool:
    """Whether somebody holds a journal's lock now."""
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
