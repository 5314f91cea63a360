"""The selector that calls what is ready."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from throughway.transport.poller import Poller

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Ends:
    """A poller, a watched socket and its peer, and what was called."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.ours, self.theirs = socket.socketpair()
        self.called: list[int] = []
        self.poller.register(self.ours, READ, self.called.append)

    def close(self) -> None:
        self.poller.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_to_look_whether_something_is_ready_calls_nothing(ends: Ends) -> None:
    assert ends.poller.ready() is False
    ends.theirs.send(b"x")
    assert ends.poller.ready() is True
    assert ends.poller.ready() is True, "it is still there"
    ends.ours.recv(1)
    assert ends.poller.ready() is False
    assert not ends.called


def test_what_is_ready_is_called_later(ends: Ends) -> None:
    assert ends.poller.poll(0) == []
    ends.theirs.send(b"x")
    found = ends.poller.poll(None)
    assert [descriptor for descriptor, _ in found] == [ends.ours.fileno()]
    assert not ends.called
    ends.poller.call(found)
    assert ends.called == [READ]


def test_to_wait_is_to_poll_and_to_call(ends: Ends) -> None:
    ends.poller.wait(0)
    ends.theirs.send(b"x")
    ends.poller.wait(None)
    assert ends.called == [READ]


@pytest.mark.parametrize(("events", "called"), [(WRITE, WRITE), (READ | WRITE, WRITE), (READ, None)])
def test_what_can_be_written_to_is_called_for_that(ends: Ends, events: int, called: int | None) -> None:
    ends.poller.modify(ends.ours, events, ends.called.append)
    ends.poller.call(ends.poller.poll(0))
    assert ends.called == ([] if called is None else [called])


def test_a_peer_that_is_gone_is_called_for_all(ends: Ends) -> None:
    ends.theirs.close()
    ends.poller.call(ends.poller.poll(None))
    assert ends.called == [READ | WRITE]


def test_what_is_watched_no_longer_is_not_called(ends: Ends) -> None:
    # Between the two, somebody else may have read what was there, and let the peer go.
    ends.theirs.send(b"x")
    found = ends.poller.poll(None)
    ends.poller.unregister(ends.ours)
    ends.poller.call(found)
    assert not ends.called
    assert ends.poller.ready() is False


def test_what_is_watched_anew_is_called_as_it_is_now(ends: Ends) -> None:
    ends.theirs.send(b"x")
    found = ends.poller.poll(None)
    ends.poller.unregister(ends.ours)
    later: list[int] = []
    ends.poller.register(ends.ours, READ, later.append)
    ends.poller.call(found)
    assert (ends.called, later) == ([], [READ])


def test_one_that_lets_another_go_is_not_followed_by_it(ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets = {ours.fileno(): ends.ours, ends.ours.fileno(): ours}
        called: list[int] = []

        def let_go_of_the_other(descriptor: int) -> None:
            called.append(descriptor)
            ends.poller.unregister(sockets[descriptor])

        ends.poller.register(ours, READ, lambda mask: let_go_of_the_other(ours.fileno()))
        ends.poller.modify(ends.ours, READ, lambda mask: let_go_of_the_other(ends.ours.fileno()))
        theirs.send(b"x")
        ends.theirs.send(b"x")
        found = ends.poller.poll(None)
        assert len(found) == 2
        ends.poller.call(found)
        assert len(called) == 1


def test_times_are_rounded_up_to_what_the_kernel_counts_in(ends: Ends) -> None:
    # With 0 in its place, who waits for a deadline would look for it again and again.
    given: list[float | None] = []

    class Epoll:
        def poll(self, timeout: float | None, most: int) -> list[tuple[int, int]]:
            given.append(timeout)
            return []

        def close(self) -> None:
            epoll.close()

    epoll = ends.poller._epoll
    ends.poller._epoll = Epoll()  # type: ignore[assignment]
    for timeout in (None, 0.0, 1e-9, 0.001, 0.00101):
        ends.poller.poll(timeout)
        ends.poller.wait(timeout)
    assert given == [None, None, 0.0, 0.0, 0.001, 0.001, 0.001, 0.001, 0.002, 0.002]


def test_a_descriptor_is_watched_once(ends: Ends) -> None:
    with pytest.raises(KeyError, match="registered already"):
        ends.poller.register(ends.ours, READ, ends.called.append)


def test_an_eventfd_wakes_who_polls(ends: Ends) -> None:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        ends.poller.register(descriptor, READ, lambda mask: ends.called.append(os.eventfd_read(descriptor)))
        os.eventfd_write(descriptor, 3)
        ends.poller.call(ends.poller.poll(None))
        assert ends.called == [3]
        assert ends.poller.poll(0) == []
        ends.poller.unregister(descriptor)
    finally:
        os.close(descriptor)
