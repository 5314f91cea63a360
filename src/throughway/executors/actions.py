"""What the executor's reactor asks its shell to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from throughway.protocol.messages import Message

Buffer: TypeAlias = bytes | bytearray | memoryview


class Tell(NamedTuple):
    """Send a message with its payload frames to the interchange."""

    message: Message
    frames: Sequence[Buffer] = ()


class Notify(NamedTuple):
    """Call one of those who wanted to know what becomes of managers and blocks."""

    callback: Callable[..., object]
    arguments: tuple[Any, ...]


class Restart(NamedTuple):
    """Kill the interchange: it hangs. Its end then tells `ExecutorReactor.interchange_left`."""

    reason: str


class Log(NamedTuple):
    """Write a line to the log; ``level`` is a name of the `logging` module."""

    level: str
    text: str


Action: TypeAlias = Tell | Notify | Restart | Log
