"""The manager's state machine: messages, records and moments in, actions out. No socket, pipe, clock or process.

It knows at every instant which tasks each worker has. Workers claim tasks one by one, so what a worker has not claimed
can be taken back from it (`Revoke`) and given to another: that is how no task stays behind a long one, how a queued
task is cancelled for certain, and how the death of a worker costs only the task that it ran.
"""

from __future__ import annotations

import heapq
import math
import signal
from collections import deque
from collections.abc import Sequence
from enum import Enum
from operator import attrgetter
from typing import assert_never

import msgspec

from throughway.manager.actions import (
    Action,
    Buffer,
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
from throughway.manager.pace import HOLD_SECONDS, MAX_BUNDLE_TASKS, Pace
from throughway.manager.results import ResultLog
from throughway.manager.state import ManagerState, WorkerRecord
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark
from throughway.protocol.views import Explanation, task_number
from throughway.transport.records import Record

LOOK_SECONDS = 0.005
"""A worker's progress is first looked at this long after it was given work: a task that runs by then is reported as
started, and what waits behind it is taken back."""

STUCK_SECONDS = 0.1
"""A task that runs for this long is taken for a long one; its worker is not looked at any more."""

BUNDLE_BYTES = 1 << 18
"""Bytes of payload after which a bundle takes no further task."""

START_AGAIN_SECONDS = 1.0
"""A worker that could not be started is tried again after so long."""

MAX_START_FAILURES = 5
"""Workers that may die in a row before any got ready, and tries in a row in which none can be started."""

MAX_WALLTIMES = 128
"""Entries for walltimes of tasks that have ended, about: beyond these, they are cleared away."""

RETAINED_BYTES = 1 << 28
"""With more than this in results that the executor has not acknowledged, no worker is given anything new."""

PARTING_SECONDS = 10.0
"""How long a manager that drains, and has only results left, waits for its interchange to come back."""

_FRAMES = attrgetter("frames")


class Link(Enum):
    """How a manager stands with its interchange."""

    DOWN = "no connection"
    GREETING = "it has said hello, and waits for its welcome"
    UP = "registered"


class ManagerReactor:
    """One node's manager.

    Args:
        state: where it keeps everything.
        prefetch_capacity: tasks to hold beyond one for each worker; None adapts to how long they take.
        max_tasks_per_child: tasks that a worker runs before it is replaced; None for any number.
        heartbeat_period: seconds of silence after which a heartbeat is sent.
        heartbeat_threshold: seconds of the interchange's silence, with a connection or without, after which the manager
            ends.
        drain_at: moment at which it drains by itself, None for never.
    """

    def __init__(
        self,
        state: ManagerState,
        *,
        now: float,
        prefetch_capacity: int | None = None,
        max_tasks_per_child: int | None = None,
        heartbeat_period: float = 30.0,
        heartbeat_threshold: float = 120.0,
        drain_at: float | None = None,
    ) -> None:
        self.state = state
        self._prefetch = prefetch_capacity
        self._max_tasks = max_tasks_per_child
        self._period = heartbeat_period
        self._threshold = heartbeat_threshold
        self._drain_at = drain_at
        self._pace = Pace()
        self._actions: list[Action] = []
        self._looks: list[tuple[float, int]] = []
        self._walltimes: list[tuple[float, int, int]] = []
        self._cancelling: set[int] = set()
        self._bundle_guess = 1
        self._next_worker = 0
        self._start_failures = 0
        """workers in a row that ended before they were ready; those that died with one zygote are one"""
        self._rounds = 0
        """tries in a row, `START_AGAIN_SECONDS` apart, in which some worker was not started at all"""
        self._round_at = -math.inf
        """when the last of them began"""
        self._worked = False
        """whether any worker ever got ready"""
        self._last_heard = now
        self._last_sent = now
        self._leaving = False
        self._failed = False
        """whether it drains because no worker gets ready"""
        self.link = Link.DOWN
        self._away_since = math.inf
        """when it was first seen to be without an interchange, inf while it is registered"""
        self._greeted = False
        """whether it ever said hello: it may be registered, even if the welcome never came"""
        self._later: deque[tuple[float, int]] = deque()
        """workers that could not be started: when to try again, and in which slot"""
        self._unsent: list[Tell] = []
        """what is to be said once it is welcome"""
        self._broken: m.Broken | None = None
        self.results = ResultLog()

    # -------------------------------------------------------------------------------------------------- capacity

    @property
    def capacity(self) -> int:
        """How many tasks it is ready to hold, running and waiting."""
        state = self.state
        if self._prefetch is not None:
            return state.slots + self._prefetch
        return state.slots + self._pace.depth(state.slots - len(state.stuck))

    def start(self) -> list[Action]:
        """Start all workers."""
        for slot in range(self.state.slots):
            self._start_worker(slot)
        return self._taken()

    # -------------------------------------------------------------------------------------------- the interchange

    def interchange_said(self, message: m.ToManager, frames: Sequence[Buffer], now: float) -> None:
        """A message of the interchange; ``frames`` are its payload frames, the header left out."""
        self._last_heard = now
        match message:
            case m.Assign():
                self._assigned(message, frames)
                if message.received:
                    self.results.acknowledged(message.received)
            case m.Acknowledged(received=received):
                self.results.acknowledged(received)
            case m.Cancel():
                self._cancel(message)
            case m.Drain(reason=reason):
                self.drain(reason)
            case m.Shutdown(reason=reason):
                self._actions.append(Exit(reason, knows=True))
            case m.Ask(topic="packages"):
                self._actions.append(ReportPackages(message.request))
            case m.Ask():
                self._tell(m.Answer(message.request, codec.encode(self._explain(message.subject, now))))
            case m.Heartbeat():
                pass
            case _:
                assert_never(message)

    def hello(self, hello: m.ManagerHello) -> m.ManagerHello:
        """What to say first over a new connection: ``hello``, with all that must be known of the tasks here.

        From now on until it is welcome, nothing is said that this does not already say.
        """
        state = self.state
        again, self._greeted = self._greeted, True
        self.link = Link.GREETING
        self._unsent.clear()
        return msgspec.structs.replace(
            hello,
            capacity=self.capacity,
            again=again,
            held=[*state.queue.waiting, *state.holders, *self.results.ended],
            ended=[(kept.message.number, kept.message.tasks) for kept in self.results.kept],
            functions=list(state.functions),
            draining=state.draining,
        )

    def welcomed(self, welcome: m.Welcome, now: float) -> None:
        """Registered, for the first time or again: what the interchange has not seen is said once more."""
        self._last_heard = now
        self.link = Link.UP
        self._away_since = math.inf
        self.results.acknowledged(welcome.received)
        self._actions += [Tell(kept.message, kept.frames) for kept in self.results.after(welcome.seen)]
        self._actions += self._unsent
        self._unsent.clear()
        if self._broken is not None:
            self._tell(self._broken)
        for worker in self.state.workers.values():
            if worker.pending and worker.reported == worker.pending[0].id:
                self._tell(m.Started(self.state.id, [worker.reported], [worker.slot]))

    def interchange_left(self, reason: str) -> None:
        """The connection to the interchange is gone. Work goes on; the shell connects again."""
        self.link = Link.DOWN
        self._unsent.clear()
        if self._leaving:
            self._actions.append(Exit(f"the interchange is gone: {reason}"))
        else:
            self._actions.append(Log("WARNING", f"cut off from the interchange: {reason}"))

    def _assigned(self, message: m.Assign, frames: Sequence[Buffer]) -> None:
        state = self.state
        for number in message.forget:
            state.functions.pop(number, None)
            self._pace.forget(number)
            for worker in state.workers.values():
                if number in worker.functions:
                    worker.functions.discard(number)
                    worker.forget.append(number)
        for function in message.functions:
            state.functions[function.id] = function
        tasks = message.tasks
        wanted = sum([count for count in map(_FRAMES, tasks) if count > 0])
        if wanted != len(frames) or not {task.function for task in tasks} <= state.functions.keys():
            self._refuse(tasks)
            return
        if wanted:
            at = 0
            for task in tasks:
                if task.frames > 0:
                    state.frames[task.id] = frames[at : at + task.frames]
                    at += task.frames
        state.queue.push(tasks)

    def _refuse(self, tasks: Sequence[m.Task]) -> None:
        """An assignment that makes no sense: its futures must not hang all the same."""
        reason = "it was assigned without its function or its frames"
        self._actions.append(Log("ERROR", f"refused {len(tasks)} tasks: {reason}"))
        loss = codec.encode(m.Loss(host=self.state.host, manager=self.state.id, reason=reason, started=False))
        for task in tasks:
            self.results.add(task.id, m.Outcome.MANAGER_LOST, -1, loss)

    def _cancel(self, message: m.Cancel) -> None:
        state = self.state
        cancelled: list[int] = []
        refused: list[int] = []
        touched: dict[int, WorkerRecord] = {}
        for task in message.tasks:
            if state.queue.remove(task) is not None:
                state.frames.pop(task, None)
                cancelled.append(task)
                continue
            worker = state.holders.get(task)
            if worker is None:
                refused.append(task)
                continue
            self._cancelling.add(task)
            touched[worker.number] = worker
            if message.kill:
                worker.kills.add(task)
        if cancelled or refused:
            self._tell(m.Verdicts(cancelled, refused))
        for worker in touched.values():
            # What it has not claimed comes back; then whatever is still pending has started.
            self._revoke(worker, len(worker.pending))

    def _revoke(self, worker: WorkerRecord, count: int) -> None:
        worker.revoking = True
        self._actions.append(Revoke(worker.number, count))

    def _explain(self, subject: str, now: float) -> Explanation:
        state = self.state
        task = task_number(subject)
        worker = state.holders.get(task)
        if worker is None:
            if task in state.queue:
                ahead = state.queue.ahead(task)
                return Explanation(
                    task, "at a manager", "a free worker", state.id, state.host, state.block, ahead=ahead
                )
            return Explanation(task, "unknown", "nothing: its outcome is on its way")
        where = Explanation(
            task,
            "running",
            "",
            state.id,
            state.host,
            state.block,
            worker.slot,
            log=state.worker_log(worker.slot),
        )
        where.ahead = next(index for index, other in enumerate(worker.pending) if other.id == task)
        if where.ahead:
            where.state = "at a worker"
            where.waits_for = "the tasks before it"
        else:
            where.seconds = now - worker.head_since
        return where

    # --------------------------------------------------------------------------------------------------- workers

    def records_came(self, number: int, records: Sequence[Record], now: float) -> None:
        """A worker's records, in the order in which it wrote them."""
        worker = self.state.workers.get(number)
        if worker is None or worker.broken or not records:
            return
        state = self.state
        holders = state.holders
        pending = worker.pending
        ended = self.results.ended
        outcomes = self.results.outcomes
        payloads = self.results.payloads
        before = len(ended)
        strange: int | None = None
        function = -1
        spent = 0.0
        count = 0
        for task_id, outcome, seconds, payload, frames in records:
            if outcome >= Mark.READY:
                self._marked(worker, outcome, payload, now)
                continue
            if not pending or pending[0].id != task_id:
                strange = task_id
                break
            task = pending.popleft()
            del holders[task_id]
            # Tasks of one function in a row are learnt from together: this loop is what a tiny task costs here.
            if task.function == function:
                spent += seconds
                count += 1
            else:
                if count:
                    self._learn(function, spent, count)
                function = task.function
                spent = seconds
                count = 1
            if frames:
                self.results.frame_counts[len(ended)] = len(frames)
                self.results.frames += frames
            if task.frames > 0:
                state.frames.pop(task_id, None)
            ended.append(task_id)
            outcomes.append(outcome)
            payloads.append(payload)
        if count:
            self._learn(function, spent, count)
            self._account(worker, len(ended) - before)
        if strange is not None:
            self.worker_broke(number, f"answered task {strange}, which it does not have")
            return
        worker.head_since = now
        worker.walltime_at = 0.0
        self.state.stuck.discard(number)
        if worker.available:
            self.state.idle[number] = worker

    def _learn(self, function: int, seconds: float, count: int) -> None:
        self._pace.learn(function, seconds, count)
        self.results.busy += seconds

    def _account(self, worker: WorkerRecord, count: int) -> None:
        """So many of the first of a worker's pending tasks have ended."""
        self.results.workers += [worker.slot] * count
        bundles = worker.bundles
        while count:
            if bundles[0] > count:
                bundles[0] -= count
                return
            count -= bundles.popleft()

    def _marked(self, worker: WorkerRecord, mark: int, payload: bytes, now: float) -> None:
        if mark == Mark.READY:
            worker.ready = self._worked = True
            self._start_failures = self._rounds = 0
        elif mark == Mark.DISCARDED and worker.discards:
            worker.discards -= 1
            worker.cut = False
        elif mark == Mark.INITIALIZER_FAILED:
            worker.stopping = True
            self._broken = m.Broken(self.state.id, "the initializer raised", payload)
            if self.link is Link.UP:
                self._tell(self._broken)
        else:
            self.worker_broke(worker.number, f"sent mark {mark} out of turn")

    def worker_broke(self, number: int, what: str) -> None:
        """What a worker writes makes no sense: it is killed, nothing more that it writes counts, and each task that it
        claimed is lost."""
        worker = self.state.workers.get(number)
        if worker is None or worker.broken:
            return
        worker.broken = worker.stopping = True
        self.state.idle.pop(number, None)
        self._actions += [Log("ERROR", f"worker {worker.slot} {what}: a task broke its pipe"), Kill(number)]

    def revoked(self, number: int, count: int, now: float) -> None:
        """So many claims were taken back from a worker: the last of what it has, it will not run."""
        worker = self.state.workers.get(number)
        if worker is None:
            return
        worker.revoking = False
        back: list[m.Task] = []
        left = count
        while left:
            in_last = worker.bundles[-1]
            some = min(left, in_last)
            for _ in range(some):
                task = worker.pending.pop()
                del self.state.holders[task.id]
                back.append(task)
            left -= some
            # A bundle that is cut twice is found cut, and reported as discarded, once.
            worker.discards += not worker.cut
            worker.cut = some < in_last
            if some == in_last:
                worker.bundles.pop()
            else:
                worker.bundles[-1] -= some
        if worker.left is not None:
            worker.left += count
        self._requeue(back)
        self._judge(worker)
        if worker.kills:
            # Nothing more can start there now; what is at the head once its results are read is what runs.
            self._actions.append(Look(number))

    def _requeue(self, tasks: Sequence[m.Task]) -> None:
        cancelled = [task.id for task in tasks if task.id in self._cancelling]
        if cancelled:
            self._cancelling.difference_update(cancelled)
            for task in cancelled:
                self.state.frames.pop(task, None)
            self._tell(m.Verdicts(cancelled, []))
            dropped = set(cancelled)
            tasks = [task for task in tasks if task.id not in dropped]
        self.state.queue.push_back(tasks)

    def _judge(self, worker: WorkerRecord) -> None:
        """Cancellations of tasks that a worker could not give back are refused: it runs them."""
        if not self._cancelling:
            return
        running = [task.id for task in worker.pending if task.id in self._cancelling]
        if running:
            self._cancelling.difference_update(running)
            self._tell(m.Verdicts([], running))

    def _settle_kills(self, worker: WorkerRecord) -> None:
        kills = worker.kills
        if not kills or worker.revoking:
            return
        worker.kills = set()
        if worker.pending and worker.pending[0].id in kills:
            self._kill(worker, m.Outcome.KILLED)

    def _kill(self, worker: WorkerRecord, outcome: m.Outcome) -> None:
        """Kill a worker for the task that it runs. It is given nothing more, should the task end at this moment."""
        if not worker.stopping:
            worker.stopping = True
            worker.kill = (worker.pending[0].id, outcome)
            self._actions.append(Kill(worker.number))

    def looked(self, number: int, now: float) -> None:
        """A worker's results were read on request (`Look`)."""
        worker = self.state.workers.get(number)
        if worker is None:
            return
        self._settle_kills(worker)
        if not worker.pending or worker.stopping:
            return
        head = worker.pending[0]
        running = now - worker.head_since
        if worker.walltime_at and worker.walltime_at <= now:
            self._kill(worker, m.Outcome.WALLTIME)
            return
        if running < LOOK_SECONDS:
            self._look_at(worker, now + LOOK_SECONDS)
            return
        if worker.reported != head.id:
            worker.reported = head.id
            self._tell(m.Started(self.state.id, [head.id], [worker.slot]))
        self._pace.at_least(head.function, running)
        if running >= HOLD_SECONDS:
            self.state.stuck.add(number)
        if running >= 2 * LOOK_SECONDS and len(worker.pending) > 1:
            self._revoke(worker, len(worker.pending) - 1)
        if running < STUCK_SECONDS:
            self._look_at(worker, now + max(LOOK_SECONDS, running))

    def worker_ended(
        self, number: int, status: int, unclaimed: int, stderr: str, log: str, now: float
    ) -> None:
        """A worker's process is gone and all it wrote was read; ``unclaimed`` claims were left.

        ``status`` is that of `os.waitpid`, ``stderr`` the end of what it wrote to its log.
        """
        state = self.state
        worker = state.workers.pop(number, None)
        if worker is None:
            return
        state.idle.pop(number, None)
        state.stuck.discard(number)
        pending = list(worker.pending)
        for task in pending:
            del state.holders[task.id]
        claimed = max(0, len(pending) - unclaimed)
        for task in pending[:claimed]:
            # One, unless the worker broke its pipe.
            self._lose(worker, task, status, stderr, log, now)
        self._requeue(pending[claimed:])
        if not worker.ready and not worker.orphan:
            how = describe_status(status)
            self._actions.append(
                Log("ERROR", f"worker {worker.slot} {how} before it was ready; its log ends: {stderr}")
            )
            self._start_failed(f"{how}: {stderr}")
        if state.draining is None:
            self._start_worker(worker.slot)

    def zygote_ended(self) -> None:
        """The process that forks the workers has died, and all of them with it: `worker_ended` follows for each.

        Of those that were not ready this says little: they count as one.
        """
        unready = [worker.slot for worker in self.state.workers.values() if not worker.ready]
        for worker in self.state.workers.values():
            worker.orphan = True
        if unready:
            how = "died with the process that forks workers"
            slots = ", ".join(map(str, unready))
            self._actions.append(Log("ERROR", f"before they were ready, these workers {how}: {slots}"))
            self._start_failed(how)

    def _start_failed(self, how: str) -> None:
        self._start_failures += 1
        if self._start_failures >= MAX_START_FAILURES:
            self._fail(
                f"{self._start_failures} workers in a row ended before they were ready; the last {how}"
            )

    def _lose(
        self, worker: WorkerRecord, task: m.Task, status: int, stderr: str, log: str, now: float
    ) -> None:
        outcome = m.Outcome.WORKER_LOST
        if worker.kill is not None and worker.kill[0] == task.id:
            outcome = worker.kill[1]
        self.state.frames.pop(task.id, None)
        loss = m.Loss(
            host=self.state.host,
            manager=self.state.id,
            worker=worker.slot,
            exit_code=status >> 8 if status & 0x7F == 0 else None,
            signal=status & 0x7F or None,
            reason=describe_status(status),
            log=log,
            stderr=stderr,
            seconds=now - worker.head_since,
        )
        self.results.add(task.id, outcome, worker.slot, codec.encode(loss))
        self.results.busy += loss.seconds
        if outcome == m.Outcome.WORKER_LOST:
            self._actions.append(
                Log("WARNING", f"worker {worker.slot} {loss.reason} while it ran task {task.id}")
            )

    def worker_not_started(self, number: int, reason: str, now: float) -> None:
        """There is no process for a worker that was to start: it is tried again, for as long as others run.

        What is short, descriptors or processes or memory, is short for all that start at that moment, and may be there
        again a moment later: how many were refused at once does not count, but how often it was tried.
        """
        worker = self.state.workers.pop(number, None)
        if worker is None:
            return
        if now >= self._round_at + START_AGAIN_SECONDS:
            self._round_at = now
            self._rounds += 1
        self._actions.append(Log("ERROR", f"worker {worker.slot} cannot be started: {reason}"))
        if self._rounds >= MAX_START_FAILURES and not self.state.workers:
            self._fail(f"no worker can be started: {reason}")
        else:
            self._later.append((now + START_AGAIN_SECONDS, worker.slot))

    def _start_worker(self, slot: int) -> None:
        number = self._next_worker
        self._next_worker += 1
        self.state.workers[number] = WorkerRecord(number, slot, left=self._max_tasks)
        self._actions.append(Start(number, slot))

    # ----------------------------------------------------------------------------------------------------- ending

    def drain(self, reason: str) -> None:
        """Take nothing new, give back what has not started, finish, and leave."""
        if self.state.draining is not None:
            return
        self.state.draining = reason
        self._actions.append(Log("INFO", f"draining: {reason}"))
        self._tell(m.Draining(self.state.id, reason))
        self._give_back(len(self.state.queue))

    def _fail(self, reason: str) -> None:
        """No worker gets ready here: finish what runs, and leave as one that failed.

        Why it did is known to the interchange before that, and with it to the executor.
        """
        if self.state.draining is None:
            self._failed = True
            self.drain(reason)

    def _give_back(self, count: int) -> None:
        if self.link is not Link.UP:
            return
        tasks = self.state.queue.take_last(count)
        for task in tasks:
            self.state.frames.pop(task.id, None)
        if tasks:
            capacity = 0 if self.state.draining is not None else self.capacity
            self._tell(m.Returned(self.state.id, [task.id for task in tasks], capacity))

    def _leave(self, reason: str) -> None:
        """Nothing is left here, and nothing of it is unknown to the executor.

        One that is registered says so: what is on its way here would be taken for lost with it. One that failed has
        itself registered first.
        """
        if self.link is Link.UP or not (self._greeted or self._failed):
            self._leaving = True
            self._tell(m.Leaving(self.state.id, reason, self._failed, self._worked))
            self._actions.append(Exit(reason, int(self._failed), knows=True))

    # -------------------------------------------------------------------------------------------------- each turn

    def turn(self, now: float) -> list[Action]:
        """Give work to idle workers and report what ended; returns every action since the last turn, in order."""
        self._on_time(now)
        state = self.state
        if state.queue.waiting:
            if state.draining is not None:
                self._give_back(len(state.queue))
            elif self.results.kept_bytes > RETAINED_BYTES:
                pass  # what is acknowledged makes room
            else:
                if state.idle:
                    self._give_to_idle(now)
                if state.queue.waiting and self._bundle_guess > 1:
                    self._give_ahead(now)
            if state.queue.waiting and state.stuck:
                self._return_surplus()
        if self.results.ended:
            self._report()
        if state.draining is not None and not (self._leaving or state.held or self.results.kept):
            self._leave(state.draining)
        actions = self._taken()
        for action in actions:
            if isinstance(action, Tell):
                self._last_sent = now
                break
        return actions

    def _taken(self) -> list[Action]:
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    def next_deadline(self) -> float:
        """When `turn` must be called even if nothing arrives."""
        deadline = min(self._last_sent + self._period, self._last_heard + self._threshold)
        if self.state.draining is not None:
            deadline = min(deadline, self._parting_at())
        elif self._drain_at is not None:
            deadline = min(deadline, self._drain_at)
        if self._looks and self._looks[0][0] < deadline:
            deadline = self._looks[0][0]
        if self._walltimes:
            deadline = min(deadline, self._walltimes[0][0])
        if self._later:
            deadline = min(deadline, self._later[0][0])
        return deadline

    def _parting_at(self) -> float:
        """When to leave without a connection: an interchange that is started anew is there long before."""
        if self.state.draining is None or self.state.held or self.link is Link.UP:
            return math.inf
        return self._away_since + PARTING_SECONDS

    def _on_time(self, now: float) -> None:
        if self.link is not Link.UP and self._away_since == math.inf:
            self._away_since = now
        while self._looks and self._looks[0][0] <= now:
            _, number = heapq.heappop(self._looks)
            worker = self.state.workers.get(number)
            if worker is not None and worker.look_at and worker.look_at <= now:
                worker.look_at = 0.0
                if worker.pending:
                    self._actions.append(Look(number))
        while self._later and self._later[0][0] <= now:
            _, slot = self._later.popleft()
            if self.state.draining is None:
                self._start_worker(slot)
        while self._walltimes and self._walltimes[0][0] <= now:
            _, number, task = heapq.heappop(self._walltimes)
            worker = self.state.workers.get(number)
            if worker is not None and worker.pending and worker.pending[0].id == task:
                self._actions.append(Look(number))
        if self._drain_at is not None and now >= self._drain_at:
            self.drain("its time is over")
        if self.state.draining is not None and now >= self._parting_at():
            alone = "it was told to end, and nobody is there to take its last results"
            self._actions.append(Exit(self.state.draining if self._failed else alone, 1))
        elif now - self._last_heard >= self._threshold:
            silence = now - self._last_heard
            self._actions.append(
                Exit(f"the interchange was silent for {silence:.1f} s (heartbeat_threshold)", 1)
            )
        elif now - self._last_sent >= self._period:
            self._last_sent = now
            if self.link is Link.UP:
                self._tell(m.Heartbeat())

    def _look_at(self, worker: WorkerRecord, moment: float) -> None:
        if worker.look_at == 0.0:
            worker.look_at = moment
            heapq.heappush(self._looks, (moment, worker.number))

    def _give_to_idle(self, now: float) -> None:
        idle = self.state.idle
        waiting = self.state.queue.waiting
        while idle and waiting:
            share = -(-len(waiting) // len(idle))
            _, worker = idle.popitem()
            self._give(worker, share, now)

    def _give_ahead(self, now: float) -> None:
        """Give a second bundle of tiny tasks to workers at their first, so that they go on without a pause."""
        waiting = self.state.queue.waiting
        for worker in self.state.workers.values():
            if not waiting:
                return
            if (
                len(worker.bundles) == 1
                and not worker.discards
                and worker.left is None
                and not worker.stopping
            ):
                first = worker.pending[0]
                if first.walltime or worker.number in self.state.stuck or worker.revoking or worker.kills:
                    continue
                self._give(worker, len(waiting), now, ahead=True)

    def _give(self, worker: WorkerRecord, share: int, now: float, *, ahead: bool = False) -> None:
        state = self.state
        count = min(share, 2 * self._bundle_guess, MAX_BUNDLE_TASKS)
        if worker.left is not None:
            count = min(count, worker.left)
        tasks = state.queue.take(max(1, count))
        size = self._pace.bundle(tasks)
        if size < len(tasks):
            state.queue.push_back(tasks[size:])
            tasks = tasks[:size]
        if ahead and (size < 2 or tasks[0].walltime):
            state.queue.push_back(tasks)
            self._bundle_guess = size
            return
        self._bundle_guess = size
        functions: list[m.Function] = []
        frames: list[Buffer] = []
        known = worker.functions
        holders = state.holders
        bytes_given = 0
        for index, task in enumerate(tasks):
            if bytes_given >= BUNDLE_BYTES:
                state.queue.push_back(tasks[index:])
                tasks = tasks[:index]
                break
            bytes_given += len(task.payload)
            holders[task.id] = worker
            if task.function not in known:
                known.add(task.function)
                functions.append(state.functions[task.function])
            if task.frames > 0:
                frames += state.frames[task.id]
                bytes_given += sum(map(len, state.frames[task.id]))
        if not worker.pending:
            worker.head_since = now
        worker.pending += tasks
        worker.bundles.append(len(tasks))
        if worker.left is not None:
            worker.left -= len(tasks)
        forget = worker.forget
        if forget:
            worker.forget = []
            forget = [number for number in forget if number not in known]
        self._actions.append(Give(worker.number, tasks, functions, forget, frames))
        self._look_at(worker, now + LOOK_SECONDS)
        if tasks[0].walltime:
            worker.walltime_at = now + tasks[0].walltime
            if len(self._walltimes) > MAX_WALLTIMES + 2 * len(state.workers):
                self._walltimes = [
                    (other.walltime_at, other.number, other.pending[0].id)
                    for other in state.workers.values()
                    if other is not worker and other.walltime_at and other.pending
                ]
                heapq.heapify(self._walltimes)
            heapq.heappush(self._walltimes, (worker.walltime_at, worker.number, tasks[0].id))

    def _report(self) -> None:
        """Tell what has ended in this turn."""
        results = self.results
        waiting = self.state.draining is not None or results.kept_bytes > RETAINED_BYTES // 2
        kept = results.close_turn(self.state.id, self.capacity, waiting=waiting)
        if self.link is Link.UP:
            self._actions.append(Tell(kept.message, kept.frames))
        if self._cancelling:
            late = [task for task in kept.message.tasks if task in self._cancelling]
            if late:
                self._cancelling.difference_update(late)
                self._tell(m.Verdicts([], late))

    def _tell(self, message: m.Message) -> None:
        """Say this. While there is no connection, nothing needs to be said: the next hello tells how things are."""
        if self.link is Link.UP:
            self._actions.append(Tell(message))
        elif self.link is Link.GREETING:
            self._unsent.append(Tell(message))

    def _return_surplus(self) -> None:
        """Give back what would wait for long because tasks turned out to be: all beyond the capacity that is left."""
        if self._prefetch is None and self.state.draining is None:
            surplus = self.state.held - self.capacity
            if surplus > 0:
                self._give_back(surplus)

    def sanity_check(self) -> None:
        """What is kept for the executor adds up. For tests and simulations."""
        self.results.sanity_check()
        assert not self._unsent or self.link is Link.GREETING, "only a greeting keeps what is to be said"
        here = self.state.queue.waiting.keys() | self.state.holders.keys()
        assert not here & set(self.results.ended), "a task that has ended is not here any more"
        assert self._cancelling <= self.state.holders.keys() | set(self.results.ended)


def describe_status(status: int) -> str:
    """What `os.waitpid` says of a process's end, in words."""
    number = status & 0x7F
    if not number:
        return f"exited with status {status >> 8}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    hint = ": the kernel kills so when memory runs out" if number == signal.SIGKILL else ""
    return f"was killed by signal {number} ({name}{hint})"
