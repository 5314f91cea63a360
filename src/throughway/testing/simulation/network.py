"""Connections that delay, freeze, break, and break at one end before the other.

Messages of one connection stay in order, as TCP and Unix sockets keep it; those of different connections overtake each
other. A connection that breaks loses what was under way from some message on. While its site is cut off nothing moves,
and nobody learns of anything.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from throughway.testing.simulation.clock import Clock

if TYPE_CHECKING:
    from throughway.testing.simulation.processes import Process

Frames = Sequence[bytes]


class Arrived(NamedTuple):
    """A message came in over this connection."""

    link: Link
    frames: Frames


class Broke(NamedTuple):
    """A connection is found gone."""

    link: Link
    reason: str


class Way:
    """One direction of a connection, towards ``receiver``."""

    def __init__(self, link: Link, receiver: Process) -> None:
        self.link = link
        self.receiver = receiver
        self.listening = True
        """whether the receiver has not closed its end, and not been told that it is gone"""
        self.sent = 0
        self.arrived = 0
        self.surviving: float = float("inf")
        """the last message that arrives"""
        self.last = 0.0
        self.held: deque[tuple[int, Frames | str]] = deque()

    def carry(self, item: Frames | str, number: int) -> None:
        link = self.link
        self.last = max(self.last, link.clock.now + link.delay())
        link.clock.at(self.last, self.arrive, number, item)

    def arrive(self, number: int, item: Frames | str) -> None:
        """A message, or with a text the end of the connection, has come to the receiver's machine."""
        if self.held or self.link.site in self.link.network.cuts:
            self.held.append((number, item))
        elif not self.listening:
            pass
        elif isinstance(item, str):
            self.listening = False
            self.receiver.hear(Broke(self.link, item))
        elif number <= self.surviving:
            self.arrived = number
            self.receiver.hear(Arrived(self.link, item))

    def thaw(self) -> None:
        held, self.held = self.held, deque()
        for number, item in held:
            self.arrive(number, item)

    def lose(self, draw: random.Random) -> None:
        """Of what is under way, only some of the first messages arrive.

        A receiver that is stopped does not read: then part of what seems to be there still waits at the sender.
        """
        if self.receiver.stopped and self.receiver.miss(self.link, draw):
            self.surviving = 0
        self.surviving = min(self.surviving, draw.randint(self.arrived, self.sent))


class Link:
    """One connection between two processes; ``site`` is that of the end which may be cut off, None on one machine."""

    def __init__(
        self, network: Network, name: str, site: int | None, client: Process, server: Process
    ) -> None:
        self.network = network
        self.clock: Clock = network.clock
        self.name = name
        self.site = site
        self.severed = False
        self._draw = random.Random(f"{network.seed} {name}")
        self._pace = self._draw.choice((5e-5, 2e-4, 2e-3))
        self.ways = {client: Way(self, client), server: Way(self, server)}
        self.client = client
        self.server = server

    def delay(self) -> float:
        """How long the next message takes, in seconds."""
        draw = self._draw.random()
        return self._pace * (0.2 + draw) if draw < 0.98 else 50 * self._pace * draw

    def other(self, end: Process) -> Process:
        """Who is at the other end."""
        return self.server if end is self.client else self.client

    def send(self, sender: Process, frames: Frames) -> None:
        """Send a message; it is lost where the connection has broken and nobody has noticed."""
        way = self.ways[self.other(sender)]
        if not self.severed and self.ways[sender].listening:
            way.sent += 1
            way.carry(frames, way.sent)

    def close(self, closer: Process, reason: str, *, lossy: bool = False, silent: bool = False) -> None:
        """One end closes, or its process is gone; ``silent``: its machine is, so the other end learns nothing.

        What was sent to it is lost; with ``lossy`` some of what it sent is, too.
        """
        mine, theirs = self.ways[closer], self.ways[self.other(closer)]
        mine.listening = False
        if not self.severed:
            self.severed = True
            if lossy or silent:
                theirs.lose(self._draw)
            if not silent:
                theirs.carry(reason, theirs.sent)

    def expire(self, end: Process, reason: str) -> None:
        """While nothing moves, one end takes the connection for gone, without a word from the other."""
        way = self.ways[end]
        if way.listening and self.site in self.network.cuts:
            if not self.severed:
                self.severed = True
                for one in self.ways.values():
                    one.lose(self._draw)
            way.listening = False
            way.held.clear()
            end.hear(Broke(self, reason))
            other = self.ways[self.other(end)]
            # What the end sends next, it answers with a reset: once it can be reached, the other learns of it.
            other.carry("reset", other.sent)

    def broken(self, reason: str, noticed: dict[Process, float]) -> None:
        """The connection breaks: each end notices after so many seconds."""
        if self.severed:
            return
        self.severed = True
        for end, way in self.ways.items():
            way.lose(self._draw)
            self.clock.at(max(way.last, self.clock.now + noticed[end]), way.arrive, way.sent, reason)


class Network:
    """All connections of a run."""

    def __init__(self, clock: Clock, seed: str) -> None:
        self.clock = clock
        self.seed = seed
        self.cuts: dict[int | None, int] = {}
        """sites that are cut off from the interchange, and how often"""
        self.links: list[Link] = []
        self._names: dict[str, int] = {}

    def connect(self, name: str, site: int | None, client: Process, server: Process) -> Link:
        """A connection that stands."""
        count = self._names[name] = self._names.get(name, 0) + 1
        link = Link(self, f"{name} {count}", site, client, server)
        self.links.append(link)
        if len(self.links) > 64:
            self.links = [one for one in self.links if not self._over(one)]
        return link

    @staticmethod
    def _over(link: Link) -> bool:
        return link.severed and not any(way.listening or way.held for way in link.ways.values())

    def of(self, process: Process) -> list[Link]:
        """The connections that have an end at this process, as far as it knows."""
        return [link for link in self.links if process in link.ways and link.ways[process].listening]

    def cut(self, site: int) -> None:
        """Nothing moves between this site and the interchange."""
        self.cuts[site] = self.cuts.get(site, 0) + 1

    def heal(self, site: int) -> None:
        """What was held on its way goes on."""
        self.cuts[site] -= 1
        if self.cuts[site]:
            return
        del self.cuts[site]
        for link in list(self.links):
            if link.site == site:
                for way in link.ways.values():
                    way.thaw()
