"""The user's process: what `throughway.executors.shell` is to the reactor, on the fake clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from throughway import errors
from throughway.executors.actions import Action, Log, Notify, Restart, Tell
from throughway.executors.reactor import ExecutorReactor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.testing.simulation.clock import START
from throughway.testing.simulation.describing import described
from throughway.testing.simulation.interchange import SimulatedInterchange
from throughway.testing.simulation.ledger import Entry, Violation
from throughway.testing.simulation.network import Arrived, Broke, Link
from throughway.testing.simulation.plan import Job
from throughway.testing.simulation.processes import Process

if TYPE_CHECKING:
    from throughway.testing.simulation.world import World

FAREWELL_SECONDS = 5.0


class SimulatedExecutor(Process):
    """The user's process, with the thread of its executor."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "executor", None)
        self._forgotten: list[int] = []
        self.reactor = ExecutorReactor(
            self._take_forgotten,
            heartbeat_period=world.plan.period,
            heartbeat_threshold=world.plan.threshold,
        )
        self.interchange: SimulatedInterchange | None = None
        self._link: Link | None = None
        self._requests: list[Callable[[], None]] = []
        self._entries: dict[int, Entry] = {}
        self._cancelled: set[int] = set()
        self.killed: set[int] = set()
        """tasks that the user asked to be killed"""
        self._starts = 0
        self.ending = False
        self._kill_at = 0.0

    def _take_forgotten(self) -> list[int]:
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    # --------------------------------------------------------------------------------------------------- what users do

    def submit(self, job: Job) -> None:
        """Submit a task."""
        if not self.alive:
            return
        entry = self._entries.get(job.function)
        if entry is None:
            entry = self._entries[job.function] = Entry(job.function)
        future = self.world.ledger.submitted(job, entry)
        self.reactor.add(future)
        self.say(f"submits {job.task}")
        if self.stopped or self.draw.random() < 0.5:
            self.poke()
        else:
            self._send_outbox()

    def forget(self, function: int) -> None:
        """Nothing needs this function any more."""
        self._forgotten.append(function)

    def cancel(self, tasks: list[int], *, kill: bool) -> None:
        """Cancel or kill tasks, one of them with a verdict."""
        self._cancelled.update(tasks)
        if kill:
            self.killed.update(tasks)
        if len(tasks) == 1:
            verdict = self._expect(f"the verdict on {tasks[0]}")

            def told(cancelled: bool) -> None:
                verdict()
                fate = self.world.ledger.fates.get(tasks[0])
                if cancelled and fate is not None and fate.future.outcome != "cancelled":
                    raise Violation(f"the user is told that task {tasks[0]} is cancelled, and it is not")

            self.request(lambda: self.reactor.cancel(tasks, None if kill else told, kill=kill))
            if kill:
                verdict()
        else:
            self.request(lambda: self.reactor.cancel(tasks, None, kill=kill))

    def wanted_cancelled(self, task: int) -> bool:
        """Whether the user asked for this task to be cancelled or killed."""
        return task in self._cancelled

    def ask(self, topic: str, subject: str) -> None:
        """Ask the interchange."""
        answer = self._expect(f"the answer on {topic} {subject}")

        def told(_: m.Answer) -> None:
            answer()

        self.request(lambda: self.reactor.ask(topic, subject, told))

    def _expect(self, what: str) -> Callable[[], None]:
        """Something that must be told exactly once."""
        ledger = self.world.ledger
        ledger.expectations.append((what, self.clock.now))
        mine = ledger.expectations[-1]
        plan = self.world.plan
        calm = max(self.clock.now, START + plan.quiet) + 2 * plan.threshold + 10.0
        self.clock.at(calm, ledger.check_told, mine)
        times = 0

        def told() -> None:
            nonlocal times
            times += 1
            if times > 1:
                raise Violation(f"{what} is told {times} times")
            ledger.expectations.remove(mine)

        return told

    def request(self, call: Callable[[], None]) -> None:
        """Have the thread call this; after its end, it is called at once."""
        if self.alive:
            self._requests.append(call)
            self.poke()
        else:
            call()

    # --------------------------------------------------------------------------------------------------- interchanges

    def start_interchange(self, first: m.Restore) -> None:
        """Start an interchange, and tell it first what the former one had."""
        self._starts += 1
        self.interchange = interchange = SimulatedInterchange(self.world, self._starts)
        self.world.everyone.append(interchange)
        self._link = self.world.network.connect("executor to interchange", None, self, interchange)
        interchange.start(self._link)
        self._say(first)

    # ------------------------------------------------------------------------------------------------------- its turn

    def step(self) -> None:
        """What the thread does in one round."""
        events, self.inbox = self.inbox, []
        for event in events:
            self._on_event(event)
        requests, self._requests = self._requests, []
        for request in requests:
            request()
        self.reactor.turn(self.clock.now)
        self._check_outbox()
        self._send_all()
        if self.ending and self.alive:
            self._end()
        deadline = self.reactor.next_deadline()
        if self.alive and deadline != math.inf:
            self.wake_at(deadline + 1e-6)

    def _on_event(self, event: Arrived | Broke) -> None:
        if event.link is not self._link:
            return
        now = self.clock.now
        if isinstance(event, Arrived):
            said = codec.decode_to_executor(event.frames[0])
            if self.world.trace is not None:
                self.say(f"reads {described(said)}")
            # Some as where somebody who waits reads them.
            if (
                isinstance(said, m.Results)
                and said.number % 3 == 0
                and self.reactor.take_plain(said, event.frames[1:], now)
            ):
                return
            if not isinstance(said, m.Listening):
                self.reactor.interchange_said(said, event.frames[1:], now)
            return
        self.say(f"finds the interchange gone: {event.reason}")
        self._link = None
        if self.interchange is not None:
            self.interchange.kill()
        if self.ending:
            return
        assigned = self.world.notes.read()
        outbox = {task.id for task in self.reactor.outbox}
        for manager, told in self.reactor._lost_managers.items():
            if not told:
                tasks = [task for task in assigned.get(manager, ()) if task not in outbox]
                self.world.ledger.believed(manager, [task for task in tasks if task in self.reactor.futures])
        restore = self.reactor.interchange_left(assigned, now)
        if restore is None:
            self.world.hopeless = True
            self.reactor.fail(errors.InterchangeLost("the interchange died too often"))
            self.ending = True
        else:
            self.world.notes.where.clear()
            for expected in restore.managers:
                self.world.ledger.believed(expected.manager, expected.tasks)
                self.world.notes.where.update(dict.fromkeys(expected.tasks, expected.manager))
            self.start_interchange(restore)

    def _send_all(self) -> None:
        self._send_outbox()
        while actions := self.reactor.actions():
            for action in actions:
                self._perform(action)

    def _send_outbox(self) -> None:
        while self._link is not None and (submission := self.reactor.submission()) is not None:
            self._say(submission[0], [bytes(frame) for frame in submission[1]])

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(message=message, frames=frames):
                if isinstance(message, m.Cancel):
                    self._send_outbox()
                self._say(message, [bytes(frame) for frame in frames])
            case Notify(callback=callback, arguments=arguments):
                callback(*arguments)
            case Restart(reason=reason):
                self.say(f"kills the interchange: {reason}")
                if self.interchange is not None:
                    self.interchange.kill()
            case Log(text=text):
                self.say(f"log: {text}")

    def _say(self, message: m.Message, frames: list[bytes] | None = None) -> None:
        if self.world.trace is not None:
            self.say(f"→ interchange: {described(message)}")
        if self._link is not None:
            self._link.send(self, [codec.encode(message), *(frames or ())])

    def _check_outbox(self) -> None:
        """What is to be handed in is nowhere else."""
        ledger = self.world.ledger
        for task in self.reactor.outbox:
            for manager in self.world.managers:
                if manager.id not in ledger.given_up and ledger.has(manager, task.id):
                    raise Violation(f"task {task.id} is to be handed in again while {manager.id} has it")
            interchange = self.interchange
            if interchange is not None and interchange.alive:
                state = interchange.state
                if task.id in state.queue.waiting or task.id in state.owners:
                    raise Violation(f"task {task.id} is to be handed in again while {interchange} has it")

    # -------------------------------------------------------------------------------------------------------- the end

    def end(self) -> None:
        """The user is done: the interchange is told, and killed where it does not end by itself."""
        self.ending = True
        self.poke()

    def _end(self) -> None:
        if not self._kill_at:
            self._kill_at = self.clock.now + FAREWELL_SECONDS
            self._say(m.Shutdown("the executor shut down"))
            self.wake_at(self._kill_at)
        if self._link is None or self.clock.now >= self._kill_at:
            if self.interchange is not None:
                self.interchange.kill()
            self.reactor.close()
            self.leave("the executor has ended")
