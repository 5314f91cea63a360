from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transport.ends import Ends, Make, Side
from throughway.errors import TransportError
from throughway.transport.framing import preamble
from throughway.transport.interface import Arrival, Closed, Opened
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire, listening_socket, peer_user


def test_only_the_user_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening_socket(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="choose a shorter runtime folder"):
        listening_socket(str(tmp_path / ("x" * 108)))


def test_a_path_in_use_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with listening_socket(path), pytest.raises(TransportError, match="cannot listen at"):
        listening_socket(path)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot connect to"):
        UnixWire.connect(str(tmp_path / "socket"))


def test_the_peer_is_known_by_its_user(make_ends: Make) -> None:
    ends = make_ends("unix")
    ends.connect()
    ends.drive(lambda: bool(ends.listener.opened))
    assert ends.listener.opened[0].label == f"user {os.getuid()}"
    one, other = socket.socketpair()
    with one, other:
        assert peer_user(one) == os.getuid()


def test_the_process_of_a_peer_is_known(make_ends: Make) -> None:
    ends = make_ends("unix")
    ends.connect()
    ends.drive(lambda: bool(ends.listener.opened))
    wire = ends.wire_of(UnixWire)
    assert wire.process(ends.listener.opened[0].peer) == os.getpid()
    assert wire.process(99) == 0


def test_who_only_writes_leaves_the_end_to_who_reads() -> None:
    """Two threads must not read at once: writing fails without reading, and what had come is read before the end."""
    mine, others = socket.socketpair()
    wire = UnixWire.over(mine)
    wire.read_elsewhere = True
    wire.receive()
    other = UnixWire.over(others)
    other.send(0, [b"last words"])
    other.close()
    assert not wire.send(0, [b"hello"])
    assert wire.receive() == []
    wire.take(0)
    wire.take(0)
    arrival, closed = wire.receive()
    assert isinstance(arrival, Arrival)
    assert arrival.frames == [b"last words"]
    assert isinstance(closed, Closed)
    wire.close()


def test_connections_of_other_users_are_turned_away(make_ends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = make_ends("unix")
    monkeypatch.setattr("throughway.transport.unix.peer_user", lambda sock: os.getuid() + 1)
    stranger = ends.connect()
    ends.drive(lambda: bool(stranger.closed))
    assert not ends.listener.events
    assert ends.wire_of(UnixWire).turned_away == 1


def test_a_message_cut_off_is_reported_and_not_delivered(make_ends: Make) -> None:
    ends = make_ends("unix")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(ends.address)
        raw.sendall(preamble([b"whole"]) + b"whole" + preamble([b"header", bytes(1000)]) + b"head")
    ends.drive(lambda: bool(ends.listener.closed))
    assert ends.listener.messages() == [[b"whole"]]
    assert ends.listener.closed[0].reason == "cut off in the middle of a message"


@pytest.mark.parametrize("paused_twice", [False, True])
def test_a_paused_peer_is_not_read_and_loses_nothing(make_ends: Make, paused_twice: bool) -> None:
    ends = make_ends("unix")
    side, peer = ends.meet()
    other, other_peer = ends.meet()
    wire = ends.wire_of(UnixWire)
    wire.pause(peer, True)
    if paused_twice:
        wire.pause(peer, True)
    for number in range(100):
        side.wire.send(0, [b"%d" % number])
    other.wire.send(0, [b"other"])
    ends.drive(lambda: ends.listener.count() == 1)
    assert ends.listener.messages(other_peer) == [[b"other"]]
    wire.pause(peer, False)
    ends.drive(lambda: ends.listener.count() == 101)
    assert ends.listener.messages(peer) == [[b"%d" % number] for number in range(100)]


def test_a_paused_peer_is_still_written_to_and_stays_paused(make_ends: Make) -> None:
    ends = make_ends("unix")
    side, peer = ends.meet()
    wire = ends.wire_of(UnixWire)
    wire.pause(peer, True)
    side.wire.send(0, [b"must wait"])
    messages = [[bytes(100_000)] for _ in range(100)]
    for frames in messages:
        assert wire.send(peer, frames)
    assert wire.backlog(peer) > 0
    ends.drive(lambda: side.count() == len(messages))
    assert wire.backlog(peer) == 0
    assert not ends.listener.events
    wire.pause(peer, False)
    ends.drive(lambda: ends.listener.messages() == [[b"must wait"]])


def test_a_paused_peer_may_be_let_go(make_ends: Make) -> None:
    ends = make_ends("unix")
    side, peer = ends.meet()
    ends.wire_of(UnixWire).pause(peer, True)
    ends.listener.wire.disconnect(peer, "enough")
    ends.drive(lambda: bool(side.closed))
    ends.wire_of(UnixWire).pause(peer, False)


def test_sending_watches_for_room_only_while_something_waits(make_ends: Make) -> None:
    ends = make_ends("pair")
    side, peer = ends.meet()
    while not ends.listener.wire.backlog(peer):
        ends.listener.wire.send(peer, [bytes(100_000)])
    ends.drive(lambda: ends.listener.wire.backlog(peer) == 0)
    ends.drive(lambda: not side.selector.select(0), side)
    assert not ends.listener.selector.select(0)


def test_what_waits_for_a_dead_peer_is_not_reported_when_it_is_let_go(make_ends: Make) -> None:
    ends = make_ends("pair")
    side, peer = ends.meet()
    while not ends.listener.wire.backlog(peer):
        ends.listener.wire.send(peer, [bytes(100_000)])
    side.wire.close()
    ends.listener.wire.disconnect(peer, "enough")
    ends.listener.turn()
    assert not ends.listener.events


def test_out_of_descriptors_connections_are_turned_away_and_the_wire_goes_on(make_ends: Make) -> None:
    ends = make_ends("unix")
    side, _ = ends.meet()
    raws = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        for raw in raws:
            raw.connect(ends.address)
        ends.listener.turn()
        assert ends.wire_of(UnixWire).turned_away == 5
        assert not ends.listener.events
        assert not ends.listener.selector.select(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for raw in raws:
            raw.close()
    side.wire.send(0, [b"still here"])
    newcomer, _ = ends.meet()
    assert newcomer.wire.send(0, [b"me too"])
    ends.drive(lambda: ends.listener.messages() == [[b"me too"]])


def test_a_wire_takes_connected_sockets_and_gives_each_a_number() -> None:
    wire = UnixWire()
    ends = Ends("pairs", wire, UnixWire)
    side = ends.listener
    others = []
    try:
        for number in range(3):
            ours, theirs = socket.socketpair()
            assert wire.add(ours, f"worker {number}") == number
            others.append(Side(UnixWire.over(theirs)))
            others[-1].wire.send(0, [b"%d" % number])
        ends.drive(lambda: side.count() == 3, side, *others)
        assert [event for event in side.events if isinstance(event, Opened)] == [
            Opened(number, f"worker {number}") for number in range(3)
        ]
        assert [event.peer for event in side.events if isinstance(event, Arrival)] == [0, 1, 2]
        others[1].wire.close()
        ends.drive(lambda: side.closed == [Closed(1, "closed")], side)
    finally:
        ends.connectors += others
        ends.close()


class Pair:
    """A wire over each end of a pair of sockets, and what watches them."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.poller = Poller()
        self.wire = UnixWire.over(ours)
        self.wire.register(self.poller)
        self.others = Poller()
        self.other = UnixWire.over(theirs)
        self.other.register(self.others)
        for wire in (self.wire, self.other):
            wire.receive()

    def messages(self) -> list[list[bytes]]:
        events = self.wire.receive()
        assert all(isinstance(event, Arrival) for event in events), events
        return [[bytes(frame) for frame in event.frames] for event in events if isinstance(event, Arrival)]

    def close(self) -> None:
        self.wire.close()
        self.other.close()
        self.poller.close()
        self.others.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_who_takes_reads_in_place_of_the_selector(pair: Pair) -> None:
    pair.wire.take(0)
    assert pair.messages() == [], "there is nothing, and nobody waits for it"
    pair.wire.pause(0, True)
    pair.other.send(0, [b"one"])
    pair.other.send(0, [b"two", b"frames"])
    assert not pair.poller.ready()
    pair.wire.take(0)
    assert pair.messages() == [[b"one"], [b"two", b"frames"]]
    pair.wire.pause(0, False)
    assert not pair.poller.ready()
    pair.other.send(0, [b"three"])
    pair.poller.wait(None)
    assert pair.messages() == [[b"three"]]


def test_what_is_left_after_a_pause_is_seen_by_the_selector(pair: Pair) -> None:
    pair.wire.pause(0, True)
    pair.other.send(0, [b"one"])
    assert not pair.poller.ready()
    pair.wire.pause(0, False)
    pair.poller.wait(None)
    assert pair.messages() == [[b"one"]]


def test_a_message_may_be_read_in_part_by_each(pair: Pair) -> None:
    large = os.urandom(1 << 22)
    pair.wire.pause(0, True)
    pair.other.send(0, [b"head", large])
    assert pair.other.backlog(0), "more than the sockets hold"
    pair.wire.take(0)
    assert pair.messages() == []
    pair.wire.pause(0, False)
    while pair.other.backlog(0):
        pair.others.wait(None)
        pair.poller.wait(None)
    while pair.poller.ready():
        pair.poller.wait(0)
    assert pair.messages() == [[b"head", large]]


def test_to_pause_twice_is_to_pause_once(pair: Pair) -> None:
    for paused in (True, True, False, False):
        pair.wire.pause(0, paused)
    pair.other.send(0, [b"one"])
    pair.poller.wait(None)
    assert pair.messages() == [[b"one"]]


def test_a_paused_peer_is_written_to(pair: Pair) -> None:
    large = os.urandom(1 << 22)
    pair.wire.pause(0, True)
    pair.wire.send(0, [large])
    assert pair.wire.backlog(0)
    arrived: list[bytes] = []
    while not arrived:
        pair.poller.wait(0)
        pair.other.take(0)
        arrived += [bytes(event.frames[0]) for event in pair.other.receive() if isinstance(event, Arrival)]
    assert arrived == [large]
    assert not pair.poller.ready(), "neither to write any more, nor to read"


def test_who_takes_hears_that_the_peer_is_gone(pair: Pair) -> None:
    pair.wire.pause(0, True)
    pair.other.send(0, [b"last"])
    pair.other.close()
    pair.wire.take(0)
    pair.wire.take(0)
    last, closed = pair.wire.receive()
    assert isinstance(last, Arrival)
    assert isinstance(closed, Closed)
    # From here on there is nobody to read from, to pause, or to watch.
    pair.wire.take(0)
    pair.wire.pause(0, False)
    assert not pair.wire.pending()
    assert not pair.poller.get_map()


def test_a_paused_peer_that_is_gone_is_noticed_when_it_is_sent_to(pair: Pair) -> None:
    pair.wire.pause(0, True)
    pair.other.close()
    assert not pair.poller.ready()
    assert pair.wire.send(0, [b"hello"]) is False
    assert [type(event) for event in pair.wire.receive()] == [Closed]


def test_without_descriptors_and_with_nobody_there_the_reserve_is_kept(tmp_path: Path) -> None:
    class Full:
        """A listener of a process that has no descriptors left."""

        def __init__(self, listening: socket.socket) -> None:
            self.listening = listening
            self.errors: list[OSError] = [OSError(errno.EMFILE, "none left"), BlockingIOError()]

        def accept(self) -> None:
            raise self.errors.pop(0)

        def close(self) -> None:
            self.listening.close()

    listening = listening_socket(str(tmp_path / "full"))
    wire = UnixWire.listen(listening)
    wire._listening = Full(listening)  # type: ignore[assignment]
    try:
        wire._accept(1)
        assert wire._reserve >= 0, "the next one could not be turned away, and the listener would stay ready"
        assert wire.turned_away == 0
    finally:
        wire.close()
