"""Memory that an executor shares with the workers of its machine: large arguments are copied twice, not seven times.

An executor writes the large frames of a task into it at ``submit``, sends only the place, and takes the memory back
once the task's future is done. A worker copies them out before it runs the task. So nothing in between touches them,
and neither side waits for the other.

The memory is a memfd of a fixed size, of which pages exist once they are needed. It begins with its key and the number
of its units of `UNIT_BYTES`, and a table of one entry for each. The units are divided as buddies are (Knuth, The Art of
Computer Programming 1, 2.5): slots of powers of two, split and joined as needed. The entry of a slot's first unit has a
stamp of its task and the size of its only frame, or the number of its frames, whose sizes are then in the slot itself.
Stamps of free slots are wiped. A worker looks at the stamp before and after it copies: a task that was settled without
it, and of which the memory belongs to another by now, is refused, and never run with what is not its own.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import stat
import struct
import threading
from collections import deque
from collections.abc import Sequence

from throughway.errors import ProtocolError, TransportError
from throughway.transport.interface import Buffer

ARENA_BYTES = 1 << 31
"""The size of an arena, at most: what does not fit travels as if there were none."""

MEMORY_SHARE = 8
"""An arena takes no more than one in so many parts of the memory that is to be had when it is made."""

KEPT_BYTES = 1 << 28
"""How much of the memory that it has used an arena keeps while no task is left."""

IDLE_SECONDS = 0.5
"""How long no task must have been left before the rest is given back: to have it again costs more than to keep it."""

UNIT_BYTES = 1 << 14
"""The smallest slot: that of one frame of `serialize.pickling.LARGE_FRAME_BYTES`. A place is a unit, counted from 1."""

_PAGE_BYTES = 1 << 16
"""Units begin with a page, however large the machine has them."""

_LINE_BYTES = 64
"""Frames begin with a cache line."""

_JOIN_SHARE = 64
"""Free slots are joined to larger ones where one in so many, or more, has come back since the last time: so it costs
little, and is never left out where everything is free."""

_HEAD = struct.Struct("<QQ")
"""key, number of units"""

_TABLE = _LINE_BYTES
"""where the table begins"""

_ENTRY = struct.Struct("<QQ")
"""stamp; then twice the size of the only frame, plus one where it is read-only, with `_SEVERAL` the number of frames"""

_STAMP = struct.Struct("<Q")
_SEVERAL = 1 << 63


class Lease:
    """A task's frames in an arena. They stay there until nobody refers to the lease any more."""

    __slots__ = ("_freed", "_slot", "place")

    def __init__(self, freed: deque[tuple[int, int]], slot: tuple[int, int]) -> None:
        self._freed = freed
        self._slot = slot
        self.place = slot[1] + 1

    def __del__(self) -> None:
        # Nothing is written here: in a forked child, the memory is still the parent's.
        self._freed.append(self._slot)


class Arena:
    """The executor's end. `put` may be called from any thread.

    Args:
        size: bytes, rounded down to a power of two; by default what `ARENA_BYTES` and `MEMORY_SHARE` allow.
        memory: bytes that are to be had; by default what the machine has.

    Raises:
        OSError: the system provides no such memory.
    """

    def __init__(self, size: int | None = None, *, memory: int | None = None) -> None:
        if size is None:
            if memory is None:
                memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            size = min(ARENA_BYTES, memory // MEMORY_SHARE)
        units = 1 << max(0, size.bit_length() - UNIT_BYTES.bit_length())
        self._units = units
        self._base = _base(units)
        self.key = secrets.randbits(63) | 1
        """what it begins with and stamps are made with, so that nothing else looks like either"""
        self._descriptor = os.memfd_create("throughway-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._descriptor, self._base + units * UNIT_BYTES)
            os.posix_fallocate(self._descriptor, 0, _TABLE)
            # Nobody can take away what others have mapped.
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._map = mmap.mmap(self._descriptor, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        _HEAD.pack_into(self._map, 0, self.key, units)
        self._view = memoryview(self._map)
        self._lock = threading.RLock()
        """an RLock, since that knows whether this thread has it"""
        self._free: list[list[int]] = [[] for _ in range(units.bit_length())]
        """by power of two, the free slots of so many units; the one that was in use last is taken first"""
        self._free[-1].append(0)
        self._freed: deque[tuple[int, int]] = deque()
        self._came_back = 0
        self._provided = bytearray(units)
        """1 for each unit of which the pages are there"""
        self._reached = 0
        """where the last of those units ends"""
        self._used = False
        """whether anything was put since `trim` was called"""
        self._idle_since = 0.0
        self._trims = True
        """whether the system takes pages back, as far as is known"""
        self._closed = False

    @property
    def descriptor(self) -> int:
        """For a child to inherit."""
        return self._descriptor

    @property
    def path(self) -> str:
        """Where processes of this user on this machine open it, as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def put(self, task: int, frames: Sequence[memoryview]) -> Lease | None:
        """Copy a task's frames in; None where there is no room. A frame that is read-only arrives as such."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # A finalizer, or a signal's handler, in the middle of this very method.
            return None
        count = len(frames)
        size = frames[0].nbytes
        if count > 1:
            size = _padded(8 * count) + sum([_padded(frame.nbytes) for frame in frames])
        with self._lock:
            slot = self._take(max(0, size - 1) // UNIT_BYTES + 1)
        if slot is None:
            return None
        # Whatever happens from here on, Ctrl-C included, the slot comes back.
        lease = Lease(self._freed, slot)
        unit = slot[1]
        at = self._base + unit * UNIT_BYTES
        view = self._view
        try:
            if count == 1:
                frame = frames[0]
                code = size << 1 | frame.readonly
                view[at : at + size] = frame
            else:
                code = _SEVERAL | count
                struct.pack_into(
                    f"<{count}Q", self._map, at, *[frame.nbytes << 1 | frame.readonly for frame in frames]
                )
                at += _padded(8 * count)
                for frame in frames:
                    view[at : at + frame.nbytes] = frame
                    at += _padded(frame.nbytes)
            _ENTRY.pack_into(self._map, _entry(unit), self.key ^ task, code)
        except ValueError:
            if self._closed:
                # The executor has broken meanwhile.
                return None
            raise
        return lease

    def trim(self, now: float) -> None:
        """Give back what was used beyond `KEPT_BYTES`, if all is free and was so at a call `IDLE_SECONDS` ago.

        To be called when no task is left, with the moment in seconds.
        """
        kept = KEPT_BYTES // UNIT_BYTES
        if self._reached <= kept or not self._trims:
            return
        if self._used:
            self._used = False
            self._idle_since = now
        if now - self._idle_since < IDLE_SECONDS:
            return
        with self._lock:
            if self._closed:
                return
            self._collect()
            if sum(len(units) << power for power, units in enumerate(self._free)) < self._units:
                return
            # What comes next is cut from the beginning again.
            self._came_back = 0
            self._join()
            start = self._base + kept * UNIT_BYTES
            try:
                self._map.madvise(mmap.MADV_REMOVE, start, self._base + self._reached * UNIT_BYTES - start)
            except OSError:
                # Where the process has locked its memory (mlockall), and in some sandboxes. All is kept from now on.
                self._trims = False
                return
            self._provided[kept : self._reached] = bytes(self._reached - kept)
            self._reached = kept

    def close(self) -> None:
        """Give the memory back. Who has mapped it keeps what is there. May be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._view.release()
                self._map.close()
                os.close(self._descriptor)

    def forsake(self) -> None:
        """In a forked child: let go of the parent's memory, or it would be there for as long as the child is."""
        # Another thread of the parent may have had the lock; it is not here.
        self._lock = threading.RLock()
        self.close()

    def _take(self, count: int) -> tuple[int, int] | None:
        """A slot of at least so many units, as the power of two that it has, and its first; under the lock."""
        if self._closed:
            return None
        self._used = True
        self._collect()
        free = self._free
        power = (count - 1).bit_length()
        unit = self._split(power)
        if unit < 0 and self._came_back and self._came_back * _JOIN_SHARE >= sum(map(len, free)):
            self._came_back = 0
            self._join()
            unit = self._split(power)
        if unit < 0:
            return None
        there = False
        try:
            there = self._provided.find(0, unit, unit + count) < 0 or self._provide(unit, count)
        finally:
            if not there:
                free[power].append(unit)
                self._came_back += 1
        return (power, unit) if there else None

    def _collect(self) -> None:
        """Take back the slots of leases that are gone."""
        freed = self._freed
        while freed:
            power, unit = freed.popleft()
            _STAMP.pack_into(self._map, _entry(unit), 0)
            self._free[power].append(unit)
            self._came_back += 1

    def _provide(self, unit: int, count: int) -> bool:
        """Ask for the pages of these units and of their entries: where they cannot be had, to write to them would end
        this process."""
        try:
            os.posix_fallocate(self._descriptor, self._base + unit * UNIT_BYTES, count * UNIT_BYTES)
            os.posix_fallocate(self._descriptor, _entry(unit), count * _ENTRY.size)
        except OSError:
            return False
        self._provided[unit : unit + count] = b"\1" * count
        self._reached = max(self._reached, unit + count)
        return True

    def _split(self, power: int) -> int:
        """Take a free slot of this size, cut from a larger one if need be; -1 where there is none."""
        free = self._free
        for have in range(power, len(free)):
            if free[have]:
                unit = free[have].pop()
                for smaller in range(have - 1, power - 1, -1):
                    free[smaller].append(unit + (1 << smaller))
                return unit
        return -1

    def _join(self) -> None:
        """Join free buddies to larger slots, as far as they go."""
        free = self._free
        for power in range(len(free) - 1):
            size = 1 << power
            here = set(free[power])
            lower = [unit for unit in here if not unit & size and unit + size in here]
            if lower:
                here.difference_update(lower, [unit + size for unit in lower])
                free[power] = sorted(here, reverse=True)
                free[power + 1] += lower

    def sanity_check(self) -> None:
        """Free slots lie within the arena, on their boundaries, and do not overlap."""
        end = 0
        for unit, power in sorted((unit, power) for power, units in enumerate(self._free) for unit in units):
            assert unit >= end
            assert unit % (1 << power) == 0
            end = unit + (1 << power)
        assert end <= self._units


class ArenaReader:
    """A worker's end: it sees what is there, and changes nothing.

    Args:
        source: what `Arena.path` said, or an inherited descriptor of it.
        key: what `Arena.key` said.

    Raises:
        TransportError: it cannot be opened here, as in another process namespace.
    """

    def __init__(self, source: str | int, key: int) -> None:
        self._key = key
        try:
            # In another process namespace it may be anything. What is not a file is not even opened.
            if not stat.S_ISREG(os.stat(source).st_mode):
                raise ValueError("it is something else here")
            descriptor = (
                os.dup(source) if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            )
            try:
                head = os.pread(descriptor, _HEAD.size, 0)
                found, self._units = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
                if not found or found != key:
                    raise ValueError("it is something else here")
                self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise TransportError(f"cannot open the executor's shared memory {source}: {error}") from error
        self._view = memoryview(self._map)
        self._base = _base(self._units)

    def read(self, place: int, task: int) -> list[Buffer]:
        """Copies of a task's frames: ``bytes`` of those that were read-only, ``bytearray`` of the others.

        Raises:
            ProtocolError: they are not there any more: the task was settled without this worker.
        """
        if not 0 < place <= self._units:
            raise ProtocolError(f"place {place} is not in the executor's shared memory")
        stamp = self._key ^ task
        entry = _entry(place - 1)
        view = self._view
        found, code = _ENTRY.unpack_from(view, entry)
        at = self._base + (place - 1) * UNIT_BYTES
        sizes = [code]
        if found == stamp and code & _SEVERAL:
            count = code - _SEVERAL
            sizes = view[at : at + 8 * count].cast("Q").tolist()
            at += _padded(8 * count)
            # These are sizes only if they were not written over meanwhile.
            (found,) = _STAMP.unpack_from(view, entry)
        frames: list[Buffer] = []
        if found == stamp:
            for size in sizes:
                end = at + (size >> 1)
                frames.append(bytes(view[at:end]) if size & 1 else bytearray(view[at:end]))
                at = _padded(end)
            (found,) = _STAMP.unpack_from(view, entry)
        if found != stamp:
            raise ProtocolError(
                f"the arguments of task {task} are no longer in the executor's shared memory: "
                "the task was settled without this worker"
            )
        return frames

    def close(self) -> None:
        """Let go of the memory."""
        self._view.release()
        self._map.close()


def _padded(size: int) -> int:
    return (size + _LINE_BYTES - 1) & -_LINE_BYTES


def _entry(unit: int) -> int:
    return _TABLE + unit * _ENTRY.size


def _base(units: int) -> int:
    """Where the first unit begins, in bytes."""
    return -(-_entry(units) // _PAGE_BYTES) * _PAGE_BYTES
