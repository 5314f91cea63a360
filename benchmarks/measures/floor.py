"""The least CPU time that any task in another process can cost in Python.

Two processes and a Unix socket between them. For each task the one makes a future, pickles the arguments,
sends them and reads the answer, unpickles it and sets the future's result; the other reads, unpickles, calls
the function, pickles and sends. There is no queue, no identity, no error handling: nothing but what cannot be
left out.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from concurrent.futures import Future
from typing import Any

from benchmarks.processes import CpuMeter
from benchmarks.tasks import echo

_LARGEST = 4096


def _serve(connection: socket.socket) -> None:
    receive, send, loads, dumps = connection.recv, connection.send, pickle.loads, pickle.dumps
    while data := receive(_LARGEST):
        arguments, keywords = loads(data)
        send(dumps(echo(*arguments, **keywords), 5))


def _client(connection: socket.socket, tasks: int, window: int) -> float:
    receive, send, loads, dumps = connection.recv, connection.send, pickle.loads, pickle.dumps
    began = time.perf_counter()
    total = 0
    for start in range(0, tasks, window):
        futures = []
        for value in range(start, start + window):
            future: Future[int] = Future()
            futures.append(future)
            send(dumps(((value,), {}), 5))
        for future in futures:
            future.set_result(loads(receive(_LARGEST)))
        for future in futures:
            total += future.result()
    took = time.perf_counter() - began
    tasks = len(range(0, tasks, window)) * window
    if total != tasks * (tasks - 1) // 2:
        raise RuntimeError("the results are wrong")
    return took


def measure(root: int, *, seconds: float, window: int) -> dict[str, Any]:
    """CPU seconds for each task, both processes together, with so many tasks on their way at a time.

    With a window of 1 each task is one round trip on its own, and both processes wait and wake for it.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            here.close()
            _serve(there)
            status = 0
        finally:
            os._exit(status)
    there.close()
    try:
        trial = _client(here, 64 * window, window) and _client(here, 2048, window)
        tasks = max(2048, int(2048 * seconds / trial)) // window * window
        meter = CpuMeter(root, frozenset({child}))
        began = time.perf_counter()
        took = _client(here, tasks, window)
        wall = time.perf_counter() - began
        cpu = meter.read()
    finally:
        here.close()
        os.waitpid(child, 0)
    return {
        "tasks": tasks,
        "rate": tasks / took,
        "cpu_per_task": (cpu.by_process[os.getpid()] + cpu.by_process[child]) / tasks,
        "cpu_per_task_by_role": {
            "client": cpu.by_process[os.getpid()] / tasks,
            "worker": cpu.by_process[child] / tasks,
        },
        "foreign_cpu": cpu.foreign / wall,
    }
