"""What the manager's reactor asks its shell to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from throughway.protocol.messages import Function, Message, Task

Buffer: TypeAlias = bytes | bytearray | memoryview


class Tell(msgspec.Struct, gc=False):
    """Send a message with its payload frames to the interchange."""

    message: Message
    frames: Sequence[Buffer] = ()


class Give(msgspec.Struct, gc=False):
    """Add a claim for each of these tasks, then send them to a worker as one bundle."""

    worker: int
    tasks: list[Task]
    functions: list[Function]
    forget: list[int]
    frames: Sequence[Buffer]


class Revoke(msgspec.Struct, gc=False):
    """Take up to ``limit`` claims back from a worker; answered by `ManagerReactor.revoked` with how many it were."""

    worker: int
    limit: int


class Look(msgspec.Struct, gc=False):
    """Read a worker's results now; answered by `ManagerReactor.looked`."""

    worker: int


class Kill(msgspec.Struct, gc=False):
    """Kill a worker and everything that its tasks started."""

    worker: int


class Start(msgspec.Struct, gc=False):
    """Start a worker under this number, in this slot (its rank on the node)."""

    worker: int
    slot: int


class ReportPackages(msgspec.Struct, gc=False):
    """Answer a question about the installed packages."""

    request: int


class Exit(msgspec.Struct, gc=False):
    """End this process, with its workers, once everything that was told is out; with ``again``, start it over.

    Unless the interchange ``knows``, since it wanted so or was told, it hears of it from the node afterwards.
    """

    reason: str
    status: int = 0
    again: bool = False
    knows: bool = False


class Log(msgspec.Struct, gc=False):
    """Write a line to the log; ``level`` is a name of the `logging` module."""

    level: str
    text: str


Action: TypeAlias = Tell | Give | Revoke | Look | Kill | Start | ReportPackages | Exit | Log
