"""The interchange's state machine: messages and moments in, actions out. No socket, clock, thread or file.

A shell feeds it every message that arrived, then calls `turn` once, which balances what waits over the managers and
returns the actions of the whole turn. A manager is first given one task for each idle worker; once nobody has idle
workers, managers are filled up to their capacity.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import assert_never

import msgspec

from throughway.interchange import blocks, reports
from throughway.interchange.actions import (
    ABSENT,
    EXECUTOR,
    Action,
    Buffer,
    Disconnect,
    Exit,
    Forward,
    Log,
    Note,
    Send,
)
from throughway.interchange.selectors import ManagerSelector
from throughway.interchange.state import UNKNOWN_FUNCTION, InterchangeState, ManagerRecord, SetAside
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, refusal

ASSIGN_TASKS = 512
"""Tasks in one `Assign`, at most: further ones follow in messages of their own, so that work starts sooner."""


ASSIGN_BYTES = 1 << 20
"""Bytes of payload after which an `Assign` takes no further task."""


ACKNOWLEDGE_SECONDS = 1.0
"""How long a manager may wait for an acknowledgement that came here, until something else is sent to it."""

DYING_SECONDS = 2.0
"""How long the last messages of a manager that is known to be dead may take."""

OBITUARY_SECONDS = 5.0
"""How long a manager that is cut off, and whose block has ended, is waited for: what its node tells of its death says
more, which of its tasks had started."""

LOST_REMEMBERED = 10_000
"""Managers that were given up, of which the ids are kept."""

SPARE = 64
"""Empty deques that are kept for managers whose next `Results` come."""


class InterchangeReactor:
    """One executor, any number of managers.

    Args:
        state: where it keeps everything.
        python: the executor's Python version.
        heartbeat_period: seconds of silence after which a heartbeat is sent.
        heartbeat_threshold: seconds of a manager's silence after which it is lost.
        reconnect_seconds: how long managers of a former interchange have to come back; the threshold by default.
        arena: reads the frames at a place of the executor's shared memory that belong to a task, for managers whose
            workers cannot.
    """

    def __init__(
        self,
        state: InterchangeState,
        *,
        python: str,
        heartbeat_period: float,
        heartbeat_threshold: float,
        reconnect_seconds: float | None = None,
        arena: Callable[[int, int], Sequence[Buffer]] = lambda place, task: [],
    ) -> None:
        self.state = state
        self._arena = arena
        self._python = python
        self._period = heartbeat_period
        self._threshold = heartbeat_threshold
        self._reconnect = heartbeat_threshold if reconnect_seconds is None else reconnect_seconds
        self._restored = False
        self._successor = False
        """whether there was another interchange before this one"""
        self._early: list[tuple[int, m.ManagerHello | m.ManagerDied]] = []
        """first messages of managers that came before the executor's"""
        self._acknowledge_at = math.inf
        self._actions: list[Action] = []
        self._spare: list[deque[tuple[int, list[int]]]] = []
        """empty, and used lately: for managers that have nothing unsure"""
        self._deadlines: list[tuple[float, str]] = []
        """moment and manager: one entry for each manager, and some of those that are gone"""
        self._asks = reports.Asks()
        self._exiting = False
        self._drains: list[tuple[ManagerRecord, str]] = []
        """managers that are to drain, from the next turn on, and why"""
        self._stranded = False
        """whether the executor was told that tasks wait for which nobody has the time"""
        self._limited = 0
        """managers whose time is limited: while there are none, no task's walltime needs a look"""

    # -------------------------------------------------------------------------------------------------- the executor

    def executor_said(self, message: m.FromExecutor, frames: Sequence[Buffer], now: float) -> None:
        """A message of the executor; ``frames`` are its payload frames, the header left out."""
        match message:
            case m.Submit():
                self._submit(message, frames)
                if message.received:
                    self._received(message.received, now)
            case m.Cancel():
                self._cancel(message, now)
            case m.Ask():
                self._ask(EXECUTOR, message, now)
            case m.Acknowledge(received=received):
                self._received(received, now)
                self._acknowledge(now)
            case m.Heartbeat():
                self._actions.append(Send(EXECUTOR, message))
            case m.Restore():
                self._restore(message, now)
            case m.Shutdown(reason=reason):
                self._shut_down(reason or "the executor shut down")
            case _:
                assert_never(message)

    def executor_left(self, reason: str, now: float) -> None:
        """The executor's process is gone: nothing is left to do for anybody."""
        self._shut_down(f"the executor is gone ({reason})")

    def _submit(self, message: m.Submit, frames: Sequence[Buffer]) -> None:
        state = self.state
        functions = state.functions
        for function in message.functions:
            functions[function.id] = function
        tasks = message.tasks
        at = 0
        fits = True
        familiar = UNKNOWN_FUNCTION
        for task in tasks:
            if task.frames > 0:
                state.frames[task.id] = frames[at : at + task.frames]
                at += task.frames
            if task.function != familiar:
                familiar = task.function
                if familiar not in functions:
                    fits = False
        if not fits or at != len(frames):
            self._drop(tasks)
            return
        if self._successor:
            # The executor may hand in twice what was being submitted at the moment of the crash.
            waiting = state.queue.waiting
            owners = state.owners
            if any(task.id in waiting or task.id in owners for task in tasks):
                tasks = [task for task in tasks if task.id not in waiting and task.id not in owners]
        state.submitted += len(tasks)
        state.queue.push(tasks)
        for function_id in message.forget:
            functions.pop(function_id, None)
            for manager in state.knowers.pop(function_id, ()):
                manager.functions.discard(function_id)
                if manager.familiar == function_id:
                    manager.familiar = UNKNOWN_FUNCTION
                self._remind(manager, function_id)
        if message.forget and self._successor and len(state.peers) < len(state.managers):
            for manager in state.managers.values():
                if manager.restored:
                    # Whether it knows them is seen when it comes back.
                    for function_id in message.forget:
                        self._remind(manager, function_id)

    @staticmethod
    def _remind(manager: ManagerRecord, function: int) -> None:
        """The manager is told to forget this function with its next tasks."""
        if manager.forget is None:
            manager.forget = []
        manager.forget.append(function)

    def _drop(self, tasks: list[m.Task]) -> None:
        """A submission that makes no sense: its futures must not hang all the same."""
        reason = "the interchange dropped its submission: frames or functions did not fit its tasks"
        self.state.malformed += 1
        for task in tasks:
            self.state.frames.pop(task.id, None)
        self._actions += [
            Log(
                "ERROR",
                f"a submission of {len(tasks)} tasks was dropped: its frames or functions did not fit",
            ),
            Send(EXECUTOR, m.Lost("none", "no host", reason, "", [task.id for task in tasks])),
        ]

    def _cancel(self, message: m.Cancel, now: float) -> None:
        state = self.state
        cancelled: list[int] = []
        refused: list[int] = []
        elsewhere: dict[str, list[int]] = {}
        for task in message.tasks:
            if state.queue.remove(task) is not None:
                state.frames.pop(task, None)
                cancelled.append(task)
                continue
            manager = state.owners.get(task)
            if manager is None:
                refused.append(task)
            else:
                elsewhere.setdefault(manager.id, []).append(task)
                state.cancelling.add(task)
                if message.kill:
                    state.killing.add(task)
        if cancelled or refused:
            self._actions.append(Send(EXECUTOR, m.Verdicts(cancelled, refused)))
        for name, tasks in elsewhere.items():
            # One that is absent is asked when it comes back.
            self._tell(state.managers[name], m.Cancel(tasks, message.kill), now)

    # --------------------------------------------------------------------------------------------- acknowledgements

    def _received(self, received: dict[str, int], now: float) -> None:
        """The executor has these results: their managers are told with the next message, or before long."""
        state = self.state
        for name, number in received.items():
            if number == m.GIVEN_UP:
                state.fallen.pop(name, None)
                continue
            manager = state.managers.get(name)
            if manager is not None and manager.received < number <= manager.seen:
                manager.received = number
                unsure = manager.unsure
                if unsure is not None:
                    while unsure and unsure[0][0] <= number:
                        unsure.popleft()
                    if not unsure:
                        manager.unsure = None
                        if len(self._spare) < SPARE:
                            self._spare.append(unsure)
                if manager.peer != ABSENT:
                    state.untold[manager] = None
        if state.untold and self._acknowledge_at == math.inf:
            self._acknowledge_at = now + ACKNOWLEDGE_SECONDS

    def _acknowledge(self, now: float) -> None:
        for manager in self.state.untold:
            self._tell(manager, m.Acknowledged(manager.received), now)
        self.state.untold.clear()
        self._acknowledge_at = math.inf

    # ---------------------------------------------------------------------------------------------------- questions

    def _answer_for(self, manager: ManagerRecord) -> None:
        """One that is absent answers nothing: what is known here has to do."""
        if manager.peer == ABSENT:
            for reply in self._asks.manager_left(manager.id):
                self._answer(*reply)

    def _ask(self, peer: int, ask: m.Ask, now: float) -> None:
        state = self.state
        match ask.topic:
            case "hold" | "release" | "drain" if peer == EXECUTOR:
                manager = state.managers.get(ask.subject)
                if manager is not None and ask.topic == "drain":
                    self._drain(manager, "as the executor asked", now)
                elif manager is not None:
                    manager.held = ask.topic == "hold"
                    self._offer(manager)
                self._answer(peer, ask.request, reports.encode(manager is not None))
            case "drain_block" | "drain_idle_block" if peer == EXECUTOR:
                idle = ask.topic == "drain_idle_block"
                drained, managers = blocks.hold(state, ask.subject, only_idle=idle)
                self._drains += [(manager, blocks.DRAIN_REASON) for manager in managers]
                self._answer(peer, ask.request, reports.encode(drained))
            case "block_ended" if peer == EXECUTOR:
                for manager in blocks.members(state, ask.subject):
                    # Where the scheduler errs, a connection that stands is right; one that breaks now confirms it.
                    manager.vacated = True
                    if manager.peer == ABSENT:
                        manager.lost_at = min(manager.lost_at, now + OBITUARY_SECONDS)
                        self._watch(manager, now)
                self._answer(peer, ask.request, reports.encode(True))
            case "tell_stranded" if peer == EXECUTOR:
                state.tells_stranded = True
                self._answer(peer, ask.request, reports.encode(True))
            case "refuse_host" if peer == EXECUTOR:
                state.refused_hosts[ask.subject] = None
                self._drains += [
                    (manager, blocks.HOST_REASON)
                    for manager in state.managers.values()
                    if manager.host == ask.subject
                ]
                self._answer(peer, ask.request, reports.encode(True))
            case "explain" if peer == EXECUTOR:
                explanation, manager = reports.explain(state, ask.subject, now)
                if manager is None:
                    self._answer(peer, ask.request, reports.encode(explanation))
                else:
                    request = self._asks.one(peer, ask.request, manager.id, explanation)
                    self._tell(manager, m.Ask(request, "explain", ask.subject), now)
                    self._answer_for(manager)
            case "packages" if peer == EXECUTOR:
                names = list(state.managers)
                if not names:
                    self._answer(peer, ask.request, reports.encode({}))
                for name, request in self._asks.gather(peer, ask.request, names):
                    self._tell(state.managers[name], m.Ask(request, "packages"), now)
                    self._answer_for(state.managers[name])
            case _:
                payload = reports.report(state, ask.topic, now)
                if payload is None:
                    error = f"this interchange knows no topic {ask.topic!r} for this peer"
                    self._actions.append(Send(peer, m.Answer(ask.request, b"", error)))
                else:
                    self._answer(peer, ask.request, payload)

    def _answer(self, peer: int, request: int, payload: bytes) -> None:
        self._actions.append(Send(peer, m.Answer(request, payload)))

    def observer_said(self, peer: int, ask: m.Ask, now: float) -> None:
        """A question of a watcher: it may look, and change nothing."""
        self._ask(peer, ask, now)

    # ----------------------------------------------------------------------------------------------------- managers

    def manager_said_hello(self, peer: int, hello: m.ManagerHello, now: float) -> None:
        """A new peer introduces itself as a manager. It is welcomed or refused; the others go on either way."""
        if not self._restored:
            self._early.append((peer, hello))
            return
        state = self.state
        reason = refusal(hello.protocol, hello.python, expected_python=self._python, host=hello.host)
        known = state.managers.get(hello.id)
        if reason is None and not self._exiting:
            if hello.id in state.lost or (known is None and (hello.held or hello.ended)):
                self._too_late(peer, hello)
                return
            if known is not None and (known.peer == ABSENT or hello.again):
                self._resume(known, peer, hello, now)
                return
        if reason is None and known is not None:
            reason = f"a manager with the id {hello.id} is registered already"
        if reason is None:
            reason = blocks.objection(state, hello)
        if reason is None and not hello.id:
            reason = f"the manager on {hello.host} has no id"
        if reason is None and hello.workers < 0:
            reason = f"{hello.workers} workers cannot be"
        if reason is None and hello.capacity < hello.workers:
            reason = (
                f"a capacity of {hello.capacity} tasks cannot be for {hello.workers} workers: each holds one"
            )
        if reason is not None or self._exiting:
            reason = reason or "the executor is shutting down"
            state.refused_managers += 1
            self._actions += [
                Log("ERROR", f"refused: {reason}"),
                Send(peer, m.Refused(reason)),
                Send(EXECUTOR, m.ManagerRefused(hello.host, hello.block, reason)),
                Disconnect(peer, reason),
            ]
            return
        ends_at = math.inf if hello.ends_in is None else now + hello.ends_in
        manager = ManagerRecord(peer, hello, now, ends_at=ends_at, draining=hello.draining is not None)
        state.managers[manager.id] = manager
        state.peers[peer] = manager
        self._limited += manager.ends_at != math.inf
        self._tell(manager, m.Welcome(PROTOCOL_VERSION, self._period, self._threshold), now)
        self._offer(manager)
        self._watch(manager, now)
        what = f"block {manager.block}, {manager.workers} workers"
        self._actions += [
            Log("INFO", f"manager {manager.id} on {manager.host} joined: {what}"),
            Send(EXECUTOR, m.ManagerJoined(manager.id, manager.host, manager.block, manager.workers)),
        ]
        if manager.block in state.drained_blocks:
            self._drains.append((manager, blocks.DRAIN_REASON))

    def manager_said(self, peer: int, message: m.FromManager, raw: Sequence[Buffer], now: float) -> None:
        """A message of a registered manager; ``raw`` are all its frames, to be forwarded as they are."""
        manager = self.state.peers.get(peer)
        if manager is None:
            self.state.malformed += 1
            return
        manager.last_heard = now
        match message:
            case m.Results():
                self._results(manager, message, raw, now)
            case m.Started():
                owners = self.state.owners
                for task, worker in zip(message.tasks, message.workers, strict=False):
                    if owners.get(task) is manager:
                        if manager.running is None:
                            manager.running = {}
                        manager.running[task] = (worker, now)
                self._actions.append(Forward(EXECUTOR, raw))
            case m.Verdicts():
                self._judged(manager, message)
                self._after_change(manager, now)
            case m.Returned():
                manager.capacity = message.capacity
                self._take_back(manager, message.tasks)
                self._after_change(manager, now)
            case m.Draining(reason=reason):
                if not manager.draining:
                    manager.draining = True
                    self._offer(manager)
                    self._actions.append(Log("INFO", f"manager {manager.id} drains: {reason}"))
            case m.Leaving(reason=reason, failed=failed, worked=worked):
                # It has nothing left: what it was sent meanwhile, it never saw.
                self._take_back(manager, self.state.owners.numbers(manager))
                self._leave(manager, reason, lost=failed, failed=failed and not worked, now=now)
            case m.Broken():
                self._actions.append(Forward(EXECUTOR, raw))
            case m.Answer():
                for reply in self._asks.answered(message):
                    self._answer(*reply)
            case m.Heartbeat():
                pass
            case _:
                assert_never(message)

    def peer_left(
        self, peer: int, reason: str, now: float, *, gone: bool = True, given: Collection[int] | None = None
    ) -> None:
        """A peer's connection is gone, and, if ``gone``, its process with it.

        ``given`` are the tasks that it had given to workers, where that is known: no others have started.
        """
        self._early = [early for early in self._early if early[0] != peer]
        manager = self.state.peers.get(peer)
        if manager is None:
            return
        if gone or manager.died:
            if given is not None:
                manager.given = given
            self._leave(manager, manager.died or f"its connection ended: {reason}", lost=True, now=now)
            return
        self._detach(manager)
        time = self._threshold
        if manager.vacated:
            time = min(time, OBITUARY_SECONDS)
        manager.lost_at = max(now, manager.last_heard) + time
        self._watch(manager, now)
        text = f"manager {manager.id} on {manager.host} is cut off: {reason}"
        self._actions.append(Log("WARNING", f"{text}; it has {time:g} s to come back"))

    def manager_died(self, peer: int, message: m.ManagerDied, now: float) -> None:
        """Another process of a manager's node tells, as its first and only message, that the manager is dead."""
        if not self._restored:
            self._early.append((peer, message))
            return
        self._actions.append(Disconnect(peer, "thank you"))
        manager = self.state.managers.get(message.manager)
        if manager is None:
            return
        manager.died = message.reason
        manager.given = None if message.given is None else set(message.given)
        if manager.peer == ABSENT:
            self._leave(manager, message.reason, lost=True, now=now)
        else:
            # What it sent last may still be on its way over its own connection.
            manager.lost_at = now + DYING_SECONDS
            self._watch(manager, now)

    def malformed(self, peer: int, reason: str) -> None:
        """Something that is no message came from a peer: it is counted, logged and dropped."""
        self.state.malformed += 1
        self._actions.append(Log("WARNING", f"dropped a message of peer {peer}: {reason}"))

    def _results(self, manager: ManagerRecord, message: m.Results, raw: Sequence[Buffer], now: float) -> None:
        if message.number:
            if message.number <= manager.seen:
                # It was sent again, and had come before.
                manager.capacity = message.capacity
                self._after_change(manager, now)
                return
            manager.seen = message.number
            unsure = manager.unsure
            if unsure is None:
                unsure = manager.unsure = self._spare.pop() if self._spare else deque()
            unsure.append((message.number, message.tasks))
        state = self.state
        owners = state.owners
        if state.frames or state.cancelling or manager.running:
            frames = state.frames
            for task in message.tasks:
                if owners.get(task) is manager:
                    frames.pop(task, None)
                    self._put_aside(manager, task)
        ended = owners.end(manager, message.tasks)
        manager.capacity = message.capacity
        manager.done += ended
        manager.busy += message.busy
        state.completed += ended
        state.busy += message.busy
        self._after_change(manager, now)
        self._actions.append(Forward(EXECUTOR, raw))

    def _judged(self, manager: ManagerRecord, message: m.Verdicts) -> None:
        """Only what the manager has can be settled by it: all else would be the fate of another attempt."""
        owners = self.state.owners
        cancelled = [task for task in message.cancelled if owners.get(task) is manager]
        refused = [task for task in message.refused if owners.get(task) in (manager, None)]
        self._settle(manager, cancelled)
        for task in refused:
            if owners.get(task) is manager:
                self.state.cancelling.discard(task)
                self.state.killing.discard(task)
        if cancelled or refused:
            self._actions.append(Send(EXECUTOR, m.Verdicts(cancelled, refused)))

    def _put_aside(self, manager: ManagerRecord, task: int) -> None:
        """The manager has this task no longer: nobody cancels it there, and it does not run there."""
        self.state.cancelling.discard(task)
        self.state.killing.discard(task)
        running = manager.running
        if running is not None:
            running.pop(task, None)
            if not running:
                manager.running = None

    def _take_back(self, manager: ManagerRecord, tasks: Sequence[int]) -> None:
        """Tasks that a manager has not started and will not: they go to others, or nowhere if they are cancelled."""
        cancelling = self.state.cancelling.intersection(tasks)
        back = self.state.owners.take(manager, tasks)
        for task in back:
            self._put_aside(manager, task.id)
        if cancelling:
            cancelled = [task.id for task in back if task.id in cancelling]
            back = [task for task in back if task.id not in cancelling]
            for task_id in cancelled:
                self.state.frames.pop(task_id, None)
            if cancelled:
                self._actions.append(Send(EXECUTOR, m.Verdicts(cancelled, [])))
        if back:
            self._actions.append(Note("", [task.id for task in back]))
            strangers = [task.id for task in back if task.function == UNKNOWN_FUNCTION]
            if strangers:
                self._actions.append(Send(EXECUTOR, m.Returned(manager.id, strangers, 0)))
                back = [task for task in back if task.function != UNKNOWN_FUNCTION]
        self.state.queue.push_back(back)

    def _settle(self, manager: ManagerRecord, tasks: Sequence[int]) -> None:
        """The fate of these tasks, which the manager has, is known."""
        for task in tasks:
            self.state.frames.pop(task, None)
            self._put_aside(manager, task)
        self.state.owners.end(manager, tasks)

    def _after_change(self, manager: ManagerRecord, now: float) -> None:
        if not manager.load:
            manager.idle_since = now
        self._offer(manager)

    def _offer(self, manager: ManagerRecord) -> None:
        """Put the manager where its room says that it belongs."""
        state = self.state
        load = manager.load
        if self._limited:
            state.idle_aside.drop(manager)
            state.roomy_aside.drop(manager)
        place: ManagerSelector | None = None
        if manager.held or manager.draining or manager.peer == ABSENT:
            pass
        elif load < manager.workers:
            place = state.idle
        elif load < manager.capacity:
            place = state.roomy
        former = manager.offered_to
        if former is not place:
            manager.offered_to = place
            if former is not None:
                former.withdraw(manager)
        if place is not None:
            place.offer(manager)

    def _drain(self, manager: ManagerRecord, reason: str, now: float) -> None:
        if not manager.draining:
            manager.draining = True
            self._offer(manager)
            self._tell(manager, m.Drain(reason), now)

    def _leave(
        self, manager: ManagerRecord, reason: str, *, lost: bool, failed: bool = False, now: float
    ) -> None:
        state = self.state
        manager.draining = True
        self._offer(manager)
        peer = manager.peer
        del state.managers[manager.id]
        if peer != ABSENT:
            del state.peers[peer]
        state.untold.pop(manager, None)
        self._limited -= manager.ends_at != math.inf
        state.lost_managers += lost
        if lost:
            state.lost[manager.id] = None
            while len(state.lost) > LOST_REMEMBERED:
                del state.lost[next(iter(state.lost))]
        for function in manager.functions:
            state.knowers[function].discard(manager)
        if lost and manager.given is not None:
            given = manager.given
            self._take_back(manager, [task for task in state.owners.numbers(manager) if task not in given])
        tasks = state.owners.numbers(manager)
        if lost:
            state.fallen[manager.id] = [*tasks, *(task for _, some in manager.unsure or () for task in some)]
        self._settle(manager, tasks)
        for reply in self._asks.manager_left(manager.id):
            self._answer(*reply)
        self._actions += [
            Log("ERROR" if lost else "INFO", f"manager {manager.id} on {manager.host} left: {reason}"),
            Send(EXECUTOR, m.ManagerLeft(manager.id, manager.host, manager.block, reason, lost, failed)),
        ]
        if peer != ABSENT:
            self._actions.append(Disconnect(peer, reason))
        if lost:
            self._actions.append(
                Send(EXECUTOR, m.Lost(manager.id, manager.host, reason, manager.hello.log, tasks))
            )

    def _tell(
        self, manager: ManagerRecord, message: m.Message, now: float, frames: Sequence[Buffer] = ()
    ) -> None:
        if manager.peer != ABSENT:
            manager.last_sent = now
            self._actions.append(Send(manager.peer, message, frames))

    # ----------------------------------------------------------------------------------------------------- recovery

    def _restore(self, message: m.Restore, now: float) -> None:
        """What a former interchange had: its managers are absent until they come back, or until their time is over."""
        if self._restored:
            self.state.malformed += 1
            return
        self._restored = True
        self._successor = message.again
        state = self.state
        for name in message.lost[-LOST_REMEMBERED:]:
            state.lost[name] = None
        for expected in message.managers:
            nothing = m.ManagerHello(
                PROTOCOL_VERSION, expected.manager, expected.host, expected.block, 0, "", "", 0, 0, 0, 0, 0.0
            )
            manager = ManagerRecord(ABSENT, nothing, now)
            manager.held = expected.held
            manager.lost_at = now + self._reconnect
            manager.seen = manager.received = expected.received
            manager.restored = True
            state.managers[manager.id] = manager
            numbers = [task for task in dict.fromkeys(expected.tasks) if task not in state.owners]
            if numbers:
                unknown = [m.Task(task, UNKNOWN_FUNCTION, b"") for task in numbers]
                state.owners.put(manager, numbers, unknown, codec.encode(unknown))
            self._actions.append(Note(manager.id, expected.tasks))
            self._watch(manager, now)
        if message.managers:
            count = sum(len(expected.tasks) for expected in message.managers)
            text = f"{len(message.managers)} managers of the former interchange may have {count} tasks"
            self._actions.append(Log("WARNING", f"{text}: they have {self._reconnect:g} s to come back"))
        early, self._early = self._early, []
        for peer, first in early:
            if isinstance(first, m.ManagerHello):
                self.manager_said_hello(peer, first, now)
            else:
                self.manager_died(peer, first, now)

    def _detach(self, manager: ManagerRecord) -> None:
        """Its connection is gone."""
        state = self.state
        state.idle_aside.drop(manager)
        state.roomy_aside.drop(manager)
        del state.peers[manager.peer]
        manager.peer = ABSENT
        state.untold.pop(manager, None)
        self._offer(manager)
        self._answer_for(manager)

    def _too_late(self, peer: int, hello: m.ManagerHello) -> None:
        """A manager comes back that was given up: what it has is settled, and it may start over."""
        late = sum(len(tasks) for _, tasks in hello.ended)
        self.state.late += late
        reason = (
            f"manager {hello.id} on {hello.host} was given up before it came back: "
            f"{late} late results and {len(hello.held)} tasks of it are discarded"
        )
        self._actions += [
            Log("WARNING", reason),
            Send(peer, m.Refused(reason, again=True)),
            Disconnect(peer, reason),
        ]

    def _resume(self, manager: ManagerRecord, peer: int, hello: m.ManagerHello, now: float) -> None:
        """A manager is back: what it was sent and never got goes elsewhere, all else goes on."""
        state = self.state
        if manager.peer != ABSENT:
            former = manager.peer
            self._detach(manager)
            self._actions.append(Disconnect(former, "it came back over another connection"))
        self._limited -= manager.ends_at != math.inf
        manager.ends_at = math.inf if hello.ends_in is None else now + hello.ends_in
        self._limited += manager.ends_at != math.inf
        manager.peer = peer
        state.peers[peer] = manager
        manager.hello = hello
        manager.host, manager.block = hello.host, hello.block
        manager.workers, manager.capacity = hello.workers, hello.capacity
        manager.draining = manager.draining or hello.draining is not None
        manager.last_heard = now
        manager.lost_at = math.inf
        manager.vacated = False
        known = set(hello.functions)
        stale = known.intersection(manager.forget or ())
        if not (self._successor and hello.held):
            # What was forgotten here while it did not hear. Tasks of a former interchange may need more.
            stale |= known - state.functions.keys()
        manager.forget = sorted(stale) or None
        known -= stale
        for function in manager.functions - known:
            state.knowers[function].discard(manager)
        manager.functions = known
        manager.familiar = UNKNOWN_FUNCTION
        for function in known:
            state.knowers.setdefault(function, set()).add(manager)
        self._tell(
            manager,
            m.Welcome(PROTOCOL_VERSION, self._period, self._threshold, manager.received, manager.seen),
            now,
        )
        here = set(hello.held)
        for number, tasks in hello.ended:
            if number > manager.seen:
                here.update(tasks)
        missing = [task for task in state.owners.numbers(manager) if task not in here]
        self._take_back(manager, missing)
        unexpected = [task for task in hello.held if state.owners.get(task) is not manager]
        if unexpected:
            self._actions.append(
                Log("ERROR", f"manager {manager.id} has {len(unexpected)} tasks that are not its own")
            )
            self._tell(manager, m.Cancel(unexpected, kill=True), now)
        asked = [task for task in hello.held if task in state.cancelling]
        for kill in (False, True):
            tasks = [task for task in asked if (task in state.killing) is kill]
            if tasks:
                self._tell(manager, m.Cancel(tasks, kill), now)
        if manager.draining and hello.draining is None:
            self._tell(manager, m.Drain("as it was told before"), now)
        if manager.restored:
            manager.restored = False
            self._actions.append(
                Send(EXECUTOR, m.ManagerJoined(manager.id, manager.host, manager.block, manager.workers))
            )
        text = f"manager {manager.id} on {manager.host} is back: {len(hello.held)} tasks go on"
        self._actions.append(Log("INFO", f"{text}, {len(missing)} never reached it"))
        self._after_change(manager, now)
        self._watch(manager, now)

    # ---------------------------------------------------------------------------------------------------- each turn

    def turn(self, now: float) -> list[Action]:
        """Balance what waits over the managers with room; returns every action since the last turn, in order."""
        while self._deadlines and self._deadlines[0][0] <= now:
            moment, name = heapq.heappop(self._deadlines)
            manager = self.state.managers.get(name)
            if manager is not None and moment == manager.watched:
                self._on_deadline(manager, now)
        if self._acknowledge_at <= now:
            self._acknowledge(now)
        if self._drains:
            # Before anything is assigned, so that a block is held and drained as one.
            for manager, reason in self._drains:
                if self.state.managers.get(manager.id) is manager:
                    self._drain(manager, reason, now)
            self._drains = []
        state = self.state
        if state.queue.waiting and not self._exiting:
            self._balance(state.idle, state.idle_aside, now, idle=True)
            if state.queue.waiting:
                self._balance(state.roomy, state.roomy_aside, now, idle=False)
        if self._limited and self.state.tells_stranded:
            # Workers are idle, tasks wait, and none of these has the time for any of those.
            stuck = bool(
                self.state.queue.waiting and self.state.idle_aside.members and not len(self.state.idle)
            )
            if stuck and not self._stranded:
                self._actions.append(Send(EXECUTOR, m.Stranded()))
            self._stranded = stuck
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    @property
    def resting(self) -> bool:
        """Whether no task is here or with a manager."""
        return not (self.state.owners or self.state.queue.waiting)

    def next_deadline(self) -> float | None:
        """When `turn` must be called even if nothing arrives."""
        first = self._deadlines[0][0] if self._deadlines else math.inf
        first = min(first, self._acknowledge_at)
        return None if first == math.inf else first

    def _balance(self, selector: ManagerSelector, aside: SetAside, now: float, *, idle: bool) -> None:
        queue = self.state.queue
        while queue.waiting:
            offered = len(selector)
            if aside.members:
                longest = aside.longest()
                if longest is not None and longest.ends_at - now >= queue.shortest():
                    self._offer(longest)
                    offered += 1
            if not offered:
                return
            picked = selector.pick()
            if isinstance(picked, ManagerRecord) and picked.offered_to is selector:
                manager = picked
            else:
                manager = self.state.managers[picked.id]
            room = (manager.workers if idle else manager.capacity) - manager.load
            limit = math.inf
            if self._limited:
                manager.seconds_left = limit = manager.ends_at - now
                offered += len(aside.members)
            share = -(-len(queue.waiting) // offered)
            tasks = queue.take(min(room, share, ASSIGN_TASKS), limit)
            if tasks:
                self._assign(manager, tasks, now)
            else:
                selector.withdraw(manager)
                manager.offered_to = None
                aside.put(manager)

    def _assign(self, manager: ManagerRecord, tasks: list[m.Task], now: float) -> None:
        state = self.state
        functions: list[m.Function] = []
        frames: list[Buffer] = []
        kept = tasks
        familiar = manager.familiar
        for task in tasks:
            if task.function != familiar or task.frames:
                kept = self._furnish(manager, tasks, functions, frames)
                break
        packed = codec.encode(tasks)
        if len(packed) > ASSIGN_BYTES and kept is tasks and not functions and not frames:
            kept = self._furnish(manager, tasks, functions, frames)
            packed = codec.encode(tasks)
        forget: list[int] = []
        if manager.forget is not None:
            forget = [function for function in manager.forget if function not in manager.functions]
            manager.forget = None
        received = 0
        if manager in state.untold:
            del state.untold[manager]
            received = manager.received
        numbers = [task.id for task in tasks]
        state.owners.put(manager, numbers, kept, packed if kept is tasks else codec.encode(kept))
        self._offer(manager)
        self._actions.append(Note(manager.id, numbers))
        manager.last_sent = now
        message = m.PackedAssign(msgspec.Raw(packed), functions, forget, received)
        self._actions.append(Send(manager.peer, message, frames))

    def _furnish(
        self, manager: ManagerRecord, tasks: list[m.Task], functions: list[m.Function], frames: list[Buffer]
    ) -> list[m.Task]:
        """Add what a manager needs for these tasks. Those that would be too much are left to wait.

        Returns the tasks as they are to be kept here: should they come back, they may go to a manager that shares the
        executor's memory, of which this one was sent a copy.
        """
        state = self.state
        kept = tasks
        size = 0
        for index, task in enumerate(tasks):
            if size >= ASSIGN_BYTES:
                state.queue.push_back(kept[index:])
                del tasks[index:], kept[index:]
                break
            size += len(task.payload)
            if task.function != manager.familiar:
                manager.familiar = task.function
                if task.function not in manager.functions:
                    manager.functions.add(task.function)
                    functions.append(state.functions[task.function])
                    state.knowers.setdefault(task.function, set()).add(manager)
            there: Sequence[Buffer] = ()
            if task.frames > 0:
                there = state.frames[task.id]
            elif task.frames and not manager.hello.shares:
                there = self._arena(-task.frames, task.id)
                if kept is tasks:
                    kept = tasks.copy()
                tasks[index] = msgspec.structs.replace(task, frames=len(there))
            if there:
                frames += there
                size += sum(map(len, there))
        return kept

    # ----------------------------------------------------------------------------------------------------- liveness

    def _watch(self, manager: ManagerRecord, now: float) -> None:
        if manager.peer == ABSENT:
            next_moment = manager.lost_at
        else:
            next_moment = min(manager.last_heard + self._threshold, manager.last_sent + self._period)
            next_moment = min(next_moment, manager.lost_at)
            if not manager.draining:
                next_moment = min(next_moment, manager.ends_at)
        manager.watched = max(next_moment, now + 0.001)
        heapq.heappush(self._deadlines, (manager.watched, manager.id))

    def _on_deadline(self, manager: ManagerRecord, now: float) -> None:
        if now >= manager.lost_at:
            limit = f"heartbeat_threshold: {self._threshold:g} s"
            if manager.restored:
                limit = f"{self._reconnect:g} s after the interchange was started anew"
            reason = blocks.ENDED_REASON if manager.vacated else f"it did not come back ({limit})"
            self._leave(manager, manager.died or reason, lost=True, now=now)
            return
        if manager.peer == ABSENT:
            self._watch(manager, now)
            return
        silence = now - manager.last_heard
        if silence >= self._threshold:
            reason = f"silent for {silence:.1f} s (heartbeat_threshold: {self._threshold:g} s)"
            self._leave(manager, reason, lost=True, now=now)
            return
        if manager.ends_at <= now and not manager.draining:
            self._drain(manager, "its time is over", now)
        if now - manager.last_sent >= self._period:
            self._tell(manager, m.Heartbeat(), now)
        self._watch(manager, now)

    def _shut_down(self, reason: str) -> None:
        if self._exiting:
            return
        self._exiting = True
        self._actions.append(Log("INFO", f"shutting down: {reason}"))
        for manager in self.state.peers.values():
            self._actions.append(Send(manager.peer, m.Shutdown(reason)))
        self._actions.append(Exit(reason))
