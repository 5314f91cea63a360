"""Wires between machines: ZeroMQ over TCP, with CurveZMQ where keys are given.

`ZmqListener` is a ROUTER on one port, `ZmqConnector` a DEALER that is connected to it. A message is exactly its frames
(behind the routing id on the ROUTER's side). One kind of message is the wire's own: a farewell, `FAREWELL` and a
reason, that an end sends when it lets its peer go. `FAREWELL` begins with a byte that MessagePack never uses, so no
header can be mistaken for it.

How an end learns that the other is gone:

- libzmq reports each lost TCP connection on a monitor socket, with its descriptor, and tells the descriptor by which
  a message came (``SRCFD``). So a listener knows a killed peer at once, though ROUTER sockets say nothing of peers.
- A host that vanishes without a word is found by TCP keepalive in about half a minute while the connection is idle;
  while data is under way only the kernel's retransmission gives up, after minutes. Shells have heartbeats for that.
- ZMTP's own heartbeats stay off. An end that has reached its high-water mark stops reading the answers too, so they
  would end healthy peers that are slow to read; and in libzmq 4.3.5 they abort the whole process when they meet a
  connection that broke while its input was stopped.

A ROUTER does not know a peer before its first message, so that message opens it.

What libzmq leaves open: it bounds a frame, not the number of frames of a message that never ends, so whoever may
connect can fill the listener's memory; without keys that is everybody on the network. Of a connection whose encrypted
bytes were changed on the way it reads nothing more, but keeps its descriptor until the listener closes.
"""

from __future__ import annotations

import errno
import random
import secrets
from collections.abc import Mapping, Sequence

import zmq

from throughway.errors import TransportError
from throughway.transport.curve import ZAP_DOMAIN, CurveKeys, Gate, check_key
from throughway.transport.interface import MAX_BACKLOG_BYTES, MAX_MESSAGE_BYTES, Arrival, Closed, Opened
from throughway.transport.zeromq_end import (
    BYTES_PER_TURN,
    FAREWELL,
    LINGER_SECONDS,
    MESSAGES_PER_TURN,
    NOBLOCK,
    ZmqEnd,
    ZmqPeer,
)

CONNECT_SECONDS = 5.0
RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0

_LISTEN_BACKLOG = 4096
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ZmqListener(ZmqEnd):
    """The end that many connect to. With ``keys``, only those whose public key is allowed get in."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        *,
        port: int = 0,
        port_range: tuple[int, int] | None = None,
        keys: CurveKeys | None = None,
        allowed: Mapping[bytes, str] | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        """Bind a port and listen.

        Args:
            address: an IP address or interface of this host, or ``"*"`` for all IPv4 and ``"::"`` for all.
            port: the port, or 0 for any that is free.
            port_range: the lowest and the highest port to choose from, at random, where ``port`` is 0.
            keys: the interchange's pair; None for no encryption and no authentication.
            allowed: public keys that may connect, with what logs are to call their holders.

        Raises:
            TransportError: the address is not this host's, or no such port is free.
        """
        super().__init__(
            zmq.ROUTER,
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED,
            max_message_bytes,
            max_backlog_bytes,
        )
        self.address = address
        self._by_identity: dict[bytes, ZmqPeer] = {}
        self._by_descriptor: dict[int, ZmqPeer] = {}
        self._connections: set[int] = set()
        self._next_peer = 0
        self._gate: Gate | None = None
        try:
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._socket.setsockopt(zmq.BACKLOG, _LISTEN_BACKLOG)
            self._socket.setsockopt(zmq.IPV6, int(":" in address))
            if keys is not None:
                self._encrypt(keys, allowed or {})
            self.port = self._bind(address, port, port_range)
        except BaseException:
            self._shut(0)
            raise

    def allow(self, public: bytes, name: str) -> None:
        """Let clients with this public key connect from now on."""
        self._known_gate().allow(public, name)

    def revoke(self, public: bytes) -> None:
        """Let no further client connect with this public key."""
        self._known_gate().revoke(public)

    def _known_gate(self) -> Gate:
        if self._gate is None:
            raise TransportError("this listener has no keys, so everyone may connect: give it keys")
        return self._gate

    def _encrypt(self, keys: CurveKeys, allowed: Mapping[bytes, str]) -> None:
        self._gate = Gate(self._context, allowed)
        self._descriptors[self._gate.descriptor] = self._gate.ready
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, check_key(keys.secret, "the listener's secret key"))
        self._socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        # Without this, libzmq lets everybody in when there is no gate.
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def _bind(self, address: str, port: int, port_range: tuple[int, int] | None) -> int:
        host = _bracketed(address)
        if port or port_range is None:
            candidates: Sequence[int] = [port]
        else:
            ports = range(port_range[0], port_range[1] + 1)
            candidates = random.sample(ports, len(ports))
        for candidate in candidates:
            try:
                self._socket.bind(f"tcp://{host}:{candidate or '*'}")
            except zmq.ZMQError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES) and candidate and not port:
                    continue
                raise TransportError(f"cannot listen at port {candidate} of {address}: {error}") from error
            endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
            assert isinstance(endpoint, bytes)
            return int(endpoint.rstrip(b"\0").rpartition(b":")[2])
        raise TransportError(f"no port of {address} in the range {port_range} is free: choose another range")

    # ------------------------------------------------------------------------------------------- connections and peers

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._connections.add(value)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connections.discard(value)
            peer = self._by_descriptor.pop(value, None)
            if peer is not None:
                self._lose(peer, "connection lost")
        else:
            self.refused += 1

    def _read(self) -> None:
        recv = self._recv
        arrived = self._arrived
        simple_bytes = self._simple_bytes
        size = 0
        try:
            for _ in range(MESSAGES_PER_TURN):
                identity = recv(NOBLOCK)
                frame = recv(NOBLOCK, False)
                peer = self._by_identity.get(identity)
                if peer is None:
                    peer = self._open(identity, frame)
                if frame.more or len(frame) >= simple_bytes or peer.muted:
                    size += self._take(peer, frame)
                    if size > BYTES_PER_TURN:
                        break
                else:
                    arrived.append(Arrival(peer.number, [frame.bytes]))
        except zmq.Again:
            self._bury()
        else:
            self._readable = True

    def _open(self, identity: bytes, frame: zmq.Frame) -> ZmqPeer:
        """A first message came. Everything that befell the connection before is in the monitor by now."""
        self._watch()
        descriptor = _source(frame)
        former = self._by_descriptor.get(descriptor)
        if former is not None:
            self._lose(former, "connection lost")
        peer = ZmqPeer(self._next_peer, identity, descriptor)
        self._next_peer += 1
        self._peers[peer.number] = self._by_identity[identity] = peer
        self._arrived.append(Opened(peer.number, _label(frame)))
        if descriptor in self._connections:
            self._by_descriptor[descriptor] = peer
        elif descriptor >= 0:
            self._lose(peer, "connection lost")
        return peer

    def _bury(self) -> None:
        """All that had arrived from the lost peers is read."""
        losses, self._losses = self._losses, []
        for peer, reason in losses:
            if not peer.muted:
                self._arrived.append(Closed(peer.number, reason))
            self._peers.pop(peer.number, None)
            del self._by_identity[peer.identity]
            if self._by_descriptor.get(peer.descriptor) is peer:
                del self._by_descriptor[peer.descriptor]

    def _let_go(self, peer: ZmqPeer, reason: str, *, report: bool, answer: bool = True) -> None:
        peer.muted = True
        del self._peers[peer.number]
        if report:
            self._arrived.append(Closed(peer.number, reason))
        if not peer.lost:
            self._flush_peer(peer)
            self._discard_backlog(peer)
            if answer and not peer.lost:
                peer.queue.append(((FAREWELL, reason.encode()), 0))
                self._backlogged[peer] = None
                self._flush_peer(peer)

    def _shut(self, linger: float) -> None:
        self._by_identity.clear()
        self._by_descriptor.clear()
        self._unregister()
        if self._gate is not None:
            self._gate.close()
        super()._shut(linger)


class ZmqConnector(ZmqEnd):
    """The end that connects to a listener. Its only peer is 0.

    Until the connection stands it goes on trying; `trouble` says what is in its way. A listener that refuses the
    handshake, and a connection that is lost, are reported by `Closed`, the first without an `Opened` before it: then
    the connector is closed, and a new one is needed to connect again.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        keys: CurveKeys | None = None,
        listener_key: bytes | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        """Begin to connect.

        Args:
            endpoint: ``tcp://host:port``, an IPv6 address in brackets.
            keys: the own pair, None for no encryption.
            listener_key: the public key that the listener must prove to hold, where ``keys`` are given.

        Raises:
            TransportError: the endpoint is malformed, or a key is.
        """
        super().__init__(
            zmq.DEALER,
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CONNECT_RETRIED
            | _HANDSHAKE_FAILED,
            max_message_bytes,
            max_backlog_bytes,
        )
        self.endpoint = endpoint
        self.trouble = ""
        """why the connection does not stand yet, as far as is known"""
        self._peer = ZmqPeer(0, b"", -1)
        self._encrypted = keys is not None
        try:
            options: dict[int, int | bytes] = {
                zmq.ROUTING_ID: b"t" + secrets.token_bytes(8),
                # Only a connection that stands takes messages, so none waits for a connection that never comes.
                zmq.IMMEDIATE: 1,
                zmq.IPV6: int("[" in endpoint),
                zmq.CONNECT_TIMEOUT: round(CONNECT_SECONDS * 1000),
                zmq.RECONNECT_IVL: round(RETRY_SECONDS * 1000),
                zmq.RECONNECT_IVL_MAX: round(MAX_RETRY_SECONDS * 1000),
            }
            for option, value in options.items():
                self._socket.setsockopt(option, value)
            if keys is not None:
                if listener_key is None:
                    raise TransportError(
                        f"no key of the listener at {endpoint} is given: encryption needs it"
                    )
                self._socket.setsockopt(zmq.CURVE_SERVERKEY, check_key(listener_key, "the listener's key"))
                self._socket.setsockopt(
                    zmq.CURVE_PUBLICKEY, check_key(keys.public, "the connector's public key")
                )
                self._socket.setsockopt(
                    zmq.CURVE_SECRETKEY, check_key(keys.secret, "the connector's secret key")
                )
            try:
                self._socket.connect(endpoint)
            except zmq.ZMQError as error:
                raise TransportError(
                    f"cannot connect to {endpoint}: {error} (expected: tcp://host:port)"
                ) from error
        except BaseException:
            self._shut(0)
            raise

    def _happened(self, event: int, value: int) -> None:
        peer = self._peer
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if not self._peers and not peer.lost:
                self._peers[0] = peer
                self.trouble = ""
                self._arrived.append(Opened(0, self.endpoint))
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self.trouble = f"nothing accepts connections at {self.endpoint}"
        elif event == zmq.EVENT_DISCONNECTED:
            self._lose(peer, "connection lost")
        else:
            self.refused += 1
            self._lose(peer, self._refusal(event, value))

    def _refusal(self, event: int, value: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"{self.endpoint} refused this key: it is not on its allow-list (status {value})"
        if self._encrypted:
            return (
                f"the handshake with {self.endpoint} failed: it has another key than expected, is not encrypted, "
                "or is no interchange"
            )
        return f"the handshake with {self.endpoint} failed: it expects encryption, or is no interchange"

    def _read(self) -> None:
        recv = self._recv
        arrived = self._arrived
        simple_bytes = self._simple_bytes
        size = 0
        peer = self._peer
        try:
            for _ in range(MESSAGES_PER_TURN):
                frame = recv(NOBLOCK, False)
                if frame.more or len(frame) >= simple_bytes:
                    size += self._take(peer, frame)
                    if size > BYTES_PER_TURN or self.closed:
                        break
                else:
                    arrived.append(Arrival(0, [frame.bytes]))
        except zmq.Again:
            if self._losses:
                arrived.append(Closed(0, self._losses[0].reason))
                self._shut(0)
        else:
            self._readable = not self.closed

    def _let_go(self, peer: ZmqPeer, reason: str, *, report: bool, answer: bool = True) -> None:
        if report:
            self._arrived.append(Closed(peer.number, reason))
        if answer and not peer.lost:
            self._flush_peer(peer)
            if not peer.queue:
                self._transmit(peer, (FAREWELL, reason.encode()))
        self._shut(LINGER_SECONDS if answer and not peer.queue else 0)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _source(frame: zmq.Frame) -> int:
    """The descriptor of the connection that a message came by, -1 where libzmq does not tell."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _label(frame: zmq.Frame) -> str:
    """Who sent it: the host's address, and whose key it is."""
    words = []
    for name in ("Peer-Address", "User-Id"):
        try:
            words.append(str(frame.get(name)))
        except zmq.ZMQError:
            continue
    return " ".join(word for word in words if word)
