"""The lives of managers, tasks, workers and futures, as tables: state → event → next state.

Nothing is driven by these tables. The reactors keep what they need in records of their own; the tests derive each
entity's state from those records before and after every step, and hold every change against the tables. The diagrams
in the documentation are generated from them. An event that a state does not list leaves that state as it is.

Each state and event is an enumeration's member whose value says what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

Table: TypeAlias = Mapping[Any, Mapping[Any, Any]]


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The life of one kind of entity."""

    name: str
    sight: str
    """whose view of it this is"""
    initial: Enum
    ends: frozenset[Enum]
    """states in which it may stay for ever"""
    table: Table

    def after(self, state: Any, event: Any) -> Any:
        """The state that follows."""
        return self.table.get(state, {}).get(event, state)

    def states(self) -> list[Any]:
        """All states, the initial one first."""
        return list(type(self.initial))

    def transitions(self) -> set[tuple[Any, Any, Any]]:
        """All triples of state, event and next state."""
        return {
            (state, event, target) for state, events in self.table.items() for event, target in events.items()
        }


# ------------------------------------------------------------------------------------------------------------- managers


class ManagerState(Enum):
    """A manager as the interchange sees it."""

    NEW = "has not introduced itself"
    OPEN = "registered: is given tasks as long as it has room"
    HELD = "is given nothing until it is released"
    DRAINING = "is given nothing any more, and finishes what it has"
    ABSENT = "has no connection, and is given nothing until it comes back"
    ABSENT_HELD = "the same, and is held when it comes back"
    ABSENT_DRAINING = "the same, and drains when it comes back"
    LEFT = "went by itself, with nothing left"
    LOST = "is given up: each task that may have started there is reported as lost, and what it still says is dropped"
    REFUSED = "was turned away, with the reason"


class ManagerEvent(Enum):
    """What changes a manager's state."""

    EXPECT = "the executor tells that a former interchange had it"
    EXPECT_HELD = "the same, and that it is held"
    WELCOME = "its hello fits, whether it comes for the first time or back"
    WELCOME_DRAINING = "its hello fits, and it drains: so it says, or its block is scaled in"
    REFUSE = "its hello does not fit: protocol, Python version, id, sizes; it was given up; or the run ends"
    HOLD = "the executor holds it"
    RELEASE = "the executor releases it"
    DRAIN = "the executor drains it, its time is over, or it says that it drains"
    LEAVE = "it says that it leaves"
    FAIL = "it says that it leaves, since no worker gets ready there"
    CUT = "its connection to another machine breaks"
    CLOSE = "its connection ends, and its process is gone with it"
    DIED = "another process of its node tells that it is dead"
    SILENCE = "it is silent, or away, for longer than it may be: less where the provider says that its job has ended"


_LOST: Mapping[ManagerEvent, ManagerState] = {
    ManagerEvent.CLOSE: ManagerState.LOST,
    ManagerEvent.SILENCE: ManagerState.LOST,
}
_LOST_WHILE_ABSENT: Mapping[ManagerEvent, ManagerState] = {
    ManagerEvent.DIED: ManagerState.LOST,
    ManagerEvent.SILENCE: ManagerState.LOST,
}

MANAGER = Lifecycle(
    "manager",
    "as the interchange sees it",
    ManagerState.NEW,
    frozenset({ManagerState.LEFT, ManagerState.LOST, ManagerState.REFUSED}),
    {
        ManagerState.NEW: {
            ManagerEvent.EXPECT: ManagerState.ABSENT,
            ManagerEvent.EXPECT_HELD: ManagerState.ABSENT_HELD,
            ManagerEvent.WELCOME: ManagerState.OPEN,
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            ManagerEvent.REFUSE: ManagerState.REFUSED,
        },
        ManagerState.OPEN: {
            ManagerEvent.HOLD: ManagerState.HELD,
            ManagerEvent.DRAIN: ManagerState.DRAINING,
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            ManagerEvent.CUT: ManagerState.ABSENT,
            **_LOST,
        },
        ManagerState.HELD: {
            ManagerEvent.RELEASE: ManagerState.OPEN,
            ManagerEvent.DRAIN: ManagerState.DRAINING,
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            ManagerEvent.CUT: ManagerState.ABSENT_HELD,
            **_LOST,
        },
        ManagerState.DRAINING: {
            ManagerEvent.LEAVE: ManagerState.LEFT,
            ManagerEvent.FAIL: ManagerState.LOST,
            ManagerEvent.CUT: ManagerState.ABSENT_DRAINING,
            **_LOST,
        },
        ManagerState.ABSENT: {
            ManagerEvent.WELCOME: ManagerState.OPEN,
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            ManagerEvent.HOLD: ManagerState.ABSENT_HELD,
            ManagerEvent.DRAIN: ManagerState.ABSENT_DRAINING,
            **_LOST_WHILE_ABSENT,
        },
        ManagerState.ABSENT_HELD: {
            ManagerEvent.WELCOME: ManagerState.HELD,
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            ManagerEvent.RELEASE: ManagerState.ABSENT,
            ManagerEvent.DRAIN: ManagerState.ABSENT_DRAINING,
            **_LOST_WHILE_ABSENT,
        },
        ManagerState.ABSENT_DRAINING: {
            ManagerEvent.WELCOME_DRAINING: ManagerState.DRAINING,
            **_LOST_WHILE_ABSENT,
        },
    },
)


# ---------------------------------------------------------------------------------------------------------------- tasks


class TaskState(Enum):
    """A task as the interchange sees it."""

    NEW = "was never here"
    QUEUED = "waits at the interchange"
    ASSIGNED = "is at a manager, or on its way there or back"
    ASSIGNED_CANCELLING = "the same, and the manager is asked not to start it"
    RUNNING = "runs, as its manager told; of short tasks it does not tell"
    RUNNING_CANCELLING = "the same, and the manager is asked to end it"
    SETTLED = (
        "its end was passed on to the executor: a result, cancelled, or lost; or it was handed back to it"
    )


class TaskEvent(Enum):
    """What changes a task's state."""

    EXPECT = "the executor tells that a former interchange had sent it to a manager"
    SUBMIT = "the executor submits it, for the first time or for another try"
    ASSIGN = "it is assigned to a manager with room"
    STARTED = "its manager tells that it has been running for a moment"
    RESULT = "its manager reports its outcome"
    RETURNED = "its manager gives it back unstarted"
    CANCEL = "the executor cancels or kills it"
    CANCELLED = "its manager tells that it will never run"
    REFUSED = "its manager tells that it runs, or has ended"
    LEFT = "its manager left before it saw the task"
    MISSING = "its manager came back, and never saw the task or gave it back"
    HANDED_BACK = (
        "the same, or it is given back unstarted, where only the executor knows more than its number"
    )
    LOST = "its manager is lost"


TASK = Lifecycle(
    "task",
    "as the interchange sees it",
    TaskState.NEW,
    frozenset({TaskState.SETTLED}),
    {
        TaskState.NEW: {
            TaskEvent.SUBMIT: TaskState.QUEUED,
            TaskEvent.EXPECT: TaskState.ASSIGNED,
        },
        TaskState.QUEUED: {
            TaskEvent.ASSIGN: TaskState.ASSIGNED,
            TaskEvent.CANCEL: TaskState.SETTLED,
        },
        TaskState.ASSIGNED: {
            TaskEvent.STARTED: TaskState.RUNNING,
            TaskEvent.RESULT: TaskState.SETTLED,
            TaskEvent.RETURNED: TaskState.QUEUED,
            TaskEvent.CANCEL: TaskState.ASSIGNED_CANCELLING,
            TaskEvent.LEFT: TaskState.QUEUED,
            TaskEvent.MISSING: TaskState.QUEUED,
            TaskEvent.HANDED_BACK: TaskState.SETTLED,
            TaskEvent.LOST: TaskState.SETTLED,
        },
        TaskState.ASSIGNED_CANCELLING: {
            TaskEvent.STARTED: TaskState.RUNNING_CANCELLING,
            TaskEvent.RESULT: TaskState.SETTLED,
            TaskEvent.RETURNED: TaskState.SETTLED,
            TaskEvent.CANCELLED: TaskState.SETTLED,
            TaskEvent.REFUSED: TaskState.ASSIGNED,
            TaskEvent.LEFT: TaskState.SETTLED,
            TaskEvent.MISSING: TaskState.SETTLED,
            TaskEvent.LOST: TaskState.SETTLED,
        },
        # A manager takes a task that its worker has had for a moment for running. Now and then the worker has not
        # claimed it after all, and the task comes back.
        TaskState.RUNNING: {
            TaskEvent.RESULT: TaskState.SETTLED,
            TaskEvent.RETURNED: TaskState.QUEUED,
            TaskEvent.MISSING: TaskState.QUEUED,
            TaskEvent.HANDED_BACK: TaskState.SETTLED,
            TaskEvent.CANCEL: TaskState.RUNNING_CANCELLING,
            TaskEvent.LOST: TaskState.SETTLED,
        },
        TaskState.RUNNING_CANCELLING: {
            TaskEvent.RESULT: TaskState.SETTLED,
            TaskEvent.RETURNED: TaskState.SETTLED,
            TaskEvent.CANCELLED: TaskState.SETTLED,
            TaskEvent.REFUSED: TaskState.RUNNING,
            TaskEvent.MISSING: TaskState.SETTLED,
            TaskEvent.LOST: TaskState.SETTLED,
        },
        TaskState.SETTLED: {TaskEvent.SUBMIT: TaskState.QUEUED},
    },
)


# -------------------------------------------------------------------------------------------------------------- workers


class WorkerState(Enum):
    """A worker as its manager sees it."""

    STARTING = "its process starts, and runs the initializer"
    IDLE = "waits for work"
    BUSY = "has tasks: it runs the first, and the others are its to claim"
    DISCARDING = (
        "tasks were taken back from it; it ends what it has claimed and drops the rest of its bundles"
    )
    STOPPING = "is given nothing any more: it ends by itself, or is being killed"
    ENDED = "its process is gone"


class WorkerEvent(Enum):
    """What changes a worker's state."""

    READY = "it tells that it is ready"
    INITIALIZER_FAILED = "it tells that the initializer raised"
    GIVEN = "it is given a bundle of tasks"
    REVOKED = "tasks that it had not claimed were taken back"
    LAST_RESULT = "the last of its tasks has ended"
    SPENT = "the last of all the tasks that it may run has ended (max_tasks_per_child)"
    CLEARED = "it tells that the last bundle with revoked tasks is dropped"
    KILLED = "it is to die: for the task that it runs, or because what it writes makes no sense"
    EXITED = "its process is gone, for whatever reason"


WORKER = Lifecycle(
    "worker",
    "as its manager sees it",
    WorkerState.STARTING,
    frozenset({WorkerState.ENDED}),
    {
        WorkerState.STARTING: {
            WorkerEvent.READY: WorkerState.IDLE,
            WorkerEvent.INITIALIZER_FAILED: WorkerState.STOPPING,
            WorkerEvent.KILLED: WorkerState.STOPPING,
            WorkerEvent.EXITED: WorkerState.ENDED,
        },
        WorkerState.IDLE: {
            WorkerEvent.GIVEN: WorkerState.BUSY,
            WorkerEvent.KILLED: WorkerState.STOPPING,
            WorkerEvent.EXITED: WorkerState.ENDED,
        },
        WorkerState.BUSY: {
            WorkerEvent.LAST_RESULT: WorkerState.IDLE,
            WorkerEvent.SPENT: WorkerState.STOPPING,
            WorkerEvent.REVOKED: WorkerState.DISCARDING,
            WorkerEvent.KILLED: WorkerState.STOPPING,
            WorkerEvent.EXITED: WorkerState.ENDED,
        },
        WorkerState.DISCARDING: {
            WorkerEvent.CLEARED: WorkerState.IDLE,
            WorkerEvent.KILLED: WorkerState.STOPPING,
            WorkerEvent.EXITED: WorkerState.ENDED,
        },
        WorkerState.STOPPING: {WorkerEvent.EXITED: WorkerState.ENDED},
    },
)


# -------------------------------------------------------------------------------------------------------------- futures


class FutureState(Enum):
    """A future; the names are those of `concurrent.futures`."""

    PENDING = "its task waits, somewhere"
    RUNNING = "its task runs, as its manager told; after a retry, it did so once"
    FINISHED = "it holds the result or the exception"
    CANCELLED_AND_NOTIFIED = "its task never runs, or not again; whoever waited was told"


class FutureEvent(Enum):
    """What changes a future's state."""

    STARTED = "the task has been running for a moment"
    VALUE = "the function returned"
    ERROR = "the function raised, or the task was lost without a retry left, or killed, or out of time"
    CANCELLED = "whoever had the task tells that it will never run"


FUTURE = Lifecycle(
    "future",
    "as its user sees it",
    FutureState.PENDING,
    frozenset({FutureState.FINISHED, FutureState.CANCELLED_AND_NOTIFIED}),
    {
        FutureState.PENDING: {
            FutureEvent.STARTED: FutureState.RUNNING,
            FutureEvent.VALUE: FutureState.FINISHED,
            FutureEvent.ERROR: FutureState.FINISHED,
            FutureEvent.CANCELLED: FutureState.CANCELLED_AND_NOTIFIED,
        },
        FutureState.RUNNING: {
            FutureEvent.VALUE: FutureState.FINISHED,
            FutureEvent.ERROR: FutureState.FINISHED,
            FutureEvent.CANCELLED: FutureState.CANCELLED_AND_NOTIFIED,
        },
    },
)

LIFECYCLES = (FUTURE, TASK, MANAGER, WORKER)
