"""One way to pickle, used for functions, arguments, results and exceptions alike.

The standard pickler goes first: it is several times faster. It pickles functions and classes by reference,
that is as a module's name and an attribute's name, which works wherever the other side can import the
module. It never can import the main script or a notebook, so what mentions ``__main__``, and what the
standard pickler refuses (lambdas, local classes), is pickled again with `ByValuePickler`, which sends the
code itself.

A module counts as importable where `sys.modules` has it. A module made at run time and put there by hand is
pickled by value after ``cloudpickle.register_pickle_by_value(module)``.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]

PROTOCOL = 5

LARGE_FRAME_BYTES = 16384
"""A buffer of at least this many bytes travels as a frame of its own, smaller ones inside the payload."""

MAIN_MODULES = frozenset({"__main__", "__mp_main__"})
"""Names of the main script: another process has another one. The second is for multiprocessing's children."""

LruCache = type(functools.lru_cache(len))

_registered = cloudpickle.list_registry_pickle_by_value

_written_here: weakref.WeakSet[type] = weakref.WeakSet()
_received: weakref.WeakSet[type] = weakref.WeakSet()


def importable(obj: Any) -> bool:
    """Whether another process finds this very function or class by its module's and its own name."""
    try:
        name = obj.__module__
        module = found = sys.modules.get(name)
        if module is None or name in MAIN_MODULES:
            return False
        for part in obj.__qualname__.split("."):
            found = getattr(found, part)
    except Exception:  # no such attribute, or an attribute hook of the user's that raises
        return False
    return found is obj and not by_value(name)


def by_value(module: str) -> bool:
    """Whether the user asked cloudpickle to send this module's functions and classes by value."""
    registered = _registered()
    while registered and module not in registered:
        module, dot, _ = module.rpartition(".")
        if not dot:
            return False
    return bool(registered)


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc,unused-ignore]
    """Pickles by value whatever cannot be imported elsewhere. Adds to cloudpickle's pickler:

    - ``functools.lru_cache`` functions and ``typing.NewType`` of the main script, which would
      go by reference
    - a class that comes home (in a result, to the process that first sent it) stays as it is there;
      cloudpickle
      would replace its methods by copies whose globals are not the script's
    """

    def __init__(
        self, file: io.BytesIO, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None
    ) -> None:
        main = sys.modules.get("__mp_main__")
        if main is not None and main.__name__ == "__mp_main__":
            cloudpickle.register_pickle_by_value(main)
        super().__init__(file, PROTOCOL, buffer_callback)

    def dump(self, obj: Any) -> None:
        pickle.Pickler.dump(self, obj)  # cloudpickle's own would hide a RecursionError

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is LruCache and not importable(obj):
            return make_lru_cache, (obj.__wrapped__, obj.cache_parameters())
        if kind is typing.NewType and not importable(obj):
            return typing.NewType, (obj.__name__, obj.__supertype__), {"__module__": obj.__module__}
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and type(reduced) is tuple and len(reduced) == 6:
            if obj not in _received:
                _written_here.add(obj)
            make, arguments, state, items, pairs, set_state = reduced
            return make, arguments, (set_state, state), items, pairs, set_class_state
        return reduced


def make_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """What a pickled ``lru_cache`` function calls to be made anew, with an empty cache."""
    return functools.lru_cache(**parameters)(function)


def set_class_state(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    """What a pickled class calls to be filled with its attributes; nothing where the class is at home."""
    if cls in _written_here:
        return
    _received.add(cls)
    set_state, attributes = state
    set_state(cls, attributes)


def dump(value: object, frames: list[memoryview] | None = None) -> bytes:
    """Pickle ``value``. Buffers of at least `LARGE_FRAME_BYTES` are appended to ``frames`` (flat views of
    bytes, which alias the user's memory) where a list is given, and kept in band where it is None.

    Raises:
        BaseException: whatever the user's code raises, or pickle does. Callers say what it was.
    """
    callback = None if frames is None else _collector(frames)
    try:
        payload = pickle.dumps(value, PROTOCOL, buffer_callback=callback)
    except Exception:
        payload = None  # it may still go by value; if not, the error raised below is the one to tell
    if payload is not None and b"main__" not in payload and not _registered():
        return payload
    if frames:
        frames.clear()
    return dump_by_value(value, callback)


def dump_by_value(value: object, callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """As `dump`, for what the standard pickler is known to refuse."""
    with io.BytesIO() as file:
        ByValuePickler(file, callback).dump(value)
        return file.getvalue()


def refers(payload: bytes) -> bool:
    """Whether a pickle of something callable is nothing but a reference to it by name."""
    return payload.endswith(b"\x93\x94.") and b"main__" not in payload  # STACK_GLOBAL, MEMOIZE, STOP


def _collector(frames: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < LARGE_FRAME_BYTES:
            return True
        frames.append(view)
        return False

    return keep_in_band


def describe(function: Any) -> str:
    """The name of something callable, for messages: its qualified name, or that of its type."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
    except Exception:  # an attribute hook of the user's that raises
        name = type(function).__qualname__
    return name if type(name) is str else type(function).__qualname__


def is_static(cls: type) -> bool:
    """Whether a class is one of the interpreter's or of an extension module's that nobody can change."""
    return not cls.__flags__ & (1 << 9)  # Py_TPFLAGS_HEAPTYPE


def module_by_value(module: types.ModuleType) -> bool:
    """Whether a module would be sent as a copy of its contents."""
    return sys.modules.get(module.__name__) is None or by_value(module.__name__)
