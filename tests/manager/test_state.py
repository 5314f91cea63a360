from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from tests.manager.harness import frames_of, function, task
from throughway.manager.state import ManagerState, WorkerRecord


@pytest.fixture
def state() -> ManagerState:
    """A manager with a task that waits, a worker that has two, and one that has none."""
    state = ManagerState("m1", "node1", "0", "/logs", 2)
    state.functions[1] = function(1)
    state.queue.push([task(1)])
    busy = WorkerRecord(
        0, 0, ready=True, pending=deque([task("2+1"), task(3)]), bundles=deque([1, 1]), functions={1}
    )
    state.workers = {0: busy, 1: WorkerRecord(1, 1, ready=True)}
    state.holders = {2: busy, 3: busy}
    state.frames = {2: frames_of(task("2+1"))}
    state.idle = {1: state.workers[1]}
    return state


def test_a_state_that_agrees_with_itself(state: ManagerState) -> None:
    state.sanity_check()
    assert state.held == 3


def test_the_log_of_a_worker_is_that_of_its_slot(state: ManagerState) -> None:
    assert state.worker_log(7) == "/logs/worker-7.log"


BREAKS: dict[str, Callable[[ManagerState], object]] = {
    "a worker under another number": lambda state: state.workers.update({5: state.workers.pop(1)}),
    "bundles that do not add up": lambda state: state.workers[0].bundles.append(1),
    "an idle worker that is not listed": lambda state: state.idle.clear(),
    "an idle worker that is busy": lambda state: state.idle.update({0: state.workers[0]}),
    "a task that is given and waits": lambda state: state.queue.push([task(2)]),
    "a task without its holder": lambda state: state.holders.pop(2),
    "a holder that has no such task": lambda state: state.holders.update({9: state.workers[1]}),
    "a holder that is another": lambda state: state.holders.update({2: state.workers[1]}),
    "a function that its worker does not know": lambda state: state.workers[0].functions.clear(),
    "a stuck worker that is gone": lambda state: state.stuck.add(9),
    "frames of a task that is gone": lambda state: state.frames.update({9: []}),
    "two workers in one slot": lambda state: setattr(state.workers[1], "slot", 0),
    "a cut bundle that nobody reports": lambda state: setattr(state.workers[0], "cut", True),
    "a queue out of order": lambda state: state.queue.waiting.clear(),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_state_that_disagrees_with_itself_is_found_out(state: ManagerState, what: str) -> None:
    BREAKS[what](state)
    with pytest.raises((AssertionError, KeyError)):
        state.sanity_check()


@pytest.mark.parametrize(
    "reason",
    [
        {"ready": False},
        {"pending": deque([task(1)])},
        {"discards": 1},
        {"stopping": True},
        {"left": 0},
    ],
)
def test_a_worker_is_available_unless_something_stands_against_it(reason: dict[str, object]) -> None:
    assert WorkerRecord(0, 0, ready=True, left=3).available
    fields: dict[str, object] = {"ready": True, **reason}
    assert not WorkerRecord(0, 0, **fields).available  # type: ignore[arg-type]
