"""The least time that one round trip can take on the way that tasks have, in Python.

As many processes and threads as in Throughway on one machine, and nothing but what passes a message on: the client
sends a pickle over a Unix socket, two processes that wait with epoll each hand it on, a third one unpickles it, calls
the function and answers; the answer comes back the same way to a thread of the client, which wakes the one that waits.
There are no queues, no batches, no identities, no records of who has what, and no error handling.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import statistics
import threading
import time
from typing import Any, NoReturn

from benchmarks.processes import CpuMeter
from benchmarks.tasks import echo

_LARGEST = 4096
_WARM = 500
_RELAYS = 2


def _relay(before: socket.socket, after: socket.socket) -> None:
    poller = select.epoll()
    others = {before.fileno(): (before, after), after.fileno(): (after, before)}
    for descriptor in others:
        poller.register(descriptor, select.EPOLLIN)
    while True:
        for descriptor, _ in poller.poll():
            source, target = others[descriptor]
            data = source.recv(_LARGEST)
            if not data:
                return
            target.send(data)


def _serve(connection: socket.socket) -> None:
    while data := connection.recv(_LARGEST):
        connection.send(pickle.dumps(echo(*pickle.loads(data)), 5))


def _chain(relays: int) -> tuple[socket.socket, list[int]]:
    """The client's end of a way through so many relays, and the processes on it."""
    first, last = socket.socketpair()
    children = []
    for position in range(relays + 1):
        here, there = socket.socketpair()
        child = os.fork()
        if child == 0:
            first.close()
            here.close()
            _end_with(lambda: _relay(last, there) if position < relays else _serve(last))  # noqa: B023
        children.append(child)
        last.close()
        there.close()
        last = here
    last.close()
    return first, children


def _end_with(work: Any) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def measure(root: int, *, seconds: float) -> dict[str, Any]:
    """Make round trips for about ``seconds``; median and 99th percentile in seconds."""
    connection, children = _chain(_RELAYS)
    arrived = threading.Lock()
    arrived.acquire()
    answers: list[int] = []

    def receive() -> None:
        poller = select.epoll()
        poller.register(connection, select.EPOLLIN)
        while True:
            poller.poll()
            data = connection.recv(_LARGEST)
            if not data:
                poller.close()
                return
            answers.append(pickle.loads(data))
            arrived.release()

    clock = time.perf_counter

    def trips(count: int) -> list[float]:
        times = []
        for value in range(count):
            began = clock()
            connection.send(pickle.dumps((value,), 5))
            arrived.acquire()
            times.append(clock() - began)
            if answers.pop() != value:
                raise RuntimeError(f"task {value} gave something else")
        return times

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        count = max(300, int(seconds / statistics.mean(trips(_WARM))))
        meter = CpuMeter(root, frozenset({children[-1]}))
        began = clock()
        times = trips(count)
        wall = clock() - began
        cpu = meter.read()
    finally:
        connection.shutdown(socket.SHUT_RDWR)
        for child in children:
            os.waitpid(child, 0)
        thread.join()
        connection.close()
    return {
        "round_trips": count,
        "median": statistics.median(times),
        "p99": statistics.quantiles(times, n=100)[98],
        "largest": max(times),
        "cpu_per_task": cpu.total / count,
        "foreign_cpu": cpu.foreign / wall,
    }
