"""The journal of an executor: results that are kept, so that a script which starts again finds what is done.

A result is appended to the file before its future is told, and so survives the script; a thread then sees to it that
it reaches the disk, and so survives the machine. Until it has, the executor does not acknowledge it.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from throughway.errors import DeserializationError, InvalidResourceSpecification, JournalError
from throughway.executors.journal_file import (
    KEY_BYTES,
    Buffer,
    Damage,
    Found,
    JournalFile,
    Kind,
    Meta,
    encode_record,
)
from throughway.executors.journal_keys import ContentKeys, labelled
from throughway.protocol.messages import Outcome
from throughway.serialize.functions import Entry
from throughway.serialize.payloads import unpack_result

logger = logging.getLogger("throughway.journal")

SYNC_SECONDS = 0.2
"""Pause between two times that the file is made to reach the disk."""

COMPACT_BYTES = 4 << 20
"""Bytes that nothing needs any more, from which on an opened journal is written anew, if they are half of it."""

COMPLAINT_SECONDS = 60.0
"""Pause between two complaints about a file that cannot be written."""

_JOINED_BYTES = 1 << 14
_VALUE = int(Outcome.VALUE)
_OPEN = -1


class Journal:
    """One executor's journal. `open` it before anything else.

    What is kept in memory is the key and the place of each result, not the result.

    Args:
        path: the file.
        label: the executor's, for the lock.
    """

    def __init__(self, path: str, label: str = "") -> None:
        self.path = os.path.abspath(path)
        self._label = label
        self._file: JournalFile | None = None
        self._places: dict[bytes, int] = {}
        """key → offset of its result, `_OPEN` where it was submitted and has none"""
        self._keys = ContentKeys()
        self._labels: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        """the futures of the keys that the user gave, as long as they are not done"""
        self._submitted: deque[bytes] = deque()
        self._writing = threading.Lock()
        self._waking = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = False
        self._hurried = False
        self._ending = False
        self._written = 0
        """where the file ended after the last result was appended"""
        self._safe = 0
        """up to where it has reached the disk"""
        self._unwritten = 0
        self._failing = False
        self._complained_at = -math.inf
        self._unkeyed: set[int] = set()
        self.on_safe: Callable[[int], None] | None = None
        """called in the journal's thread with a mark (see `mark`) that has reached the disk"""
        self.recalled = 0
        self.recorded = 0

    # -------------------------------------------------------------------------------------------------------- opening

    def open(self) -> None:
        """Take the lock, and learn what is there. May be called again.

        Raises:
            JournalError: it is in use, is no journal, or cannot be opened; the message says what to do.
        """
        if self._file is not None:
            return
        file = JournalFile(self.path, holder=self._label)
        try:
            useless = self._index(file)
            if useless >= COMPACT_BYTES and 2 * useless >= file.end:
                self._compact(file)
            file.cut()
        except OSError as error:
            file.close()
            raise JournalError(
                f"journal={self.path!r} cannot be read: {error.strerror or error}: repair the disk, or give the "
                "path of another file"
            ) from error
        except BaseException:
            file.close()
            raise
        self._written = self._safe = file.end
        self._file = file

    def _index(self, file: JournalFile) -> int:
        """Learn where each result is; returns the bytes that nothing needs."""
        self._places = places = {}
        sizes = 0
        needed: dict[bytes, int] = {}
        for found in file.scan():
            if isinstance(found, Damage):
                sizes += found.size
                self._report(found)
                continue
            sizes += found.size
            if found.kind == Kind.RESULT and len(found.meta.key) == KEY_BYTES:
                places[found.meta.key] = found.offset
                needed[found.meta.key] = found.size
            elif found.kind == Kind.SUBMITTED:
                for key in _keys_of(file, found):
                    places.setdefault(key, _OPEN)
        return sizes - sum(needed.values())

    def _report(self, damage: Damage) -> None:
        if damage.tail:
            logger.warning(
                "journal %s: its last %d bytes, from byte %d on, were not written whole, and are cut off: who "
                "wrote it was killed, or the disk was full; the task in them runs again",
                self.path,
                damage.size,
                damage.offset,
            )
        else:
            logger.error(
                "journal %s: %d bytes from byte %d on are damaged, and are passed over: tasks in them run again",
                self.path,
                damage.size,
                damage.offset,
            )

    def _compact(self, file: JournalFile) -> None:
        before = file.end
        try:
            compact(file, self._places)
        except OSError as error:
            logger.warning("journal %s: cannot be made smaller: %s", self.path, error)
            return
        self._index(file)
        logger.info("journal %s: made smaller, from %d to %d bytes", self.path, before, file.end)

    def rewrite(self) -> None:
        """Write the file anew, without what nothing needs. Nothing may be recalled or recorded meanwhile.

        Raises:
            OSError: it cannot be written; then the old one is there as it was.
        """
        assert self._file is not None
        compact(self._file, self._places)
        self._index(self._file)
        self._written = self._safe = self._file.end

    def __len__(self) -> int:
        """Keys that it knows, with and without results."""
        return len(self._places)

    # ----------------------------------------------------------------------------------------------------- submitting

    def key(
        self,
        function: Callable[..., Any],
        entry: Entry,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        payload: bytes,
        frames: Sequence[Buffer],
        label: str | None,
    ) -> bytes | None:
        """The key of a call: of ``label`` where the user gave one, of its content otherwise; None where neither can be.

        Raises:
            InvalidResourceSpecification: another task with the same label has no outcome yet.
        """
        if label is not None:
            other = self._labels.get(label)
            if other is not None and not other.done():
                raise InvalidResourceSpecification(
                    f"key={label!r} is that of task {other.task_id}, which has no outcome yet: a key names one task"
                )
            return labelled(label)
        try:
            return self._keys.key(function, entry, args, kwargs, payload, frames)
        except Exception as error:  # noqa: BLE001 - whatever a user's objects raise as they are pickled
            if entry.function.id not in self._unkeyed and len(self._unkeyed) < 1000:
                self._unkeyed.add(entry.function.id)
                logger.warning(
                    "journal %s: a call of %s has no content that can be compared (%s), and is not kept: give it "
                    "a key, as in executor.options(key=...)",
                    self.path,
                    entry.function.name,
                    error,
                )
            return None

    def recall(self, key: bytes) -> tuple[Any] | None:
        """The result that is kept under a key, None where there is none that can be used."""
        place = self._places.get(key, _OPEN)
        if place == _OPEN:
            return None
        assert self._file is not None
        try:
            found = self._file.read(place)
            if found is None:
                reason = "its record is damaged"
            elif found[0].key != key:
                reason = "its record belongs to another"
            else:
                value = unpack_result(found[1][0], found[1][1:], name=found[0].function)
                self.recalled += 1
                return (value,)
        except (OSError, DeserializationError) as error:
            reason = str(error)
        logger.warning("journal %s: a result cannot be used, and its task runs again: %s", self.path, reason)
        self._places[key] = _OPEN
        return None

    def submitted(self, key: bytes, future: Any, label: str | None) -> None:
        """A task without a result was handed in. Its future carries the key from now on."""
        future._key = (key, label or "")
        if label is not None:
            self._labels[label] = future
        if key not in self._places:
            self._places[key] = _OPEN
            self._submitted.append(key)

    # -------------------------------------------------------------------------------------------------------- results

    def results(
        self,
        tasks: Sequence[int],
        outcomes: bytes,
        payloads: Sequence[Buffer],
        counts: Mapping[int, int],
        frames: Sequence[Buffer],
        futures: Mapping[int, Any],
    ) -> None:
        """Results came, whose futures are about to be told. What is a value is appended to the file.

        Args:
            counts: index into ``tasks`` → its number of large frames, where it has any.
            frames: the large frames of all, in order.
            futures: task → its future.
        """
        now = time.time()
        parts: list[Buffer] = []
        small: list[Buffer] = []
        places: list[tuple[bytes, int]] = []
        offset = 0
        at = 0
        for index, task in enumerate(tasks):
            count = counts.get(index, 0) if counts else 0
            large = frames[at : at + count]
            at += count
            if outcomes[index] != _VALUE:
                continue
            future = futures.get(task)
            if (known := getattr(future, "_key", None)) is None:
                continue
            assert future is not None
            key, label = known
            meta = Meta(key, now, future._entry.function.name, label)
            if large:
                meta.frames = [memoryview(frame).nbytes for frame in large]
            payload = payloads[index]
            head = encode_record(Kind.RESULT, meta, (payload, *large))
            small += (head, payload)
            size = len(head) + len(payload) + sum(meta.frames)
            if large or len(payload) > _JOINED_BYTES:
                parts += (b"".join(small), *large)
                small = []
            places.append((key, offset))
            offset += size
        if not places:
            return
        parts.append(b"".join(small))
        with self._writing:
            start = self._append(parts, len(places))
        if start is not None:
            for key, offset in places:
                self._places[key] = start + offset
            self.recorded += len(places)
            self._wake()

    def _append(self, parts: Sequence[Buffer], results: int) -> int | None:
        """Append records; returns where the first of them is, None where they cannot be written."""
        file = self._file
        if file is None:
            return None
        start = file.end
        try:
            file.append(parts)
        except OSError as error:
            self._unwritten += results
            self._complain(error)
            return None
        self._written = file.end
        if self._failing:
            self._failing = False
            if results:
                logger.warning(
                    "journal %s can be written again; %d results are not in it", self.path, self._unwritten
                )
        return start

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        self._failing = True
        if now - self._complained_at < COMPLAINT_SECONDS:
            return
        self._complained_at = now
        logger.error(
            "journal %s cannot be written: %s: make room; until then results go to their futures alone, and their "
            "tasks would run again in another run (%d so far)",
            self.path,
            error.strerror or error,
            self._unwritten,
        )

    # --------------------------------------------------------------------------------------------------- to the disk

    @property
    def mark(self) -> int:
        """A mark for all that was given to `results` before: it is safe once `safe` has reached it."""
        return self._written

    @property
    def safe(self) -> int:
        """The last mark that has reached the disk."""
        return self._safe

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all results that came before have reached the disk; whether they have.

        Those that could not be written (see `results`) are not waited for.
        """
        mark = self._written
        if self._safe >= mark:
            return True
        with self._waking:
            self._hurried = True
            self._waking.notify_all()
            self._waking.wait_for(lambda: self._safe >= mark or self._ending, timeout)
            return self._safe >= mark

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_safe, name="throughway: journal", daemon=True)
            self._thread.start()
            return
        if self._idle:
            with self._waking:
                self._waking.notify_all()

    def _keep_safe(self) -> None:
        """The journal's thread: makes what was appended reach the disk, many results at a time."""
        while True:
            with self._waking:
                # Who appends looks at this without the lock: it is set before the last look at what was appended.
                self._idle = True
                self._waking.wait_for(lambda: self._ending or self._written > self._safe)
                self._idle = False
                if self._ending:
                    return
            self._sync()
            with self._waking:
                self._waking.wait_for(lambda: self._ending or self._hurried, SYNC_SECONDS)
                self._hurried = False

    def _sync(self) -> None:
        file = self._file
        if file is None:
            return
        self._note_submitted()
        mark = self._written
        try:
            file.sync()
        except OSError as error:
            # The kernel may have dropped what it could not write: it is told once, and not asked for again.
            self._complain(error)
        with self._waking:
            self._safe = max(self._safe, mark)
            self._waking.notify_all()
        if self.on_safe is not None:
            self.on_safe(mark)

    def _note_submitted(self) -> None:
        keys: list[bytes] = []
        while self._submitted:
            keys.append(self._submitted.popleft())
        keys = [key for key in keys if self._places.get(key) == _OPEN]
        if keys:
            body = b"".join(keys)
            record = encode_record(Kind.SUBMITTED, Meta(time=time.time()), (body,))
            with self._writing:
                self._append((record, body), 0)

    def close(self) -> None:
        """Have everything reach the disk, and let go of the file and its lock. May be called again."""
        with self._waking:
            self._ending = True
            self._waking.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._file is None:
            return
        self._sync()
        with self._writing:
            file, self._file = self._file, None
            file.close()
        if self._unwritten:
            logger.error(
                "journal %s: %d results could not be written: their tasks run again in another run",
                self.path,
                self._unwritten,
            )

    def abandon(self) -> None:
        """In a forked child: it is the parent's, and goes on there."""
        file, self._file = self._file, None
        self._thread = None
        if file is not None:
            file.close()


def _keys_of(file: JournalFile, found: Found) -> Iterator[bytes]:
    record = file.read(found.offset)
    body = b"" if record is None else bytes(record[1][0])
    for at in range(0, len(body) - KEY_BYTES + 1, KEY_BYTES):
        yield body[at : at + KEY_BYTES]


def compact(file: JournalFile, places: Mapping[bytes, int]) -> None:
    """Write a journal anew with the results that ``places`` leads to, and what was submitted and has none.

    Raises:
        OSError: it cannot be written; then the old one is there as it was.
    """
    wanted = set(places.values())
    again = JournalFile(file.path, writable=False)
    try:
        file.replace(
            found
            for found in again.scan()
            if isinstance(found, Found)
            and (
                found.offset in wanted or (found.kind == Kind.SUBMITTED and _still_open(file, found, places))
            )
        )
    finally:
        again.close()


def _still_open(file: JournalFile, found: Found, places: Mapping[bytes, int]) -> bool:
    return any(places.get(key) == _OPEN for key in _keys_of(file, found))
