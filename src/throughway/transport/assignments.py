"""Notes of which manager each task was sent to, in memory that outlives the interchange which writes them.

The executor makes the memory (a memfd) and passes it to each interchange that it starts. The interchange notes an
assignment before it sends it; the executor reads the notes once that interchange is dead. So it knows which tasks a
manager may have, even one that died at the same moment, and which were never sent to any.

The memory is an array of 64-bit words, little-endian as all machines that this runs on. Word 0 says at which word the
region in use starts; a region is its capacity, the number of words used, and notes. A note is a manager's index plus
one (0: back in the queue), a count and that many task ids; or, with the top bit set, the index of a new manager, the
length of its name in bytes, and the name. A note counts once the number of used words includes it, so a writer that is
killed in the middle leaves nothing half-written. A full region is replaced by one that holds only what still matters.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

GIVEN = "given"
"""What managers, which keep such notes of their own, write in place of a manager's id: tasks given to workers."""

MIN_WORDS = 1 << 15
"""Words of the first region."""

ROOM = 4
"""A new region has room for so many times what it starts with."""

_NAME = 1 << 63
_HEAD = 2
_FIRST = 1
_WORD = 8

Assignments = Iterable[tuple[str, Collection[int]]]


def new_notes() -> int:
    """A descriptor of memory for notes, empty."""
    descriptor = os.memfd_create("throughway-assignments", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _WORD * (_FIRST + _HEAD + MIN_WORDS))
    return descriptor


class AssignmentNotes:
    """The writer's end. It goes on after what is there.

    Args:
        descriptor: what `new_notes` made; it is kept open and closed by `close`.
        current: tells what is assigned now: each manager's id and its tasks. Asked where a region is full.
    """

    def __init__(self, descriptor: int, current: Callable[[], Assignments]) -> None:
        self._descriptor = descriptor
        self._current = current
        self._indexes: dict[str, int] = {}
        self._words = memoryview(b"")
        self._map: mmap.mmap | None = None
        self._start = 0
        self._capacity = 0
        self._used = 0
        self._spare: tuple[int, int] | None = None
        self._size = 0
        self._remap()
        if self._words[0]:
            self._continue()
        else:
            self._open(_FIRST, MIN_WORDS)
            self._words[0] = self._start

    def note(self, manager: str, tasks: Sequence[int]) -> None:
        """These tasks are about to be sent to this manager; with an empty id, they are with none."""
        count = len(tasks)
        needed = 2 + count
        if manager not in self._indexes:
            needed += 3 + len(manager.encode()) // _WORD
        if self._used + needed > self._capacity:
            self._renew(needed + len(manager.encode()))
        head = self._index(manager) + 1 if manager else 0
        at = self._start + _HEAD + self._used
        words = self._words
        words[at] = head
        words[at + 1] = count
        words[at + 2 : at + 2 + count] = array("Q", tasks)
        words[self._start + 1] = self._used = self._used + 2 + count

    def close(self) -> None:
        """Give the memory back; what was noted stays readable for whoever has the descriptor, too."""
        self._unmap()
        os.close(self._descriptor)

    def _index(self, manager: str) -> int:
        index = self._indexes.get(manager, -1)
        if index >= 0:
            return index
        index = self._indexes[manager] = len(self._indexes)
        text = manager.encode()
        padded = array("Q", text + bytes(-len(text) % _WORD))
        at = self._start + _HEAD + self._used
        self._words[at] = _NAME | index
        self._words[at + 1] = len(text)
        self._words[at + 2 : at + 2 + len(padded)] = padded
        self._words[self._start + 1] = self._used = self._used + 2 + len(padded)
        return index

    def _renew(self, wanted: int) -> None:
        """Go on in another region, which begins with what is assigned now, and has ``wanted`` words free and more."""
        current = [(manager, tasks) for manager, tasks in self._current() if tasks]
        needed = wanted + sum(len(tasks) + len(manager.encode()) + 6 for manager, tasks in current)
        capacity = max(MIN_WORDS, ROOM * needed)
        former = (self._start, self._capacity)
        if self._spare is not None and self._spare[1] >= 2 * needed:
            start, capacity = self._spare
        else:
            start = self._size
            self._grow(_HEAD + capacity)
        self._open(start, capacity)
        self._spare = former
        self._indexes = {}
        for manager, tasks in current:
            self.note(manager, list(tasks))
        # From here on, readers look at the new region; until now they found the old one whole.
        self._words[0] = start

    def _open(self, start: int, capacity: int) -> None:
        self._start = start
        self._capacity = capacity
        self._used = 0
        self._words[start] = capacity
        self._words[start + 1] = 0

    def _continue(self) -> None:
        words = self._words
        self._start = words[0]
        self._capacity = words[self._start]
        self._used = words[self._start + 1]
        _, self._indexes = _replay(words)

    def _grow(self, words: int) -> None:
        os.ftruncate(self._descriptor, _WORD * (self._size + words))
        self._remap()

    def _remap(self) -> None:
        self._unmap()
        self._map = mmap.mmap(self._descriptor, 0)
        self._words = memoryview(self._map).cast("Q")
        self._size = len(self._words)

    def _unmap(self) -> None:
        self._words.release()
        if self._map is not None:
            self._map.close()


def read_notes(descriptor: int) -> dict[str, list[int]]:
    """What was noted: each manager's id, and the tasks that were last sent to it. Nothing may be writing any more."""
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as memory, memoryview(memory) as raw:
        words = array("Q", bytes(raw[: len(raw) - len(raw) % _WORD]))
    if not words[0]:
        return {}  # it was killed before it wrote anything
    where, indexes = _replay(words)
    names = {index + 1: name for name, index in indexes.items()}
    found: dict[str, list[int]] = {}
    for task, head in where.items():
        if head:
            found.setdefault(names[head], []).append(task)
    return found


def write_notes(descriptor: int, assigned: Mapping[str, Sequence[int]]) -> None:
    """Note all this for a start."""
    noted: dict[str, Sequence[int]] = {}
    notes = AssignmentNotes(os.dup(descriptor), lambda: list(noted.items()))
    for manager, tasks in assigned.items():
        notes.note(manager, tasks)
        noted[manager] = tasks
    notes.close()


def _replay(words: memoryview[int] | array[int]) -> tuple[dict[int, int], dict[str, int]]:
    """Each task's last head (a manager's index plus one, or 0), and the managers' indexes."""
    start = words[0]
    at = start + _HEAD
    end = at + words[start + 1]
    indexes: dict[str, int] = {}
    where: dict[int, int] = {}
    while at < end:
        head, count = words[at], words[at + 1]
        at += 2
        if head & _NAME:
            length = -(-count // _WORD)
            indexes[words[at : at + length].tobytes()[:count].decode()] = head & ~_NAME
            at += length
        else:
            for task in words[at : at + count]:
                where[task] = head
            at += count
    return where, indexes
