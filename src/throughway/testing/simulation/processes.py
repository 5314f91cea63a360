"""What all processes of a run have in common: they wake, are stopped, and die, also in the middle of what they do."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from throughway.testing.simulation.network import Arrived, Link

if TYPE_CHECKING:
    from throughway.testing.simulation.world import World


class Dies(Exception):
    """Thrown where a process is killed in the middle of its turn."""


class Process:
    """A process that does something in `step`, whenever it is woken.

    ``name`` is unique in a run; ``site`` is where it runs, None beside the executor.
    """

    def __init__(self, world: World, name: str, site: int | None) -> None:
        self.world = world
        self.clock = world.clock
        self.name = name
        self.site = site
        self.alive = True
        self.stopped = 0
        self.fuse: int | None = None
        """so many actions more, and it dies"""
        self.inbox: list[Any] = []
        self.draw = random.Random(f"{world.plan.seed} {name}")
        self._next = math.inf
        self._missed = False

    def __repr__(self) -> str:
        return self.name

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.world.trace is not None:
            self.world.note(self.name, text)

    # --------------------------------------------------------------------------------------------------- waking up

    def hear(self, event: Any) -> None:
        """Something is there for it to read."""
        if self.alive:
            self.inbox.append(event)
            self.poke()

    def miss(self, link: Link, draw: random.Random) -> bool:
        """Of what came over a connection and was not read, only some of the first messages are there after all.
        Whether any is missing."""
        unread = [event for event in self.inbox if isinstance(event, Arrived) and event.link is link]
        lost = unread[draw.randint(0, len(unread)) :]
        if lost:
            self.inbox = [event for event in self.inbox if not any(event is one for one in lost)]
        return bool(lost)

    def poke(self) -> None:
        """Wake it soon; how soon depends on how busy its machine is."""
        draw = self.draw.random()
        self.wake_at(self.clock.now + (1e-5 + 5e-5 * draw if draw < 0.97 else 0.05 * (draw - 0.96)))

    def wake_at(self, moment: float) -> None:
        """Wake it then, unless it is woken before."""
        if moment < self._next:
            self._next = max(moment, self.clock.now)
            self.clock.at(self._next, self._wake, self._next)

    def _wake(self, moment: float) -> None:
        if not self.alive or moment != self._next:
            return
        self._next = math.inf
        if self.stopped:
            self._missed = True
            return
        try:
            self.step()
        except Dies:
            self.say("dies in the middle of its turn")
            self.die()
        self.world.stepped(self)

    def step(self) -> None:
        """Take in what came, and act."""
        raise NotImplementedError

    def burn(self) -> None:
        """An action is about to be performed.

        Raises:
            Dies: it does not come to that.
        """
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Dies

    # ------------------------------------------------------------------------------------------------------- signals

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        self.say(f"is stopped for {seconds:.6g} s")
        self.stopped += 1
        self.clock.after(seconds, self.go_on)

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped -= 1
        if self.alive and not self.stopped:
            self.say("goes on")
            if self._missed:
                self._missed = False
                self.wake_at(self.clock.now)

    def kill(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.say("is killed")
            self.die()

    def leave(self, reason: str) -> None:
        """It ends by itself, once everything that it said is out."""
        for link in self.world.network.of(self):
            link.close(self, reason)
        self.die()

    def die(self, *, silent: bool = False) -> None:
        """It is gone. ``silent``: with its machine, so that nobody is told."""
        if not self.alive:
            return
        self.alive = False
        self.inbox.clear()
        for link in self.world.network.of(self):
            # On one machine, only what still waited inside the process is lost with it.
            lossy = not self.world.plan.local or self.draw.random() < 0.2
            link.close(self, "end of file", lossy=lossy, silent=silent)
