"""What a manager and its workers say to each other over pipes, on one node and within one installation.

To a worker: framed messages (`transport.framing`) of the union `ToWorker`, then the tasks' large frames. From a
worker: records (`transport.records`), one for each ended task, and a few others that take a `Mark` for their outcome.

Each worker has a counter of claims (an eventfd in semaphore mode). The manager adds one for each task of a bundle
before it sends the bundle; a worker takes one before it starts a task, and discards the rest of its bundle when there
is none. So a manager takes unstarted tasks back by taking claims: the kernel lets only one of the two have each.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from throughway.protocol.messages import Function, Task


class Bundle(msgspec.Struct, array_like=True, tag=1):
    """Tasks to run one after the other, functions that the worker does not know yet, and some to forget."""

    tasks: list[Task]
    functions: list[Function] = []
    forget: list[int] = []


class Stop(msgspec.Struct, array_like=True, tag=2):
    """End after the tasks that were sent before."""


ToWorker = Bundle | Stop


class Mark(IntEnum):
    """Records that are no task's outcome."""

    READY = 200
    """the worker stands: its initializer has run; payload: its process id, four bytes, little-endian"""
    DISCARDED = 201
    """the rest of a bundle was found taken back, and dropped"""
    INITIALIZER_FAILED = 202
    """payload: an exception record; the worker ends"""


class Spawn(msgspec.Struct, tag="spawn"):
    """Manager to zygote, with four descriptors: fork a worker."""

    worker: int
    slot: int
    title: str
    log: str
    environment: dict[str, str]
    affinity: list[int]
    host: str
    manager: str


class Setup(msgspec.Struct, tag="setup"):
    """Manager to zygote, before all else: what all workers have in common.

    A part of the encoded `WorkerConfig`, since the initializer's arguments may be larger than a message can be.
    """

    part: bytes
    last: bool


class Dismissal(msgspec.Struct, tag="dismissal"):
    """Manager to zygote, at last: the manager ends. A socket that ends without it means that the manager has died.

    Where the interchange does not know that it ends, ``obituary`` is what to tell it.
    """

    obituary: str = ""


class Spawned(msgspec.Struct, tag="spawned"):
    """Zygote to manager: the worker runs as this process."""

    worker: int
    pid: int


class Exited(msgspec.Struct, tag="exited"):
    """Zygote to manager: the worker's process has ended. ``status`` is that of `os.waitpid`.

    With ``unforked`` there never was a process, and that says why.
    """

    worker: int
    pid: int
    status: int
    unforked: str = ""


ToZygote = Spawn | Setup | Dismissal
FromZygote = Spawned | Exited
