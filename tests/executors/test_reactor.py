"""The executor's state machine, step by step: no thread, no socket, no process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import throughway
from tests.executors.reactor_bench import Bench, Future
from throughway.executors.actions import Log, Notify, Restart
from throughway.executors.reactor import ACKNOWLEDGE_SECONDS, RESTART_SECONDS, SUBMIT_BYTES, SUBMIT_TASKS
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.serialize.exceptions import ExceptionContext, pack_exception
from throughway.serialize.payloads import pack_result


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_function_is_sent_once_and_with_its_first_task(bench: Bench) -> None:
    bench.add(1, 2)
    first = bench.submission()
    assert [task.id for task in first.tasks] == [1, 2]
    assert [function.id for function in first.functions] == [1]
    bench.add(3)
    bench.add(4, function=2)
    second = bench.submission()
    assert [function.id for function in second.functions] == [2]
    assert bench.reactor.submission() is None


def test_a_function_is_forgotten_and_sent_again(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    bench.results({1: None})
    bench.forgotten = [1, 99]
    bench.add(2, function=2)
    assert bench.submission().forget == [1]
    bench.add(3)
    assert [function.id for function in bench.submission().functions] == [1]


def test_batches_are_bounded_by_tasks_and_by_bytes(bench: Bench) -> None:
    bench.add(*range(SUBMIT_TASKS + 5))
    assert len(bench.submission().tasks) == SUBMIT_TASKS
    assert len(bench.submission().tasks) == 5
    bench.add(*range(10_000, 10_010), payload=bytes(SUBMIT_BYTES // 2))
    assert len(bench.submission().tasks) == 2


def test_large_frames_go_with_their_tasks(bench: Bench) -> None:
    frames = [memoryview(b"one"), memoryview(b"two")]
    future = Future(m.Task(7, 1, b"", frames=2), frames=frames)
    bench.reactor.add(future)
    bench.add(8)
    found = bench.reactor.submission()
    assert found is not None
    assert ([task.id for task in found[0].tasks], found[1]) == ([7, 8], frames)


def test_values_and_exceptions_arrive(bench: Bench) -> None:
    bench.add(1, 2, 3)
    bench.submission()
    bench.results({1: None, 2: {"a": [1]}})
    record = pack_exception(KeyError("gone"), context=ExceptionContext(task="f1", task_id=3, host="h"))
    bench.ended(3, m.Outcome.EXCEPTION, record)
    assert [bench.futures[number].state for number in (1, 2, 3)] == ["value", "value", "error"]
    assert bench.futures[2].value == {"a": [1]}
    assert isinstance(bench.futures[3].error, KeyError)
    assert not bench.reactor.futures


def test_a_result_that_cannot_be_unpickled_fails_its_future_alone(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    bench.say(
        m.Results("m1", 4, [1, 2], bytes(2), [0, 0]),
        [codec.encode([b"no pickle", pack_result(5)[0]])],
    )
    assert isinstance(bench.futures[1].error, throughway.DeserializationError)
    assert bench.futures[2].value == 5


@pytest.mark.parametrize(
    ("outcomes", "frames"),
    [
        (b"\0", [codec.encode([b"N.", b"N."])]),
        (b"\0\0", [codec.encode([b"N."])]),
        (b"\0\0", [b"\xc1"]),
        (b"\0\0", []),
        (b"\0\0", [codec.encode([b"N.", b"N."]), b"a frame that nobody announced"]),
    ],
)
def test_results_that_make_no_sense_end_their_tasks_and_no_others(
    bench: Bench, outcomes: bytes, frames: list[bytes]
) -> None:
    bench.add(1, 2, 3)
    bench.submission()
    bench.say(m.Results("m1", 4, [1, 2], outcomes, [0, 0]), frames)
    assert all(isinstance(bench.futures[number].error, throughway.ManagerLost) for number in (1, 2))
    assert not bench.futures[3].done()
    assert [action.level for action in bench.reactor.actions() if isinstance(action, Log)] == ["ERROR"]
    bench.results({3: "fine"})
    assert bench.futures[3].value == "fine"


def test_a_loss_that_nobody_can_read_is_a_loss(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    bench.ended(1, m.Outcome.WORKER_LOST, b"\xc1")
    assert isinstance(bench.futures[1].error, throughway.WorkerLost)


def test_late_results_are_counted_and_dropped(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    bench.results({1: 1})
    bench.results({1: 2})
    assert bench.futures[1].value == 1
    assert bench.reactor.late == 1


def plain(values: dict[int, Any], number: int = 1, **changes: Any) -> tuple[m.Results, list[bytes]]:
    """A message with such results, as `take_plain` wants them, and its body."""
    body = [codec.encode([pack_result(value)[0] for value in values.values()])]
    count = len(values)
    message = m.Results("m1", 4, list(values), bytes(count), [0] * count, {}, 0.0, number)
    return msgspec.structs.replace(message, **changes), body


def take(bench: Bench, message: m.Results, frames: Sequence[bytes]) -> bool:
    taken = bench.reactor.take_plain(message, frames, bench.now)
    bench.reactor.sanity_check()
    return taken


def test_plain_results_are_taken_where_they_are_waited_for(bench: Bench) -> None:
    bench.add(1, 2, 3)
    bench.submission()
    assert take(bench, *plain({1: None, 2: {"a": [1]}}, 7))
    assert [bench.futures[number].value for number in (1, 2)] == [None, {"a": [1]}]
    assert list(bench.reactor.futures) == [3]
    assert not bench.reactor.actions()
    # That they are here is said as of any others: with the next task, or after a second.
    deadline = bench.reactor.next_deadline()
    assert deadline == bench.now + ACKNOWLEDGE_SECONDS
    assert bench.turn(0.99) == []
    assert bench.turn(0.02) == [m.Acknowledge({"m1": 7})]
    # Sent again, they have come before.
    assert not take(bench, *plain({1: None, 2: {"a": [1]}}, 7))
    bench.say(*plain({1: None, 2: {"a": [1]}}, 7))
    assert bench.reactor.late == 2
    assert not bench.told()


def test_the_next_task_says_that_plain_results_are_here(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    assert take(bench, *plain({1: 1}, 7))
    bench.add(2)
    assert bench.submission().received == {"m1": 7}
    assert bench.turn(2) == []


def test_a_manager_that_waits_is_told_at_once_of_plain_results(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    assert take(bench, *plain({1: 1}, 7))
    assert take(bench, *plain({2: 2}, 8, waiting=True))
    assert bench.reactor.next_deadline() == bench.now
    assert bench.turn() == [m.Acknowledge({"m1": 8})]


def test_plain_results_are_a_sign_of_life(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    bench.say(m.Heartbeat())
    assert bench.turn(30) == [m.Heartbeat()], "asked for a sign of life"
    assert take(bench, *plain({1: 1}))
    bench.told()
    silence = bench.reactor.patience - 30 + 1
    assert not any(isinstance(action, Restart) for action in actions_after(bench, silence))


def actions_after(bench: Bench, seconds: float) -> list[Any]:
    bench.now += seconds
    bench.reactor.turn(bench.now)
    return bench.reactor.actions()


class Kept:
    """Stands for a journal that has all on its disk."""

    mark = safe = 0

    def __init__(self) -> None:
        self.tasks: list[int] = []

    def results(self, tasks: Sequence[int], *rest: Any) -> None:
        self.tasks += tasks


def refused(bench: Bench, message: m.Results, frames: Sequence[bytes]) -> None:
    """Nothing of this is taken, and nothing has changed."""
    before = (
        dict(bench.reactor.futures),
        [future.state for future in bench.futures.values()],
        bench.reactor.next_deadline(),
        bench.reactor.late,
    )
    assert not take(bench, message, frames)
    after = (
        dict(bench.reactor.futures),
        [future.state for future in bench.futures.values()],
        bench.reactor.next_deadline(),
        bench.reactor.late,
    )
    assert after == before
    assert not bench.reactor.actions()


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 0},
        {"number": 5},
        {"frames": {1: 1}},
        {"outcomes": bytes([m.Outcome.VALUE, m.Outcome.EXCEPTION])},
        {"outcomes": bytes([m.Outcome.WORKER_LOST, m.Outcome.VALUE])},
        {"outcomes": bytes(1)},
        {"tasks": [1, 1]},
        {"tasks": [1, 99]},
        {"tasks": [1]},
        {"tasks": [1, 2, 3]},
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_alone(bench: Bench, changes: dict[str, Any]) -> None:
    bench.add(1, 2, 3, 4)
    bench.submission()
    assert take(bench, *plain({4: 4}, 5))
    bench.told()
    refused(bench, *plain({1: 1, 2: 2}, **{"number": 6, **changes}))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"\xc1"],
        [codec.encode([pack_result(1)[0]])],
        [codec.encode([pack_result(1)[0], b"no pickle"])],
        [codec.encode([pack_result(1)[0], pack_result(2)[0]]), b"a frame that nobody announced"],
    ],
    ids=["no body", "no list", "too few", "no pickle", "too many frames"],
)
def test_a_body_that_makes_no_sense_is_left_alone(bench: Bench, frames: list[bytes]) -> None:
    bench.add(1, 2)
    bench.submission()
    refused(bench, plain({1: 1, 2: 2})[0], frames)


def test_what_has_large_frames_is_left_alone(bench: Bench) -> None:
    bench.add(1)
    bench.submission()
    message, frames = plain({1: "small"}, 1, frames={0: 1})
    refused(bench, message, [*frames, b"a frame that is not needed"])


def test_with_a_journal_nothing_is_plain(bench: Bench) -> None:
    journal = Kept()
    bench.reactor.journal = journal
    bench.add(1)
    bench.submission()
    refused(bench, *plain({1: 1}))
    bench.say(*plain({1: 1}))
    assert (bench.futures[1].value, journal.tasks) == (1, [1])


def test_while_something_is_cancelled_nothing_is_plain(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    verdicts: list[bool] = []
    bench.reactor.cancel([2], verdicts.append)
    bench.told()
    refused(bench, *plain({1: 1}))
    refused(bench, *plain({2: 2}))
    bench.say(*plain({2: 2}))
    assert verdicts == [False]


class Special(Future):
    """A future with callbacks, or one at which somebody is cut short; later it is as any other."""

    def __init__(self, number: int, first: BaseException | None = None) -> None:
        super().__init__(m.Task(number, 1, b""))
        self.first = first
        self.asked = 0

    def _set_plainly(self, value: Any) -> bool:
        self.asked += 1
        if self.first is not None:
            first, self.first = self.first, None
            raise first
        return False


def test_a_future_with_callbacks_leaves_the_rest_to_the_thread(bench: Bench) -> None:
    bench.add(1, 3)
    special = bench.futures[2] = Special(2)
    bench.reactor.add(special)
    bench.submission()
    message, frames = plain({1: "one", 2: "two", 3: "three"}, 7)
    assert not take(bench, message, frames)
    assert (special.asked, special.state) == (1, "pending")
    assert bench.turn(2) == [], "nobody may hear yet that they are here"
    bench.say(message, frames)
    assert [bench.futures[number].value for number in (1, 2, 3)] == ["one", "two", "three"]
    assert not bench.reactor.futures
    assert bench.turn(2) == [m.Acknowledge({"m1": 7})]


@pytest.mark.parametrize("again", [True, False])
def test_who_is_cut_short_has_not_taken_it(bench: Bench, again: bool) -> None:
    bench.add(1, 3)
    special = bench.futures[2] = Special(2, MemoryError())
    bench.reactor.add(special)
    bench.submission()
    message, frames = plain({1: "one", 2: "two", 3: "three"}, 7)
    with pytest.raises(MemoryError):
        take(bench, message, frames)
    assert bench.turn(2) == []
    if again:
        # What is done already is no outstanding task any more: the thread sorts that out.
        assert not take(bench, message, frames)
    bench.say(message, frames)
    assert [bench.futures[number].value for number in (1, 2, 3)] == ["one", "two", "three"]
    assert not bench.reactor.futures
    assert bench.turn(2) == [m.Acknowledge({"m1": 7})]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (m.Outcome.WORKER_LOST, throughway.WorkerLost),
        (m.Outcome.WALLTIME, throughway.WalltimeExceeded),
        (m.Outcome.KILLED, throughway.TaskKilled),
    ],
)
def test_losses_say_what_is_known(bench: Bench, outcome: m.Outcome, kind: type[throughway.TaskLost]) -> None:
    bench.add(1)
    bench.submission()
    loss = m.Loss(
        host="node7", manager="abc", worker=3, signal=9, reason="was killed", log="/logs/worker-3.log"
    )
    bench.ended(1, outcome, codec.encode(loss))
    error = bench.futures[1].error
    assert type(error) is kind
    assert (error.host, error.worker, error.signal, error.log) == ("node7", 3, 9, "/logs/worker-3.log")
    assert "node7" in str(error)
    assert "/logs/worker-3.log" in str(error)


def test_lost_tasks_are_retried_as_often_as_allowed(bench: Bench) -> None:
    bench.add(1, retries=2)
    bench.add(2)
    bench.submission()
    loss = codec.encode(m.Loss(host="h", manager="m1", reason="died"))
    bench.ended(1, m.Outcome.WORKER_LOST, loss)
    assert [task.id for task in bench.submission().tasks] == [1]
    bench.say(m.Lost("m1", "h", "its connection ended", "", [1, 2]))
    assert isinstance(bench.futures[2].error, throughway.ManagerLost)
    assert [task.id for task in bench.submission().tasks] == [1]
    bench.ended(1, m.Outcome.WORKER_LOST, loss)
    assert isinstance(bench.futures[1].error, throughway.WorkerLost)
    assert bench.reactor.retried == 2


def test_what_is_being_cancelled_is_not_retried(bench: Bench) -> None:
    bench.add(1, retries=3)
    bench.submission()
    verdict: list[bool] = []
    bench.reactor.cancel([1], verdict.append)
    bench.say(m.Lost("m1", "h", "gone", "", [1]))
    assert isinstance(bench.futures[1].error, throughway.ManagerLost)
    assert verdict == [False]
    assert bench.reactor.submission() is None


def test_what_was_killed_is_not_retried(bench: Bench) -> None:
    bench.add(1, 2, retries=5)
    bench.submission()
    bench.ended(1, m.Outcome.KILLED, codec.encode(m.Loss()))
    bench.ended(2, m.Outcome.WALLTIME, codec.encode(m.Loss()))
    assert bench.reactor.submission() is None
    assert isinstance(bench.futures[1].error, throughway.TaskKilled)
    assert isinstance(bench.futures[2].error, throughway.WalltimeExceeded)


def test_started_tasks_run(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    bench.say(m.Started("m1", [1, 99], [0, 1]))
    assert (bench.futures[1].state, bench.futures[2].state) == ("running", "pending")


def test_verdicts(bench: Bench) -> None:
    bench.add(1, 2, 3)
    bench.submission()
    verdicts: dict[int, list[bool]] = {1: [], 2: [], 3: [], 99: []}
    for number, told in verdicts.items():
        bench.reactor.cancel([number], told.append)
    assert [message.tasks for message in bench.told() if isinstance(message, m.Cancel)] == [[1], [2], [3]]
    bench.say(m.Verdicts([1], [2]))
    bench.results({3: 0})
    assert verdicts == {1: [True], 2: [False], 3: [False], 99: [False]}
    assert bench.futures[1].state == "cancelled"
    assert not bench.futures[2].done()


def test_killing_asks_for_no_verdict(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    bench.reactor.cancel([1, 2], None, kill=True)
    assert bench.told() == [m.Cancel([1, 2], True)]


def test_questions_are_answered_once(bench: Bench) -> None:
    answers: list[m.Answer] = []
    bench.reactor.ask("status", "", answers.append)
    (ask,) = bench.told()
    assert isinstance(ask, m.Ask)
    bench.say(m.Answer(ask.request, b"yes"))
    bench.say(m.Answer(ask.request, b"again"))
    assert [answer.payload for answer in answers] == [b"yes"]


def test_failing_ends_everything_at_once(bench: Bench) -> None:
    bench.add(1, 2)
    bench.submission()
    bench.add(3)
    verdict: list[bool] = []
    answers: list[m.Answer] = []
    bench.reactor.cancel([1], verdict.append)
    bench.reactor.ask("status", "", answers.append)
    error = throughway.InterchangeLost("it died")
    bench.reactor.fail(error)
    bench.reactor.sanity_check()
    assert all(future.error is error for future in bench.futures.values())
    assert (verdict, [answer.error for answer in answers]) == ([False], ["it died"])
    assert bench.broke == 1
    bench.reactor.fail(throughway.ExecutorFailed("later"))
    assert bench.reactor.broken is error


def test_after_the_close_nothing_is_asked(bench: Bench) -> None:
    bench.reactor.close()
    answers: list[m.Answer] = []
    verdict: list[bool] = []
    bench.reactor.ask("status", "", answers.append)
    bench.reactor.cancel([1], verdict.append)
    assert answers[0].error
    assert verdict == [False]
    assert bench.told() == []


def test_a_failed_initializer_fails_every_future_with_its_cause(bench: Bench) -> None:
    bench.add(1)
    record = pack_exception(OSError("no licence"), context=ExceptionContext())
    bench.say(m.Broken("m1", "the initializer raised", record))
    error = bench.futures[1].error
    assert isinstance(error, throughway.InitializerFailed)
    assert isinstance(error.__cause__, OSError)


def test_news_of_managers_reach_the_observer_and_the_log(bench: Bench) -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen: list[tuple[Any, ...]] = []

        def manager_joined(self, block: str, manager: str, host: str, workers: int) -> None:
            self.seen.append(("joined", block))

        def manager_left(self, block: str, reason: str, lost: bool, manager: str, failed: bool) -> None:
            self.seen.append(("left", block, reason, lost, manager, failed))

        def manager_refused(self, block: str, reason: str) -> None:
            self.seen.append(("refused", block, reason))

        def stranded(self) -> None:
            self.seen.append(("stranded",))

        def interchange_restarted(self) -> None:
            self.seen.append(("restarted",))

    observer = Observer()
    bench.reactor.observer = observer
    bench.say(m.ManagerJoined("m1", "h", "0", 4))
    bench.say(m.ManagerLeft("m1", "h", "0", "silent", True))
    bench.say(m.ManagerLeft("m2", "h", "0", "no worker gets ready", True, failed=True))
    bench.say(m.ManagerRefused("h", "1", "another Python"))
    bench.say(m.Stranded())
    actions = bench.reactor.actions()
    for action in actions:
        if isinstance(action, Notify):
            action.callback(*action.arguments)
    assert observer.seen == [
        ("joined", "0"),
        ("left", "0", "silent", True, "m1", False),
        ("left", "0", "no worker gets ready", True, "m2", True),
        ("refused", "1", "another Python"),
        ("stranded",),
    ]
    logged = [action.text for action in actions if isinstance(action, Log)]
    assert len(logged) == 3
    assert "another Python" in logged[2]


class Cluster(RuleBasedStateMachine):
    """An interchange that obeys the protocol, in any order, with a manager, and dies now and then: each task has
    exactly one outcome, none is lost, and none runs twice without leave."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.next = 1
        self.waiting: list[int] = []
        """at the interchange"""
        self.there: list[int] = []
        """at the manager"""
        self.notes: list[int] = []
        """what was noted to be there, some of which has ended"""
        self.runs: dict[int, int] = {}
        self.leave: dict[int, int] = {}
        self.number = 0
        self.last: dict[int, int] = {}
        self.bench.say(m.ManagerJoined("m1", "h", "0", 4))

    @rule(count=st.integers(1, 5), retries=st.integers(0, 2))
    def submit(self, count: int, retries: int) -> None:
        numbers = range(self.next, self.next + count)
        self.next += count
        self.bench.add(*numbers, retries=retries)
        self.leave.update(dict.fromkeys(numbers, retries + 1))

    @precondition(lambda self: self.bench.reactor.outbox)
    @rule()
    def send(self) -> None:
        self.waiting += [task.id for task in self.bench.submission().tasks]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def assign(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(number)
        self.there.append(number)
        self.notes.append(number)
        self.runs[number] = self.runs.get(number, 0) + 1

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.there))
        self.there.remove(number)
        self.number += 1
        self.last = {number: number}
        self.bench.results(self.last, number=self.number)

    @precondition(lambda self: self.last)
    @rule()
    def repeat(self) -> None:
        """The manager says its last results again."""
        self.bench.results(self.last, number=self.number)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lost = data.draw(st.lists(st.sampled_from(self.there), unique=True))
        self.there = [number for number in self.there if number not in lost]
        self.notes = [number for number in self.notes if number not in lost]
        self.bench.say(m.Lost("m1", "h", "gone", "", lost))

    @precondition(lambda self: self.waiting or self.there)
    @rule(data=st.data(), granted=st.booleans())
    def cancel(self, data: st.DataObject, granted: bool) -> None:
        number = data.draw(st.sampled_from([*self.waiting, *self.there]))
        told: list[bool] = []
        self.bench.reactor.cancel([number], told.append)
        granted = granted or number in self.waiting
        if granted:
            (self.waiting if number in self.waiting else self.there).remove(number)
        self.bench.say(m.Verdicts([number], []) if granted else m.Verdicts([], [number]))
        assert told == [granted]

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """The interchange dies: what waited there comes back, and later what the manager never got."""
        self.bench.now += RESTART_SECONDS
        told: list[bool] = []
        asked = data.draw(st.sampled_from(self.there)) if self.there else None
        if asked is not None:
            self.bench.reactor.cancel([asked], told.append)
        restore = self.bench.restart({"m1": self.notes})
        self.waiting = []
        (expected,) = restore.managers
        assert set(expected.tasks) == set(self.there)
        assert expected.received == self.number
        self.notes = list(expected.tasks)
        missing = data.draw(st.lists(st.sampled_from(self.there), unique=True)) if self.there else []
        self.there = [number for number in self.there if number not in missing]
        # That they are with nobody is noted before the executor hears of it.
        self.notes = [number for number in self.notes if number not in missing]
        self.bench.say(m.Returned("m1", missing, 0))
        for number in missing:
            self.runs[number] -= 1
        if asked is not None:
            if asked not in missing:
                self.bench.say(m.Verdicts([], [asked]))
            assert told == [asked in missing]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0]))
    def turn(self, seconds: float) -> None:
        for message in self.bench.turn(seconds):
            if isinstance(message, m.Acknowledge):
                assert message.received == {"m1": self.number}

    @invariant()
    def nothing_runs_without_leave(self) -> None:
        self.bench.reactor.sanity_check()
        assert all(count <= self.leave[number] for number, count in self.runs.items())
        outbox = [task.id for task in self.bench.reactor.outbox]
        for number, future in self.bench.futures.items():
            places = (number in self.there) + (number in self.waiting) + outbox.count(number) + future.done()
            assert places == 1, f"task {number} is in {places} places"

    def teardown(self) -> None:
        while self.bench.reactor.outbox:
            self.send()
        ended = {number: number for number in [*self.waiting, *self.there]}
        self.bench.results(ended, number=self.number + 1)
        assert all(future.done() for future in self.bench.futures.values())


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
