"""Somebody who connects to a run's local socket, and says what a test wants."""

from __future__ import annotations

from tests.waiting import wait_until
from throughway.transport.interface import Arrival, Closed, Event
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire


class Peer:
    """Somebody who connects to a run's local socket."""

    def __init__(self, path: str) -> None:
        self.wire = UnixWire.connect(path)
        self._poller = Poller()
        self.wire.register(self._poller)
        self.events: list[Event] = []

    def say(self, *frames: bytes) -> None:
        self.wire.send(0, frames)

    def hear(self) -> list[Event]:
        self._poller.wait(0.05)
        self.events += self.wire.receive()
        return self.events

    def messages(self) -> list[bytes]:
        return [bytes(event.frames[0]) for event in self.hear() if isinstance(event, Arrival)]

    def hung_up(self) -> bool:
        return any(isinstance(event, Closed) for event in self.hear())

    def flush(self) -> None:
        """Wait until all was sent, or the other end has hung up."""
        wait_until(lambda: not self.wire.backlog(0) or self.hung_up(), 20)

    def close(self) -> None:
        self.wire.close()
        self._poller.close()
