"""What the manager's reactor asks its shell to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from throughway.protocol.messages import Function, Message, Task

Buffer: TypeAlias = bytes | bytearray | memoryview


class Tell(NamedTuple):
    """Send a message with its payload frames to the interchange."""

    message: Message
    frames: Sequence[Buffer] = ()


class Give(NamedTuple):
    """Add a claim for each of these tasks, then send them to a worker as one bundle."""

    worker: int
    tasks: list[Task]
    functions: list[Function]
    forget: list[int]
    frames: Sequence[Buffer]


class Revoke(NamedTuple):
    """Take up to ``limit`` claims back from a worker; answered by `ManagerReactor.revoked` with how many it were."""

    worker: int
    limit: int


class Look(NamedTuple):
    """Read a worker's results now; answered by `ManagerReactor.looked`."""

    worker: int


class Kill(NamedTuple):
    """Kill a worker and everything that its tasks started."""

    worker: int


class Start(NamedTuple):
    """Start a worker under this number, in this slot (its rank on the node)."""

    worker: int
    slot: int


class ReportPackages(NamedTuple):
    """Answer a question about the installed packages."""

    request: int


class Exit(NamedTuple):
    """End this process, with its workers, once everything that was told is out; with ``again``, start it over."""

    reason: str
    status: int = 0
    again: bool = False


class Log(NamedTuple):
    """Write a line to the log; ``level`` is a name of the `logging` module."""

    level: str
    text: str


Action: TypeAlias = Tell | Give | Revoke | Look | Kill | Start | ReportPackages | Exit | Log
