"""What every wire promises, whatever carries it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.transport.ends import Ends, Make
from throughway.errors import TransportError
from throughway.transport.interface import Arrival, Closed, Opened

KINDS = ["unix", "pair", "zeromq", "curve", "memory"]
WITH_LISTENER = [kind for kind in KINDS if kind != "pair"]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, make_ends: Make) -> Ends:
    return make_ends(request.param)


@pytest.fixture(params=WITH_LISTENER)
def listening(request: pytest.FixtureRequest, make_ends: Make) -> Ends:
    return make_ends(request.param)


def test_a_peer_is_opened_before_its_first_message(ends: Ends) -> None:
    side = ends.connect()
    side.wire.send(side.opened[0].peer, [b"first"])
    ends.drive(lambda: ends.listener.count() == 1)
    opened, arrival = ends.listener.events
    assert isinstance(opened, Opened)
    assert isinstance(arrival, Arrival)
    assert opened.peer == arrival.peer


def test_messages_keep_their_order_in_both_directions(ends: Ends) -> None:
    side, peer = ends.meet()
    there = [[b"there %d" % n] for n in range(5000)]
    back = [[b"back %d" % n] for n in range(5000)]
    for one, other in zip(there, back, strict=True):
        assert side.wire.send(0, one)
        assert ends.listener.wire.send(peer, other)
    ends.drive(lambda: ends.listener.count() == side.count() == 5000)
    assert ends.listener.messages() == there
    assert side.messages() == back


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"header", b""],
        [b"", b"payload"],
        [b"", b"", b""],
        [b"header", b"small", bytes(70_000), b"", bytes(200_000), b"end"],
        [b"%d" % n for n in range(3000)],
        [os.urandom(8 << 20)],
        [b"header", os.urandom(8 << 20), b"between", os.urandom(1 << 20)],
    ],
    ids=["empty", "empty-last", "empty-first", "all-empty", "mixed", "3000-frames", "8MiB", "header-8MiB"],
)
def test_a_message_arrives_as_it_was_sent(ends: Ends, frames: list[bytes]) -> None:
    side, peer = ends.meet()
    for _ in range(2):
        assert side.wire.send(0, frames)
        assert ends.listener.wire.send(peer, frames)
    ends.drive(lambda: ends.listener.count() == side.count() == 2)
    assert ends.listener.messages() == [frames, frames]
    assert side.messages() == [frames, frames]


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_a_frame_may_be_any_buffer(ends: Ends, form: Callable[[bytes], bytes]) -> None:
    side, _ = ends.meet()
    for size in (0, 1, 100, 100_000):
        side.wire.send(0, [b"header", form(bytes(size)), form(bytes(size))])
        side.wire.send(0, [form(b"%d" % size)])
    ends.drive(lambda: ends.listener.count() == 8)
    assert ends.listener.messages()[6] == [b"header", bytes(100_000), bytes(100_000)]
    assert ends.listener.messages()[7] == [b"100000"]


def test_the_size_of_a_frame_is_counted_in_bytes(ends: Ends) -> None:
    side, _ = ends.meet()
    numbers: Any = memoryview(os.urandom(8 * 20_000)).cast("d")
    side.wire.send(0, [numbers])
    side.wire.send(0, [b"header", numbers])
    side.wire.send(0, [b"next"])
    ends.drive(lambda: ends.listener.count() == 3)
    assert ends.listener.messages() == [[numbers.tobytes()], [b"header", numbers.tobytes()], [b"next"]]


def test_a_message_without_frames_is_refused(ends: Ends) -> None:
    side, _ = ends.meet()
    with pytest.raises(TransportError, match="a message has 1 to"):
        side.wire.send(0, [])
    assert side.wire.send(0, [b"still"])
    ends.drive(lambda: ends.listener.messages() == [[b"still"]])


def test_peers_are_told_apart(listening: Ends) -> None:
    sides = [listening.meet() for _ in range(50)]
    numbers = [peer for _, peer in sides]
    assert len(set(numbers)) == 50
    for number, (side, peer) in enumerate(sides):
        assert side.wire.send(0, [b"I am %d" % number])
        assert listening.listener.wire.send(peer, [b"you are %d" % number])
    listening.drive(lambda: listening.listener.count() == 50 and all(side.count() for side, _ in sides))
    for number, (side, peer) in enumerate(sides):
        assert listening.listener.messages(peer) == [[b"I am %d" % number]]
        assert side.messages() == [[b"you are %d" % number]]


def test_a_peer_number_is_never_given_out_again(listening: Ends) -> None:
    side, first = listening.meet()
    side.wire.close()
    listening.drive(lambda: bool(listening.listener.closed), listening.listener)
    _, second = listening.meet()
    assert second != first


@pytest.mark.parametrize("count", [1, 300])
def test_a_closed_connector_is_reported_behind_all_that_it_sent(ends: Ends, count: int) -> None:
    side, peer = ends.meet()
    for number in range(count):
        assert side.wire.send(0, [b"%d" % number])
    ends.drive(lambda: side.wire.backlog(0) == 0)
    side.wire.close()
    ends.drive(lambda: bool(ends.listener.closed), ends.listener)
    assert ends.listener.messages(peer) == [[b"%d" % number] for number in range(count)]
    assert ends.listener.events[-1] == ends.listener.closed[0]
    assert ends.listener.closed[0].peer == peer
    assert ends.listener.closed[0].reason
    assert not ends.listener.wire.send(peer, [b"too late"])
    assert ends.listener.wire.backlog(peer) == 0


def test_a_closed_listener_is_reported(ends: Ends) -> None:
    sides = [ends.meet() for _ in range(1 if ends.kind == "pair" else 3)]
    ends.listener.wire.close()
    for side, _ in sides:
        ends.drive(lambda side=side: bool(side.closed), side)
        assert [type(event) for event in side.events] == [Closed]
        assert not side.wire.send(0, [b"too late"])


def test_a_peer_that_was_let_go_hears_it_and_nothing_more(listening: Ends) -> None:
    side, peer = listening.meet()
    other, other_peer = listening.meet()
    assert listening.listener.wire.send(peer, [b"last"])
    listening.listener.wire.disconnect(peer, "its Python is too old")
    assert not listening.listener.wire.send(peer, [b"too late"])
    listening.drive(lambda: bool(side.closed))
    assert side.messages() == [[b"last"]]
    assert not side.wire.send(0, [b"too late"])
    assert listening.listener.wire.send(other_peer, [b"you stay"])
    listening.drive(lambda: other.messages() == [[b"you stay"]])
    assert not listening.listener.closed
    assert not other.closed


def test_a_connector_that_leaves_is_reported(ends: Ends) -> None:
    side, peer = ends.meet()
    side.wire.send(0, [b"last"])
    side.wire.disconnect(0, "drained")
    ends.drive(lambda: bool(ends.listener.closed), ends.listener)
    assert ends.listener.messages() == [[b"last"]]
    assert ends.listener.closed[0].peer == peer
    assert not side.closed


def test_what_came_before_a_peer_left_is_delivered_although_sending_to_it_fails(ends: Ends) -> None:
    side, peer = ends.meet()
    for number in range(100):
        side.wire.send(0, [b"%d" % number])
    side.wire.close()
    while ends.listener.wire.send(peer, [bytes(1000)]):
        ends.drive(lambda: True)
    ends.drive(lambda: bool(ends.listener.closed), ends.listener)
    assert ends.listener.messages() == [[b"%d" % number] for number in range(100)]


@pytest.mark.parametrize("towards", ["listener", "connector"])
def test_nothing_is_lost_when_the_reader_is_slow(ends: Ends, towards: str) -> None:
    side, peer = ends.meet()
    sender, receiver, name = (
        (side, ends.listener, 0) if towards == "listener" else (ends.listener, side, peer)
    )
    sent = [[b"%d" % number, bytes(20_000)] for number in range(2000)]
    for frames in sent:
        assert sender.wire.send(name, frames)
        sender.turn()
    assert sender.wire.backlog(name) > 0
    ends.drive(lambda: receiver.count() == len(sent))
    assert receiver.messages() == sent
    assert sender.wire.backlog(name) == 0
    assert not sender.closed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("towards", ["listener", "connector"])
def test_a_peer_that_does_not_read_is_dropped_at_the_backlog_limit(
    make_ends: Make, kind: str, towards: str
) -> None:
    limit = 1 << 20
    ends = make_ends(kind, max_backlog_bytes=limit)
    side, peer = ends.meet()
    sender, name = (side, 0) if towards == "listener" else (ends.listener, peer)
    message = [b"header", bytes(65_000)]
    for _ in range(10_000):
        if not sender.wire.send(name, message):
            break
        assert sender.wire.backlog(name) <= limit
    else:
        pytest.fail("the backlog has no bound")
    sender.turn()
    assert [event.peer for event in sender.closed] == [name]
    assert str(limit) in sender.closed[0].reason
    assert sender.wire.backlog(name) == 0
    other = side if sender is ends.listener else ends.listener
    ends.drive(lambda: bool(other.closed))


@pytest.mark.parametrize("kind", WITH_LISTENER)
def test_one_slow_peer_does_not_hold_up_the_others(make_ends: Make, kind: str) -> None:
    ends = make_ends(kind)
    _, slow = ends.meet()
    side, peer = ends.meet()
    for _ in range(2000):
        assert ends.listener.wire.send(slow, [bytes(10_000)])
    assert ends.listener.wire.backlog(slow) > 0
    for number in range(1000):
        assert ends.listener.wire.send(peer, [b"%d" % number])
    ends.drive(lambda: side.count() == 1000, ends.listener, side)
    assert side.messages() == [[b"%d" % number] for number in range(1000)]
    assert ends.listener.wire.backlog(slow) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_beyond_the_limit_ends_the_connection(make_ends: Make, kind: str) -> None:
    ends = make_ends(kind, max_message_bytes=100_000)
    side, peer = ends.meet()
    assert side.wire.send(0, [bytes(100_000)])
    ends.drive(lambda: ends.listener.count() == 1)
    side.wire.send(0, [b"header", bytes(60_000), bytes(60_000)])
    ends.drive(lambda: bool(ends.listener.closed))
    assert ends.listener.closed[0].peer == peer
    assert ends.listener.count() == 1
    ends.drive(lambda: bool(side.closed))


def test_unknown_peers_can_be_named_without_harm(ends: Ends) -> None:
    ends.meet()
    assert not ends.listener.wire.send(999, [b"nobody"])
    assert ends.listener.wire.backlog(999) == 0
    ends.listener.wire.disconnect(999, "nobody")


def test_close_may_be_called_again_and_ends_everything(ends: Ends) -> None:
    side, peer = ends.meet()
    for wire in (side.wire, ends.listener.wire):
        wire.close()
        wire.close()
    assert not side.wire.send(0, [b"too late"])
    assert not ends.listener.wire.send(peer, [b"too late"])
    assert not side.selector.get_map()
    assert not ends.listener.selector.get_map()
    side.turn()
    assert not side.wire.pending()


def test_fifty_peers_send_thousands_of_messages(listening: Ends) -> None:
    sides = [listening.meet() for _ in range(50)]
    for number in range(100):
        for side, peer in sides:
            assert side.wire.send(0, [b"%d" % number, b"from", b"%d" % peer])
            assert listening.listener.wire.send(peer, [b"%d" % number])
    listening.drive(
        lambda: listening.listener.count() == 5000 and all(side.count() == 100 for side, _ in sides)
    )
    for side, peer in sides:
        assert listening.listener.messages(peer) == [[b"%d" % n, b"from", b"%d" % peer] for n in range(100)]
        assert side.messages() == [[b"%d" % n] for n in range(100)]
