"""When is a function that was pickled by value still the same function?

A `Version` remembers everything that the pickle of a function depends on: the identities of the globals and
closure variables that its code uses, of its code and defaults, of its attributes, and all of that again for
each function and class that it uses and that goes by value too. Identity settles it for what cannot change
(numbers, strings, modules, what is importable). For what can (lists, dicts, instances, arrays), the version
also keeps a pickle to compare with.
"""

from __future__ import annotations

import dis
import enum
import functools
import itertools
import pickle
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from operator import call, is_
from typing import Any

from throughway.serialize.pickling import (
    PROTOCOL,
    LruCache,
    dump,
    importable,
    is_static,
    module_by_value,
    refers,
)

_ATOMS = frozenset(
    {int, float, complex, str, bytes, bool, type(None), type(Ellipsis), type(NotImplemented), range, slice}
)
_IMMUTABLE = frozenset(
    {
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"pathlib.{name}" for name in ("PosixPath", "PurePosixPath", "PureWindowsPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath", "PureWindowsPath")),
        "decimal.Decimal",
        "fractions.Fraction",
        "re.Pattern",
        "uuid.UUID",
        "zoneinfo.ZoneInfo",
        "logging.Logger",
        "logging.RootLogger",
    }
)
"""Types whose instances never change, or are pickled by name: identity is enough."""

_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    types.MethodType: ("__func__", "__self__"),
}
_UNPICKLED = frozenset({"__dict__", "__weakref__", "_abc_impl"})
_MISSING = object()
_missing = itertools.repeat(_MISSING)
_contained = itertools.repeat("cell_contents")

_code_globals: weakref.WeakKeyDictionary[types.CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names of the globals that a code object and those nested in it load, store or delete."""
    names = _code_globals.get(code)
    if names is None:
        _code_globals[code] = names = tuple(dict.fromkeys(_walk_global_names(code)))
    return names


def _walk_global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname.endswith(("_GLOBAL", "_NAME")) and type(instruction.argval) is str:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from global_names(constant)


class Version:
    """What a function, class or partial that goes by value depended on at one moment.

    Take it *before* pickling: a variable that is rebound meanwhile then makes the version stale, never
    wrong. Three parallel tuples say what to look at beyond a function's own attributes and globals:
    ``getters[i](firsts[i], seconds[i]) is values[i]``.
    """

    __slots__ = (
        "attributed",
        "bound",
        "cells",
        "certain",
        "closure",
        "code",
        "defaults",
        "firsts",
        "getters",
        "kwdefaults",
        "look_up",
        "module",
        "mutable",
        "names",
        "namespace",
        "plain",
        "seconds",
        "state",
        "values",
    )

    def __init__(self, root: Any) -> None:
        collected = _Collector()
        self.code: Any = None
        self.defaults = self.kwdefaults = self.namespace = None
        self.look_up: Callable[..., Any] = getattr
        self.names: tuple[str, ...] = ()
        self.bound: tuple[Any, ...] = ()
        """The function's own globals: `names` and what they were bound to"""
        self.attributed = False
        """Whether the function has attributes of its own"""
        self.cells: tuple[types.CellType, ...] = ()
        self.closure: tuple[Any, ...] = ()
        """The function's own closure variables: their `cells` and what these contained"""
        self.module: str | None = None
        self.plain = False
        """Whether it is a function that is nothing but its code, defaults, globals and closure"""
        if type(root) is types.FunctionType:
            # its own attributes are looked up on the function given to `holds`: to remember the function
            # itself would keep it and what it captures alive
            self.code, self.namespace = root.__code__, root.__globals__
            self.defaults, self.kwdefaults = root.__defaults__, root.__kwdefaults__
            self.cells, self.closure = root.__closure__ or (), tuple(_contents(root))
            self.module = root.__module__
            self.names, self.look_up = global_names(root.__code__), root.__globals__.get
            self.bound = tuple(map(self.look_up, self.names, _missing))
            self.attributed = bool(root.__dict__)
            self.plain = (
                not root.__dict__
                and not root.__annotations__
                and root.__doc__ == _docstring(root.__code__)
                and root.__name__ == root.__code__.co_name
                and root.__qualname__ == root.__code__.co_qualname
            )
            for value in (*self.bound, *self.closure):
                collected.add(value)
            collected.certain = not any(value is _MISSING for value in self.closure)
            collected.inside_function(root)
        else:
            collected.add(root)
        collected.drain()
        self.certain = collected.certain
        """False where nothing but pickling again can tell whether it still holds."""
        self.getters = tuple(collected.getters)
        self.firsts = tuple(collected.firsts)
        self.seconds = tuple(collected.seconds)
        self.values = tuple(collected.values)
        self.mutable = collected.mutable
        self.state: bytes | None = None
        if self.mutable:
            try:
                self.state = dump(self.mutable)
            except Exception:  # the whole may pickle all the same: cloudpickle leaves some things out
                self.certain = False

    def ignore_state(self) -> None:
        """From now on settle by identity alone: the pickle is too large to be made for each call."""
        self.mutable, self.state = [], None

    def holds(self, root: Any) -> bool:
        """Whether ``root``, which the version was taken of, would be pickled to the same bytes now."""
        try:
            if self.code is not None and not (
                root.__code__ is self.code
                and root.__defaults__ is self.defaults
                and root.__kwdefaults__ is self.kwdefaults
                and (not root.__dict__ or self.attributed)
                and (not self.names or all(map(is_, map(self.look_up, self.names, _missing), self.bound)))
                and (not self.cells or all(map(is_, map(getattr, self.cells, _contained), self.closure)))
            ):
                return False
            if self.getters and not all(
                map(is_, map(call, self.getters, self.firsts, self.seconds), self.values)
            ):
                return False
            return self.state is None or dump(self.mutable) == self.state
        except Exception:  # a variable is gone, or no longer pickles: pickling the whole again will tell
            return False

    def fits(self, function: types.FunctionType) -> bool:
        """Whether another function, made anew of the same code, would be pickled to the same bytes now."""
        return (
            function.__globals__ is self.namespace
            and not function.__dict__
            and function.__name__ == self.code.co_name
            and function.__qualname__ == self.code.co_qualname
            and function.__module__ == self.module
            and all(map(is_, _contents(function), self.closure))
            and self.holds(function)
        )

    @property
    def reusable(self) -> bool:
        """Whether `fits` may be asked: nothing mutable is captured that it would keep alive."""
        return self.plain and self.certain and not self.mutable


def _contents(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            yield _MISSING


def _docstring(code: types.CodeType) -> str | None:
    first = code.co_consts[0] if code.co_consts else None
    return first if type(first) is str else None


class _Collector:
    """Walks over everything that goes into a pickle by value."""

    def __init__(self) -> None:
        self.getters: list[Callable[..., Any]] = []
        self.firsts: list[Any] = []
        self.seconds: list[Any] = []
        self.values: list[Any] = []
        self.mutable: list[Any] = []
        self.certain = True
        self._queue: list[Any] = []
        self._seen: dict[int, Any] = {}

    def look(self, getter: Callable[..., Any], first: Any, second: Any, value: Any) -> None:
        """Remember that ``getter(first, second)`` is this very ``value``, and go on with the value."""
        self.getters.append(getter)
        self.firsts.append(first)
        self.seconds.append(second)
        self.values.append(value)
        self.add(value)

    def look_in(self, mapping: Any, names: Iterable[str]) -> None:
        for name in names:
            self.look(mapping.get, name, _MISSING, mapping.get(name, _MISSING))

    def add(self, value: Any) -> None:
        if type(value) not in _ATOMS and value is not _MISSING and id(value) not in self._seen:
            self._seen[id(value)] = value
            self._queue.append(value)

    def drain(self) -> None:
        while self._queue:
            self._visit(self._queue.pop())

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if kind is types.FunctionType:
            if not importable(value):
                for name in ("__code__", "__defaults__", "__kwdefaults__"):
                    attribute = getattr(value, name)
                    self.getters.append(getattr)
                    self.firsts.append(value)
                    self.seconds.append(name)
                    self.values.append(attribute)
                self.look_in(value.__globals__, global_names(value.__code__))
                self._count(value.__dict__)
                for cell, content in zip(value.__closure__ or (), _contents(value), strict=True):
                    self.look(getattr, cell, "cell_contents", content)
                    self.certain = self.certain and content is not _MISSING
                self.inside_function(value)
        elif isinstance(value, type):
            if not is_static(value) and not importable(value):
                self._inside_class(value)
        elif kind is types.ModuleType:
            if module_by_value(value):
                self.mutable.append(value)
        elif kind is tuple or kind is frozenset:
            for item in value:
                self.add(item)
        elif kind is functools.partial:
            self.add(value.func)
            self.add(value.args)
            for mapping in (value.keywords, value.__dict__):
                self._count(mapping)
                self._inside_mapping(mapping)
        elif kind in _WRAPPERS:
            for name in _WRAPPERS[kind]:
                self.add(getattr(value, name))
        elif kind is LruCache:
            if not importable(value):
                self.add(value.__wrapped__)
        elif isinstance(value, enum.Enum):
            self.add(kind)
        elif not (
            kind in _DESCRIPTORS
            or f"{kind.__module__}.{kind.__qualname__}" in _IMMUTABLE
            or (callable(value) and _is_reference(value))
        ):
            self.mutable.append(value)

    def inside_function(self, function: types.FunctionType) -> None:
        for default in function.__defaults__ or ():
            self.add(default)
        self._inside_mapping(function.__kwdefaults__)
        self._inside_mapping(function.__dict__)

    def _inside_mapping(self, mapping: Any) -> None:
        if mapping:
            self._count(mapping)
            self.look_in(mapping, list(mapping))

    def _count(self, mapping: Any) -> None:
        self.look(call, len, mapping, len(mapping))

    def _inside_class(self, cls: type) -> None:
        attributes = vars(cls)
        self._count(attributes)
        for name, value in list(attributes.items()):
            if name in _UNPICKLED:
                continue
            self.getters.append(attributes.get)
            self.firsts.append(name)
            self.seconds.append(_MISSING)
            self.values.append(value)
            # the interpreter's and the standard library's own records about a class (__annotations__,
            # __dataclass_fields__, _member_map_) are rebound, not changed in place
            private = name.startswith("_") and name.endswith("_")
            if not private or isinstance(
                value, (types.FunctionType, staticmethod, classmethod, property, type)
            ):
                self.add(value)
        self.look(getattr, cls, "__bases__", cls.__bases__)
        self.add(type(cls))


def _is_reference(value: Any) -> bool:
    try:
        return refers(pickle.dumps(value, PROTOCOL))
    except Exception:  # it goes by value, if at all
        return False
