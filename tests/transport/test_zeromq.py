from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from tests.transport.ends import Ends, Make, Side
from throughway.errors import TransportError
from throughway.transport.curve import CurveKeys
from throughway.transport.interface import Closed, Opened
from throughway.transport.zeromq import ZmqConnector, ZmqListener
from throughway.transport.zeromq_end import COPY_BYTES, FAREWELL, HIGH_WATER_MESSAGES, MESSAGES_PER_TURN

CONNECTOR = """
import selectors, sys
from throughway.transport.zeromq import ZmqConnector
wire = ZmqConnector(sys.argv[1])
with selectors.DefaultSelector() as selector:
    wire.register(selector)
    while True:
        if not wire.pending():
            for key, mask in selector.select():
                key.data(mask)
        for event in wire.receive():
            if type(event).__name__ == "Opened":
                wire.send(0, [b"hello"])
            elif type(event).__name__ == "Closed":
                sys.exit(event.reason)
"""

FLOODER = """
import selectors, sys
from throughway.transport.zeromq import ZmqConnector
wire = ZmqConnector(sys.argv[1])
with selectors.DefaultSelector() as selector:
    wire.register(selector)
    sent = 0
    while True:
        ready = wire.pending() or selector.select(0.1)
        for key, mask in selector.select(0):
            key.data(mask)
        wire.receive()
        while wire.backlog(0) < 20_000 and wire.send(0, [b"%d" % sent, bytes(2000)]):
            sent += 1
        if sent and not ready:
            print(sent, flush=True)
"""

LISTENER = """
import selectors
from throughway.transport.zeromq import ZmqListener
wire = ZmqListener()
print(wire.port, flush=True)
selectors.DefaultSelector().select()
"""


class Strangers:
    """Peers that are not ours. They wait at most 20 s."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []

    def connect(self, endpoint: str, *, kind: int = zmq.DEALER, identity: bytes = b"") -> zmq.Socket[bytes]:
        stranger = self.context.socket(kind)
        self.sockets.append(stranger)
        stranger.setsockopt(zmq.RCVTIMEO, 20_000)
        if identity:
            stranger.setsockopt(zmq.ROUTING_ID, identity)
        stranger.connect(endpoint)
        return stranger


@pytest.fixture
def strangers() -> Iterator[Strangers]:
    strangers = Strangers()
    yield strangers
    for stranger in strangers.sockets:
        stranger.close(0)
    strangers.context.term()


@pytest.fixture
def ends(make_ends: Make) -> Ends:
    return make_ends("zeromq")


def side_of(ends: Ends, endpoint: str, **arguments: object) -> Side:
    """A further connector, that need not come to stand."""
    side = Side(ZmqConnector(endpoint, **arguments))  # type: ignore[arg-type]
    ends.connectors.append(side)
    return side


# ------------------------------------------------------------------------------------------------------------- ports


def test_a_free_port_is_chosen_and_known(ends: Ends) -> None:
    wire = ends.wire_of(ZmqListener)
    assert wire.port > 0
    with socket.create_connection(("127.0.0.1", wire.port), timeout=10):
        pass


def test_a_port_is_chosen_from_a_range_and_an_exhausted_range_is_named(ends: Ends) -> None:
    taken = ends.wire_of(ZmqListener).port
    first = ZmqListener(port_range=(taken, min(taken + 20, 65535)))
    try:
        assert taken < first.port <= taken + 20
    finally:
        first.close()
    with pytest.raises(TransportError, match=rf"\({taken}, {taken}\) is free"):
        ZmqListener(port_range=(taken, taken))


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(TransportError, match="choose another range"):
        ZmqListener(port_range=(50_001, 50_000))


def test_a_taken_port_is_named(ends: Ends) -> None:
    taken = ends.wire_of(ZmqListener).port
    with pytest.raises(TransportError, match=rf"cannot listen at port {taken} of 127\.0\.0\.1"):
        ZmqListener(port=taken)


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(TransportError, match=r"of 192\.0\.2\.1"):
        ZmqListener("192.0.2.1")


def test_all_addresses_of_this_host() -> None:
    wire = ZmqListener("*")
    ends = Ends("zeromq", wire, lambda: ZmqConnector(f"tcp://127.0.0.1:{wire.port}"))
    try:
        ends.meet()
    finally:
        ends.close()


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    wire = ZmqListener("::1")
    ends = Ends("zeromq", wire, lambda: ZmqConnector(f"tcp://[::1]:{wire.port}"))
    try:
        ends.meet()
    finally:
        ends.close()


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "udp://h:1", ""]
)
def test_a_malformed_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(TransportError, match=r"expected: tcp://host:port"):
        ZmqConnector(endpoint)


# -------------------------------------------------------------------------------------------- coming and going of peers


def test_a_connector_waits_for_its_listener_and_says_so() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        wire = ZmqConnector(f"tcp://127.0.0.1:{port}")
        side = Side(wire)
        ends = Ends("zeromq", wire, lambda: wire)
        try:
            ends.drive(lambda: bool(wire.trouble))
            assert wire.trouble == f"nothing accepts connections at tcp://127.0.0.1:{port}"
            assert not side.events
            assert not wire.send(0, [b"too early"])
            reserved.close()
            listener = Side(ZmqListener(port=port))
            ends.connectors.append(listener)
            ends.drive(lambda: bool(ends.listener.opened))
            assert wire.trouble == ""
        finally:
            side.selector.close()
            ends.close()


def test_a_killed_connector_is_noticed(ends: Ends) -> None:
    with subprocess.Popen([sys.executable, "-c", CONNECTOR, ends.address]) as process:
        try:
            ends.drive(lambda: ends.listener.count() == 1)
        finally:
            process.kill()
        ends.drive(lambda: bool(ends.listener.closed))
    assert ends.listener.closed == [Closed(ends.listener.opened[0].peer, "connection lost")]


def test_a_killed_listener_is_noticed() -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wire = ZmqConnector(f"tcp://127.0.0.1:{int(process.stdout.readline())}")
        ends = Ends("zeromq", wire, lambda: wire)
        try:
            ends.drive(lambda: bool(ends.listener.opened))
            process.kill()
            ends.drive(lambda: bool(ends.listener.closed))
            assert ends.listener.events == [Opened(0, wire.endpoint), Closed(0, "connection lost")]
            assert wire.closed
        finally:
            process.kill()
            ends.close()


def test_a_connector_in_another_process_hears_why_it_was_let_go(ends: Ends) -> None:
    command = [sys.executable, "-c", CONNECTOR, ends.address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        ends.drive(lambda: ends.listener.count() == 1)
        ends.listener.wire.disconnect(ends.listener.opened[0].peer, "your Python is too old")
        ends.listener.turn()
        _, said = process.communicate(timeout=20)
    assert said.strip() == "your Python is too old"


def test_a_stopped_peer_is_no_lost_peer(ends: Ends) -> None:
    with subprocess.Popen([sys.executable, "-c", CONNECTOR, ends.address]) as process:
        try:
            ends.drive(lambda: ends.listener.count() == 1)
            process.send_signal(signal.SIGSTOP)
            other, peer = ends.meet()
            assert ends.listener.wire.send(0, [b"for later"])
            ends.listener.wire.send(peer, [b"now"])
            ends.drive(lambda: other.count() == 1)
            assert not ends.listener.closed
        finally:
            process.kill()
        ends.drive(lambda: bool(ends.listener.closed))


def test_of_a_flood_that_is_killed_unread_the_first_part_comes_in_order(ends: Ends) -> None:
    """The listener's input is stopped at its high-water mark when the connection breaks."""
    command = [sys.executable, "-c", FLOODER, ends.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert int(process.stdout.readline()) > HIGH_WATER_MESSAGES
        finally:
            process.kill()
    ends.drive(lambda: bool(ends.listener.closed))
    (flooder,) = {event.peer for event in ends.listener.closed}
    messages = ends.listener.messages(flooder)
    assert len(messages) >= HIGH_WATER_MESSAGES
    assert messages == [[b"%d" % number, bytes(2000)] for number in range(len(messages))]


def test_reasons_travel_both_ways(ends: Ends) -> None:
    side, peer = ends.meet()
    side.wire.disconnect(0, "drained")
    ends.drive(lambda: ends.listener.closed == [Closed(peer, "drained")])
    other, other_peer = ends.meet()
    ends.listener.wire.disconnect(other_peer, "on hold")
    ends.drive(lambda: other.closed == [Closed(0, "on hold")])


@pytest.mark.parametrize("looked_before", [False, True])
def test_a_newcomer_on_the_descriptor_of_one_who_left_is_told_apart(ends: Ends, looked_before: bool) -> None:
    """All of it befalls before the listener reads (or between its look at the monitor and its reading): old messages,
    the parting, and the new peer's first message."""
    leaver, left = ends.meet()
    for number in range(10):
        leaver.wire.send(0, [b"%d" % number])
    leaver.wire.close()
    newcomers = []
    for number in range(5):
        newcomer = side_of(ends, ends.address)
        ends.drive(lambda newcomer=newcomer: bool(newcomer.opened), newcomer)
        newcomer.wire.send(0, [b"newcomer %d" % number])
        newcomers.append(newcomer)
    if looked_before:
        wire = ends.wire_of(ZmqListener)
        ends.drive(
            lambda: len(ends.listener.selector.select(0)) == 2, *newcomers
        )  # the socket and the monitor
        wire._readable, wire._monitor_ready = True, False
        ends.listener.events += wire.receive()
    ends.drive(lambda: bool(ends.listener.closed) and len(ends.listener.opened) == 5)
    assert ends.listener.messages(left) == [[b"%d" % number] for number in range(10)]
    assert [event.peer for event in ends.listener.closed] == [left]
    peers = {}
    for opened in ends.listener.opened:
        ((said,),) = ends.listener.messages(opened.peer)
        peers[said] = opened.peer
        assert ends.listener.wire.send(opened.peer, [b"welcome, " + said])
    assert sorted(peers) == [b"newcomer %d" % number for number in range(5)]
    ends.drive(lambda: all(newcomer.count() == 1 for newcomer in newcomers))
    for number, newcomer in enumerate(newcomers):
        assert newcomer.messages() == [[b"welcome, newcomer %d" % number]]
    newcomers[2].wire.close()
    ends.drive(lambda: len(ends.listener.closed) == 2)
    assert ends.listener.closed[1].peer == peers[b"newcomer 2"]


def test_one_who_came_spoke_and_went_unseen_is_reported_whole(ends: Ends) -> None:
    side = side_of(ends, ends.address)
    ends.drive(lambda: bool(side.opened), side)
    side.wire.send(0, [b"hello"])
    side.wire.close()
    ends.drive(lambda: bool(ends.listener.closed), ends.listener)
    assert [type(event).__name__ for event in ends.listener.events] == ["Opened", "Arrival", "Closed"]


def test_nobody_takes_over_the_routing_id_of_a_peer(ends: Ends, strangers: Strangers) -> None:
    first = strangers.connect(ends.address, identity=b"same")
    first.send(b"I was first")
    ends.drive(lambda: ends.listener.count() == 1)
    second = strangers.connect(ends.address, identity=b"same")
    second.send(b"I am first")
    honest, _ = ends.meet()
    peer = 0
    assert ends.listener.wire.send(peer, [b"for the first"])
    assert first.recv() == b"for the first"
    assert second.poll(0) == 0
    honest.wire.send(0, [b"done"])
    ends.drive(lambda: ends.listener.count() == 1)
    assert ends.listener.messages() == [[b"done"]]


def test_what_a_peer_sends_after_it_was_let_go_is_dropped_and_it_is_forgotten_when_it_goes(
    ends: Ends, strangers: Strangers
) -> None:
    wire = ends.wire_of(ZmqListener)
    stubborn = strangers.connect(ends.address, identity=b"stubborn")
    stubborn.send(b"hello")
    ends.drive(lambda: ends.listener.count() == 1)
    wire.disconnect(0, "go away")
    assert stubborn.recv_multipart() == [FAREWELL, b"go away"]
    for number in range(10):
        stubborn.send_multipart([b"more", b"%d" % number])
    stubborn.send(b"and more")
    ends.drive(lambda: wire.dropped == 11)
    assert ends.listener.count() == 1
    stubborn.close(0)
    side, _ = ends.meet()
    ends.drive(lambda: len(wire._by_identity) == 1)
    assert len(wire._by_descriptor) == len(wire._connections) == 1
    assert not ends.listener.closed
    side.wire.close()
    ends.drive(lambda: not wire._by_identity)
    assert not wire._by_descriptor
    assert not wire._connections
    assert not wire._peers


def test_peers_that_are_not_ours_are_peers_like_others(ends: Ends, strangers: Strangers) -> None:
    asker = strangers.connect(ends.address, kind=zmq.REQ)
    asker.send(b"question")
    ends.drive(lambda: ends.listener.count() == 1)
    assert ends.listener.messages() == [[b"", b"question"]]
    assert ends.listener.opened[0].label == "127.0.0.1"
    ends.listener.wire.send(0, [b"", b"answer"])
    assert asker.recv() == b"answer"


def test_a_farewell_from_a_stranger_ends_it(ends: Ends, strangers: Strangers) -> None:
    stranger = strangers.connect(ends.address)
    stranger.send_multipart([FAREWELL, b"\xff" * 5000])
    ends.drive(lambda: bool(ends.listener.closed))
    assert ends.listener.count() == 0
    assert len(ends.listener.closed[0].reason) <= 1000


# -------------------------------------------------------------------------------------------------- frames and turns


def test_large_frames_are_views_and_small_ones_bytes(ends: Ends) -> None:
    side, _ = ends.meet()
    side.wire.send(0, [b"header", bytes(COPY_BYTES), bytes(COPY_BYTES - 1)])
    ends.drive(lambda: ends.listener.count() == 1)
    (arrival,) = ends.listener.events
    assert [type(frame) for frame in arrival.frames] == [bytes, memoryview, bytes]  # type: ignore[union-attr]


@pytest.mark.parametrize(("size", "most", "count"), [(10, MESSAGES_PER_TURN, 500), (4 << 20, 5, 20)])
def test_one_turn_takes_a_fair_share(ends: Ends, size: int, most: int, count: int) -> None:
    side, _ = ends.meet()
    for _ in range(count):
        side.wire.send(0, [bytes(size)])
    ends.drive(lambda: side.wire.backlog(0) == 0, side)
    listener = ends.listener
    turns: list[int] = []
    while sum(turns) < count:
        if not listener.wire.pending():
            for key, mask in listener.selector.select(20):
                key.data(mask)
        turns.append(len(listener.wire.receive()))
        assert turns[-1] < most or listener.wire.pending()
    assert max(turns) <= most


def test_reading_does_not_miss_that_there_is_room_to_write(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq tells once that a backlog can go on, and a read that goes on from an earlier turn takes that in."""
    monkeypatch.setattr("throughway.transport.zeromq.MESSAGES_PER_TURN", 10)
    side, peer = ends.meet()
    for number in range(20):
        ends.listener.wire.send(peer, [b"%d" % number])
    ends.drive(lambda: side.count() >= 10, side)
    sent = 0
    while not side.wire.backlog(0):
        side.wire.send(0, [bytes(100)])
        sent += 1
    side.wire.pending()
    waiting = side.wire.backlog(0) // 100
    ends.drive(lambda: ends.listener.count() == sent - waiting, ends.listener)
    wire = side.wire
    assert isinstance(wire, ZmqConnector)
    wire._readable = True
    side.events += wire.receive()
    ends.drive(lambda: ends.listener.count() == sent)


# ------------------------------------------------------------------------------------------------------- encryption


def test_a_peer_is_known_by_the_name_of_its_key(make_ends: Make) -> None:
    ends = make_ends("curve")
    side = ends.connect()
    side.wire.send(0, [b"hello"])
    ends.drive(lambda: ends.listener.count() == 1)
    assert ends.listener.opened[0].label == "127.0.0.1 manager"


def test_an_unknown_key_is_refused_until_it_is_allowed_and_again_when_it_is_revoked(
    make_ends: Make, interchange_keys: CurveKeys
) -> None:
    ends = make_ends("curve")
    wire = ends.wire_of(ZmqListener)
    keys = CurveKeys.generate()
    arguments = {"keys": keys, "listener_key": interchange_keys.public}
    refused = side_of(ends, ends.address, **arguments)
    ends.drive(lambda: bool(refused.closed))
    assert not refused.opened
    assert "not on its allow-list" in refused.closed[0].reason
    wire.allow(keys.public, "late")
    allowed = side_of(ends, ends.address, **arguments)
    ends.drive(lambda: bool(allowed.opened))
    wire.revoke(keys.public)
    again = side_of(ends, ends.address, **arguments)
    ends.drive(lambda: bool(again.closed))
    allowed.wire.send(0, [b"who stands goes on"])
    ends.drive(lambda: ends.listener.messages() == [[b"who stands goes on"]])
    assert ends.listener.opened[0].label == "127.0.0.1 late"


def test_a_listener_with_another_key_is_not_trusted(make_ends: Make, manager_keys: CurveKeys) -> None:
    ends = make_ends("curve")
    side = side_of(ends, ends.address, keys=manager_keys, listener_key=CurveKeys.generate().public)
    ends.drive(lambda: bool(side.closed))
    assert not side.opened
    assert "another key than expected" in side.closed[0].reason
    assert not ends.listener.events


def test_without_encryption_nobody_gets_into_an_encrypted_listener(make_ends: Make) -> None:
    ends = make_ends("curve")
    side = side_of(ends, ends.address)
    ends.drive(lambda: bool(side.closed))
    assert not side.opened
    assert "it expects encryption" in side.closed[0].reason
    ends.drive(lambda: ends.wire_of(ZmqListener).refused > 0)
    assert not ends.listener.events


def test_a_connector_that_encrypts_does_not_talk_to_a_listener_that_does_not(
    ends: Ends, manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> None:
    side = side_of(ends, ends.address, keys=manager_keys, listener_key=interchange_keys.public)
    ends.drive(lambda: bool(side.closed))
    assert not side.opened
    assert "is not encrypted" in side.closed[0].reason


def test_keys_are_checked_before_anything_is_sent(
    manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> None:
    with pytest.raises(TransportError, match=r"no key of the listener at tcp://127\.0\.0\.1:1"):
        ZmqConnector("tcp://127.0.0.1:1", keys=manager_keys)
    with pytest.raises(TransportError, match="the listener's key is not a CurveZMQ key"):
        ZmqConnector("tcp://127.0.0.1:1", keys=manager_keys, listener_key=b"short")
    with pytest.raises(TransportError, match="the key to allow is not a CurveZMQ key"):
        ZmqListener(keys=interchange_keys, allowed={b"short": "manager"})


def test_a_listener_without_keys_has_no_allow_list(ends: Ends, manager_keys: CurveKeys) -> None:
    with pytest.raises(TransportError, match="everyone may connect"):
        ends.wire_of(ZmqListener).allow(manager_keys.public, "manager")
    with pytest.raises(TransportError, match="everyone may connect"):
        ends.wire_of(ZmqListener).revoke(manager_keys.public)
