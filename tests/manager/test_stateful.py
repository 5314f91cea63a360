"""The reactor against workers that claim, end, write and die in every order, by hypothesis."""

from __future__ import annotations

from collections import Counter, deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.manager.harness import TINY, FakeWorker, Node, task
from throughway.manager.actions import Action, Give, Kill, Start
from throughway.manager.reactor import START_AGAIN_SECONDS, Link
from throughway.protocol import messages as m

TAPE = st.lists(st.integers(0, 1 << 12), max_size=12)
"""What workers do while actions are performed: each number lets one worker take some steps before one action."""

DURATIONS = st.sampled_from([1e-6, TINY, 0.5])


class ManagerMachine(RuleBasedStateMachine):
    """One node whose workers obey the claim protocol, an interchange that assigns and cancels, and a clock.

    What was read, and who is dead, is known to the reactor only when a rule says so; between any two actions of a turn
    workers go on working. What the manager says lies on its wire until a rule lets it arrive; when the connection
    breaks, the last of it is lost, and so may be what the interchange said. `has` is what the interchange believes to
    be here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tape: deque[int] = deque()
        self.tasks: dict[int, m.Task] = {}
        self.asked: set[int] = set()
        self.kills: set[int] = set()
        self.everyone: dict[int, FakeWorker] = {}
        self.given: dict[int, float] = {}
        """task → when it was last given to a worker"""
        self.died_with: dict[int, str] = {}
        """task → what ended the worker that ran it: ``death`` or ``kill``"""
        self.has: set[int] = set()
        self.cancelling: set[int] = set()
        """tasks of those of which the verdict has not arrived"""
        self.missing: set[int] = set()
        """tasks that the manager came back without"""
        self.delivered = 0
        """messages that arrived, or were lost"""
        self.seen = 0
        self.received = 0
        self.hello: m.ManagerHello | None = None
        """what lies on the wire to the interchange"""
        self.was_cut = False

    @initialize(
        slots=st.integers(1, 3),
        prefetch=st.sampled_from([None, None, 0, 5]),
        limit=st.sampled_from([None, None, None, 3]),
        learn=st.sampled_from([True, True, False]),
    )
    def start(self, slots: int, prefetch: int | None, limit: int | None, learn: bool) -> None:
        self.node = Node(
            slots, prefetch_capacity=prefetch, max_tasks_per_child=limit, heartbeat_threshold=1e9, ready=False
        )
        self.node.before = self.before
        self.everyone.update(self.node.workers)
        for number in list(self.node.workers):
            self.node.get_ready(number)
        if learn and limit is None:
            self.node.learn()
        self.delivered = len(self.node.told)
        self.seen = self.received = max(self.node.reported, default=0)
        self.node.outcomes.clear()
        for worker in self.everyone.values():
            worker.ran.clear()

    @property
    def going(self) -> bool:
        return not self.node.exited

    @property
    def up(self) -> bool:
        return self.going and self.node.reactor.link is Link.UP

    # --------------------------------------------------------------------------------- what happens between actions

    def before(self, action: Action) -> None:
        if self.tape:
            number = self.tape.popleft()
            workers = [worker for worker in self.node.workers.values() if worker.can_step()]
            if workers:
                self.work(workers[number % len(workers)], 1 + number // 8 % 4, TINY)
        if isinstance(action, Give):
            self.given.update((one.id, self.node.now) for one in action.tasks)
        elif isinstance(action, Kill):
            worker = self.node.workers.get(action.worker)
            target = self.node.state.workers[action.worker].kill
            assert target is not None
            if target[1] == m.Outcome.WALLTIME:
                assert self.node.now - self.given[target[0]] >= self.tasks[target[0]].walltime - 1e-9
            if worker is not None and worker.alive and worker.running is not None:
                self.died_with[worker.running.id] = "kill"
        elif isinstance(action, Start):
            assert action.worker not in self.everyone

    def work(self, worker: FakeWorker, steps: int, seconds: float) -> None:
        for _ in range(steps):
            if not worker.can_step():
                return
            if worker.running is not None:
                worker.end(seconds=seconds)
            else:
                worker.begin()

    def turn(self, tape: list[int]) -> None:
        self.tape = deque(tape)
        self.node.turn()
        self.tape.clear()
        self.everyone.update(self.node.workers)
        stays = self.node.state.draining is not None and not self.up
        assert self.node.exited or stays or not (self.node.state.queue.waiting and self.node.state.idle), (
            "work for the idle"
        )

    # ------------------------------------------------------------------------------------------------ the interchange

    @precondition(lambda self: self.up)
    @rule(
        count=st.sampled_from([1, 2, 3, 5, 50, 100]),
        fn=st.sampled_from([1, 1, 1, 2]),
        walltime=st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.02, 2.0]),
        priority=st.integers(0, 1),
        frames=st.integers(0, 1),
    )
    def assign(self, count: int, fn: int, walltime: float, priority: int, frames: int) -> None:
        first = len(self.tasks) + 1
        new = [
            task(f"{number}:f{fn}~{walltime}!{priority}+{frames}")
            for number in range(first, first + (count if not walltime else min(count, 3)))
        ]
        self.tasks.update((one.id, one) for one in new)
        self.has.update(one.id for one in new)
        self.node.said(*self.node.assignment(new))

    @precondition(lambda self: self.up and self.tasks)
    @rule(
        picks=st.lists(st.integers(0, 1 << 16), min_size=1, max_size=4),
        anywhere=st.integers(0, 5),
        kill=st.booleans(),
    )
    def cancel(self, picks: list[int], anywhere: int, kill: bool) -> None:
        """Cancel tasks that workers have: the first or the last of one, or any; seldom one that may be elsewhere."""
        having = [worker.pending for worker in self.node.state.workers.values() if worker.pending]
        if not anywhere or not having:
            held = sorted(self.tasks)
            picks = [held[pick % len(held)] for pick in picks]
        else:
            chosen = [(having[pick % len(having)], pick // 8) for pick in picks]
            picks = [pending[(0, -1, at % len(pending))[at % 3]].id for pending, at in chosen]
        self.cancel_these(list(dict.fromkeys(picks)), kill)

    def cancel_these(self, numbers: list[int], kill: bool) -> None:
        self.asked.update(numbers)
        if kill:
            self.kills.update(numbers)
        self.cancelling.update(self.has.intersection(numbers))
        self.node.said(m.Cancel(numbers, kill))

    @precondition(lambda self: self.up)
    @rule(pick=st.integers(0, 99), all_but_last=st.booleans(), kill=st.booleans(), tape=TAPE)
    def cancel_while_more_comes(self, pick: int, all_but_last: bool, kill: bool, tape: list[int]) -> None:
        """In one turn what a worker runs, and the last that it has, are cancelled, and there is more to give to it."""
        workers = [worker for worker in self.node.workers.values() if worker.can_step() and worker.claims]
        if workers:
            worker = workers[pick % len(workers)]
            while worker.alive and worker.claims > (0 if all_but_last else 3):
                self.work(worker, 1, TINY)
            self.node._read(worker.number)
            pending = self.node.state.workers[worker.number].pending
            self.assign(count=100, fn=1, walltime=0.0, priority=0, frames=0)
            if pending:
                self.cancel_these(list({pending[0].id, pending[-1].id}), kill)
            self.turn(tape)

    @precondition(lambda self: self.up)
    @rule(seldom=st.integers(0, 30))
    def drain(self, seldom: int) -> None:
        if seldom == 30:
            self.node.said(m.Drain("test"))

    @precondition(lambda self: not self.going)
    @rule()
    def rest(self) -> None:
        assert self.node.turn() is self.node.trace

    # ------------------------------------------------------------------------------------------------- the connection

    @precondition(lambda self: self.up)
    @rule()
    def deliver(self) -> None:
        """Everything that the manager said arrives."""
        said, self.delivered = self.node.told[self.delivered :], len(self.node.told)
        for message in said:
            match message:
                case m.Results(tasks=tasks, number=number):
                    if number > self.seen:
                        assert number == self.seen + 1, "no message of results is left out"
                        assert self.has.issuperset(tasks) or tasks[0] > 999_999, "it had what has ended"
                        self.seen = number
                        self.has.difference_update(tasks)
                case m.Returned(tasks=tasks) | m.Verdicts(cancelled=[_, *_] as tasks):
                    assert self.has.issuperset(tasks)
                    self.has.difference_update(tasks)
            if isinstance(message, m.Verdicts):
                self.cancelling.difference_update(message.refused)
        self.cancelling &= self.has

    @precondition(lambda self: self.up)
    @rule(behind=st.sampled_from([0, 0, 0, 1, 2]))
    def acknowledge(self, behind: int) -> None:
        """The executor has results that arrived, and the manager hears so."""
        self.received = max(self.received, self.seen - behind)
        self.node.said(m.Acknowledged(self.received))

    @precondition(lambda self: self.going and self.node.reactor.link is not Link.DOWN)
    @rule(
        lost=st.integers(0, 5),
        assigned=st.sampled_from([0, 0, 3]),
        cancelled=st.sampled_from([0, 0, 2]),
        kill=st.booleans(),
        welcomed=st.booleans(),
    )
    def disconnect(self, lost: int, assigned: int, cancelled: int, kill: bool, welcomed: bool) -> None:
        """The connection breaks: some of what was said last is lost, in both directions."""
        self.was_cut = True
        if self.up:
            kept = self.node.told[: max(self.delivered, len(self.node.told) - lost)]
            dropped = self.node.told[len(kept) :]
            self.node.told = kept
            self.deliver()
            self.node.told = kept + dropped
            self.delivered = len(self.node.told)
            first = len(self.tasks) + 1
            self.tasks.update((number, task(number)) for number in range(first, first + assigned))
            self.has.update(range(first, first + assigned))
            numbers = sorted(self.has)[:cancelled]
            self.asked.update(numbers)
            self.cancelling.update(numbers)
            if kill:
                self.kills.update(numbers)
        elif welcomed:
            self.take_hello()
        self.hello = None
        self.node.disconnect()

    @precondition(lambda self: self.going and self.node.reactor.link is Link.DOWN)
    @rule()
    def connect(self) -> None:
        self.hello = self.node.hello()
        here = {number for _, tasks in self.hello.ended for number in tasks}
        assert not here & set(self.hello.held), "what has ended is not here any more"

    @precondition(lambda self: self.going and self.node.reactor.link is Link.GREETING)
    @rule()
    def welcome(self) -> None:
        """The hello arrives, and so does the welcome; what was to be cancelled is asked again."""
        hello = self.take_hello()
        self.delivered = len(self.node.told)
        self.node.welcome(self.received, self.seen)
        again = sorted(self.cancelling.intersection(hello.held))
        for kill in (False, True):
            numbers = [number for number in again if (number in self.kills) is kill]
            if numbers and self.up:
                self.node.said(m.Cancel(numbers, kill))

    def take_hello(self) -> m.ManagerHello:
        """The interchange hears what the manager has: what else it believed to be here goes to others."""
        assert self.hello is not None
        assert self.has.issuperset(self.hello.held), "it has nothing that was never sent to it"
        here = set(self.hello.held)
        for number, tasks in self.hello.ended:
            here.update(tasks if number > self.seen else ())
        missing = self.has - here
        runs = {number for worker in self.everyone.values() for number in worker.ran}
        assert not missing & runs, "what runs elsewhere now has not run here"
        self.missing |= missing
        self.has -= missing
        self.cancelling -= missing
        return self.hello

    # -------------------------------------------------------------------------------------------- the reactor's moments

    @precondition(lambda self: self.going)
    @rule(tape=TAPE)
    def take_turn(self, tape: list[int]) -> None:
        self.turn(tape)

    @precondition(lambda self: self.going)
    @rule(seconds=st.sampled_from([0.001, 0.0051, 0.011, 0.06, 0.2, 3.0]), tape=TAPE)
    def pass_time(self, seconds: float, tape: list[int]) -> None:
        self.tape = deque(tape)
        self.node.pass_time(seconds)
        self.everyone.update(self.node.workers)

    @precondition(lambda self: self.going)
    @rule(pick=st.integers(0, 99), at_once=st.booleans())
    def read(self, pick: int, at_once: bool) -> None:
        workers = [worker for worker in self.node.workers.values() if worker.unread]
        if workers:
            self.node._read(workers[pick % len(workers)].number)
            if at_once:
                self.turn([])

    @precondition(lambda self: self.going)
    @rule(pick=st.integers(0, 99))
    def reap(self, pick: int) -> None:
        dead = [worker for worker in self.node.workers.values() if not worker.alive]
        if dead:
            self.node.reap(dead[pick % len(dead)].number)
            self.everyone.update(self.node.workers)

    # ------------------------------------------------------------------------------------------------------- workers

    @precondition(lambda self: self.going)
    @rule(pick=st.integers(0, 99), steps=st.sampled_from([1, 1, 2, 3, 50]), seconds=DURATIONS)
    def step(self, pick: int, steps: int, seconds: float) -> None:
        workers = [worker for worker in self.node.workers.values() if worker.can_step()]
        if workers:
            self.work(workers[pick % len(workers)], steps, seconds)

    @precondition(lambda self: self.going)
    @rule(pick=st.integers(0, 99))
    def begin_the_last(self, pick: int) -> None:
        """A worker works until it runs the last task that it has."""
        workers = [worker for worker in self.node.workers.values() if worker.can_step() and worker.claims]
        if workers:
            worker = workers[pick % len(workers)]
            while worker.alive and worker.claims:
                self.work(worker, 1, TINY)

    @precondition(lambda self: self.going)
    @rule(pick=st.integers(0, 99))
    def get_ready(self, pick: int) -> None:
        starting = [number for number, worker in self.node.state.workers.items() if not worker.ready]
        starting = [number for number in starting if self.node.workers[number].alive]
        if starting:
            self.node.get_ready(starting[pick % len(starting)])
            self.everyone.update(self.node.workers)

    @precondition(lambda self: self.going and self.node.reactor._start_failures < 3)
    @rule(pick=st.integers(0, 99), status=st.sampled_from([9, 11, 0, 3 << 8]))
    def die(self, pick: int, status: int) -> None:
        alive = [worker for worker in self.node.workers.values() if worker.alive]
        unborn = sum(not self.node.state.workers[worker.number].ready for worker in alive)
        alive = [worker for worker in alive if unborn < 2 or self.node.state.workers[worker.number].ready]
        if alive:
            worker = alive[pick % len(alive)]
            if worker.running is not None:
                self.died_with[worker.running.id] = "death"
            self.node.die(worker.number, status)

    @precondition(lambda self: self.going and self.node.reactor._start_failures < 3)
    @rule()
    def lose_zygote(self) -> None:
        for worker in self.node.workers.values():
            if worker.alive and worker.running is not None:
                self.died_with[worker.running.id] = "death"
        self.node.lose_zygote()
        self.everyone.update(self.node.workers)

    @precondition(lambda self: self.going and self.node.reactor._rounds < 3)
    @rule(pick=st.integers(0, 99))
    def refuse_to_fork(self, pick: int) -> None:
        known = self.node.state.workers
        young = [
            one.number for one in self.node.workers.values() if one.alive and not known[one.number].ready
        ]
        if young:
            self.node.refuse(young[pick % len(young)])

    # -------------------------------------------------------------------------------------------------- what must hold

    @property
    def verdicts(self) -> list[m.Verdicts]:
        return [message for message in self.node.told if isinstance(message, m.Verdicts)]

    @invariant()
    def each_task_has_at_most_one_end(self) -> None:
        if not hasattr(self, "node"):
            return
        cancelled = Counter(number for verdict in self.verdicts for number in verdict.cancelled)
        returned = Counter(
            number
            for message in self.node.told
            if isinstance(message, m.Returned)
            for number in message.tasks
        )
        ends = Counter(self.node.outcomes.keys()) + cancelled + returned
        assert all(count == 1 for count in ends.values()), [number for number in ends if ends[number] > 1]
        runs = Counter(number for worker in self.everyone.values() for number in worker.ran)
        assert all(count == 1 for count in runs.values()), "nothing runs twice"
        assert not runs.keys() & cancelled.keys(), "what is cancelled never ran"
        assert not runs.keys() & returned.keys(), "what is given back never ran"
        assert not runs.keys() & self.missing, "what runs elsewhere never ran here"
        assert cancelled.keys() <= self.asked
        refused = {number for verdict in self.verdicts for number in verdict.refused}
        assert refused <= runs.keys() | ends.keys() | self.missing, "what has not begun can be cancelled"
        for number, outcome in self.node.outcomes.items():
            assert number in runs, "what has an outcome ran"
            if outcome == m.Outcome.WORKER_LOST:
                assert self.died_with.get(number) == "death", f"task {number} did nothing wrong"
            elif outcome == m.Outcome.KILLED:
                assert number in self.kills
            elif outcome == m.Outcome.WALLTIME:
                assert self.tasks[number].walltime
            else:
                assert outcome == m.Outcome.VALUE
        self.ends = ends

    def teardown(self) -> None:
        if not hasattr(self, "node"):
            return
        node = self.node
        self.turn([])
        if self.going and node.reactor.link is Link.DOWN:
            self.connect()
        if self.going and node.reactor.link is Link.GREETING:
            self.welcome()
        self.turn([])
        self._come_to_rest()
        if self.going and node.reactor._later:
            # For a worker that could not be started, another is there a while later.
            node.pass_time(START_AGAIN_SECONDS)
            self._come_to_rest()
        if self.up:
            self.deliver()
            assert self.seen == max(node.reported, default=0), "all results were said"
            node.acknowledge()
            assert not node.reactor.results.kept_bytes
            assert node.exited == (node.state.draining is not None), "it leaves when it drains and is done"
            assert not self.has, "the interchange knows that nothing is here"
        self.each_task_has_at_most_one_end()
        ended = self.ends.keys() | self.missing
        assert ended == self.tasks.keys(), f"lost: {sorted(self.tasks.keys() - ended)}"
        judged = {number for verdict in self.verdicts for number in (*verdict.cancelled, *verdict.refused)}
        if self.was_cut:
            # A verdict of which nothing came: the task itself tells.
            judged |= self.asked & (self.missing | self.node.outcomes.keys())
        assert judged == self.asked, "each cancellation is answered"
        state = node.state
        assert state.held == 0
        assert not state.frames
        assert not node.reactor._cancelling
        if not node.exited:
            assert len(state.workers) == state.slots
            assert state.idle.keys() == state.workers.keys(), "each worker waits for work"
            assert all(not worker.claims for worker in node.workers.values()), "no claim is left over"

    def _come_to_rest(self) -> None:
        for _ in range(10_000):
            if self.node.exited or not self._go_on():
                return
        raise AssertionError("it does not come to rest")

    def _go_on(self) -> bool:
        node = self.node
        before = len(node.trace)
        for worker in list(node.workers.values()):
            if not worker.alive:
                node.reap(worker.number)
            elif not node.state.workers[worker.number].ready:
                node.get_ready(worker.number)
            elif worker.can_step():
                self.work(worker, 1, TINY)
                node.trace.append("step")
            elif worker.unread:
                node.read(worker.number)
                node.trace.append("read")
            if node.exited:
                return False
        self.everyone.update(node.workers)
        return len(node.trace) > before


ManagerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestManagerMachine = ManagerMachine.TestCase
