"""An interchange's process: what `throughway.interchange.shell` is to the reactor, on the fake clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughway.interchange.actions import EXECUTOR, Action, Disconnect, Exit, Forward, Log, Note, Send
from throughway.interchange.reactor import InterchangeReactor
from throughway.interchange.selectors import (
    BlockPackingSelector,
    LeastLoadedSelector,
    ManagerSelector,
    RandomSelector,
)
from throughway.interchange.shell import RECONNECT_SECONDS
from throughway.interchange.state import InterchangeState
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.testing.simulation.describing import described, span
from throughway.testing.simulation.network import Arrived, Broke, Link
from throughway.testing.simulation.processes import Process

if TYPE_CHECKING:
    from throughway.testing.simulation.world import World


class Notes:
    """The memory that outlives interchanges: the manager that each task was last sent to, as far as it was noted.

    Where the real one is full, only what is assigned then is kept; here that happens now and then.
    """

    def __init__(self, seed: int) -> None:
        self.where: dict[int, str] = {}
        self._draw = random.Random(f"{seed} notes")
        self._renewals = self._draw.choice((0.0, 0.03, 0.5))

    def note(self, manager: str, tasks: Sequence[int], state: InterchangeState) -> dict[int, str]:
        """As `AssignmentNotes.note`. Returns what stands there now and did not before, and is no part of the note."""
        former = self.where
        if self._draw.random() < self._renewals:
            self.where = {task: name for name, held in state.assignments() for task in held}
        for task in tasks:
            if manager:
                self.where[task] = manager
            else:
                self.where.pop(task, None)
        if former is self.where:
            return {}
        return {
            task: name for task, name in self.where.items() if former.get(task) != name and task not in tasks
        }

    def read(self) -> dict[str, list[int]]:
        """As `read_notes`."""
        found: dict[str, list[int]] = {}
        for task, manager in self.where.items():
            found.setdefault(manager, []).append(task)
        return found


class SimulatedInterchange(Process):
    """One life of the interchange."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"interchange{number}", None)
        plan = world.plan
        self.up = False
        self._exit: str | None = None
        self._numbers: dict[Link, int] = {}
        self._links: dict[int, Link] = {}
        self._managers: set[int] = set()
        self._ids: dict[int, str] = {}
        self._executor: Link | None = None
        self.state = InterchangeState(
            run="run", label="label", started=self.clock.now, idle=self._selector(), roomy=self._selector()
        )
        self.reactor = InterchangeReactor(
            self.state,
            python=python_version(),
            heartbeat_period=plan.period,
            heartbeat_threshold=plan.threshold,
            reconnect_seconds=min(RECONNECT_SECONDS, plan.threshold) if plan.local else None,
        )

    def _selector(self) -> ManagerSelector:
        match self.world.plan.seed % 4:
            case 0:
                return LeastLoadedSelector()
            case 1:
                return BlockPackingSelector()
            case _:
                return RandomSelector(self.world.plan.seed)

    def start(self, executor: Link) -> None:
        """Its process was started with this connection to the executor; it takes a moment to come up."""
        self._executor = executor
        self.wake_at(self.clock.now + 0.02 + 0.1 * self.draw.random())

    def poke(self) -> None:
        """Before it is up, it hears nothing."""
        if self.up:
            super().poke()

    # ------------------------------------------------------------------------------------------------------- its turn

    def step(self) -> None:
        """What the shell's loop does in one round."""
        if not self.up:
            self.up = True
            self._perform(Send(EXECUTOR, m.Listening(None)))
        events, self.inbox = self.inbox, []
        for event in events:
            if event.link is self._executor:
                self._on_executor(event)
            else:
                self._on_peer(event)
        former: Action | None = None
        actions = self.reactor.turn(self.clock.now)
        for action, following in itertools.zip_longest(actions, actions[1:]):
            self.burn()
            self._tell_ledger(former, action, following)
            self._perform(action)
            former = action
        if self._exit is not None:
            self.say(f"ends: {self._exit}")
            self.leave("the interchange has ended")
            return
        deadline = self.reactor.next_deadline()
        if deadline is not None:
            self.wake_at(deadline + 1e-6)

    def _tell_ledger(self, former: Action | None, action: Action, following: Action | None) -> None:
        """From when on a manager may have a task: with its note, or where there is none, with the message."""
        if isinstance(action, Note):
            if (
                action.manager
                and isinstance(following, Send)
                and isinstance(following.message, m.PackedAssign)
            ):
                self.world.ledger.sent(action.manager, action.tasks)
        elif (
            isinstance(action, Send)
            and isinstance(action.message, m.PackedAssign)
            and not isinstance(former, Note)
        ):
            self.world.ledger.sent(self._ids[action.peer], [task.id for task in action.message.tasks])

    def _on_executor(self, event: Arrived | Broke) -> None:
        if isinstance(event, Broke):
            self.reactor.executor_left(event.reason, self.clock.now)
            return
        said = codec.decode_from_executor(event.frames[0])
        if self.world.trace is not None:
            self.say(f"reads {described(said)} of the executor")
        self.reactor.executor_said(said, event.frames[1:], self.clock.now)

    def _on_peer(self, event: Arrived | Broke) -> None:
        link = event.link
        peer = self._numbers.get(link)
        now = self.clock.now
        if peer is None:
            peer = self._numbers[link] = len(self._numbers) + 1
            self._links[peer] = link
        if isinstance(event, Broke):
            self._links.pop(peer, None)
            if peer in self._managers:
                self._managers.discard(peer)
                self.say(f"finds the connection {link.name} gone")
                gone = self.world.plan.local
                given = getattr(link.client, "given", None) if gone and not link.client.alive else None
                self.reactor.peer_left(peer, event.reason, now, gone=gone, given=given)
            return
        if peer not in self._links:
            return
        if peer in self._managers:
            said = codec.decode_from_manager(event.frames[0])
            if self.world.trace is not None:
                self.say(f"reads {described(said)} of {link.client}")
            self.reactor.manager_said(peer, said, event.frames, now)
            return
        hello = codec.decode_hello(event.frames[0])
        if self.world.trace is not None:
            self.say(f"reads {described(hello)}")
        if isinstance(hello, m.ManagerHello):
            self._managers.add(peer)
            self._ids[peer] = hello.id
            self.reactor.manager_said_hello(peer, hello, now)
        elif isinstance(hello, m.ManagerDied):
            self.reactor.manager_died(peer, hello, now)
        else:
            assert hello.protocol == PROTOCOL_VERSION

    # -------------------------------------------------------------------------------------------------------- actions

    def _perform(self, action: Action) -> None:
        match action:
            case Send(peer=peer, message=message, frames=frames):
                if self.world.trace is not None:
                    whom = (
                        "executor"
                        if peer == EXECUTOR
                        else self._links[peer].client
                        if peer in self._links
                        else peer
                    )
                    self.say(f"→ {whom}: {described(message)}")
                if isinstance(message, m.ManagerLeft) and message.lost:
                    self.world.ledger.gave_up(message.manager, message.reason)
                self._send(peer, [codec.encode(message), *map(bytes, frames)])
            case Note(manager=manager, tasks=tasks):
                self.say(f"notes {span(tasks)} for {manager or 'nobody'}")
                for task, name in self.world.notes.note(manager, tasks, self.state).items():
                    # Assigned in this very turn: its own note and message are still to come.
                    self.world.ledger.sent(name, [task])
            case Forward(peer=peer, frames=frames):
                self._send(peer, frames)
            case Disconnect(peer=peer, reason=reason):
                self._managers.discard(peer)
                link = self._links.pop(peer, None)
                if link is not None:
                    link.close(self, reason)
            case Exit(reason=reason):
                self._exit = reason
            case Log(text=text):
                self.say(f"log: {text}")

    def _send(self, peer: int, frames: Sequence[bytes | bytearray | memoryview]) -> None:
        link = self._executor if peer == EXECUTOR else self._links.get(peer)
        if link is not None:
            link.send(self, [bytes(frame) for frame in frames])
