"""Functions to payloads and back: each is pickled once, and again when something that it uses has changed.

What a worker can import goes by reference. Lambdas, closures, functions of the main script or of a
notebook, and decorated functions that hide behind another object go by value, with the globals and closure
variables that they use. Before each call it is checked that these are still what they were; see
`FunctionTable.lookup`.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from throughway.errors import DeserializationError
from throughway.protocol.messages import Function
from throughway.serialize.blame import too_large, undecodable, unpicklable
from throughway.serialize.pickling import describe, dump, dump_by_value, importable, refers
from throughway.serialize.versions import Version

MAX_RECORDS = 4096
"""Functions whose entry is found by identity, and entries kept although nothing uses them."""

MAX_KEPT_BYTES = 16 << 20
"""Bytes of payloads kept although nothing uses them."""

MAX_CHECKED_BYTES = 65536
"""A function whose payload is longer is not checked for changes inside the mutable data that it
captures."""


class Entry:
    """One version of one function, as workers know it.

    Whoever has an outstanding task of it holds the entry: that reference is the count of use. When the last
    one is gone, `FunctionTable.forgotten` tells its id.
    """

    __slots__ = ("__weakref__", "_gone", "function")

    def __init__(self, function: Function, gone: deque[int]) -> None:
        self.function = function
        self._gone = gone

    def __del__(self) -> None:
        self._gone.append(self.function.id)


class _Record:
    """What is known about one object that was looked up."""

    __slots__ = ("entry", "subject", "touched", "version")

    def __init__(self, entry: Entry, version: Version | None, subject: Any) -> None:
        self.entry = entry
        self.version = version
        """None for what goes by reference and so never changes"""
        self.subject = subject
        """the object itself, or a weak reference to what goes by value: its id is not used again unseen"""
        self.touched = False


class FunctionTable:
    """Everything callable that an executor was given, and what it was pickled to. Safe to use from any
    thread.

    Args:
        max_bytes: The longest payload of a function, None for no limit.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._records: dict[int, _Record] = {}
        self._by_code: dict[int, _Record] = {}
        self._entries: weakref.WeakValueDictionary[bytes, Entry] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[int, Entry] = OrderedDict()
        self._kept_bytes = 0
        self._ids = itertools.count(1)
        self._gone: deque[int] = deque()
        # reentrant: a finalizer that the garbage collector runs here may be the user's, and submit
        self._lock = threading.RLock()

    def lookup(self, fn: Callable[..., Any], /) -> Entry:
        """The entry of ``fn`` as it is now. Hold it as long as a task of it is outstanding.

        The same content has the same id. What goes by value is compared with what it was: rebinding a
        global, a closure variable, a default or an attribute that it uses, directly or through other
        functions and classes that go by value, makes a new version with a new id. Mutable data that it
        captures is compared by its pickle, as long as the function's pickle has at most
        `MAX_CHECKED_BYTES`. Beyond that only rebinding is noticed: pass such data as an argument if it
        changes between calls. Changes to attributes of importable modules and classes are never sent; the
        worker imports its own.

        Raises:
            TypeError: ``fn`` is not callable.
            SerializationError: it cannot be pickled; names the variable that is to blame.
            ResultTooLarge: its pickle is longer than the limit.
        """
        record = self._records.get(id(fn))
        if record is not None:
            record.touched = True
            version = record.version
            if version is None or version.holds(fn):
                return record.entry
        return self._resolve(fn)

    def forgotten(self) -> list[int]:
        """Ids that nothing can need any more, each told once: no task, no cache."""
        ids: list[int] = []
        gone = self._gone
        while True:
            try:
                ids.append(gone.popleft())
            except IndexError:
                return ids

    def __len__(self) -> int:
        """How many versions are alive: used by a task, or kept."""
        return len(self._entries)

    def _resolve(self, fn: Any) -> Entry:
        kind = type(fn)
        if kind is staticmethod:
            return self.lookup(fn.__func__)
        if not callable(fn):
            raise TypeError(f"{fn!r} of type {kind.__qualname__} is not callable: submit takes a function")
        versioned = kind is types.FunctionType or kind is functools.partial or isinstance(fn, type)
        if not versioned or (kind is not functools.partial and importable(fn)):
            payload = self._dump(fn)
            entry = self._entry(payload, fn)
            if refers(payload):
                self._remember(fn, _Record(entry, None, fn))
            return entry
        if kind is types.FunctionType:
            like = self._by_code.get(id(fn.__code__))
            if like is not None and like.version is not None and like.version.fits(fn):
                return like.entry
        version = Version(fn)
        payload = self._dump(fn, dump_by_value)
        entry = self._entry(payload, fn)
        if len(payload) > MAX_CHECKED_BYTES:
            version.ignore_state()
        if version.certain:
            self._remember(fn, _Record(entry, version, self._watch(fn)))
        return entry

    def _dump(self, fn: Any, pickled: Callable[[Any], bytes] = dump) -> bytes:
        try:
            payload = pickled(fn)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failure = unpicklable([(f"the function {describe(fn)!r}", fn)], "", error)
            raise failure from failure.__cause__
        if self._max_bytes is not None and len(payload) > self._max_bytes:
            raise too_large(
                f"the function {describe(fn)!r} with what it captures", len(payload), self._max_bytes
            )
        return payload

    def _entry(self, payload: bytes, fn: Any) -> Entry:
        digest = blake2b(payload, digest_size=16).digest()
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                entry = Entry(Function(next(self._ids), describe(fn), payload), self._gone)
                self._entries[digest] = entry
            self._keep(entry)
            return entry

    def _keep(self, entry: Entry) -> None:
        """Hold short payloads a while, so that a lambda made anew for each call keeps its id."""
        size = len(entry.function.payload)
        if size > MAX_CHECKED_BYTES:
            return
        kept = self._kept
        if entry.function.id in kept:
            kept.move_to_end(entry.function.id)
            return
        kept[entry.function.id] = entry
        self._kept_bytes += size
        while len(kept) > MAX_RECORDS or self._kept_bytes > MAX_KEPT_BYTES:
            _, old = kept.popitem(last=False)
            self._kept_bytes -= len(old.function.payload)

    def _watch(self, fn: Any) -> weakref.ref[Any]:
        records, key = self._records, id(fn)
        return weakref.ref(fn, lambda _: records.pop(key, None))

    def _remember(self, fn: Any, record: _Record) -> None:
        with self._lock:
            self._make_room(self._records)
            self._records[id(fn)] = record
            version = record.version
            if version is None or not version.reusable:
                return
            if len(record.entry.function.payload) <= MAX_CHECKED_BYTES:
                self._make_room(self._by_code)
                self._by_code[id(version.code)] = record

    def _make_room(self, records: dict[int, _Record]) -> None:
        """Drop the oldest record that was not used since it was last passed over."""
        while len(records) >= MAX_RECORDS:
            try:
                key = next(iter(records))
            except (StopIteration, RuntimeError):  # a weak reference's callback removed one at this moment
                continue
            record = records.pop(key, None)
            if record is None or not record.touched:
                continue
            record.touched = False
            records[key] = record
            if records is self._records and type(record.subject) is weakref.ref and record.subject() is None:
                records.pop(key, None)  # its subject died while the record was out


def load_function(payload: bytes | bytearray | memoryview, *, name: str = "") -> Callable[..., Any]:
    """The function of a `Function`'s payload, on the worker.

    Raises:
        MissingModule: it lives in, or uses, a module that cannot be imported here.
        DeserializationError: it cannot be unpickled, or is not callable.
    """
    subject = f"the function {name!r}" if name else "the function"
    try:
        function = pickle.loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = undecodable(subject, error, at_worker=True)
        raise failure from error
    if not callable(function):
        kind = type(function).__qualname__
        raise DeserializationError(f"{subject} arrived as {kind}, which is not callable")
    loaded: Callable[..., Any] = function
    return loaded
