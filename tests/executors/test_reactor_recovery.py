"""The executor's state machine when interchanges die or hang, and how it acknowledges results."""

from __future__ import annotations

import math
from typing import Any

import pytest

import throughway
from tests.executors.reactor_bench import Bench, Future
from throughway.executors.actions import Notify, Restart
from throughway.executors.reactor import (
    ACKNOWLEDGE_BYTES,
    ACKNOWLEDGE_SECONDS,
    LOST_REMEMBERED,
    MAX_RESTARTS,
    RESTART_SECONDS,
)
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.serialize.exceptions import ExceptionContext, pack_exception


@pytest.fixture
def bench() -> Bench:
    return Bench()


def join(bench: Bench, *names: str) -> None:
    for name in names:
        bench.say(m.ManagerJoined(name, f"host-{name}", "0", 2))


def outbox(bench: Bench) -> list[int]:
    return [task.id for task in bench.reactor.outbox]


def expected(restore: m.Restore) -> dict[str, list[int]]:
    return {manager.manager: manager.tasks for manager in restore.managers}


# ----------------------------------------------------------------------------------------------- acknowledgements


class TestAcknowledgements:
    def test_they_ride_on_the_next_submission(self, bench: Bench) -> None:
        bench.add(1, 2, 3)
        bench.submission()
        bench.results({1: 1}, manager="a", number=1)
        bench.results({2: 1}, manager="b", number=5)
        bench.results({3: 1}, manager="a", number=2)
        assert bench.turn() == []
        bench.add(4)
        assert bench.submission().received == {"a": 2, "b": 5}
        assert bench.turn(2 * ACKNOWLEDGE_SECONDS) == [], "it was said"
        bench.add(5)
        assert bench.submission().received == {}

    def test_without_a_submission_they_go_after_a_moment(self, bench: Bench) -> None:
        bench.add(1, 2)
        bench.submission()
        bench.results({1: 1}, number=1)
        assert bench.reactor.next_deadline() == bench.now + ACKNOWLEDGE_SECONDS
        assert bench.turn(ACKNOWLEDGE_SECONDS / 2) == []
        bench.results({2: 1}, number=2)
        assert bench.turn(ACKNOWLEDGE_SECONDS / 2) == [m.Acknowledge({"m1": 2})]
        assert bench.turn(ACKNOWLEDGE_SECONDS) == []

    def test_a_manager_that_waits_is_told_at_once(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.results({1: 1}, number=1, waiting=True)
        assert bench.reactor.next_deadline() <= bench.now
        assert bench.turn() == [m.Acknowledge({"m1": 1})]

    def test_much_is_acknowledged_at_once(self, bench: Bench) -> None:
        bench.add(1, 2)
        bench.submission()
        bench.results({1: "x" * ACKNOWLEDGE_BYTES}, number=1)
        assert bench.turn() == [m.Acknowledge({"m1": 1})]
        bench.results({2: b""}, number=2)
        assert bench.turn() == [], "and what comes after it is counted anew"

    def test_results_without_a_number_are_not_acknowledged(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.results({1: 1})
        assert bench.turn(2 * ACKNOWLEDGE_SECONDS) == []

    def test_results_that_come_again_are_counted_and_dropped(self, bench: Bench) -> None:
        bench.add(1, 2, 3, retries=1)
        bench.submission()
        loss = codec.encode(m.Loss(reason="died"))
        again = m.Results("m1", 4, [1], bytes([m.Outcome.WORKER_LOST]), [0], {}, 0.0, 1)
        bench.say(again, [codec.encode([loss])])
        assert outbox(bench) == [1], "it has another try"
        bench.say(again, [codec.encode([loss])])
        assert outbox(bench) == [1]
        assert not bench.futures[1].done()
        assert bench.reactor.late == 1
        bench.results({2: 2}, number=2)
        assert bench.futures[2].value == 2
        bench.results({3: 3}, manager="m2", number=1)
        assert bench.futures[3].value == 3, "each manager counts its own"

    def test_those_that_make_no_sense_are_acknowledged_too(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.say(m.Results("m1", 4, [1], b"", [0], {}, 0.0, 1), [codec.encode([b"N."])])
        assert isinstance(bench.futures[1].error, throughway.ManagerLost)
        assert bench.turn(ACKNOWLEDGE_SECONDS) == [m.Acknowledge({"m1": 1})]

    def test_a_loss_is_acknowledged_once_its_tasks_have_been_told(self, bench: Bench) -> None:
        join(bench, "a")
        bench.say(m.ManagerLeft("a", "host-a", "0", "silent", True))
        assert bench.turn(ACKNOWLEDGE_SECONDS) == []
        bench.say(m.Lost("a", "host-a", "silent", "", []))
        assert bench.turn(ACKNOWLEDGE_SECONDS) == [m.Acknowledge({"a": m.GIVEN_UP})]

    def test_a_journal_must_have_them_on_its_disk_first(self, bench: Bench) -> None:
        class Keeper:
            mark = 0
            safe = 0

            def results(self, *arguments: Any) -> None:
                self.mark += 10

        keeper = Keeper()
        bench.reactor.journal = keeper
        bench.add(1, 2)
        bench.submission()
        bench.results({1: 1}, number=1)
        bench.results({2: 2}, number=2)
        assert bench.turn(2 * ACKNOWLEDGE_SECONDS) == []
        bench.reactor.kept(10, bench.now)
        assert bench.turn() == [m.Acknowledge({"m1": 1})]
        bench.reactor.kept(20, bench.now)
        assert bench.turn() == [m.Acknowledge({"m1": 2})]


# ---------------------------------------------------------------------------------------- the interchange is dead


class TestRestart:
    def test_what_no_manager_was_sent_is_handed_in_again_in_order(self, bench: Bench) -> None:
        bench.add(1, 2, 3, 4, 5)
        bench.submission()
        bench.add(6, 7)
        bench.results({2: 0}, number=1)
        restore = bench.restart({"m1": [1, 2, 4]})
        assert restore.again
        assert expected(restore) == {"m1": [1, 4]}, "but what has ended"
        assert outbox(bench) == [3, 5, 6, 7]
        submission = bench.submission()
        assert [task.id for task in submission.tasks] == [3, 5, 6, 7]
        assert [function.id for function in submission.functions] == [1], "the new one knows no function"

    def test_submitting_goes_on(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.restart()
        bench.add(2)
        assert [task.id for task in bench.submission().tasks] == [1, 2]

    def test_what_was_there_twice_and_has_ended_is_not_handed_in(self, bench: Bench) -> None:
        """A task is outstanding before it is in the outbox: at that moment another thread may be."""
        future = Future(m.Task(1, 1, b""))
        bench.futures[1] = future
        bench.reactor.futures[1] = future
        bench.restart()
        bench.reactor.outbox.append(future._task)
        assert outbox(bench) == [1, 1]
        first = bench.reactor.outbox.popleft()
        assert first.id == 1
        bench.results({1: 0}, number=1)
        assert bench.submission().tasks == []

    def test_what_was_there_twice_is_handed_in_once(self, bench: Bench) -> None:
        future = Future(m.Task(1, 1, b""), retries=1)
        bench.futures[1] = future
        bench.reactor.futures[1] = future
        bench.restart()
        bench.reactor.outbox.append(future._task)
        assert [task.id for task in bench.submission().tasks] == [1]
        assert outbox(bench) == []
        bench.say(m.Lost("m1", "host", "gone", "", [1]))
        assert [task.id for task in bench.submission().tasks] == [1], "lost, it runs again"

    def test_managers_are_expected_with_what_the_executor_has_of_them(self, bench: Bench) -> None:
        join(bench, "a", "b", "c")
        bench.add(1, 2, 3)
        bench.submission()
        bench.results({1: 0}, manager="a", number=4)
        bench.reactor.ask("hold", "b", lambda answer: None)
        bench.reactor.ask("hold", "c", lambda answer: None)
        bench.reactor.ask("release", "c", lambda answer: None)
        restore = bench.restart({"a": [2], "ghost": [3]})
        assert restore.managers == [
            m.Expected("a", "host-a", "0", [2], 4, False),
            m.Expected("b", "host-b", "0", [], 0, True),
            m.Expected("c", "host-c", "0", [], 0, False),
            # One that had not been introduced yet, and has a task.
            m.Expected("ghost", "", "", [3], 0, False),
        ]

    def test_those_that_left_or_were_lost_are_not_expected(self, bench: Bench) -> None:
        join(bench, "a", "b", "c")
        bench.add(1, 2, retries=1)
        bench.submission()
        bench.say(m.ManagerLeft("a", "host-a", "0", "drained", False))
        bench.say(m.ManagerLeft("b", "host-b", "0", "silent", True))
        bench.say(m.Lost("b", "host-b", "silent", "", [1]))
        assert outbox(bench) == [1]
        bench.submission()
        # The task was noted there before it was submitted again.
        restore = bench.restart({"b": [1], "c": [2]})
        assert expected(restore) == {"c": [2]}
        assert restore.lost == ["b"]
        assert outbox(bench) == [1]

    def test_what_was_lost_without_a_word_is_lost_now(self, bench: Bench) -> None:
        """The interchange died between saying that a manager is lost, and with which tasks."""
        join(bench, "a")
        bench.add(1, retries=1)
        bench.add(2, 3)
        bench.submission()
        bench.say(m.ManagerLeft("a", "host-a", "0", "silent", True))
        restore = bench.restart({"a": [1, 2]})
        assert restore.lost == ["a"]
        assert expected(restore) == {}
        assert isinstance(bench.futures[2].error, throughway.ManagerLost)
        assert sorted(outbox(bench)) == [1, 3]
        assert bench.reactor.retried == 1
        assert sorted(outbox(bench)) == [1, 3]
        bench.restart({"a": [1, 2]})
        assert bench.reactor.retried == 1, "once"

    def test_only_so_many_lost_managers_are_remembered(self, bench: Bench) -> None:
        for number in range(LOST_REMEMBERED + 3):
            bench.say(m.ManagerLeft(f"m{number}", "h", "0", "silent", True))
        lost = bench.restart().lost
        assert (len(lost), lost[0], lost[-1]) == (LOST_REMEMBERED, "m3", f"m{LOST_REMEMBERED + 2}")

    def test_cancellations_and_questions_are_asked_again(self, bench: Bench) -> None:
        bench.add(1, 2, 3, 4)
        bench.submission()
        bench.reactor.cancel([1], lambda verdict: None)
        bench.reactor.cancel([2, 3], None, kill=True)
        bench.reactor.cancel([4], lambda verdict: None)
        bench.reactor.ask("status", "", lambda answer: None)
        bench.reactor.ask("explain", "1", lambda answer: None)
        bench.say(m.Verdicts([], [3, 4]))
        bench.say(m.Answer(1, b"fine"))
        bench.told()
        bench.restart({"a": [1, 2, 3, 4]})
        assert bench.told() == [m.Cancel([1]), m.Cancel([2], True), m.Ask(2, "explain", "1")]

    def test_functions_that_managers_may_know_are_forgotten_there(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.results({1: 0}, number=1)
        bench.restart()
        bench.forgotten = [1]
        bench.add(2, function=2)
        assert bench.submission().forget == [1], "though the new interchange was never sent it"

    def test_acknowledgements_that_were_not_said_are_said_to_the_next(self, bench: Bench) -> None:
        join(bench, "a")
        bench.add(1)
        bench.submission()
        bench.results({1: 0}, manager="a", number=3)
        restore = bench.restart()
        assert restore.managers[0].received == 3
        assert bench.turn(ACKNOWLEDGE_SECONDS) == [m.Acknowledge({"a": 3})]

    def test_results_that_the_former_one_passed_on_are_known(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.results({1: 1}, number=3)
        bench.restart()
        bench.results({1: 2}, number=3)
        assert bench.futures[1].value == 1
        assert bench.reactor.late == 1

    def test_a_manager_that_comes_back_is_not_announced_again(self, bench: Bench) -> None:
        joined: list[str] = []

        class Observer:
            def manager_joined(self, block: str, manager: str, host: str, workers: int) -> None:
                joined.append(manager)

            def interchange_restarted(self) -> None:
                joined.append("another interchange")

        bench.reactor.observer = Observer()  # type: ignore[assignment]
        join(bench, "a")
        bench.restart()
        join(bench, "a", "b")
        for action in bench.reactor.actions():
            if isinstance(action, Notify):
                action.callback(*action.arguments)
        assert joined == ["a", "another interchange", "b"]

    def test_too_many_in_a_row_are_enough(self, bench: Bench) -> None:
        for _ in range(MAX_RESTARTS):
            bench.restart()
            bench.now += RESTART_SECONDS / MAX_RESTARTS / 2
        assert bench.reactor.interchange_left({}, bench.now) is None
        assert bench.reactor.restarts == MAX_RESTARTS

    def test_now_and_then_is_not_in_a_row(self, bench: Bench) -> None:
        for _ in range(5 * MAX_RESTARTS):
            bench.restart()
            bench.say(m.Heartbeat())
            bench.now += RESTART_SECONDS / MAX_RESTARTS
        assert bench.reactor.restarts == 5 * MAX_RESTARTS

    def test_those_that_never_say_anything_are_enough_however_slowly_they_die(self, bench: Bench) -> None:
        for _ in range(MAX_RESTARTS):
            bench.restart()
            bench.say(m.Listening(None))
            bench.now += RESTART_SECONDS
        assert bench.reactor.interchange_left({}, bench.now) is None


class TestReturned:
    """Tasks that never reached their manager, and of which the new interchange knows no more than the number."""

    def test_they_are_handed_in_again(self, bench: Bench) -> None:
        bench.add(1, 2, 3)
        bench.submission()
        bench.restart({"a": [1, 2, 3]})
        bench.results({2: 0}, manager="a", number=1)
        bench.say(m.Returned("a", [1, 2, 3], 0))
        assert outbox(bench) == [1, 3], "but what has ended"
        assert [task.id for task in bench.submission().tasks] == [1, 3]
        bench.results({1: "one", 3: "three"}, manager="b", number=1)
        assert bench.futures[3].value == "three"

    def test_one_that_is_being_cancelled_never_runs(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.restart({"a": [1]})
        verdicts: list[bool] = []
        bench.reactor.cancel([1], verdicts.append)
        bench.say(m.Returned("a", [1], 0))
        assert verdicts == [True]
        assert bench.futures[1].state == "cancelled"
        assert outbox(bench) == []
        # What the interchange says to the cancellation, which crossed with it, means nothing any more.
        bench.say(m.Verdicts([], [1]))
        assert verdicts == [True]

    def test_a_crash_right_after_changes_nothing(self, bench: Bench) -> None:
        bench.add(1)
        bench.submission()
        bench.restart({"a": [1]})
        bench.say(m.Returned("a", [1], 0))
        restore = bench.restart({"a": [1]})
        assert expected(restore) == {}, "it waits in the outbox"
        assert outbox(bench) == [1]


# -------------------------------------------------------------------------------------------------- it hangs


class TestHung:
    @pytest.fixture
    def bench(self) -> Bench:
        bench = Bench(heartbeat_period=10.0, heartbeat_threshold=60.0)
        bench.say(m.Listening(None))
        return bench

    def restarts(self, bench: Bench) -> list[str]:
        return [action.reason for action in bench.reactor.actions() if isinstance(action, Restart)]

    def test_a_silent_interchange_is_asked_once_and_then_killed(self, bench: Bench) -> None:
        patience = bench.reactor.patience
        assert bench.reactor.next_deadline() == bench.now + 10.0
        assert bench.turn(9.9) == []
        assert bench.turn(0.1) == [m.Heartbeat()]
        assert bench.reactor.next_deadline() == bench.now - 10.0 + patience
        assert bench.turn(5.0) == []
        bench.now += patience
        bench.reactor.turn(bench.now)
        (reason,) = self.restarts(bench)
        assert f"silent for {patience + 15:.1f} s" in reason
        bench.reactor.turn(bench.now + 1.0)
        assert self.restarts(bench) == [], "once"

    def test_any_answer_will_do(self, bench: Bench) -> None:
        bench.turn(10.0)
        bench.say(m.Heartbeat())
        assert bench.turn(9.0) == []
        assert bench.turn(1.0) == [m.Heartbeat()]
        bench.say(m.Started("a", [], []))
        bench.now += 9.0
        bench.reactor.turn(bench.now)
        assert self.restarts(bench) == []

    def test_the_next_one_is_watched_from_its_start(self, bench: Bench) -> None:
        bench.restart()
        assert bench.reactor.next_deadline() == bench.now + 10.0, "it may hang before it says anything"
        assert bench.turn(10.0) == [m.Heartbeat()]
        bench.now += bench.reactor.patience
        bench.reactor.turn(bench.now)
        assert len(self.restarts(bench)) == 1

    def test_the_first_one_is_not_watched_before_it_speaks(self) -> None:
        assert Bench().reactor.next_deadline() == math.inf


def test_a_failed_initializer_fails_once_although_it_is_told_again(bench: Bench) -> None:
    bench.add(1)
    record = pack_exception(OSError("no licence"), context=ExceptionContext())
    for _ in range(2):
        bench.say(m.Broken("m1", "the initializer raised", record))
    assert isinstance(bench.futures[1].error, throughway.InitializerFailed)
    assert bench.broke == 1
