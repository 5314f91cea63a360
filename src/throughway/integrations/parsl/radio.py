"""How what tasks tell Parsl's monitoring gets from the workers to the submitting process: over TCP, acknowledged.

Parsl's own radios for this are bound to its interchange, lose messages (UDP), or look into a folder every ten seconds.
A message is its length, its HMAC and its pickle; nothing is unpickled whose HMAC is not right. The answer is one byte,
once the message is in the queue of Parsl's database process.
"""

from __future__ import annotations

import hmac
import logging
import os
import pickle
import secrets
import selectors
import socket
import struct
import threading
import time
from multiprocessing.queues import Queue
from typing import Any

from parsl.monitoring.radios.base import MonitoringRadioReceiver, MonitoringRadioSender, RadioConfig
from parsl.utils import RepresentationMixin

logger = logging.getLogger("throughway.parsl")

HEAD = struct.Struct("<I32s")
"""The size of the pickle, and its HMAC."""

MAX_BYTES = 16 << 20
"""Of one message."""

SECONDS = 10.0
"""For one message, from connecting to the answer."""

MAX_CONNECTIONS = 4096
"""At one time; further ones wait in the queue of the socket."""

_BACKLOG = 1024
_DONE = b"\1"
_digest = "sha256"

_found: dict[tuple[tuple[str, ...], int], str] = {}
"""In a worker: the address that answered."""


class StreamRadio(RadioConfig, RepresentationMixin):
    """The default ``remote_monitoring_radio``.

    Args:
        addresses: where workers find this machine; None for all of its addresses. With loopback addresses only, nothing
            listens at others.
        port: TCP port; None for any free one.
    """

    def __init__(self, addresses: list[str] | None = None, port: int | None = None) -> None:
        self.addresses = addresses
        self.port = port
        self._key = b""
        self._reachable: tuple[str, ...] = ()

    def create_receiver(self, *, run_dir: str, resource_msgs: Queue[Any]) -> MonitoringRadioReceiver:
        """Listen, and put what arrives into the queue."""
        from throughway.manager.addresses import local_addresses

        self._key = secrets.token_bytes(32)
        reachable = self.addresses if self.addresses is not None else local_addresses()
        self._reachable = tuple(reachable)
        receiver = StreamReceiver(self._reachable, self.port or 0, self._key, resource_msgs)
        self.port = receiver.port
        return receiver

    def create_sender(self) -> MonitoringRadioSender:
        """In a worker, or in a process that a task has started."""
        assert self.port is not None, "the receiver is made before any sender"
        return StreamSender(self._reachable, self.port, self._key)


class StreamSender(MonitoringRadioSender):
    """Sends each message over a connection of its own. A message that cannot be sent is logged, and fails no task."""

    def __init__(self, addresses: tuple[str, ...], port: int, key: bytes) -> None:
        self._addresses = addresses
        self._port = port
        self._key = key

    def send(self, message: object) -> None:
        """Send a message and wait until it has arrived, 10 seconds at most."""
        try:
            data = pickle.dumps(message)
            head = HEAD.pack(len(data), hmac.digest(self._key, data, _digest))
            with self._connect() as connection:
                connection.sendall(head + data)
                if connection.recv(1) != _DONE:
                    raise ConnectionError("the receiver refused it")
        except Exception as error:  # noqa: BLE001 - also what pickling raises: no task may fail for it
            logger.error("a monitoring message was lost: %s", error)  # noqa: TRY400 - no fault of this code

    def _connect(self) -> socket.socket:
        key = (self._addresses, self._port)
        known = _found.get(key)
        addresses = [known] if known is not None else []
        addresses += [address for address in self._addresses if address != known]
        trouble: OSError = ConnectionError("there is no address to connect to")
        for address in addresses:
            try:
                connection = socket.create_connection((address, self._port), timeout=SECONDS)
            except OSError as error:
                trouble = error
                continue
            _found[key] = address
            return connection
        raise trouble


class _Arriving:
    """A message of which some has arrived."""

    __slots__ = ("buffer", "deadline")

    def __init__(self, deadline: float) -> None:
        self.buffer = bytearray()
        self.deadline = deadline

    def message(self, key: bytes) -> bytes | None:
        """The pickle once it is whole. Raises `ValueError` where it is none of ours."""
        if len(self.buffer) < HEAD.size:
            return None
        size, digest = HEAD.unpack_from(self.buffer)
        if size > MAX_BYTES:
            raise ValueError(f"it announces {size} bytes")
        if len(self.buffer) < HEAD.size + size:
            return None
        data = bytes(self.buffer[HEAD.size : HEAD.size + size])
        if not hmac.compare_digest(digest, hmac.digest(key, data, _digest)):
            raise ValueError("its HMAC is wrong")
        return data


class StreamReceiver(MonitoringRadioReceiver):
    """A thread that receives messages until `shutdown`."""

    def __init__(self, addresses: tuple[str, ...], port: int, key: bytes, messages: Queue[Any]) -> None:
        self._key = key
        self._messages = messages
        local = all(address in ("127.0.0.1", "localhost") for address in addresses)
        host = "127.0.0.1" if local else ""
        if any(":" in address for address in addresses):
            both = socket.has_dualstack_ipv6()
            self._listener = socket.create_server(
                (host or "::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=both
            )
        else:
            self._listener = socket.create_server((host, port), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._arriving: dict[socket.socket, _Arriving] = {}
        self._thread = threading.Thread(target=self._run, name="throughway: parsl monitoring", daemon=True)
        self._thread.start()

    def shutdown(self) -> None:
        """Take in what has been sent, and end."""
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)

    def _run(self) -> None:
        ending = False
        try:
            while True:
                events = self._selector.select(0.0 if ending else 1.0 if self._arriving else None)
                for event, _ in events:
                    if event.fileobj is self._listener:
                        self._accept()
                    elif event.fileobj == self._wake:
                        ending = True
                        self._selector.unregister(self._wake)
                    else:
                        self._read(event.fileobj)  # type: ignore[arg-type]
                self._expire(time.monotonic())
                if ending and not events:
                    return
        finally:
            for connection in list(self._arriving):
                self._close(connection)
            self._selector.close()
            self._listener.close()

    def _accept(self) -> None:
        while len(self._arriving) < MAX_CONNECTIONS:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    logger.warning("a monitoring connection was not accepted: %s", error)
                return
            connection.setblocking(False)
            self._arriving[connection] = _Arriving(time.monotonic() + SECONDS)
            self._selector.register(connection, selectors.EVENT_READ)
        self._selector.unregister(self._listener)

    def _read(self, connection: socket.socket) -> None:
        arriving = self._arriving[connection]
        try:
            data = connection.recv(1 << 16)
            arriving.buffer += data
            whole = arriving.message(self._key)
            if whole is not None:
                self._messages.put(pickle.loads(whole))
                connection.send(_DONE)
            elif data:
                return
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 - whatever is sent here, the next message is heard
            logger.warning("dropped a monitoring message: %s", error)
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        was_full = len(self._arriving) >= MAX_CONNECTIONS
        del self._arriving[connection]
        self._selector.unregister(connection)
        connection.close()
        if was_full:
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _expire(self, now: float) -> None:
        for connection, arriving in list(self._arriving.items()):
            if now >= arriving.deadline:
                logger.warning("dropped a monitoring message that did not arrive whole in %g s", SECONDS)
                self._close(connection)
