"""Ends of wires of every kind, and a check that every test gives back libzmq's threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.transport.ends import Ends
from tests.waiting import wait_until
from throughway.testing.memory_wire import MemoryNetwork
from throughway.transport.curve import CurveKeys
from throughway.transport.unix import UnixWire, listening_socket
from throughway.transport.zeromq import ZmqConnector, ZmqListener


@pytest.fixture(scope="session")
def manager_keys() -> CurveKeys:
    return CurveKeys.generate()


@pytest.fixture(scope="session")
def interchange_keys() -> CurveKeys:
    return CurveKeys.generate()


@pytest.fixture
def make_ends(
    tmp_path: Path, manager_keys: CurveKeys, interchange_keys: CurveKeys
) -> Iterator[Callable[..., Ends]]:
    """Makes `Ends` of a kind: ``unix``, ``pair``, ``zeromq``, ``curve`` or ``memory``; limits go to every wire."""
    made: list[Ends] = []

    def make(kind: str, **limits: Any) -> Ends:
        if kind == "unix":
            path = str(tmp_path / f"wire-{len(made)}")
            listener = UnixWire.listen(listening_socket(path), **limits)
            ends = Ends(kind, listener, lambda: UnixWire.connect(path, **limits), path)
        elif kind == "pair":
            ours, theirs = socket.socketpair()
            ends = Ends(kind, UnixWire.over(ours, **limits), lambda: UnixWire.over(theirs, **limits))
        elif kind == "zeromq":
            plain = ZmqListener(**limits)
            endpoint = f"tcp://127.0.0.1:{plain.port}"
            ends = Ends(kind, plain, lambda: ZmqConnector(endpoint, **limits), endpoint)
        elif kind == "curve":
            safe = ZmqListener(keys=interchange_keys, allowed={manager_keys.public: "manager"}, **limits)
            safe_endpoint = f"tcp://127.0.0.1:{safe.port}"
            known = interchange_keys.public
            ends = Ends(
                kind,
                safe,
                lambda: ZmqConnector(safe_endpoint, keys=manager_keys, listener_key=known, **limits),
                safe_endpoint,
            )
        else:
            network = MemoryNetwork()
            ends = Ends(kind, network.listen("wire", **limits), lambda: network.connect("wire", **limits))
        made.append(ends)
        return ends

    yield make
    for ends in made:
        ends.close()


@pytest.fixture(scope="session")
def zero_copy() -> None:
    """Has pyzmq open what it keeps for all of a process's life, when the first large frame is sent."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://large")
        other.connect("inproc://large")
        one.send(bytes(1 << 20), copy=False)
        other.recv()
    context.term()


@pytest.fixture(autouse=True)
def native_threads(zero_copy: None) -> Iterator[None]:
    """libzmq's threads, which Python does not count, are given back."""

    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    before = count()
    yield
    wait_until(lambda: count() <= before, what="libzmq's threads to end")
