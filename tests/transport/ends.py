"""Ends of wires that tests drive step by step, each with a loop of its own, in one thread."""

from __future__ import annotations

import mmap
import selectors
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import pytest

from throughway.transport.interface import Arrival, Closed, Event, Opened, Wire

AnyWire = TypeVar("AnyWire")


class Side:
    """A wire with the selector and the loop of a process of its own."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.selector = selectors.DefaultSelector()
        self.events: list[Event] = []
        wire.register(self.selector)

    def turn(self) -> None:
        """One turn of a shell's loop, without waiting."""
        for key, mask in self.selector.select(0):
            key.data(mask)
        self.events += self.wire.receive()

    @property
    def opened(self) -> list[Opened]:
        return [event for event in self.events if isinstance(event, Opened)]

    @property
    def closed(self) -> list[Closed]:
        return [event for event in self.events if isinstance(event, Closed)]

    def messages(self, peer: int | None = None) -> list[list[bytes]]:
        """What arrived, from one peer or from all."""
        return [
            [bytes(frame) for frame in event.frames]
            for event in self.events
            if isinstance(event, Arrival) and peer in (None, event.peer)
        ]

    def count(self) -> int:
        return sum(type(event) is Arrival for event in self.events)


class Ends:
    """A listener of one kind, and as many connectors to it as are asked for."""

    def __init__(self, kind: str, listener: Wire, connect: Callable[[], Wire], address: str = "") -> None:
        self.kind = kind
        self.address = address
        """the path of a Unix socket, or the endpoint"""
        self.listener = Side(listener)
        self.connectors: list[Side] = []
        self._connect = connect

    def connect(self) -> Side:
        """A further connector, once its connection stands."""
        side = Side(self._connect())
        self.connectors.append(side)
        self.drive(lambda: bool(side.opened))
        return side

    def wire_of(self, kind: type[AnyWire]) -> AnyWire:
        """The listener, as what it is."""
        assert isinstance(self.listener.wire, kind)
        return self.listener.wire

    def meet(self) -> tuple[Side, int]:
        """A further connector that both ends know, and what the listener calls it."""
        side = self.connect()
        known = len(self.listener.events)
        assert side.wire.send(side.opened[0].peer, [b"hello"])
        self.drive(lambda: any(isinstance(event, Arrival) for event in self.listener.events[known:]))
        arrival = next(event for event in self.listener.events[known:] if isinstance(event, Arrival))
        self.listener.events.clear()
        side.events.clear()
        return side, arrival.peer

    def drive(self, condition: Callable[[], bool], *sides: Side, seconds: float = 20.0) -> None:
        """Let these sides (all, where none is named) work until the condition holds."""
        working = sides or (self.listener, *self.connectors)
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            for side in working:
                waiting.register(side.selector.fileno(), selectors.EVENT_READ)
            while not condition():
                left = deadline - time.monotonic()
                if left < 0:
                    pytest.fail(f"{self.kind}: still waiting after {seconds} s")
                busy = [side.wire.pending() for side in working]
                if not any(busy):
                    waiting.select(left)
                for side in working:
                    side.turn()

    def close(self) -> None:
        for side in (*self.connectors, self.listener):
            side.wire.close()
            side.selector.close()


Make: TypeAlias = Callable[..., Ends]
"""What the fixture `make_ends` is."""


def resident_bytes() -> int:
    """The memory that this process occupies, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
