"""What a task is, as a key under which a journal finds its result again, in another process and on another day.

The pickles that travel to workers will not do: those by value hold a random mark for each class, and the path and line
at which the code was written; sets come in another order in each process. So what goes by value is pickled once more
for its key alone, without all that. What goes by reference counts by its name and by its code.
"""

from __future__ import annotations

import pickle
import sys
import threading
import types
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped,unused-ignore]

from throughway.executors.journal_file import KEY_BYTES
from throughway.serialize.functions import Entry
from throughway.serialize.pickling import MAIN_MODULES, PROTOCOL, LruCache, importable, is_static
from throughway.serialize.versions import global_names

Buffer = bytes | bytearray | memoryview

MAX_FUNCTIONS = 4096
"""Functions whose part of a key is remembered."""

_UNSTABLE = (b"main__", b"cloudpickle", b"\x8f\x94", b"\x91\x94")
"""What the pickle of a call holds where it may differ from process to process: what goes by value, and sets (EMPTY_SET
or FROZENSET, then MEMOIZE). Data that looks like it costs time and nothing else."""

_SKIPPED = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotate_func__",
        "__annotations_cache__",
        "__classdictcell__",
        "_abc_impl",
    }
)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})


def labelled(label: str) -> bytes:
    """The key of a task whose user gave one."""
    return blake2b(label.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, person=b"label").digest()


class ContentKeys:
    """Keys of calls by their content: function and arguments. Safe to use from any thread."""

    def __init__(self) -> None:
        self._functions: dict[int, tuple[types.CodeType | None, bytes]] = {}
        self._seen: dict[bytes, int] = {}
        self._counting = threading.Lock()

    def key(
        self,
        function: Callable[..., Any],
        entry: Entry,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        payload: bytes,
        frames: Sequence[Buffer],
    ) -> bytes:
        """The key of a call; equal calls are told apart by how many of them there were before in this process.

        Args:
            entry: the function's entry.
            payload: what the arguments were pickled to, with its ``frames``.

        Raises:
            Exception: the content cannot be pickled for it.
        """
        digest = blake2b(self._function(function, entry), digest_size=KEY_BYTES, person=b"call")
        if any(mark in payload for mark in _UNSTABLE):
            digest.update(content_digest([args, kwargs]))
        else:
            digest.update(payload)
            for frame in frames:
                digest.update(frame)
        first = digest.digest()
        with self._counting:
            count = self._seen.get(first, 0)
            self._seen[first] = count + 1
        if not count:
            return first
        return blake2b(first + count.to_bytes(8, "little"), digest_size=KEY_BYTES, person=b"again").digest()

    def _function(self, function: Callable[..., Any], entry: Entry) -> bytes:
        code = getattr(function, "__code__", None)
        known = self._functions.get(entry.function.id)
        if known is not None and known[0] is code:
            return known[1]
        digest = content_digest(function, codes=True)
        while len(self._functions) >= MAX_FUNCTIONS:
            self._functions.pop(next(iter(self._functions)), None)
        self._functions[entry.function.id] = (code, digest)
        return digest


def content_digest(value: Any, *, codes: bool = False) -> bytes:
    """A digest that is the same for equal content in every process of the same Python minor version.

    Args:
        codes: whether functions that others can import count by their code as well, and not by their names alone.

    Raises:
        Exception: the value cannot be pickled.
    """
    digest = _Digest()
    ContentPickler(digest, codes=codes).dump(value)
    return digest.hash.digest()


class _Digest:
    """A file for a pickler, of which only the digest is kept."""

    def __init__(self) -> None:
        self.hash = blake2b(digest_size=2 * KEY_BYTES)

    def write(self, data: Buffer, /) -> int:
        self.hash.update(data)
        return len(data)

    def add(self, buffer: pickle.PickleBuffer) -> bool:
        """As a buffer's callback: it is hashed from where it is."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: it stays in band
            return True
        self.hash.update(view.nbytes.to_bytes(8, "little"))
        self.hash.update(view)
        return False


_PythonPickler: Any = pickle._Pickler  # type checkers know neither its methods nor its table


class ContentPickler(_PythonPickler):  # type: ignore[misc]
    """Pickles for a digest, never to be read again. In Python, as the fast pickler asks nobody about sets."""

    dispatch_table = cloudpickle.Pickler.dispatch_table
    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(_PythonPickler.dispatch)

    def __init__(self, digest: _Digest, *, codes: bool) -> None:
        super().__init__(digest, PROTOCOL, buffer_callback=digest.add)
        self._digest = digest
        self._codes = codes

    def reducer_override(self, obj: Any) -> Any:
        """What stands for functions, code and classes."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if kind is types.CodeType:
            return "code", _code(obj)
        if isinstance(obj, type):
            if importable(obj) or is_static(obj):
                return "type", (obj.__module__, obj.__qualname__)
            return self._reduce_class(obj)
        if kind is LruCache and not importable(obj):
            return "lru_cache", (obj.__wrapped__,)
        if kind is types.MethodType and self._codes:
            return "method", (obj.__func__, obj.__self__)
        if kind is types.ModuleType:
            return "module", (obj.__name__,)
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        name = (_module(function.__module__), function.__qualname__)
        if importable(function):
            if not self._codes:
                return "function", name
            return "function", name, self._by_reference(function)
        state: list[Any] = [
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            [_content(cell) for cell in function.__closure__ or ()],
            sorted(function.__dict__.items()),
        ]
        names = sorted(set(global_names(function.__code__)) & function.__globals__.keys())
        state.append([(name, function.__globals__[name]) for name in names])
        return "function", name, state

    def _by_reference(self, function: types.FunctionType) -> list[Any]:
        """Its code, and of the globals that it names the functions of its own module and the plain constants."""
        found: list[Any] = [function.__code__, function.__defaults__, function.__kwdefaults__]
        for name in sorted(set(global_names(function.__code__)) & function.__globals__.keys()):
            value = function.__globals__[name]
            of_the_module = type(value) is types.FunctionType and value.__module__ == function.__module__
            if of_the_module or _plain(value):
                found.append((name, value))
        if hasattr(function, "__wrapped__") and type(function.__wrapped__) is types.FunctionType:
            found.append(function.__wrapped__)
        return found

    def _reduce_class(self, cls: type) -> Any:
        attributes = [
            (name, value)
            for name, value in sorted(vars(cls).items())
            if name not in _SKIPPED and not isinstance(value, _SLOTS)
        ]
        return "class", (_module(cls.__module__), cls.__qualname__), [cls.__bases__, type(cls), attributes]

    def save_reduce(
        self, func: Any, args: Any, state: Any = None, *rest: Any, obj: Any = None, **more: Any
    ) -> None:
        """As the base's, and for what `reducer_override` gave as a name in place of a function."""
        if type(func) is not str:
            super().save_reduce(func, args, state, *rest, obj=obj, **more)
            return
        # The object is known before what it consists of, which may lead back to it.
        self.save(func)
        self.memoize(obj)
        self.save(args)
        self.save(state)

    def _save_text(self, text: str) -> None:
        # Not remembered: whether two equal texts are one object is an accident.
        data = text.encode("utf-8", "surrogatepass")
        self.write(b"U" + len(data).to_bytes(8, "little") + data)

    def _save_bytes(self, data: bytes) -> None:
        self.write(b"B" + len(data).to_bytes(8, "little"))
        self.write(data)

    def _save_set(self, items: set[Any] | frozenset[Any]) -> None:
        kind = b"S" if type(items) is set else b"F"
        digests = sorted(content_digest(item, codes=self._codes) for item in items)
        self.write(kind + len(digests).to_bytes(8, "little"))
        for digest in digests:
            self.write(digest)

    def _save_tuple(self, items: tuple[Any, ...]) -> None:
        if not _plain(items):
            self.save_tuple(items)
            return
        # As with texts: equal constants may be one object, or several.
        self.write(b"T" + len(items).to_bytes(8, "little"))
        for item in items:
            self.save(item)

    dispatch[str] = _save_text
    dispatch[bytes] = _save_bytes
    dispatch[set] = _save_set
    dispatch[frozenset] = _save_set
    dispatch[tuple] = _save_tuple


def _module(name: str | None) -> str:
    return "__main__" if name in MAIN_MODULES else str(name)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "not bound"


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_plain, value))
    return kind in _PLAIN


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """What makes a code object do what it does, and not where it was written."""
    return (
        sys.version_info[:2],
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_exceptiontable,
        code.co_name,
    )
