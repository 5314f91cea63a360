"""What every wire does, whatever carries it.

A wire is one end: a listener with many peers, or a connector with one. It never blocks: a shell registers its wires
with a selector, waits, lets each ready descriptor's wire read (`Ready`), and takes what arrived with `receive`. A
message is a list of frames; a wire keeps message boundaries and the order of messages between two ends, and delivers
each message whole or not at all. A peer is an `int` that the wire gives out and never gives out again.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview
Ready: TypeAlias = Callable[[int], None]
"""What a wire registers as a descriptor's ``data``: the shell calls it with the selector's event mask."""

MAX_FRAMES = 1 << 20
"""Frames in one message, at most; a peer that announces more is disconnected."""

MAX_MESSAGE_BYTES = 1 << 40
"""Bytes in one message, at most, where the shell names no lower bound."""

MAX_BACKLOG_BYTES = 1 << 40
"""Bytes that wait to be sent to one peer, at most, where the shell names no lower bound."""


class Opened(NamedTuple):
    """A peer is there. A connector reports its only peer as soon as the connection stands."""

    peer: int
    label: str
    """who it is, for logs: a path, an address or a user"""


class Arrival(msgspec.Struct, gc=False):
    """A whole message came from a peer. Frames may be views of a buffer that lives as long as they do."""

    peer: int
    frames: Sequence[Buffer]


class Closed(NamedTuple):
    """A peer is gone, and nothing more comes from it."""

    peer: int
    reason: str


Event: TypeAlias = Opened | Arrival | Closed


class Wire(Protocol):
    """One end of a wire."""

    def register(self, selector: selectors.BaseSelector) -> None:
        """Put the wire's descriptors into ``selector`` with a `Ready` as data, now and as they come and go."""

    def receive(self) -> list[Event]:
        """Everything that arrived since the last call, in order, without waiting and without a system call for
        wires whose `Ready` did the reading. May stop at a fair share: then `pending` stays true."""

    def pending(self) -> bool:
        """Whether `receive` has more although no descriptor may become ready. Asked before each wait."""

    def send(self, peer: int, frames: Sequence[Buffer]) -> bool:
        """Send a message, or queue it. False where the peer is gone or its backlog is full (it is then disconnected,
        and `Closed` says so). The frames must not change until they are sent."""

    def backlog(self, peer: int) -> int:
        """Bytes that wait to be sent to this peer."""

    def disconnect(self, peer: int, reason: str) -> None:
        """Let a peer go: what is queued for it is sent where that needs no waiting. `Closed` is not reported."""

    def close(self) -> None:
        """Let all peers go and give all descriptors back. May be called again."""
