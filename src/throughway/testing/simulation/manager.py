"""A manager's process with its zygote: what `throughway.manager.shell` is to the reactor, on the fake clock."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from throughway.manager.actions import (
    Action,
    Exit,
    Give,
    Kill,
    Log,
    Look,
    ReportPackages,
    Revoke,
    Start,
    Tell,
)
from throughway.manager.reactor import Link as Standing
from throughway.manager.reactor import ManagerReactor
from throughway.manager.state import ManagerState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.testing.simulation.describing import described
from throughway.testing.simulation.network import Arrived, Broke, Link
from throughway.testing.simulation.plan import Site
from throughway.testing.simulation.processes import Process
from throughway.testing.simulation.worker import KILLED, SimulatedWorker

if TYPE_CHECKING:
    from throughway.testing.simulation.world import World

RETRY_SECONDS = 0.2
"""How long until a connection is tried again."""


class Zygote(Process):
    """Forks workers, and tells of their ends; once its manager is gone it ends them, and tells the interchange."""

    def __init__(self, manager: SimulatedManager, name: str) -> None:
        super().__init__(manager.world, name, manager.site)
        self.manager = manager

    def step(self) -> None:
        """Of the manager's end it learns by its socket."""
        if self.manager.alive:
            return
        for worker in self.manager.workers.values():
            worker.kill()
        self.say("sees its manager gone, and has ended all workers")
        self._tell_of_it()

    def _tell_of_it(self) -> None:
        if not self.alive:
            return
        interchange = self.world.reachable(self.site)
        if interchange is None:
            if self.world.executor.alive:
                self.clock.after(RETRY_SECONDS, self._tell_of_it)
            else:
                self.die()
            return
        link = self.world.network.connect(f"{self.name} to interchange", self.site, self, interchange)
        given = sorted(self.manager.given)
        obituary = m.ManagerDied(PROTOCOL_VERSION, self.manager.id, "its process is gone", given)
        link.send(self, [codec.encode(obituary)])
        self.say("sends the obituary")

    def hear(self, event: object) -> None:
        """The interchange closes once it has read; where the connection breaks before, it is tried again."""
        if isinstance(event, Broke) and self.alive:
            if event.reason == "thank you":
                self.die()
            else:
                self._tell_of_it()

    def die(self, *, silent: bool = False) -> None:
        if self.alive:
            super().die(silent=silent)
            for worker in list(self.manager.workers.values()):
                worker.die(silent=True)
            if not silent and self.manager.alive:
                self.manager.hear("zygote gone")


class SimulatedManager(Process):
    """One incarnation of a manager's process at a site."""

    def __init__(self, world: World, site: Site, name: str, block: int) -> None:
        super().__init__(world, name, site.number)
        self.block = str(block)
        self.spec = site
        self.exit: Exit | None = None
        self.link: Link | None = None
        self._starts = 0
        self._zygotes = 0
        self._begin()

    def _begin(self) -> None:
        """A reactor with an id of its own, a zygote, no worker yet."""
        plan = self.world.plan
        self._starts += 1
        self.id = self.name if self._starts == 1 else f"{self.name}+{self._starts}"
        self.workers: dict[int, SimulatedWorker] = {}
        self.given: set[int] = set()
        """the tasks that were given to workers, as the notes say that outlive the process"""
        self._bells: dict[int, None] = {}
        self.zygote = self._new_zygote()
        now = self.clock.now
        period = self.spec.drain_period
        self.began = now
        self.reactor = ManagerReactor(
            ManagerState(self.id, f"node{self.site}", self.block, "/logs", self.spec.workers),
            now=now,
            prefetch_capacity=self.spec.prefetch,
            max_tasks_per_child=self.spec.max_tasks,
            heartbeat_period=plan.period,
            heartbeat_threshold=plan.threshold,
            drain_at=None if period is None else now + period,
        )
        self.world.ledger.manager_began(self)

    def _new_zygote(self) -> Zygote:
        self._zygotes += 1
        return Zygote(self, f"{self.name}/z{self._zygotes}")

    def start(self) -> None:
        """The process runs: workers are started, and the interchange is looked for."""
        self._perform_all(self.reactor.start())
        self._connect()
        self.poke()

    # --------------------------------------------------------------------------------------------------- the wire

    def _connect(self) -> None:
        if not self.alive or self.link is not None or self.exit is not None:
            return
        if self.stopped:
            self.clock.after(RETRY_SECONDS, self._connect)
            return
        interchange = self.world.reachable(self.site)
        if interchange is not None:
            self.link = self.world.network.connect(
                f"{self.name} to interchange", self.site, self, interchange
            )
            self._greet()
            self.poke()
        elif self.world.plan.local and not self.world.executor.alive:
            # Nobody holds the listening socket any more.
            self.exit = Exit("nobody listens at the interchange's socket", 1)
            self.poke()
        else:
            self.clock.after(RETRY_SECONDS, self._connect)

    def _greet(self) -> None:
        spec = self.spec
        hello = m.ManagerHello(
            protocol=PROTOCOL_VERSION,
            id=self.id,
            host=f"node{self.site}",
            block=self.block,
            pid=1,
            python=python_version(),
            version="simulated",
            workers=spec.workers,
            capacity=self.reactor.capacity,
            cores=spec.workers,
            memory=1 << 30,
            started=self.began,
            ends_in=None
            if spec.drain_period is None
            else max(0.0, self.began + spec.drain_period - self.clock.now),
            log="/logs",
        )
        self._send(self.reactor.hello(hello))

    def _send(self, message: m.Message, frames: list[bytes] | None = None) -> None:
        if self.world.trace is not None:
            self.say(f"→ interchange: {described(message)}")
        if self.link is not None:
            self.link.send(self, [codec.encode(message), *(frames or ())])

    def _on_wire(self, event: Arrived | Broke) -> None:
        if event.link is not self.link:
            return
        if isinstance(event, Broke):
            self.say(f"finds its connection gone: {event.reason}")
            self.link = None
            self.reactor.interchange_left(event.reason)
            self.clock.after(RETRY_SECONDS * self.draw.random(), self._connect)
            return
        if self.reactor.link is not Standing.UP:
            self._on_greeting(codec.decode_greeting(event.frames[0]))
            return
        said = codec.decode_to_manager(event.frames[0])
        if self.world.trace is not None:
            self.say(f"reads {described(said)}")
        if isinstance(said, m.Assign):
            self.world.ledger.assigned(self, [task.id for task in said.tasks])
        self.reactor.interchange_said(said, event.frames[1:], self.clock.now)

    def _on_greeting(self, greeting: m.Welcome | m.Refused) -> None:
        self.say(f"reads {described(greeting)}")
        if isinstance(greeting, m.Welcome):
            self.reactor.welcomed(greeting, self.clock.now)
        else:
            self.exit = self.exit or Exit(f"refused: {greeting.reason}", 1, again=greeting.again, knows=True)

    def _start_over(self) -> None:
        """It was given up: what runs here is killed, and it comes back as another."""
        self.exit = None
        link, self.link = self.link, None
        if link is not None:
            link.close(self, "starts over")
        self._end_workers()
        self._begin()
        self.say(f"is {self.id} now")
        self._perform_all(self.reactor.start())
        self._connect()

    # ------------------------------------------------------------------------------------------------------ its turn

    def step(self) -> None:
        """What the shell's loop does in one round."""
        if self.exit is None:
            events, self.inbox = self.inbox, []
            bells, self._bells = self._bells, {}
            doings = [
                functools.partial(self._on_bells, list(bells)),
                functools.partial(
                    self._on_events, [one for one in events if not isinstance(one, (Arrived, Broke))]
                ),
            ]
            self.draw.shuffle(doings)
            for doing in doings:
                doing()
            for event in events:
                if isinstance(event, (Arrived, Broke)):
                    self._on_wire(event)
            actions = self.reactor.turn(self.clock.now)
            while actions and self.exit is None:
                self._perform_all(actions)
                actions = self.reactor.turn(self.clock.now)
        if self.exit is not None:
            self.say(f"ends: {self.exit.reason}")
            if self.exit.again:
                self._start_over()
            else:
                if self.exit.knows:
                    self._end_workers()
                self.leave(self.exit.reason)
                return
        self.wake_at(self.reactor.next_deadline() + 1e-6)

    def _on_bells(self, numbers: list[int]) -> None:
        for number in numbers:
            self._read(number)

    def _on_events(self, events: list[object]) -> None:
        for event in events:
            if event == "zygote gone":
                self._replace_zygote()
            elif isinstance(event, SimulatedWorker):
                self._on_exit(event.number, event.status)

    def _read(self, number: int) -> None:
        worker = self.workers.get(number)
        if worker is not None and worker.records:
            records, worker.records = worker.records, []
            self.reactor.records_came(number, records, self.clock.now)

    def _on_exit(self, number: int, status: int) -> None:
        worker = self.workers.get(number)
        if worker is None:
            return
        self._read(number)
        del self.workers[number]
        self.reactor.worker_ended(number, status, worker.revoke(1 << 32), "", "/logs/w", self.clock.now)

    def _replace_zygote(self) -> None:
        self.say("finds its zygote gone, and starts another")
        self.zygote = self._new_zygote()
        for number in list(self.workers):
            self._read(number)
        self.reactor.zygote_ended()
        for number in list(self.workers):
            self._on_exit(number, KILLED)

    def _end_workers(self) -> None:
        self.zygote.alive = False
        for worker in list(self.workers.values()):
            worker.die(silent=True)
        self.workers.clear()
        self._bells.clear()
        self.inbox = [event for event in self.inbox if isinstance(event, (Arrived, Broke))]

    # -------------------------------------------------------------------------------------------------- from workers

    def rung(self, worker: SimulatedWorker) -> None:
        """A worker rings the bell."""
        if self.alive and self.workers.get(worker.number) is worker:
            self._bells[worker.number] = None
            self.poke()

    def worker_gone(self, worker: SimulatedWorker) -> None:
        """The zygote reaps a worker, and tells."""
        if self.alive and self.zygote.alive and self.workers.get(worker.number) is worker:
            self.clock.after(1e-3 * self.draw.random(), self._told_of_exit, worker)

    def _told_of_exit(self, worker: SimulatedWorker) -> None:
        if self.workers.get(worker.number) is worker:
            self.hear(worker)

    # ------------------------------------------------------------------------------------------------------- actions

    def _perform_all(self, actions: list[Action]) -> None:
        for action in actions:
            self.burn()
            if self.workers and self.draw.random() < 0.05:
                # Workers go on while the manager acts.
                number = self.draw.choice(list(self.workers))
                self.workers[number].hurry()
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(message=message, frames=frames):
                self._send(message, [bytes(frame) for frame in frames])
            case Give(worker=number, tasks=tasks):
                if self.world.trace is not None:
                    self.say(f"gives w{number} {[task.id for task in tasks]}")
                self.given.update(task.id for task in tasks)
                self.workers[number].give(action)
            case Look(worker=number):
                self._read(number)
                self.reactor.looked(number, self.clock.now)
            case Revoke(worker=number, limit=limit):
                if number in self.workers:
                    taken = self.workers[number].revoke(limit)
                    self.say(f"takes {taken} claims of {limit} back from w{number}")
                    self.reactor.revoked(number, taken, self.clock.now)
            case Kill(worker=number):
                if number in self.workers:
                    self.workers[number].order_kill()
            case Start(worker=number, slot=slot):
                worker = SimulatedWorker(self, number, slot, self.spec.max_tasks)
                worker.name = f"{self.id}/w{number}"
                self.workers[number] = worker
                self.clock.after(0.002 + 0.01 * self.draw.random(), worker.come_up)
            case ReportPackages(request=request):
                self._send(m.Answer(request, codec.encode({})))
            case Exit():
                self.exit = self.exit or action
            case Log(text=text):
                self.say(f"log: {text}")

    # ------------------------------------------------------------------------------------------------ what may happen

    def terminate(self) -> None:
        """SIGTERM."""
        if self.alive and not self.stopped:
            self.say("gets SIGTERM")
            if self.reactor.state.draining is not None:
                self.exit = Exit("SIGTERM, again")
            self.reactor.drain("SIGTERM")
            self.poke()

    def die(self, *, silent: bool = False) -> None:
        """Its process is gone; the zygote sees that before long, unless the node is gone with it."""
        if not self.alive:
            return
        super().die(silent=silent)
        self.link = None
        if silent:
            self.zygote.die(silent=True)
        elif self.zygote.alive:
            self.zygote.wake_at(self.clock.now + 0.005 * self.zygote.draw.random())
        self.world.manager_ended(self)
