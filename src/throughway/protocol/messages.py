"""Every message on the wires between executor, interchange and manager: the one place that defines them.

A message is one header frame, a MessagePack-encoded struct of one of the closed unions below, followed by payload
frames that the interchange forwards and never opens. Headers are arrays (positional), hellos are maps, so that a peer
of another version can still be told why it is refused. See `version` for the rule about changes.

=====================  ============================  ==========================================================
direction              union                         payload frames
=====================  ============================  ==========================================================
executor → interchange `FromExecutor`                `Submit`: each task's large frames, in order of the tasks
interchange → executor `ToExecutor`                  `Results`: a body (`ResultBody`), then large frames
interchange → manager  `ToManager`                   `Assign`: as `Submit`
manager → interchange  `FromManager`                 `Results`: as above
=====================  ============================  ==========================================================
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec

# --------------------------------------------------------------------------------------------------- what moves


class Function(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A serialised function, sent once to each manager that runs a task of it."""

    id: int
    name: str
    payload: bytes


class Task(msgspec.Struct, array_like=True, gc=False):
    """A call: which function, its pickled arguments, and what routing must know about it.

    ``frames`` counts the large payload frames (protocol-5 buffers) that follow the header for this task. Where it is
    less than 0, none follow: it is minus their place in the memory that executor and workers share (`transport.arena`).
    ``walltime`` is in seconds, 0 for none; a lower ``priority`` runs sooner.
    """

    id: int
    function: int
    payload: bytes
    frames: int = 0
    priority: int = 0
    # Not a plain float: 0 is decoded to an int that all tasks share, 0.0 to an object for each of a million.
    walltime: int | float = 0


class Outcome(IntEnum):
    """How a task ended, as one byte for each task of a `Results`. The payload's form depends on it."""

    VALUE = 0
    """pickled return value"""
    EXCEPTION = 1
    """`serialize.exceptions` record of the exception that the function raised"""
    FAILED = 2
    """the same record, but of a fault around the call: arguments, result or function could not be (un)pickled"""
    WORKER_LOST = 3
    """MessagePack `Loss`: the worker died while it ran the task"""
    WALLTIME = 4
    """MessagePack `Loss`: killed at its walltime"""
    KILLED = 5
    """MessagePack `Loss`: killed at the user's request"""
    MANAGER_LOST = 6
    """MessagePack `Loss`: the interchange lost the manager that had it"""


class Loss(msgspec.Struct, omit_defaults=True):
    """What is known about a task that ended without an answer of its own."""

    host: str = ""
    manager: str = ""
    worker: int = -1
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    log: str = ""
    stderr: str = ""
    started: bool = True
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------ executor → interchange


class Submit(msgspec.Struct, array_like=True, tag=1):
    """Tasks to run, the functions they are the first to need, and functions that nothing needs any more."""

    tasks: list[Task]
    functions: list[Function] = []
    forget: list[int] = []
    received: dict[str, int] = {}
    """manager id → the number of its last `Results` that the executor has; for managers of which that is news"""


class Cancel(msgspec.Struct, array_like=True, tag=2):
    """Tasks that must not start; with ``kill``, that must end even if they run. Answered by `Verdicts`."""

    tasks: list[int]
    kill: bool = False


class Ask(msgspec.Struct, array_like=True, tag=4):
    """A question of an executor or an observer, answered by one `Answer` with the same ``request``."""

    request: int
    topic: str
    subject: str = ""


class Shutdown(msgspec.Struct, array_like=True, tag=5):
    """End: the interchange passes it on to all managers, which end their workers, and all exit."""

    reason: str = ""


class Expected(msgspec.Struct, array_like=True):
    """A manager that a former interchange had: ``tasks`` may be with it, ``received`` is the number of its last
    `Results` that the executor has."""

    manager: str
    host: str
    block: str
    tasks: list[int]
    received: int = 0
    held: bool = False


class Restore(msgspec.Struct, array_like=True, tag=23):
    """The executor's first message to an interchange: whether there was another before it (``again``), which managers
    that one had, and which were given up lately."""

    again: bool = False
    managers: list[Expected] = []
    lost: list[str] = []


GIVEN_UP = 1 << 62
"""Where the number of a manager's `Results` is expected: the executor knows what was lost with it."""


class Acknowledge(msgspec.Struct, array_like=True, tag=24):
    """Results that the executor has: ``received`` is as in `Submit`."""

    received: dict[str, int]


# ------------------------------------------------------------------------------------------ manager → interchange


class AnyHello(msgspec.Struct):
    """What every first message has had, and will have, in every version."""

    protocol: int


class ManagerHello(msgspec.Struct, tag="manager"):
    """How a manager introduces itself. Map-encoded: readable across protocol versions."""

    protocol: int
    id: str
    host: str
    block: str
    pid: int
    python: str
    version: str
    workers: int
    capacity: int
    cores: int
    memory: int
    """bytes"""
    started: float
    """seconds since the epoch"""
    ends_in: float | None = None
    """seconds until it drains by itself, None for never"""
    log: str = ""
    again: bool = False
    """whether it was registered before, under this id"""
    held: list[int] = []
    """tasks that it has: waiting, running, or about to"""
    ended: list[tuple[int, list[int]]] = []
    """the `Results` that it keeps, as the executor has not acknowledged them: number, and tasks"""
    functions: list[int] = []
    """functions that it knows"""
    draining: str | None = None
    """why it takes nothing new"""
    given: int = -1
    """its descriptor of the notes of what it has given to workers (`transport.assignments`), for an interchange on the
    same machine to read once it is dead; -1 for none"""
    shares: bool = False
    """whether its workers read the executor's shared memory (`transport.arena`): others are sent what is there"""


class Results(msgspec.Struct, array_like=True, tag=6):
    """Ended tasks. ``outcomes`` holds one `Outcome` byte for each of ``tasks``.

    ``frames`` maps an index into ``tasks`` to its number of large frames, where there are any. ``capacity`` is how
    many tasks the manager is ready to hold from now on, queued and running. ``busy`` are seconds of running time.

    The manager keeps the message until it hears that the executor has it: ``number`` counts these messages of a manager
    from 1. With ``waiting`` it cannot go on, or cannot leave, before it hears so.
    """

    manager: str
    capacity: int
    tasks: list[int]
    outcomes: bytes
    workers: list[int]
    frames: dict[int, int] = {}
    busy: float = 0.0
    number: int = 0
    waiting: bool = False


class Started(msgspec.Struct, array_like=True, tag=7):
    """Tasks that have been running for a moment: ``workers[i]`` runs ``tasks[i]``."""

    manager: str
    tasks: list[int]
    workers: list[int]


class Verdicts(msgspec.Struct, array_like=True, tag=8):
    """The answer to `Cancel`: these never run; those are running, done or unknown."""

    cancelled: list[int]
    refused: list[int]


class Returned(msgspec.Struct, array_like=True, tag=9):
    """Tasks that a manager gives back unstarted, because they would wait for long with it.

    To the executor: tasks that never reached the manager, and of which this interchange knows no more than the number.
    """

    manager: str
    tasks: list[int]
    capacity: int


class Draining(msgspec.Struct, array_like=True, tag=10):
    """The manager takes nothing new, finishes what it has, and leaves."""

    manager: str
    reason: str


class Leaving(msgspec.Struct, array_like=True, tag=11):
    """The manager's last message: it has nothing left, and goes; ``failed``, because no worker can be had there.

    ``worked`` says that one had got ready there before.
    """

    manager: str
    reason: str
    failed: bool = False
    worked: bool = False


class Heartbeat(msgspec.Struct, array_like=True, tag=12):
    """Fills silence, in either direction. The executor's is answered by one at once."""


class ManagerDied(msgspec.Struct, tag="obituary"):
    """A first message instead of a hello: a manager's zygote tells that the manager's process is gone."""

    protocol: int
    manager: str
    reason: str
    given: list[int] | None = None
    """the tasks that it had ever given to workers, and no others can have started; None where that is not known"""


class Broken(msgspec.Struct, array_like=True, tag=14):
    """Workers cannot work at all (their initializer raised): ``record`` is a `serialize.exceptions` record."""

    manager: str
    reason: str
    record: bytes


# ------------------------------------------------------------------------------------------ interchange → manager


class Welcome(msgspec.Struct, tag="welcome"):
    """The manager is registered. Map-encoded, as the hello."""

    protocol: int
    heartbeat_period: float
    heartbeat_threshold: float
    received: int = 0
    """the number of its last `Results` that the executor is known to have: it keeps those after it"""
    seen: int = 0
    """the number of its last `Results` that came here: it sends those after it again"""


class Refused(msgspec.Struct, tag="refused"):
    """The manager is not welcome, and why. Map-encoded, as the hello."""

    reason: str
    again: bool = False
    """whether it is welcome under a new id: it was given up, and what it has is settled"""


class Assign(msgspec.Struct, array_like=True, tag=15):
    """Tasks to run; as `Submit`. ``received`` is the number of the manager's last `Results` that the executor has."""

    tasks: list[Task]
    functions: list[Function] = []
    forget: list[int] = []
    received: int = 0


decode_tasks = msgspec.msgpack.Decoder(list[Task]).decode
"""The tasks of an `Assign` by themselves."""


class PackedAssign(msgspec.Struct, array_like=True, tag=15):
    """The same message for its sender, who has encoded the tasks already."""

    packed: msgspec.Raw
    functions: list[Function] = []
    forget: list[int] = []
    received: int = 0

    @property
    def tasks(self) -> list[Task]:
        """Decoded anew."""
        return decode_tasks(self.packed)


class Acknowledged(msgspec.Struct, array_like=True, tag=25):
    """The executor has this manager's `Results` up to this number."""

    received: int


class Drain(msgspec.Struct, array_like=True, tag=16):
    """Take nothing new, finish, leave."""

    reason: str = ""


# ------------------------------------------------------------------------------------------ interchange → executor


class ManagerJoined(msgspec.Struct, array_like=True, tag=18):
    """A manager registered."""

    manager: str
    host: str
    block: str
    workers: int


class ManagerLeft(msgspec.Struct, array_like=True, tag=19):
    """A manager is gone: drained (``lost`` false) or lost, and why. Its tasks' fates follow as `Lost`.

    ``failed`` says that no worker ever got ready there, however long it was registered.
    """

    manager: str
    host: str
    block: str
    reason: str
    lost: bool
    failed: bool = False


class ManagerRefused(msgspec.Struct, array_like=True, tag=20):
    """A manager was turned away, and why."""

    host: str
    block: str
    reason: str


class Lost(msgspec.Struct, array_like=True, tag=21):
    """Tasks whose manager is gone: any of them may have run, or be running still."""

    manager: str
    host: str
    reason: str
    log: str
    tasks: list[int]


class Stranded(msgspec.Struct, array_like=True, tag=30):
    """Workers are idle and tasks wait, whose walltimes are longer than what any of those managers has left."""


class Listening(msgspec.Struct, array_like=True, tag=3):
    """The interchange's first message: it is up, and managers of other machines reach it at this port."""

    port: int | None


class Answer(msgspec.Struct, array_like=True, tag=22):
    """The answer to an `Ask`: ``payload`` is the MessagePack form of what the topic documents (`views`)."""

    request: int
    payload: bytes
    error: str = ""


# ------------------------------------------------------------------------------------------------- observers


class ObserverHello(msgspec.Struct, tag="observer"):
    """A `throughway status` that watches a run over its local socket."""

    protocol: int


FromExecutor: TypeAlias = Restore | Submit | Cancel | Ask | Shutdown | Acknowledge | Heartbeat
FromManager: TypeAlias = (
    Results | Started | Verdicts | Returned | Draining | Leaving | Heartbeat | Broken | Answer
)
Hello: TypeAlias = ManagerHello | ObserverHello | ManagerDied
Greeting: TypeAlias = Welcome | Refused
ToManager: TypeAlias = Assign | Acknowledged | Cancel | Drain | Heartbeat | Ask | Shutdown
ToExecutor: TypeAlias = (
    Results
    | Started
    | Verdicts
    | ManagerJoined
    | ManagerLeft
    | ManagerRefused
    | Lost
    | Broken
    | Stranded
    | Listening
    | Returned
    | Heartbeat
    | Answer
)
Message: TypeAlias = FromExecutor | FromManager | Hello | Greeting | ToManager | ToExecutor | PackedAssign
