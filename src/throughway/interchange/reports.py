"""What the interchange answers: reports of its state, explanations of a task, and questions passed on to managers."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from throughway.interchange import blocks
from throughway.interchange.state import InterchangeState, ManagerRecord
from throughway.protocol.messages import Answer
from throughway.protocol.views import Explanation, RunView, task_number

encode = msgspec.msgpack.encode


def report(state: InterchangeState, topic: str, now: float) -> bytes | None:
    """The payload for ``managers``, ``status``, ``blocks`` or ``run``; None for a topic that is not a report."""
    match topic:
        case "managers":
            return encode([manager.view(now) for manager in state.managers.values()])
        case "status":
            return encode(state.status(now))
        case "blocks":
            return encode(blocks.loads(state, now))
        case "run":
            return encode(
                RunView(state.status(now), [manager.view(now) for manager in state.managers.values()])
            )
        case _:
            return None


def explain(state: InterchangeState, subject: str, now: float) -> tuple[Explanation, ManagerRecord | None]:
    """Where a task is; with a manager where that one knows more."""
    task = task_number(subject)
    manager = state.owners.get(task)
    if manager is not None:
        explanation = Explanation(
            task,
            "at a manager",
            manager=manager.id,
            host=manager.host,
            block=manager.block,
            log=manager.hello.log,
        )
        return explanation, manager
    if task not in state.queue:
        nothing = "it is neither queued nor running: its outcome is on its way"
        return Explanation(task, "unknown", waits_for=nothing), None
    ahead = state.queue.ahead(task)
    return Explanation(task, "at the interchange", waits_for=_obstacle(state, task, now), ahead=ahead), None


def _obstacle(state: InterchangeState, task: int, now: float) -> str:
    managers = list(state.managers.values())
    if not managers:
        return "a manager: none is registered (blocks that start, fail or wait in a batch system show in blocks())"
    takers = [manager for manager in managers if manager.open]
    if not takers:
        held = sum(manager.held for manager in managers)
        return f"a manager that takes tasks: {held} of {len(managers)} are held, {len(managers) - held} drain"
    walltime = state.queue.waiting[task].walltime
    longest = max(manager.ends_at - now for manager in takers)
    if walltime and longest != math.inf and longest < walltime:
        most = f"the most that any has left is {max(0, longest):.0f} s"
        return f"a manager with {walltime:g} s left for its walltime: {most}"
    if not any(manager.workers for manager in takers):
        return "workers: the managers that are there have none ready yet"
    return "a free worker"


class _Gathering(msgspec.Struct, eq=False):
    peer: int
    request: int
    waiting: set[str]
    parts: dict[str, Any]


class _Question(msgspec.Struct, eq=False):
    manager: str
    gathering: _Gathering | None
    peer: int = 0
    request: int = 0
    fallback: bytes = b""


Reply = tuple[int, int, bytes]
"""peer, request, payload"""


class Asks:
    """Questions that were passed on to managers and wait for their answers."""

    def __init__(self) -> None:
        self._next = 0
        self._questions: dict[int, _Question] = {}

    def one(self, peer: int, request: int, manager: str, fallback: Explanation) -> int:
        """A question to one manager; ``fallback`` is the answer should it leave. Returns the number to ask under."""
        self._next += 1
        self._questions[self._next] = _Question(manager, None, peer, request, encode(fallback))
        return self._next

    def gather(self, peer: int, request: int, managers: list[str]) -> list[tuple[str, int]]:
        """A question to several managers, answered by one mapping of manager → answer once all have answered."""
        gathering = _Gathering(peer, request, set(managers), {})
        numbers = []
        for manager in managers:
            self._next += 1
            self._questions[self._next] = _Question(manager, gathering)
            numbers.append((manager, self._next))
        return numbers

    def answered(self, answer: Answer) -> list[Reply]:
        """A manager answered: the replies that are complete now."""
        question = self._questions.pop(answer.request, None)
        if question is None:
            return []
        if question.gathering is None:
            return [(question.peer, question.request, bytes(answer.payload) or question.fallback)]
        if answer.payload:
            question.gathering.parts[question.manager] = msgspec.Raw(answer.payload)
        return self._told(question.gathering, question.manager)

    def manager_left(self, manager: str) -> list[Reply]:
        """What was asked of a manager that is gone is answered without it."""
        replies: list[Reply] = []
        gone = [number for number, question in self._questions.items() if question.manager == manager]
        for number in gone:
            question = self._questions.pop(number)
            if question.gathering is None:
                replies.append((question.peer, question.request, question.fallback))
            else:
                replies += self._told(question.gathering, manager)
        return replies

    @staticmethod
    def _told(gathering: _Gathering, manager: str) -> list[Reply]:
        gathering.waiting.discard(manager)
        if gathering.waiting:
            return []
        return [(gathering.peer, gathering.request, encode(gathering.parts))]
