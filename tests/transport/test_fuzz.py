"""Hostile and broken peers: the listener goes on, takes no memory for what is only announced, and serves the others."""

from __future__ import annotations

import os
import random
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Self

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transport.ends import Ends, Make, Side, resident_bytes
from throughway.transport.curve import CurveKeys
from throughway.transport.framing import DIRECT_BYTES, preamble
from throughway.transport.zeromq import ZmqConnector, ZmqListener

TEBIBYTE = 1 << 40
TAKEN_AT_MOST = 256 << 20
"""Resident bytes by which a test may grow: far less than what its peers announce."""

fuzzed = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Raw:
    """A stream socket that speaks no protocol but the test's."""

    def __init__(self, address: str) -> None:
        if address.startswith("tcp://"):
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=20)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(20)
            self.socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """False where the other end has hung up."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the other end has hung up"
            data += more
        return data

    def shake_hands(self) -> None:
        """Get through a ZMTP handshake without encryption, as a DEALER."""
        self.send(NULL)
        self.receive(64)
        self.receive(self.receive(2)[1])

    def hung_up(self) -> bool:
        """Wait until the other end has hung up. Raises `TimeoutError` where it has not within 20 s."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


def healthy(ends: Ends, side: Side, peer: int, number: int) -> None:
    """A question and its answer between the listener and a peer that behaves."""
    assert side.wire.send(0, [b"question %d" % number])
    ends.drive(lambda: [b"question %d" % number] in ends.listener.messages(peer))
    assert ends.listener.wire.send(peer, [b"answer %d" % number])
    ends.drive(lambda: [b"answer %d" % number] in side.messages())


@pytest.fixture
def no_growth() -> Iterator[None]:
    before = resident_bytes()
    yield
    assert resident_bytes() - before < TAKEN_AT_MOST


# ------------------------------------------------------------------------------------------------------ Unix sockets

UNIX_ATTACKS = {
    "nothing": b"",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half-a-count": b"\x01\x00",
    "half-a-preamble": struct.pack("<IQ", 3, 5),
    "no-frames": struct.pack("<I", 0),
    "four-billion-frames": struct.pack("<I", 0xFFFFFFFF),
    "a-million-frames-and-no-lengths": struct.pack("<I", 1 << 20),
    "a-tebibyte": struct.pack("<IQ", 1, TEBIBYTE),
    "more-than-addressable": struct.pack("<IQ", 1, 2**64 - 1),
    "lengths-that-overflow": struct.pack("<I2Q", 2, 2**64 - 1, 1),
    "64-gibibytes-begun": struct.pack("<IQ", 1, 64 << 30) + bytes(DIRECT_BYTES),
    "32-mebibytes-begun": struct.pack("<IQ", 1, 32 << 20) + b"begun",
    "half-a-message": preamble([b"header", bytes(1000)]) + b"header" + bytes(500),
}


@pytest.mark.parametrize("attack", UNIX_ATTACKS.values(), ids=UNIX_ATTACKS.keys())
@pytest.mark.usefixtures("no_growth")
def test_a_unix_listener_survives(make_ends: Make, attack: bytes) -> None:
    ends = make_ends("unix")
    side, peer = ends.meet()
    attackers = [Raw(ends.address) for _ in range(10)]
    try:
        for number, attacker in enumerate(attackers):
            attacker.send(attack)
            healthy(ends, side, peer, number)
    finally:
        for attacker in attackers:
            attacker.socket.close()
    ends.drive(lambda: len(ends.listener.closed) == len(attackers))
    healthy(ends, side, peer, 99)
    assert len(ends.listener.messages()) == len(attackers) + 1
    assert peer not in [event.peer for event in ends.listener.closed]


def test_the_limit_of_the_shell_is_applied_to_what_is_announced(make_ends: Make) -> None:
    ends = make_ends("unix", max_message_bytes=1 << 20)
    with Raw(ends.address) as attacker:
        attacker.send(struct.pack("<IQ", 1, (1 << 20) + 1))
        ends.drive(lambda: bool(ends.listener.closed))
        assert str(1 << 20) in ends.listener.closed[0].reason
        assert attacker.hung_up()


@fuzzed
@given(chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=8), abrupt=st.booleans())
def test_a_unix_listener_survives_whatever_comes(make_ends: Make, chunks: list[bytes], abrupt: bool) -> None:
    ends = make_ends("unix", max_message_bytes=1 << 20)
    side, peer = ends.meet()
    with Raw(ends.address) as attacker:
        for chunk in chunks:
            if not attacker.send(chunk):
                break
            ends.listener.turn()
        if abrupt:
            attacker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.drive(lambda: bool(ends.listener.closed))
    healthy(ends, side, peer, 1)


def test_a_message_that_comes_byte_by_byte_holds_nobody_up(make_ends: Make) -> None:
    ends = make_ends("unix")
    side, peer = ends.meet()
    stream = preamble([b"header", bytes(100)]) + b"header" + bytes(100)
    with Raw(ends.address) as slow:
        for number, byte in enumerate(stream):
            slow.send(bytes([byte]))
            ends.listener.turn()
            if number % 10 == 0:
                healthy(ends, side, peer, number)
        ends.drive(lambda: [b"header", bytes(100)] in ends.listener.messages())


# ----------------------------------------------------------------------------------------------------------- ZeroMQ


def greeting(mechanism: bytes) -> bytes:
    """What a ZMTP 3.0 client says first."""
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, body: bytes) -> bytes:
    content = bytes([len(name)]) + name + body
    return struct.pack(">BQ", 6, len(content)) + content


def short_frame(content: bytes, more: bool = False) -> bytes:
    return bytes([int(more), len(content)]) + content


READY = command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER")
NULL = greeting(b"NULL") + READY
CURVE = greeting(b"CURVE")

ZEROMQ_ATTACKS = {
    "nothing": b"",
    "zeros": bytes(500),
    "ones": b"\xff" * 500,
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half-a-greeting": NULL[:30],
    "greeting-only": greeting(b"NULL"),
    "unknown-mechanism": greeting(b"MAGIC") + READY,
    "plain-mechanism": greeting(b"PLAIN") + command(b"HELLO", b"\x05admin\x05admin"),
    "garbage-for-a-handshake": greeting(b"NULL") + b"\xaa" * 300,
    "ready-without-end": greeting(b"NULL") + READY[:-3],
    "ready-with-huge-property": greeting(b"NULL")
    + command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 0x7FFFFFFF) + b"D"),
    "a-tebibyte-of-handshake": greeting(b"NULL") + struct.pack(">BQ", 6, TEBIBYTE) + b"\x05READY",
    "message-before-the-handshake": NULL + short_frame(b"header"),
    "curve-nonsense": CURVE + command(b"HELLO", bytes(194)),
    "curve-short-hello": CURVE + command(b"HELLO", b""),
    "curve-initiate-first": CURVE + command(b"INITIATE", bytes(300)),
    "curve-message-first": CURVE + command(b"MESSAGE", bytes(100)),
    "curve-ready": CURVE + READY,
    "curve-tebibyte": CURVE + struct.pack(">BQ", 6, TEBIBYTE) + b"\x05HELLO",
}

ZEROMQ_ATTACKS_BEHIND_THE_HANDSHAKE = {
    "a-tebibyte": struct.pack(">BQ", 2, TEBIBYTE) + bytes(1000),
    "a-negative-length": struct.pack(">BQ", 2, 2**64 - 1) + bytes(1000),
    "half-a-message": short_frame(b"header", more=True) + bytes([0, 100]) + bytes(50),
    "garbage-for-a-message": b"\xfe" * 1000,
    "unknown-command": command(b"REBOOT", b"now"),
    "ping-without-end": struct.pack(">BB", 4, 200) + b"\x04PING",
    "endless-message": short_frame(b"x" * 255, more=True) * 1000,
}


@pytest.mark.parametrize("kind", ["zeromq", "curve"])
@pytest.mark.parametrize("attack", ZEROMQ_ATTACKS.values(), ids=ZEROMQ_ATTACKS.keys())
@pytest.mark.usefixtures("no_growth")
def test_a_zeromq_listener_survives(make_ends: Make, kind: str, attack: bytes) -> None:
    ends = make_ends(kind)
    side, peer = ends.meet()
    attackers = [Raw(ends.address) for _ in range(5)]
    try:
        for number, attacker in enumerate(attackers):
            attacker.send(attack)
            healthy(ends, side, peer, number)
    finally:
        for attacker in attackers:
            attacker.socket.close()
    ends.drive(lambda: len(ends.wire_of(ZmqListener)._connections) == 1)
    healthy(ends, side, peer, 99)
    assert [event for event in ends.listener.closed if event.peer == peer] == []
    if kind == "curve":
        assert not ends.listener.opened


@pytest.mark.parametrize(
    "attack", ZEROMQ_ATTACKS_BEHIND_THE_HANDSHAKE.values(), ids=ZEROMQ_ATTACKS_BEHIND_THE_HANDSHAKE.keys()
)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.usefixtures("no_growth")
def test_a_zeromq_listener_survives_peers(make_ends: Make, attack: bytes, known: bool) -> None:
    ends = make_ends("zeromq")
    side, peer = ends.meet()
    attackers = [Raw(ends.address) for _ in range(5)]
    try:
        for number, attacker in enumerate(attackers):
            attacker.shake_hands()
            if known:
                attacker.send(short_frame(b"hello"))
            attacker.send(attack)
            healthy(ends, side, peer, number)
    finally:
        for attacker in attackers:
            attacker.socket.close()
    ends.drive(lambda: len(ends.wire_of(ZmqListener)._connections) == 1)
    healthy(ends, side, peer, 99)
    strangers = {event.peer for event in ends.listener.opened}
    assert len(strangers) == (len(attackers) if known else 0)
    assert {event.peer for event in ends.listener.closed} == strangers
    for stranger in strangers:
        assert ends.listener.messages(stranger) == [[b"hello"]]


def test_a_peer_by_hand_is_understood(make_ends: Make) -> None:
    """So the attacks above fail for what they say and not for a wrong greeting."""
    ends = make_ends("zeromq")
    with Raw(ends.address) as peer:
        peer.shake_hands()
        peer.send(short_frame(b"header", more=True) + short_frame(b""))
        ends.drive(lambda: ends.listener.messages() == [[b"header", b""]])
    ends.drive(lambda: bool(ends.listener.closed))


@pytest.mark.parametrize("excess", [1000, TEBIBYTE])
def test_a_zeromq_peer_that_announces_too_much_is_disconnected(make_ends: Make, excess: int) -> None:
    ends = make_ends("zeromq", max_message_bytes=1 << 20)
    with Raw(ends.address) as attacker:
        attacker.shake_hands()
        attacker.send(short_frame(b"hello"))
        ends.drive(lambda: ends.listener.count() == 1)
        attacker.send(struct.pack(">BQ", 2, (1 << 20) + excess))
        ends.drive(lambda: bool(ends.listener.closed))
        assert attacker.hung_up()


@pytest.mark.parametrize("kind", ["zeromq", "curve"])
@pytest.mark.parametrize("opening", [b"", NULL, CURVE], ids=["bare", "null", "curve"])
def test_a_zeromq_listener_survives_whatever_comes(make_ends: Make, kind: str, opening: bytes) -> None:
    ends = make_ends(kind, max_message_bytes=1 << 20)
    side, peer = ends.meet()
    numbers = iter(range(1000))

    @fuzzed
    @given(chunks=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
    def attack(chunks: list[bytes]) -> None:
        with Raw(ends.address) as attacker:
            if opening == NULL and kind == "zeromq":
                attacker.shake_hands()
                all(attacker.send(chunk) for chunk in chunks)
            elif attacker.send(opening):
                all(attacker.send(chunk) for chunk in chunks)
        healthy(ends, side, peer, next(numbers))

    attack()
    ends.drive(lambda: len(ends.wire_of(ZmqListener)._connections) == 1)
    assert peer not in [event.peer for event in ends.listener.closed]


def test_a_crowd_without_keys_or_with_wrong_ones_disturbs_nobody(
    make_ends: Make, manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> None:
    ends = make_ends("curve")
    side, peer = ends.meet()

    def stranger(keys: CurveKeys | None, listener_key: bytes) -> Side:
        arguments = {} if keys is None else {"keys": keys, "listener_key": listener_key}
        stranger = Side(ZmqConnector(ends.address, **arguments))  # type: ignore[arg-type]
        ends.connectors.append(stranger)
        return stranger

    # The public halves are no secret: one who knows them all and holds no secret of an allowed key stays outside.
    thief = CurveKeys(manager_keys.public, CurveKeys.generate().secret)
    strangers = [
        *(stranger(None, b"") for _ in range(5)),
        *(stranger(CurveKeys.generate(), interchange_keys.public) for _ in range(5)),
        *(stranger(manager_keys, CurveKeys.generate().public) for _ in range(5)),
        *(stranger(thief, interchange_keys.public) for _ in range(5)),
    ]
    for number in range(20):
        healthy(ends, side, peer, number)
    ends.drive(lambda: all(stranger.closed for stranger in strangers))
    assert not any(stranger.opened for stranger in strangers)
    assert not ends.listener.opened
    healthy(ends, side, peer, 99)


class Tap:
    """A relay between one client and a listener, that keeps what the client sent. Driven as a `Side` is."""

    def __init__(self, target: str) -> None:
        self.wire = self
        self.selector = selectors.DefaultSelector()
        self.taken = b""
        self.change = False
        """whether the last bit of each piece from the client is changed"""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._target = target
        self._sockets = [self._listening]
        self.selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def pending(self) -> bool:
        return False

    def turn(self) -> None:
        for key, _ in self.selector.select(0):
            key.data()

    def close(self) -> None:
        self.selector.close()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        server = Raw(self._target).socket
        self._sockets += [client, server]
        self.selector.register(client, selectors.EVENT_READ, lambda: self._pass(client, server, True))
        self.selector.register(server, selectors.EVENT_READ, lambda: self._pass(server, client, False))

    def _pass(self, source: socket.socket, target: socket.socket, keep: bool) -> None:
        data = source.recv(1 << 16)
        if data and keep:
            self.taken += data
            target.sendall(data[:-1] + bytes([data[-1] ^ 1]) if self.change else data)
        elif data:
            target.sendall(data)
        else:
            self.selector.unregister(source)
            target.shutdown(socket.SHUT_WR)


def test_a_recorded_session_cannot_be_replayed(
    make_ends: Make, manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> None:
    ends = make_ends("curve")
    side, peer = ends.meet()
    tap = Tap(ends.address)
    try:
        victim = Side(ZmqConnector(tap.address, keys=manager_keys, listener_key=interchange_keys.public))
        ends.connectors += [victim, tap]  # type: ignore[list-item]
        ends.drive(lambda: bool(victim.opened))
        victim.wire.send(0, [b"delete", b"everything"])
        ends.drive(lambda: ends.listener.messages() == [[b"delete", b"everything"]])
        ends.listener.events.clear()
        assert b"everything" not in tap.taken
        pieces: list[Callable[[bytes], list[bytes]]] = [
            lambda taken: [taken],
            lambda taken: [taken[at : at + 64] for at in range(0, len(taken), 64)],
            lambda taken: [taken + taken],
            lambda taken: [taken[:-1]],
        ]
        for number, cut in enumerate(pieces):
            with Raw(ends.address) as attacker:
                all(attacker.send(piece) for piece in cut(tap.taken))
                healthy(ends, side, peer, number)
        ends.drive(lambda: len(ends.wire_of(ZmqListener)._connections) == 2)
        healthy(ends, side, peer, 99)
        assert not ends.listener.opened
        assert [b"delete", b"everything"] not in ends.listener.messages()
    finally:
        ends.connectors.remove(tap)  # type: ignore[arg-type]
        tap.close()


def test_of_a_session_whose_bytes_are_changed_nothing_is_delivered(
    make_ends: Make, manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> None:
    """Somebody on the way changes one bit. libzmq then reads no more of that connection: silence, for heartbeats."""
    ends = make_ends("curve")
    side, peer = ends.meet()
    tap = Tap(ends.address)
    try:
        victim = Side(ZmqConnector(tap.address, keys=manager_keys, listener_key=interchange_keys.public))
        ends.connectors += [victim, tap]  # type: ignore[list-item]
        ends.drive(lambda: bool(victim.opened))
        tap.change = True
        victim.wire.send(0, [b"delete", b"nothing"])
        ends.drive(lambda: ends.wire_of(ZmqListener).refused == 1)
        victim.wire.send(0, [b"delete", b"everything"])
        for number in range(10):
            healthy(ends, side, peer, number)
        assert len(ends.listener.messages()) == 10
    finally:
        ends.connectors.remove(tap)  # type: ignore[arg-type]
        tap.close()
    ends.drive(lambda: bool(victim.closed))
    healthy(ends, side, peer, 99)
    assert not ends.listener.opened


def test_many_connections_come_and_go_without_a_trace(make_ends: Make) -> None:
    """Connections that die at every stage of a handshake and of a message, on descriptors that are used again."""
    ends = make_ends("zeromq")
    wire = ends.wire_of(ZmqListener)
    side, peer = ends.meet()
    dice = random.Random(7)
    stream = short_frame(b"header", more=True) + short_frame(b"payload") + short_frame(b"second")
    for number in range(200):
        with Raw(ends.address) as attacker:
            if number % 3:
                attacker.shake_hands()
                attacker.send(stream[: dice.randrange(len(stream) + 1)])
            else:
                attacker.send(NULL[: dice.randrange(len(NULL))])
            if number % 4:
                attacker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 20 == 0:
            healthy(ends, side, peer, number)
    ends.drive(lambda: len(wire._connections) == 1 and len(wire._by_identity) == 1)
    assert len(wire._by_descriptor) == len(wire._peers) == 1
    opened = {event.peer for event in ends.listener.opened}
    assert {event.peer for event in ends.listener.closed} == opened
    assert opened
    for stranger in opened:
        assert ends.listener.messages(stranger) in (
            [[b"header", b"payload"]],
            [[b"header", b"payload"], [b"second"]],
        )
    healthy(ends, side, peer, 999)


def test_routing_ids_that_a_peer_chooses_do_no_harm(make_ends: Make) -> None:
    ends = make_ends("zeromq")
    side, peer = ends.meet()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    strangers = []
    try:
        for identity in (
            b"\x01",
            b"\xff" * 255,
            b"t" + bytes(8),
            os.urandom(16).replace(b"\0", b"x"),
            b"manager",
        ):
            stranger = context.socket(zmq.DEALER)
            strangers.append(stranger)
            stranger.setsockopt(zmq.ROUTING_ID, identity)
            stranger.connect(ends.address)
            stranger.send(identity)
        ends.drive(lambda: ends.listener.count() == 5)
        for number, opened in enumerate(ends.listener.opened):
            assert ends.listener.wire.send(opened.peer, [b"%d" % number])
        for stranger in strangers:
            assert stranger.poll(20_000)
        healthy(ends, side, peer, 1)
    finally:
        for stranger in strangers:
            stranger.close(0)
        context.term()
