from __future__ import annotations

import selectors

import pytest

from throughway.errors import TransportError
from throughway.testing.memory_wire import MemoryNetwork, MemoryWire
from throughway.transport.interface import Arrival, Closed, Opened


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def listener(network: MemoryNetwork) -> MemoryWire:
    return network.listen("interchange")


def arrivals(wire: MemoryWire) -> list[tuple[int, list[bytes]]]:
    return [
        (event.peer, [bytes(frame) for frame in event.frames])
        for event in wire.receive()
        if isinstance(event, Arrival)
    ]


def test_both_ends_know_each_other_at_once(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange", label="node 7")
    assert listener.receive() == [Opened(0, "node 7")]
    assert connector.receive() == [Opened(0, "interchange")]


def test_names_are_taken_once_and_free_again_when_closed(
    network: MemoryNetwork, listener: MemoryWire
) -> None:
    with pytest.raises(TransportError, match="another listener does"):
        network.listen("interchange")
    listener.close()
    with pytest.raises(TransportError, match="nobody listens there"):
        network.connect("interchange")
    network.listen("interchange")


def test_messages_of_several_peers_come_in_the_order_of_sending(
    network: MemoryNetwork, listener: MemoryWire
) -> None:
    first, second = network.connect("interchange"), network.connect("interchange")
    for number in range(4):
        (first if number % 2 else second).send(0, [b"%d" % number])
    assert arrivals(listener) == [(1, [b"0"]), (0, [b"1"]), (1, [b"2"]), (0, [b"3"])]


def test_what_is_changed_after_sending_is_not_seen(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    frame = bytearray(b"as sent")
    connector.send(0, [frame])
    frame[:] = b"changed"
    assert arrivals(listener) == [(0, [b"as sent"])]


def test_held_messages_come_when_they_are_released(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    (link,) = network.links
    link.hold(towards=listener)
    connector.send(0, [b"one"])
    connector.send(0, [b"two"])
    listener.send(0, [b"not held"])
    assert arrivals(listener) == []
    assert arrivals(connector) == [(0, [b"not held"])]
    assert connector.backlog(0) == 6
    link.release()
    connector.send(0, [b"three"])
    assert arrivals(listener) == [(0, [b"one"]), (0, [b"two"]), (0, [b"three"])]
    assert connector.backlog(0) == 0


def test_messages_are_lost_as_many_as_said(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    (link,) = network.links
    link.lose(2, towards=listener)
    for number in range(4):
        assert connector.send(0, [b"%d" % number])
    assert arrivals(listener) == [(0, [b"2"]), (0, [b"3"])]
    assert link.lost(towards=listener) == 2
    assert link.lost(towards=connector) == 0
    link.lose(1)
    connector.send(0, [b"lost"])
    listener.send(0, [b"lost too"])
    assert arrivals(listener) == arrivals(connector) == []


def test_a_cut_is_heard_at_both_ends_behind_what_came(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    other = network.connect("interchange")
    link = network.links[0]
    connector.receive()
    listener.receive()
    connector.send(0, [b"came"])
    link.hold()
    connector.send(0, [b"under way"])
    link.cut("partition")
    link.cut("again")
    assert listener.receive() == [Arrival(0, [b"came"]), Closed(0, "partition")]
    assert connector.receive() == [Closed(0, "partition")]
    assert not connector.send(0, [b"too late"])
    assert not listener.send(0, [b"too late"])
    assert other.send(0, [b"still"])
    assert arrivals(listener) == [(1, [b"still"])]


def test_a_parting_that_is_held_comes_late(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    listener.receive()
    network.links[0].hold()
    connector.send(0, [b"last"])
    connector.disconnect(0, "drained")
    assert listener.receive() == []
    network.links[0].release()
    assert listener.receive() == [Arrival(0, [b"last"]), Closed(0, "drained")]


def test_of_a_peer_that_was_let_go_nothing_more_comes(network: MemoryNetwork, listener: MemoryWire) -> None:
    connector = network.connect("interchange")
    listener.receive()
    connector.send(0, [b"unread"])
    listener.disconnect(0, "enough")
    assert listener.receive() == []
    assert connector.receive() == [Opened(0, "interchange"), Closed(0, "enough")]


def test_a_selector_wakes_while_something_waits(network: MemoryNetwork, listener: MemoryWire) -> None:
    with selectors.DefaultSelector() as selector:
        listener.register(selector)
        assert not selector.select(0)
        connector = network.connect("interchange")
        connector.send(0, [b"one"])
        ((key, mask),) = selector.select(0)
        key.data(mask)
        assert listener.pending()
        assert len(listener.receive()) == 2
        assert not listener.pending()
        assert not selector.select(0)
        connector.send(0, [b"two"])
        assert selector.select(0)
        listener.close()
        assert not selector.get_map()
