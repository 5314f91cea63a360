"""What a task costs does not depend on how many managers there are, nor on how many tasks wait.

Costs are counted in executed bytecodes, which are the same on every machine and at every load.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from tests.interchange.harness import PYTHON, hello
from throughway.interchange.actions import Send
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import BlockPackingSelector, LeastLoadedSelector, RandomSelector
from throughway.interchange.state import InterchangeState
from throughway.protocol import messages as m

FEW, MANY = 8, 8192
SHORT, LONG = 1_000, 1_000_000
STEPS = 200
BATCH = 8
"""Tasks in each message."""

ALLOWED = 1.3


def bytecodes(run: Callable[[], object]) -> int:
    """How many bytecodes ``run`` executes in Python functions."""
    return _monitored(run) if sys.version_info >= (3, 12) else _traced(run)


def _monitored(run: Callable[[], object]) -> int:
    # From Python 3.12 on; there a second trace of bytecodes sees none.
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool = monitoring.PROFILER_ID
    counter = itertools.count()
    monitoring.use_tool_id(tool, "bytecodes")
    try:
        monitoring.register_callback(
            tool, monitoring.events.INSTRUCTION, lambda code, offset: next(counter) and None
        )
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        run()
        monitoring.set_events(tool, 0)
    finally:
        monitoring.free_tool_id(tool)
    return next(counter)


def _traced(run: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


class Hall:
    """Many managers around a reactor, without a bench: what it says is only read to know which tasks are where."""

    def __init__(self, selector: Any = RandomSelector) -> None:
        arguments = {"seed": 1} if selector is RandomSelector else {}
        self.state = InterchangeState("run", "label", 0.0, selector(**arguments), selector(**arguments))
        self.reactor = InterchangeReactor(
            self.state, python=PYTHON, heartbeat_period=1e6, heartbeat_threshold=1e7
        )
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.assigned: dict[int, list[int]] = {}
        self.spent = 0
        self.executor(m.Restore())
        self.executor(m.Submit([], [m.Function(1, "f", b"")]))

    def join(self, count: int, **options: Any) -> None:
        for peer in range(1, count + 1):
            self.assigned[peer] = []
            self.reactor.manager_said_hello(
                peer, hello(f"m{peer}", block=str(peer % 100), **options), self.now
            )
            self.take()

    def take(self) -> None:
        for action in self.reactor.turn(self.now):
            if isinstance(action, Send) and isinstance(action.message, m.PackedAssign):
                self.assigned[action.peer] += [task.id for task in action.message.tasks]

    def executor(self, message: m.FromExecutor) -> None:
        self.spent += bytecodes(lambda: self.reactor.executor_said(message, (), self.now))

    def turn(self) -> None:
        actions = []
        self.spent += bytecodes(lambda: actions.extend(self.reactor.turn(self.now)))
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, m.PackedAssign):
                self.assigned[action.peer] += [task.id for task in action.message.tasks]

    def tasks(self, count: int, *, fn: int = 1, walltime: float = 0.0) -> list[m.Task]:
        return [m.Task(next(self.numbers), fn, b"", 0, 0, walltime) for _ in range(count)]

    def fill(self, waiting: int) -> None:
        """Give every manager what it can hold, and let so many wait; this costs nothing."""
        self.reactor.executor_said(m.Submit(self.tasks(waiting + sum(self.rooms()))), (), self.now)
        self.take()
        assert len(self.state.queue) == waiting

    def rooms(self) -> Iterator[int]:
        return (manager.capacity - manager.load for manager in self.state.managers.values())

    def submit(self, count: int, **options: Any) -> None:
        self.executor(m.Submit(self.tasks(count, **options)))
        self.turn()

    def results(self, peer: int, count: int) -> None:
        """A manager reports the first of its tasks; its room is filled again."""
        ended, self.assigned[peer] = self.assigned[peer][:count], self.assigned[peer][count:]
        assert len(ended) == count
        message = m.Results(f"m{peer}", self.state.peers[peer].capacity, ended, bytes(count), [0] * count)
        raw = [b"header", b"body"]
        self.spent += bytecodes(lambda: self.reactor.manager_said(peer, message, raw, self.now))
        self.turn()


def test_bytecodes_are_counted():
    def loop(count: int) -> None:
        for _ in range(count):
            pass

    assert bytecodes(lambda: loop(2000)) > 1.8 * bytecodes(lambda: loop(1000)) > 1000


def cost_under_load(selector: Any, managers: int, waiting: int) -> float:
    """Bytecodes for each task that is submitted, assigned and reported while everybody is busy."""
    hall = Hall(selector)
    hall.join(managers, workers=BATCH, capacity=2 * BATCH)
    hall.fill(waiting)
    hall.spent = 0
    for step in range(STEPS):
        hall.submit(BATCH)
        hall.results(1 + step * 7 % managers, BATCH)
    assert len(hall.state.queue) == waiting
    assert hall.state.completed == STEPS * BATCH
    return hall.spent / (STEPS * BATCH)


@pytest.mark.parametrize("selector", [RandomSelector, LeastLoadedSelector, BlockPackingSelector])
def test_busy_managers_cost_nothing(selector):
    few = cost_under_load(selector, FEW, SHORT)
    many = cost_under_load(selector, MANY, SHORT)
    assert many / few <= ALLOWED


def test_waiting_tasks_cost_nothing():
    short = cost_under_load(RandomSelector, FEW, SHORT)
    long = cost_under_load(RandomSelector, FEW, LONG)
    assert long / short <= ALLOWED


def cost_of_idling(selector: Any, managers: int) -> float:
    """The same while everybody has room, and no task waits: each task goes to some manager and comes back."""
    hall = Hall(selector)
    hall.join(managers, workers=BATCH, capacity=BATCH)
    hall.spent = 0
    for _ in range(STEPS):
        hall.submit(1)
        (peer,) = [peer for peer, tasks in hall.assigned.items() if tasks]
        hall.results(peer, 1)
    return hall.spent / STEPS


@pytest.mark.parametrize("selector", [RandomSelector, LeastLoadedSelector, BlockPackingSelector])
def test_idle_managers_cost_nothing(selector):
    few = cost_of_idling(selector, FEW)
    many = cost_of_idling(selector, MANY)
    assert many / few <= ALLOWED


def cost_beside_unfit(managers: int) -> float:
    """Short tasks while one waits for whose walltime nobody has the time."""
    hall = Hall()
    hall.join(managers, workers=BATCH, capacity=BATCH, ends_in=1000.0)
    hall.submit(1, walltime=5000.0)
    hall.submit(1)
    hall.results(next(peer for peer, tasks in hall.assigned.items() if tasks), 1)
    hall.spent = 0
    for _ in range(STEPS):
        hall.submit(1)
        (peer,) = [peer for peer, tasks in hall.assigned.items() if tasks]
        hall.results(peer, 1)
    assert len(hall.state.queue) == 1
    return hall.spent / STEPS


def test_a_task_that_fits_nobody_does_not_make_others_dear():
    # Each manager may be asked once whether it has the time, and not again before it has.
    assert cost_beside_unfit(MANY) / cost_beside_unfit(FEW) <= ALLOWED


def cost_of_functions(managers: int) -> float:
    """Tasks of a function each, which is forgotten after its only task."""
    hall = Hall()
    hall.join(managers, workers=BATCH, capacity=BATCH)
    hall.spent = 0
    for number in range(2, STEPS + 2):
        hall.executor(m.Submit(hall.tasks(1, fn=number), [m.Function(number, "f", b"")]))
        hall.turn()
        (peer,) = [peer for peer, tasks in hall.assigned.items() if tasks]
        hall.results(peer, 1)
        hall.executor(m.Submit([], [], [number]))
        hall.turn()
    return hall.spent / STEPS


def test_forgetting_a_function_only_concerns_those_that_know_it():
    assert cost_of_functions(MANY) / cost_of_functions(FEW) <= ALLOWED


def cost_of_cancelling(waiting: int) -> float:
    hall = Hall()
    hall.fill(waiting)
    hall.spent = 0
    for number in range(1, STEPS + 1):
        hall.executor(m.Cancel([number * 3]))
        hall.turn()
    assert len(hall.state.queue) == waiting - STEPS
    return hall.spent / STEPS


def test_cancelling_a_waiting_task_does_not_search_for_it():
    assert cost_of_cancelling(100 * SHORT) / cost_of_cancelling(SHORT) <= ALLOWED


def cost_of_a_quiet_moment(managers: int) -> float:
    """Turns in which nothing is to be done."""
    hall = Hall()
    hall.join(managers, workers=BATCH, capacity=BATCH)
    hall.spent = 0
    for _ in range(STEPS):
        hall.now += 0.1
        hall.spent += bytecodes(lambda: hall.reactor.manager_said(1, m.Heartbeat(), [b""], hall.now))
        hall.turn()
    return hall.spent / STEPS


def test_liveness_is_not_looked_for():
    assert cost_of_a_quiet_moment(MANY) / cost_of_a_quiet_moment(FEW) <= ALLOWED
