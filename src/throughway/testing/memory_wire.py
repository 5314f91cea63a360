"""Wires in memory: every end in one process, each step under the control of a test.

A `MemoryNetwork` has listeners by name and connectors to them. What is sent lies in the link between two ends until
the other end's `receive` takes it, in the order of sending over all links of that end, so a run is the same each
time. Through `MemoryNetwork.links` a test holds messages back, loses them, and cuts connections.
"""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Sequence

from throughway.errors import TransportError
from throughway.transport.framing import frame_bytes
from throughway.transport.interface import (
    MAX_BACKLOG_BYTES,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    Arrival,
    Buffer,
    Closed,
    Event,
    Opened,
)


class _Way:
    """One direction of a link: where its messages go, and what became of them."""

    def __init__(self, target: MemoryWire, peer: int) -> None:
        self.target = target
        self.peer = peer
        """the sender, as the target calls it"""
        self.waiting = 0
        """bytes sent and not yet received"""
        self.holding = False
        self.held: deque[Event] = deque()
        self.to_lose = 0
        self.lost = 0

    def carry(self, event: Event, size: int) -> None:
        if isinstance(event, Arrival):
            if self.to_lose:
                self.to_lose -= 1
                self.lost += 1
                return
            self.waiting += size
        if self.holding:
            self.held.append(event)
        else:
            self.target.deliver(self, event)

    def release(self) -> None:
        self.holding = False
        while self.held:
            self.target.deliver(self, self.held.popleft())


class Link:
    """A connection between a connector and a listener. ``towards`` names the end whose incoming messages are meant;
    without it, both directions are."""

    def __init__(self, connector: MemoryWire, listener: MemoryWire) -> None:
        self.connector = connector
        self.listener = listener
        self.standing = True
        self._ways: dict[MemoryWire, _Way] = {}

    def hold(self, towards: MemoryWire | None = None) -> None:
        """Keep what is sent from now on under way, until `release`."""
        for way in self._of(towards):
            way.holding = True

    def release(self, towards: MemoryWire | None = None) -> None:
        """Deliver what was held, in order, and hold nothing more."""
        for way in self._of(towards):
            way.release()

    def lose(self, count: int, towards: MemoryWire | None = None) -> None:
        """Lose the next ``count`` messages."""
        for way in self._of(towards):
            way.to_lose += count

    def lost(self, towards: MemoryWire) -> int:
        """How many messages towards this end were lost."""
        return self._ways[towards].lost

    def cut(self, reason: str = "connection lost") -> None:
        """Break the connection: both ends hear of it after what was delivered; what is held is lost."""
        for way in self._ways.values():
            way.held.clear()
            way.holding = False
        self.part(None, reason)

    # ---------------------------------------------------------------------------------- for the wires at its ends

    def join(self, wire: MemoryWire, peer: int) -> None:
        """``wire`` is an end of this link and calls the other end ``peer``."""
        self._ways[wire] = _Way(wire, peer)

    def way_from(self, wire: MemoryWire) -> _Way:
        """The direction in which this end sends."""
        return self._ways[self.listener if wire is self.connector else self.connector]

    def part(self, leaver: MemoryWire | None, reason: str) -> None:
        """The connection ends; those who did not end it hear why, behind all that was sent to them."""
        if not self.standing:
            return
        self.standing = False
        for wire, way in self._ways.items():
            if wire is leaver:
                wire.forget(way)
            else:
                way.carry(Closed(way.peer, reason), 0)

    def _of(self, towards: MemoryWire | None) -> list[_Way]:
        return list(self._ways.values()) if towards is None else [self._ways[towards]]


class MemoryNetwork:
    """Names that can be listened at, and the links between those who do and those who connect."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        """every link ever made, in the order of connecting"""
        self._listeners: dict[str, MemoryWire] = {}

    def listen(
        self,
        name: str,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> MemoryWire:
        """A listener.

        Raises:
            TransportError: somebody listens there.
        """
        if name in self._listeners:
            raise TransportError(f"cannot listen at {name}: another listener does")
        wire = MemoryWire(self, name, max_message_bytes, max_backlog_bytes)
        self._listeners[name] = wire
        return wire

    def connect(
        self,
        name: str,
        *,
        label: str = "memory",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> MemoryWire:
        """A connector; ``label`` is what the listener's `Opened` calls it.

        Raises:
            TransportError: nobody listens there.
        """
        listener = self._listeners.get(name)
        if listener is None:
            raise TransportError(f"cannot connect to {name}: nobody listens there")
        wire = MemoryWire(self, None, max_message_bytes, max_backlog_bytes)
        link = Link(wire, listener)
        self.links.append(link)
        for end, seen_as in ((listener, label), (wire, name)):
            link.join(end, end.add(link, seen_as))
        return wire

    def unlist(self, name: str) -> None:
        """Nobody listens at ``name`` any more."""
        self._listeners.pop(name, None)


class MemoryWire:
    """One end of a wire in memory: see `throughway.transport.interface.Wire`."""

    def __init__(
        self, network: MemoryNetwork, name: str | None, max_message_bytes: int, max_backlog_bytes: int
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_backlog_bytes = max_backlog_bytes
        self._network = network
        self._name = name
        self._links: dict[int, Link] = {}
        self._next_peer = 0
        self._inbox: deque[tuple[_Way | None, Event]] = deque()
        self._selector: selectors.BaseSelector | None = None
        self._bell = -1

    # ------------------------------------------------------------------------------------------------ the interface

    def register(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._bell = os.eventfd(1 if self._inbox else 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        selector.register(self._bell, selectors.EVENT_READ, self._heard)

    def receive(self) -> list[Event]:
        events: list[Event] = []
        while self._inbox:
            way, event = self._inbox.popleft()
            if way is not None and isinstance(event, Arrival):
                way.waiting -= sum(map(frame_bytes, event.frames))
            elif isinstance(event, Closed):
                self._links.pop(event.peer, None)
            events.append(event)
        return events

    def pending(self) -> bool:
        return bool(self._inbox)

    def send(self, peer: int, frames: Sequence[Buffer]) -> bool:
        link = self._links.get(peer)
        if link is None or not link.standing:
            return False
        if not 0 < len(frames) <= MAX_FRAMES:
            raise TransportError(f"a message has 1 to {MAX_FRAMES} frames, not {len(frames)}")
        way = link.way_from(self)
        size = sum(map(frame_bytes, frames))
        if way.waiting + size > self.max_backlog_bytes:
            waiting = f"{way.waiting + size} bytes wait (limit: {self.max_backlog_bytes})"
            self._end(peer, f"it does not read: {waiting}")
            return False
        if size > way.target.max_message_bytes:
            link.cut(f"a message of {size} bytes was announced (limit: {way.target.max_message_bytes})")
            return True
        # A copy, so that what a sender changes afterwards is as invisible as on any other wire.
        way.carry(Arrival(way.peer, [bytes(frame) for frame in frames]), size)
        return True

    def backlog(self, peer: int) -> int:
        """Bytes that the other end has not received yet."""
        link = self._links.get(peer)
        return link.way_from(self).waiting if link is not None and link.standing else 0

    def disconnect(self, peer: int, reason: str) -> None:
        link = self._links.pop(peer, None)
        if link is not None:
            link.part(self, reason)

    def close(self) -> None:
        for peer in list(self._links):
            self.disconnect(peer, "closed")
        if self._name is not None:
            self._network.unlist(self._name)
            self._name = None
        if self._selector is not None:
            self._selector.unregister(self._bell)
            os.close(self._bell)
            self._selector = None

    # ---------------------------------------------------------------------------------------------- for its links

    def add(self, link: Link, label: str) -> int:
        """A further link. Returns what this end calls the other."""
        peer = self._next_peer
        self._next_peer += 1
        self._links[peer] = link
        self._put(None, Opened(peer, label))
        return peer

    def deliver(self, way: _Way, event: Event) -> None:
        """Something came."""
        if event.peer in self._links:
            self._put(way, event)

    def forget(self, way: _Way) -> None:
        """This end let the link go: what came by it and was not received is dropped."""
        way.held.clear()
        self._inbox = deque(entry for entry in self._inbox if entry[0] is not way)

    def _end(self, peer: int, reason: str) -> None:
        self.disconnect(peer, reason)
        self._put(None, Closed(peer, reason))

    def _put(self, way: _Way | None, event: Event) -> None:
        self._inbox.append((way, event))
        if self._selector is not None:
            os.eventfd_write(self._bell, 1)

    def _heard(self, mask: int) -> None:
        if self._selector is not None:
            os.eventfd_read(self._bell)
