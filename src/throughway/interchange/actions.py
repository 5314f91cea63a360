"""What the interchange's reactor asks its shell to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from throughway.protocol.messages import Message

Buffer: TypeAlias = bytes | bytearray | memoryview

EXECUTOR = -1
"""The executor's peer number: it is there from the start, and there is only one."""

ABSENT = -2
"""The peer number of a manager without a connection."""


class Send(msgspec.Struct, gc=False):
    """Send a message with its payload frames to a peer."""

    peer: int
    message: Message
    frames: Sequence[Buffer] = ()


class Note(msgspec.Struct, gc=False):
    """Note, where it outlives this process, that these tasks are about to be sent to a manager; with an empty id, that
    they are with none."""

    manager: str
    tasks: Sequence[int]


class Forward(msgspec.Struct, gc=False):
    """Pass frames on as they came."""

    peer: int
    frames: Sequence[Buffer]


class Disconnect(msgspec.Struct, gc=False):
    """Let a peer go, after what was sent to it before."""

    peer: int
    reason: str


class Exit(msgspec.Struct, gc=False):
    """End this process once everything that was sent is out."""

    reason: str


class Log(msgspec.Struct, gc=False):
    """Write a line to the log; ``level`` is a name of the `logging` module."""

    level: str
    text: str


Action: TypeAlias = Send | Note | Forward | Disconnect | Exit | Log
