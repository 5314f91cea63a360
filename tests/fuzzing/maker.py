"""Messages that are well-formed and make no sense: structs whose fields name the wrong tasks, managers and counts."""

from __future__ import annotations

import random
import types
import typing
from typing import Any, Protocol

import msgspec

from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION

TASKS = 12
FUNCTIONS = 4
MANAGERS = ("a", "b", "c")
PYTHON = "3.11.7"

_NUMBERS = (0, 1, 2, 3, -1, 255, 1 << 31, -(1 << 63), (1 << 63) - 1)
_FLOATS = (0.0, 1.0, 0.5, -1.0, 1e300, float("inf"), float("nan"), -0.0)
_TEXTS = ("", "0", "x", "packages", "explain", "status", "managers", "hold", "9" * 5000, "\u0663", "\0")


class Source(Protocol):
    """Where decisions come from: a seed, a search for the smallest example, or a fuzzer's bytes."""

    def choose(self, count: int) -> int:
        """A number from 0 to ``count`` - 1."""

    def some(self, size: int) -> bytes:
        """So many bytes, at most."""


class Seeded:
    """Decisions of a random number generator."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, count: int) -> int:
        return self._rng.randrange(count)

    def some(self, size: int) -> bytes:
        return bytes(self._rng.choices(range(256), k=self.choose(size + 1)))


class Bytes:
    """Decisions that are read off a fuzzer's bytes; zeros follow behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def choose(self, count: int) -> int:
        value = self._data[self._at] if self.left else 0
        self._at += 1
        if count > 256:
            value = value << 8 | (self._data[self._at] if self.left else 0)
            self._at += 1
        return value % count

    def some(self, size: int) -> bytes:
        count = min(self.choose(size + 1), max(0, len(self._data) - self._at))
        self._at += count
        return self._data[self._at - count : self._at]


class Maker:
    """Makes messages of a union, and everything in them."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def often(self, of: int = 8) -> bool:
        """True but for one time in ``of``."""
        return bool(self.source.choose(of))

    def pick(self, items: typing.Sequence[Any]) -> Any:
        """One of these."""
        return items[self.source.choose(len(items))]

    def message(self, union: Any) -> Any:
        """A message of this union, as it comes off the wire."""
        kind = self.pick(typing.get_args(union))
        return self.struct(kind)

    def struct(self, kind: Any) -> Any:
        """A struct of this type with a value in each field."""
        hints = typing.get_type_hints(kind)
        made = kind(**{name: self.field(name, hint) for name, hint in hints.items()})
        if issubclass(kind, m.Task):
            return made
        return msgspec.msgpack.Decoder(kind).decode(codec.encode(made))

    def field(self, name: str, hint: Any) -> Any:
        """A value for a field: one that could be meant, most of the time."""
        if self.often():
            if name in ("tasks", "cancelled", "refused", "held") and hint == list[int]:
                return [self.task() for _ in range(self.source.choose(5))]
            if name in ("functions", "forget") and hint == list[int]:
                return [self.source.choose(FUNCTIONS) for _ in range(self.source.choose(3))]
            if name == "function":
                return self.source.choose(FUNCTIONS)
            if name in ("manager", "id") and hint is str:
                return self.pick(MANAGERS)
            if name == "id":
                return self.task()
            if name in ("number", "received", "seen", "capacity", "workers", "request") and hint is int:
                return self.source.choose(6)
            if name == "frames" and hint is int:
                return self.source.choose(12) // 10
            if name == "frames" and hint == dict[int, int]:
                return {} if self.often(3) else {self.source.choose(4): self.source.choose(3)}
            if name == "received":
                return {self.pick(MANAGERS): self.source.choose(6) for _ in range(self.source.choose(3))}
            if name == "outcomes":
                return bytes(self.source.choose(10) for _ in range(self.source.choose(5)))
            if name == "protocol":
                return PROTOCOL_VERSION
            if name == "python":
                return PYTHON
            if name == "subject":
                return str(self.task()) if self.often(2) else self.pick(MANAGERS)
            if name in ("walltime", "priority"):
                return self.pick((0, 0, 0, 1, 60))
        return self.value(hint)

    def task(self) -> int:
        """The number of a task."""
        return self.source.choose(TASKS)

    def value(self, hint: Any) -> Any:
        """Any value of a type."""
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if origin is list:
            return [self.value(arguments[0]) for _ in range(self.source.choose(4))]
        if origin is tuple:
            return tuple(self.value(argument) for argument in arguments)
        if origin is dict:
            return {self.value(arguments[0]): self.value(arguments[1]) for _ in range(self.source.choose(3))}
        if origin in (types.UnionType, typing.Union):
            return self.value(self.pick(arguments))
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.struct(hint)
        if hint is int:
            return self.pick(_NUMBERS)
        if hint is float:
            return self.pick(_FLOATS)
        if hint is bool:
            return bool(self.source.choose(2))
        if hint is str:
            return self.pick((*_TEXTS, *MANAGERS))
        if hint is bytes:
            return self.source.some(12)
        if hint is type(None):
            return None
        raise TypeError(f"nothing is known about {hint!r}")

    def frames(self) -> list[bytes]:
        """Payload frames, seldom as many as a message says."""
        return [self.source.some(40) for _ in range(self.source.choose(8) // 6 * self.source.choose(4))]

    def body(self, count: int) -> list[bytes]:
        """The frames of a `Results`: a body, right or wrong, and large frames."""
        if not self.often():
            return self.frames()
        wanted = count if self.often() else self.source.choose(5)
        payloads = [
            self.pick((b"\x80\x05N.", b"", b"\x80", b"\x81\xa4host\x01", b"\x90")) for _ in range(wanted)
        ]
        return [codec.encode(payloads), *self.frames()]
