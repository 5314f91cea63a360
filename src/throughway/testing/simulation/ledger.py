"""What really happened to each task, and what must never happen.

The ledger sees more than any of the processes: when each task is begun and by whom, which executions came to an end,
which managers a task was sent to, and what the user was told. Whatever contradicts the promises raises a `Violation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from throughway import errors
from throughway.protocol import messages as m
from throughway.testing.simulation.plan import Job
from throughway.testing.simulation.worker import PlannedError, frames_of

if TYPE_CHECKING:
    from throughway.testing.simulation.manager import SimulatedManager
    from throughway.testing.simulation.world import World

SLACK = 1.0
"""Seconds that messages and reactions may take beside what a plan does to them."""


class Violation(AssertionError):
    """Something happened that must not."""


class Entry:
    """A function, as `serialize.functions.Entry` is to the reactor."""

    def __init__(self, number: int) -> None:
        self.function = m.Function(number, f"f{number}", b"code of %d" % number)


class Outstanding:
    """The user's future: it tells the ledger all that is done to it."""

    def __init__(self, ledger: Ledger, job: Job, entry: Entry) -> None:
        self.job = job
        self.ledger = ledger
        self._task = m.Task(
            job.task, job.function, b"call %d" % job.task, job.frames, job.priority, job.walltime
        )
        self._entry = entry
        self._frames: Sequence[Any] = [memoryview(frame) for frame in frames_of(job.task, job.frames)]
        self._left = job.retries
        self.outcome: str = ""

    @property
    def _retries(self) -> int:
        return self._left

    @_retries.setter
    def _retries(self, left: int) -> None:
        self._left = left
        self.ledger.leave_given(self)

    def done(self) -> bool:
        """Whether it has its outcome."""
        return bool(self.outcome)

    def _set_running(self) -> None:
        self.ledger.told_running(self)

    def _set_value(self, value: Any) -> None:
        self.ledger.value(self, value)

    def _set_plainly(self, value: Any) -> bool:
        self.ledger.value(self, value)
        return True

    def _set_error(self, error: BaseException) -> None:
        self.ledger.error(self, error)

    def _set_cancelled(self) -> None:
        self.ledger.cancelled(self)


class Fate:
    """What happened to one task."""

    def __init__(self, future: Outstanding) -> None:
        self.future = future
        self.starts = 0
        self.leaves = 0
        self.current = 0
        """how often this attempt, the last, was begun by managers that had not been given up"""
        self.computed: set[int] = set()
        self.died = 0
        """how many executions died with their worker in this attempt"""
        self.sent: list[str] = []
        """managers that this attempt was sent to, or might have been"""
        self.formerly: set[str] = set()
        """those that earlier attempts were sent to"""


class Ledger:
    """Every task of a run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fates: dict[int, Fate] = {}
        self.open = 0
        self.given_up: dict[str, str] = {}
        """managers that were declared lost, and why"""
        self.managers: dict[str, SimulatedManager] = {}
        """every incarnation that there was, by its id"""
        self.expectations: list[tuple[str, float]] = []
        """questions and verdicts that the user waits for, and since when"""
        self._trouble: dict[int | None, list[tuple[float, float]]] = {}
        """by site, None for the interchange: when it could not talk"""

    def job(self, task: int) -> Job:
        """What a task is planned to do."""
        return self.fates[task].future.job

    def submitted(self, job: Job, entry: Entry) -> Outstanding:
        """The user submits a task."""
        future = Outstanding(self, job, entry)
        self.fates[job.task] = Fate(future)
        self.open += 1
        return future

    # ------------------------------------------------------------------------------------------------- on the way

    def sent(self, manager: str, tasks: Sequence[int]) -> None:
        """An interchange is about to send these tasks to a manager."""
        for task in tasks:
            fate = self.fates[task]
            if fate.future.done() and self.world.going:
                raise Violation(
                    f"task {task} is sent to {manager} after its future was {fate.future.outcome}"
                )
            fate.sent.append(manager)

    def believed(self, manager: str, tasks: Sequence[int]) -> None:
        """After the death of an interchange, the executor takes these tasks to be with a manager.

        Of a task that runs again it cannot know whether it was sent there once more, or waited; it assumes the worst.
        """
        for task in tasks:
            fate = self.fates[task]
            if manager not in fate.sent:
                if manager not in fate.formerly:
                    raise Violation(f"task {task} is believed to be with {manager}, and was never sent there")
                fate.sent.append(manager)

    def assigned(self, manager: SimulatedManager, tasks: Sequence[int]) -> None:
        """A manager has got these tasks. One that was given up meanwhile has them in vain."""
        if manager.id in self.given_up:
            return
        for task in tasks:
            for other in self.world.managers:
                if other is not manager and other.id not in self.given_up and self.has(other, task):
                    raise Violation(f"task {task} came to {manager.id} while {other.id} has it")

    @staticmethod
    def has(manager: SimulatedManager, task: int) -> bool:
        """Whether a manager may still begin this task."""
        state = manager.reactor.state
        return manager.alive and (task in state.queue.waiting or task in state.holders)

    def started(self, task: int, manager: SimulatedManager) -> int:
        """A worker begins a task; returns which execution of it this is."""
        fate = self.fates[task]
        fate.starts += 1
        who = manager.id
        if who not in self.given_up:
            fate.current += 1
        if fate.starts > 1 + fate.leaves:
            raise Violation(
                f"task {task} is begun for the {fate.starts}. time, at {who}, with {fate.leaves} leaves to run again"
            )
        if fate.future.outcome == "cancelled" and who not in self.given_up:
            raise Violation(f"task {task} is begun at {who} although it was cancelled")
        return fate.starts

    def computed(self, task: int, execution: int) -> None:
        """An execution of a task has come to its end, and its record is written."""
        self.fates[task].computed.add(execution)

    def worker_died(self, task: int, execution: int) -> None:
        """A worker died while it ran a task."""
        self.fates[task].died += 1

    # ------------------------------------------------------------------------------------------- what the user sees

    def _end(self, future: Outstanding, outcome: str) -> Fate:
        task = future.job.task
        fate = self.fates[task]
        self.world.say_of_user(f"future {task} gets {outcome}")
        if future.outcome:
            raise Violation(f"future {task} gets {outcome} after it got {future.outcome}")
        future.outcome = outcome
        self.open -= 1
        self.world.ended(future.job)
        return fate

    def told_running(self, future: Outstanding) -> None:
        """The user sees the task running."""
        task = future.job.task
        if not self.fates[task].sent and not self.fates[task].leaves:
            raise Violation(f"task {task} is told to run, and was never sent to a manager")

    def value(self, future: Outstanding, value: Any) -> None:
        """The user gets a result."""
        task = future.job.task
        fate = self._end(future, "a value")
        expected = frames_of(task, future.job.frames)
        number, execution, frames = value
        if number != task or execution not in fate.computed or [bytes(frame) for frame in frames] != expected:
            raise Violation(f"task {task} computed {sorted(fate.computed)}, and its future got {value!r}")
        if future.job.does not in {"value", "die once"}:
            raise Violation(f"task {task} was to {future.job.does}, and its future got a value")

    def cancelled(self, future: Outstanding) -> None:
        """The user is told that the task never runs, or not again."""
        fate = self._end(future, "cancelled")
        if fate.current:
            raise Violation(f"task {future.job.task} was begun in this attempt, and is said to be cancelled")

    def error(self, future: Outstanding, error: BaseException) -> None:
        """The user gets an exception."""
        task = future.job.task
        fate = self._end(future, type(error).__name__)
        wrong = self._contradiction(fate, error)
        if wrong:
            raise Violation(f"task {task} got {type(error).__name__}, but {wrong}: {error}")

    def _contradiction(self, fate: Fate, error: BaseException) -> str:
        """What speaks against this error, empty for nothing."""
        job = fate.future.job
        if isinstance(error, errors.ManagerLost):
            if fate.future._retries and not self.world.executor.wanted_cancelled(job.task):
                return "it has retries left"
            return self._not_lost(fate, error.manager or "")
        wrong = ""
        if isinstance(error, errors.WorkerLost):
            wrong = "" if fate.died else "no worker died with it"
        elif isinstance(error, errors.TaskKilled):
            wrong = (
                ""
                if job.task in self.world.executor.killed and fate.starts
                else "nobody killed it, or it was never begun"
            )
        elif isinstance(error, errors.WalltimeExceeded):
            wrong = "" if job.walltime and fate.starts else "it has no walltime, or was never begun"
        elif isinstance(error, errors.InterchangeLost):
            wrong = "" if self.world.hopeless else "interchanges could have been started"
        elif isinstance(error, PlannedError):
            wrong = "" if job.does == "raise" and fate.computed else "it did not raise"
        elif self.world.going:
            wrong = "nothing like that was planned"
        return wrong

    def _not_lost(self, fate: Fate, manager: str) -> str:
        if not fate.sent:
            return "this attempt was never sent to a manager"
        if manager and manager != fate.sent[-1]:
            return f"it was last sent to {fate.sent[-1]}"
        if fate.sent[-1] not in self.given_up:
            return f"{fate.sent[-1]} was not given up"
        return ""

    def leave_given(self, future: Outstanding) -> None:
        """The executor uses up a retry: the task may be begun once more."""
        fate = self.fates[future.job.task]
        self.world.say_of_user(f"task {future.job.task} may run again")
        if not fate.died and (wrong := self._not_lost(fate, "")):
            raise Violation(
                f"task {future.job.task} uses up a retry, but no worker died with it, and {wrong}"
            )
        if future._retries < 0:
            raise Violation(f"task {future.job.task} has no retries left and runs again")
        fate.leaves += 1
        fate.current = 0
        fate.died = 0
        fate.formerly.update(fate.sent)
        fate.sent.clear()

    def check_told(self, expectation: tuple[str, float]) -> None:
        """What the user waits for must have been told by now.

        Raises:
            Violation: it was not.
        """
        if expectation in self.expectations and self.world.going and not self.world.hopeless:
            raise Violation(
                f"{expectation[0]} was not told for {self.world.clock.now - expectation[1]:.3g} s"
            )

    # ------------------------------------------------------------------------------------------------------ managers

    def manager_began(self, manager: SimulatedManager) -> None:
        """An incarnation of a manager begins."""
        self.managers[manager.id] = manager

    def gave_up(self, manager: str, reason: str) -> None:
        """An interchange declares a manager lost."""
        if manager in self.given_up:
            return
        self.given_up[manager] = reason
        one = self.managers[manager]
        if one.alive and one.id == manager and self.world.going:
            self._excuse(one, reason)

    def trouble(self, site: int | None, seconds: float) -> None:
        """From now on, for so long, this site (None: the interchange) cannot talk or listen."""
        now = self.world.clock.now
        self._trouble.setdefault(site, []).append((now, now + seconds))

    def _excuse(self, manager: SimulatedManager, reason: str) -> None:
        """It lives: then it must have been out of reach for about as long as the threshold.

        Raises:
            Violation: it was not.
        """
        now = self.world.clock.now
        plan = self.world.plan
        # What is closer together than a period may have kept it from being heard in between.
        gap = plan.period + SLACK
        begun, ended, longest = -math.inf, -math.inf, 0.0
        for start, end in sorted([*self._trouble.get(manager.site, ()), *self._trouble.get(None, ())]):
            if start > ended + gap:
                begun = start
            ended = max(ended, end)
            if ended >= now - gap - plan.threshold:
                longest = max(longest, min(ended, now) - begun)
        if longest < self.world.patience - gap:
            raise Violation(
                f"manager {manager.id} lives, was out of reach for {longest:.3g} s at most, and is given up: {reason}"
            )
