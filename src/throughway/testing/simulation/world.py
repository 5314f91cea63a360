"""A run of a plan: all processes on one clock and one network, until every task has ended and every process is gone."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import NamedTuple

from throughway.executors import reactor as executor_reactor
from throughway.interchange import reactor as interchange_reactor
from throughway.interchange.shell import RECONNECT_SECONDS
from throughway.manager import reactor as manager_reactor
from throughway.protocol import messages as m
from throughway.testing.simulation.clock import START, Clock
from throughway.testing.simulation.executor import SimulatedExecutor
from throughway.testing.simulation.faults import FAULTS
from throughway.testing.simulation.interchange import Notes, SimulatedInterchange
from throughway.testing.simulation.ledger import Ledger, Violation
from throughway.testing.simulation.manager import SimulatedManager
from throughway.testing.simulation.network import Network
from throughway.testing.simulation.plan import Job, Plan, Request, Site
from throughway.testing.simulation.processes import Process

MAX_STEPS = 200_000
"""Events after which a run that goes on and on is given up."""


class Failure(NamedTuple):
    """What went wrong in a run. ``kind`` is the same for what is likely the same fault of the program."""

    kind: str
    text: str


class Outcome(NamedTuple):
    """A run that is over."""

    failure: Failure | None
    steps: int
    seconds: float
    """on its clock"""
    trace: list[str]


class World:
    """Everything in one run."""

    def __init__(self, plan: Plan, *, tracing: bool = False) -> None:
        self.plan = plan
        self.trace: list[str] | None = [] if tracing else None
        self.clock = Clock()
        self.network = Network(self.clock, str(plan.seed))
        self.ledger = Ledger(self)
        self.notes = Notes(plan.seed)
        self.managers: list[SimulatedManager] = []
        """those that live"""
        self.everyone: list[Process] = []
        """executor and interchanges"""
        self.going = True
        """whether the user still wants something"""
        self.hopeless = False
        """whether the executor has given up on interchanges"""
        self.patience = min(RECONNECT_SECONDS, plan.threshold) if plan.local else plan.threshold
        """seconds out of reach after which a manager may be given up, at the least"""
        self._sites = {site.number: site for site in plan.sites}
        self._incarnations: dict[int, int] = {}
        self._waiting = len(plan.jobs)
        self._wanted = Counter(job.function for job in plan.jobs)
        self.executor = SimulatedExecutor(self)
        self.everyone.append(self.executor)

    # ----------------------------------------------------------------------------------------------------- the trace

    def note(self, who: str, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.clock.now - START:12.6f} {who:<14} {text}")

    def say(self, text: str) -> None:
        """Something that happens from outside."""
        self.note("—", text)

    def say_of_user(self, text: str) -> None:
        """Something that the user sees."""
        if self.trace is not None:
            self.note("user", text)

    # ----------------------------------------------------------------------------------------------------- who is there

    def reachable(self, site: int | None) -> SimulatedInterchange | None:
        """The interchange, if a connection to it from this site comes to stand now."""
        interchange = self.executor.interchange
        if interchange is None or not interchange.alive:
            return None
        if not self.plan.local and (not interchange.up or interchange.stopped or site in self.network.cuts):
            return None
        return interchange

    def manager_at(self, site: int) -> SimulatedManager | None:
        """The manager that runs at this site."""
        return next((manager for manager in self.managers if manager.site == site), None)

    def _start_manager(self, site: Site) -> None:
        if self.going and self.executor.alive:
            count = self._incarnations[site.number] = self._incarnations.get(site.number, 0) + 1
            block = sum(self._incarnations.values()) - 1
            manager = SimulatedManager(self, site, f"m{site.number}.{count}", block)
            manager.say("begins")
            self.managers.append(manager)
            manager.start()

    def manager_ended(self, manager: SimulatedManager) -> None:
        """A manager's process is gone: its block is replaced."""
        self.managers.remove(manager)
        self.clock.after(0.2 + manager.draw.random(), self._start_manager, self._sites[manager.spec.number])

    # ---------------------------------------------------------------------------------------------- what the plan says

    def _submit(self, job: Job) -> None:
        self._waiting -= 1
        self.executor.submit(job)

    def ended(self, job: Job) -> None:
        """A future has its outcome; a function whose last it was is forgotten."""
        self._wanted[job.function] -= 1
        if not self._wanted[job.function]:
            self.executor.forget(job.function)

    def _ask(self, request: Request) -> None:
        executor = self.executor
        if not self.going:
            return
        match request.what:
            case "cancel" | "kill":
                self.say(f"{request.what} {request.target}")
                executor.cancel([request.target], kill=request.what == "kill")
            case "cancel many":
                tasks = [task for task in self.ledger.fates if task >= request.target]
                self.say(f"cancel {len(tasks)} tasks")
                executor.cancel(tasks, kill=False)
            case "status" | "packages" | "blocks":
                executor.ask(request.what, "")
            case "explain":
                executor.ask("explain", str(request.target + 1))
            case _:
                manager = self.manager_at(request.target)
                if manager is not None:
                    self.say(f"{request.what} {manager.id}")
                    subject = manager.block if request.what.endswith("block") else manager.id
                    executor.ask(request.what, subject)

    def _schedule(self) -> None:
        plan = self.plan
        at = self.clock.at
        self.executor.start_interchange(m.Restore())
        for site in plan.sites:
            at(START + site.at, self._start_manager, site)
        for job in plan.jobs:
            at(START + job.at, self._submit, job)
        for request in plan.requests:
            at(START + request.at, self._ask, request)
        for fault in plan.faults:
            at(START + fault.at, FAULTS[fault.what], self, fault)

    # -------------------------------------------------------------------------------------------------------- the run

    def run(self) -> None:
        """Run to the end.

        Raises:
            Violation: something happened that must not.
            Exception: a core failed.
        """
        plan = self.plan
        self._schedule()
        work = sum((job.seconds + max(job.walltime, 0.1)) * (1 + job.retries) for job in plan.jobs)
        patience = plan.quiet + work + 8 * plan.threshold + 60.0
        # Most runs end once there is nothing left to do, some only when the last fault is over.
        until = START + (plan.quiet if plan.seed % 4 == 0 else 0.0)
        self._until(
            lambda: not self._waiting and not self.ledger.open and self.clock.now >= until,
            patience,
            "tasks do not end",
        )
        if not self.hopeless:
            # What is on its way arrives, results are acknowledged, and whoever was cut off comes back.
            settled = self.clock.now + plan.period + 3.0
            self._until(lambda: self.clock.now >= settled, 2 * plan.period + 10.0, "time stands still")
            if all(
                fault.at + fault.seconds + plan.threshold + 5.0 < self.clock.now - START
                for fault in plan.faults
            ):
                self._check_rest()
        self.going = False
        self.say("the user is done")
        if plan.end != "shutdown":
            if plan.end == "vanish with interchange" and self.executor.interchange is not None:
                self.executor.interchange.kill()
            self.executor.kill()
        else:
            self.executor.end()
        self._until(self._all_gone, plan.quiet + 3 * plan.threshold + 30.0, "processes do not end")
        if self.ledger.expectations and plan.end == "shutdown":
            raise Violation(f"the user was never told {self.ledger.expectations[0][0]}")

    def _until(self, done: Callable[[], bool], seconds: float, wrong: str) -> None:
        limit = self.clock.now + seconds
        while not done():
            if self.clock.now > limit or not self.clock.step():
                raise Violation(f"{wrong} within {seconds:.6g} s: {self._stuck()}")
            if self.clock.steps > MAX_STEPS:
                raise Violation(f"{wrong}: there were {MAX_STEPS} events by {self.clock.now - START:.6g} s")

    def _all_gone(self) -> bool:
        return not self.managers and not any(process.alive for process in self.everyone)

    def _stuck(self) -> str:
        tasks = [task for task, fate in self.ledger.fates.items() if not fate.future.done()]
        alive = [process.name for process in (*self.managers, *self.everyone) if process.alive]
        return f"tasks {tasks[:10]} are outstanding, {' '.join(alive)} live"

    def _check_rest(self) -> None:
        """Everything has ended: nothing is left anywhere."""
        executor = self.executor.reactor
        interchange = self.executor.interchange
        assert interchange is not None
        state = interchange.state
        kept = {
            "futures": executor.futures,
            "outbox": executor.outbox,
            "verdicts": executor._verdicts,
            "kills": executor._kills,
            "unacknowledged": executor._acknowledgements,
            "waiting tasks": state.queue.waiting,
            "assigned tasks": state.owners,
            "frames": state.frames,
            "cancelling": state.cancelling,
            "killing": state.killing,
            "untold": state.untold,
            "fallen": state.fallen,
            "questions": [what for what, since in self.ledger.expectations if since < self.clock.now - 3.0],
            "unsure": [manager.id for manager in state.managers.values() if manager.unsure],
        }
        for manager in self.managers:
            one = manager.reactor
            kept[f"tasks of {manager.id}"] = [*one.state.queue.waiting, *one.state.holders]
            kept[f"frames of {manager.id}"] = one.state.frames
            kept[f"results of {manager.id}"] = one.results.kept
            kept[f"cancellations of {manager.id}"] = one._cancelling
        left = {name: rest for name, rest in kept.items() if len(rest)}
        if left:
            raise Violation(f"all has ended, and there are left: {left}")
        if len(interchange.reactor._deadlines) > 4 * len(self.managers) + 50:
            raise Violation(f"there are {len(interchange.reactor._deadlines)} deadlines")

    def stepped(self, process: Process) -> None:
        """A process has done something: what it knows must agree with itself."""
        if isinstance(process, SimulatedInterchange):
            process.state.sanity_check()
        elif isinstance(process, SimulatedManager):
            process.reactor.state.sanity_check()
            process.reactor.sanity_check()
        elif isinstance(process, SimulatedExecutor):
            process.reactor.sanity_check()


_TIGHT: tuple[tuple[ModuleType, str, int], ...] = (
    (executor_reactor, "SUBMIT_TASKS", 3),
    (executor_reactor, "ACKNOWLEDGE_BYTES", 500),
    (interchange_reactor, "ASSIGN_TASKS", 2),
    (manager_reactor, "RETAINED_BYTES", 400),
)


@contextlib.contextmanager
def _limits(limits: Iterable[tuple[ModuleType, str, int]]) -> Iterator[None]:
    """Other values for constants of the cores."""
    former = [(module, name, getattr(module, name)) for module, name, _ in limits]
    for module, name, value in limits:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in former:
            setattr(module, name, value)


def simulate(plan: Plan, *, tracing: bool = False) -> Outcome:
    """Run a plan; whatever goes wrong is told in the outcome."""
    world = World(plan, tracing=tracing)
    failure = None
    try:
        with _limits(_TIGHT if plan.tight else ()):
            world.run()
    except Exception as error:  # noqa: BLE001 - that something fails is what runs are for
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}:{place.name}"
        text = str(error) or place.line or ""
        words = re.sub(r"[\d.]+", "#", text).split()[:8]
        failure = Failure(
            f"{type(error).__name__} in {where}: {' '.join(words)}", f"{type(error).__name__}: {text}"
        )
        if not isinstance(error, Violation):
            failure = failure._replace(text="".join(traceback.format_exception(error)[-6:]).strip())
    return Outcome(failure, world.clock.steps, world.clock.now - START, world.trace or [])
