"""The watching end of a run's local socket: connect, ask, decode."""

from __future__ import annotations

import selectors
import socket
import time
from types import TracebackType
from typing import Self

import msgspec

from throughway.errors import CommandTimeout, ProtocolError, ThroughwayError, TransportError
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.protocol.views import RunView
from throughway.transport.interface import Arrival, Buffer, Closed
from throughway.transport.unix import UnixWire

ANSWER_SECONDS = 5.0
"""How long an interchange may take to answer."""


class RunEnded(ThroughwayError):
    """The interchange is gone, as it is when its run ends."""


class ObserverRefused(ThroughwayError):
    """The interchange does not let this observer watch; the message is its reason."""


class Observer:
    """Asks one interchange about its run. It can look, and change nothing.

    Args:
        path: the run's socket.
        timeout: seconds for the interchange to answer, in every method.
        protocol: the protocol version to announce.

    Raises:
        TransportError: nothing listens there.
    """

    def __init__(
        self, path: str, *, timeout: float = ANSWER_SECONDS, protocol: int = PROTOCOL_VERSION
    ) -> None:
        self._path = path
        self._timeout = timeout
        self._request = 0
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise TransportError(f"cannot connect to {path}: {error.strerror or error}") from error
        self._wire = UnixWire.over(sock, label=path)
        self._selector = selectors.DefaultSelector()
        self._wire.register(self._selector)
        self._wire.receive()
        self._peer = 0
        self._reason: str | None = None
        self._answers: dict[int, m.Answer] = {}
        self._refused: str | None = None
        self._wire.send(self._peer, [codec.encode(m.ObserverHello(protocol))])

    def run_view(self) -> RunView:
        """The run and each of its managers, at this moment.

        Raises:
            CommandTimeout: no answer in time; it may be asked again.
            RunEnded: the interchange is gone.
            ObserverRefused: it does not talk to this observer.
            ProtocolError: the answer cannot be understood.
        """
        self._request += 1
        request = self._request
        self._wire.send(self._peer, [codec.encode(m.Ask(request, "run"))])
        deadline = time.monotonic() + self._timeout
        while request not in self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandTimeout(
                    f"the interchange at {self._path} did not answer within {self._timeout:g} s: it may be "
                    "stopped or overloaded"
                )
            self._take(left)
        answer = self._answers.pop(request)
        # Answers to questions that were given up came before this one, or never will.
        self._answers.clear()
        if answer.error:
            raise ObserverRefused(answer.error)
        try:
            return msgspec.msgpack.decode(answer.payload, type=RunView)
        except msgspec.MsgspecError as error:
            raise ProtocolError(
                f"the interchange at {self._path} answered what is no view of a run: {error}"
            ) from error

    def wait(self, seconds: float) -> None:
        """Let this long pass, unless the run ends meanwhile.

        Raises:
            RunEnded: it did.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._take(left)

    def close(self) -> None:
        """Stop watching. May be called again."""
        self._wire.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, timeout: float) -> None:
        """Wait for something to come, and take it in."""
        if not self._wire.pending() and self._wire.streams:
            for key, mask in self._selector.select(timeout):
                key.data(mask)
        for event in self._wire.receive():
            match event:
                case Arrival(frames=frames):
                    self._on_message(frames[0] if frames else b"")
                case Closed(reason=reason):
                    self._reason = reason
        if self._refused is not None:
            raise ObserverRefused(self._refused)
        if self._reason is not None or not self._wire.streams:
            raise RunEnded(f"the interchange at {self._path} is gone ({self._reason or 'closed'})")

    def _on_message(self, header: Buffer) -> None:
        try:
            message: object = codec.decode_to_executor(header)
        except ProtocolError:
            # Greetings are maps, so that they can be read across versions, and no part of that union.
            message = codec.decode_greeting(header)
        if isinstance(message, m.Answer):
            self._answers[message.request] = message
        elif isinstance(message, m.Refused):
            self._refused = message.reason
