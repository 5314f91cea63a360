from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.manager.harness import BUNDLE, Node
from throughway.manager.actions import Kill
from throughway.manager.reactor import LOOK_SECONDS, MAX_START_FAILURES
from throughway.protocol import messages as m

MakeNode: TypeAlias = Callable[..., Node]


# ------------------------------------------------------------------------------------------------------ cancelling


def test_a_queued_task_is_cancelled_at_once(node: Node) -> None:
    node.assign(1, 2, 3)
    node.take()
    assert node.cancel(2) == ["verdicts: cancelled 2"]
    node.take()
    node.finish()
    assert node.outcomes.keys() == {1, 3}
    node.take()


def test_a_task_that_its_worker_has_not_begun_is_cancelled_for_certain(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.take()
    assert node.cancel(3) == ["revoke 3 of w0: 2 came back", "verdicts: cancelled 3"]
    node.take()
    node.finish()
    assert node.workers[0].ran[-2:] == [1, 2]
    assert node.outcomes.keys() >= {1, 2}
    assert 3 not in node.outcomes
    node.take()


def test_a_running_task_cannot_be_cancelled(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.take()
    assert node.cancel(1) == ["revoke 1 of w0: 0 came back", "verdicts: refused 1"]
    node.take()
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.take()


def test_a_task_that_is_done_but_not_read_cannot_be_cancelled(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.end()
    node.take()
    assert node.cancel(1) == ["revoke 1 of w0: 0 came back", "verdicts: refused 1"]
    node.take()
    assert node.read() == ["results 1@0; capacity 2816"]
    node.take()


def test_a_task_that_ended_or_was_never_here_cannot_be_cancelled(node: Node) -> None:
    node.assign(1)
    node.finish()
    node.take()
    assert node.cancel(1, 77) == ["verdicts: refused 1 77"]
    node.take()


def test_one_message_cancels_tasks_wherever_they_are(pair: Node) -> None:
    pair.learn()
    pair.assign(*range(230), "999!9")
    pair.begin(1)
    pair.take()
    lines = pair.cancel(0, 1, 999, 12345)
    assert lines[:3] == [
        "verdicts: cancelled 999, refused 12345",
        f"revoke {2 * BUNDLE} of w1: {2 * BUNDLE - 1} came back",
        "verdicts: cancelled 1",
    ]
    assert lines[3] == "verdicts: refused 0"
    pair.take()
    pair.finish()
    ran = pair.workers[0].ran + pair.workers[1].ran
    assert len(ran) == len(set(ran))
    assert not {1, 999} & set(ran)
    pair.take()


def test_a_result_that_comes_before_the_claims_are_taken_back_refuses_the_cancellation(node: Node) -> None:
    node.assign(1)
    node.said(m.Cancel([1]))
    node.begin()
    node.end()
    node.take()
    node._read(0)
    assert node.turn() == ["revoke 1 of w0: 0 came back", "results 1@0; capacity 2816", "verdicts: refused 1"]
    node.take()


def test_a_task_cancelled_twice_gets_one_verdict(node: Node) -> None:
    node.learn()
    node.assign(1, 2)
    node.begin()
    node.take()
    node.said(m.Cancel([2]))
    node.said(m.Cancel([2]))
    assert node.turn() == [
        "revoke 2 of w0: 1 came back",
        "revoke 2 of w0: 0 came back",
        "verdicts: cancelled 2",
    ]
    node.take()


def test_two_cancellations_of_different_tasks_of_one_worker_both_count(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.take()
    node.said(m.Cancel([2]))
    node.said(m.Cancel([3, 1]))
    lines = node.turn()
    assert "verdicts: cancelled 3 2" in lines
    assert "verdicts: refused 1" in lines
    node.take()


def test_a_cancelled_task_is_not_overtaken_by_a_bundle_given_ahead_in_the_same_turn(node: Node) -> None:
    """Were a bundle given between, its claims would be taken back instead of those of the cancelled task."""
    node.learn()
    node.assign(*range(40))
    node.begin()
    node.said(*node.assignment(range(100, 200)))
    node.take()
    assert node.cancel(39)[0] == "revoke 40 of w0: 39 came back"
    assert "verdicts: cancelled 39" in node.take()
    node.finish()
    assert 39 not in node.workers[0].ran
    node.take()


def test_what_waits_behind_a_long_task_is_not_confused_with_a_bundle_given_ahead(node: Node) -> None:
    node.learn()
    node.assign(*range(40))
    node.begin()
    node.now += 2.1 * LOOK_SECONDS
    # The look finds that the task is a long one; tasks that could be given ahead come just after it.
    node.turn()
    node.take()
    assert [one.id for one in node.state.workers[0].pending] == [0]
    node.assign(*range(100, 140))
    node.pass_time(LOOK_SECONDS)
    assert not any("give" in line for line in node.take())


def test_a_cancellation_that_the_worker_did_not_live_to_answer_is_answered(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.said(m.Cancel([1]))
    node.die()
    node.take()
    lines = node.reap()
    assert "results 1=worker_lost@0; capacity 1" in lines
    assert "verdicts: refused 1" in lines
    node.take()


def test_a_cancelled_task_that_its_dead_worker_had_not_begun_never_runs(node: Node) -> None:
    node.assign(1)
    node.said(m.Cancel([1]))
    node.die()
    node.take()
    lines = node.reap()
    assert lines[:2] == ["revoke 1 of w0, which is gone", "verdicts: cancelled 1"]
    node.get_ready(1)
    assert not any("give" in line for line in node.take())


# --------------------------------------------------------------------------------------------------------- killing


def test_a_running_task_is_killed_with_its_worker_alone(node: Node) -> None:
    node.assign(1, 2)
    node.begin()
    node.take()
    assert node.cancel(1, kill=True) == [
        "revoke 1 of w0: 0 came back",
        "verdicts: refused 1",
        "look w0",
        "kill w0",
    ]
    node.take()
    node.now += 2.5
    assert node.reap() == ["start w1 in slot 0", "results 1=killed@0; capacity 1"]
    assert node.losses[1].seconds == pytest.approx(2.5)
    node.take()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.KILLED, 2: m.Outcome.VALUE}
    node.take()


def test_killing_a_task_that_has_not_begun_cancels_it_and_kills_nobody(node: Node) -> None:
    node.learn()
    node.assign(1, 2)
    node.begin()
    node.take()
    assert node.cancel(2, kill=True) == ["revoke 2 of w0: 1 came back", "verdicts: cancelled 2", "look w0"]
    node.take()
    node.finish()
    assert node.workers.keys() == {0}
    node.take()


def test_killing_a_queued_task_cancels_it(node: Node) -> None:
    node.assign(1, 2)
    node.take()
    assert node.cancel(2, kill=True) == ["verdicts: cancelled 2"]
    node.take()


def test_what_waited_behind_a_killed_task_goes_on_elsewhere(node: Node) -> None:
    node.learn()
    node.assign(*range(100))
    node.begin()
    node.cancel(0, kill=True)
    node.reap()
    node.get_ready(1)
    node.finish()
    assert [number for number in range(100) if node.outcomes[number] != m.Outcome.VALUE] == [0]
    node.take()


def test_a_task_that_ended_before_it_was_to_be_killed_keeps_its_result(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.end()
    node.take()
    assert node.cancel(1, kill=True) == [
        "revoke 1 of w0: 0 came back",
        "verdicts: refused 1",
        "look w0",
        "results 1@0; capacity 2816",
    ]
    node.take()
    assert node.workers[0].alive


def test_killing_never_hits_the_task_that_took_the_targets_place(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.end()
    node.begin()
    node.take()
    node.cancel(1, kill=True)
    assert not any(isinstance(action, Kill) for action in node.actions)
    assert node.workers[0].running is not None
    node.take()
    node.finish()
    assert {node.outcomes[number] for number in (1, 2, 3)} == {m.Outcome.VALUE}
    node.take()


def test_nothing_is_given_ahead_to_a_worker_that_is_about_to_be_killed(node: Node) -> None:
    """It could begin that between the look and the kill."""
    node.learn()
    node.assign(*range(BUNDLE))
    for _ in range(BUNDLE - 1):
        node.begin()
        node.end()
    node.read()
    node.begin()
    node.said(*node.assignment(range(100, 300)))
    node.take()
    assert node.cancel(BUNDLE - 1, kill=True) == [
        "revoke 1 of w0: 0 came back",
        f"verdicts: refused {BUNDLE - 1}",
        "look w0",
        "kill w0",
    ]
    node.reap()
    node.take()


def test_a_result_that_comes_after_the_kill_counts_and_the_dying_worker_gets_nothing(node: Node) -> None:
    node.assign(1, 2)
    node.begin()
    worker = node.workers[0]

    def ends_just_before(action: object) -> None:
        if isinstance(action, Kill):
            worker.end()

    node.before = ends_just_before
    node.cancel(1, kill=True)
    node.take()
    assert node.read() == ["results 1@0; capacity 2816"]
    node.take()
    assert node.reap() == ["start w1 in slot 0"]
    node.take()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE, 2: m.Outcome.VALUE}
    node.take()


def test_two_tasks_of_one_worker_can_be_killed_at_once(node: Node) -> None:
    """The first has ended already, unread, and the second runs."""
    node.learn()
    node.assign(1, 2)
    node.begin()
    node.end()
    node.begin()
    node.take()
    node.cancel(1, 2, kill=True)
    assert "kill w0" in node.take()
    node.reap()
    assert node.outcomes[1] == m.Outcome.VALUE
    assert node.outcomes[2] == m.Outcome.KILLED
    node.take()


def test_a_second_kill_of_the_same_task_changes_nothing(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.cancel(1, kill=True)
    node.cancel(1, kill=True)
    lines = node.reap()
    assert lines[-1] == "results 1=killed@0; capacity 1"
    assert lines.count("start w1 in slot 0") == 1
    node.take()


def test_a_killed_task_is_not_a_reason_to_give_up_starting(node: Node) -> None:
    for number in range(2 * MAX_START_FAILURES):
        node.assign(number)
        node.begin(number)
        node.cancel(number, kill=True)
        node.reap(number)
        node.get_ready(number + 1)
    assert not node.exited
    node.take()


# -------------------------------------------------------------------------------------------------------- walltime


def test_a_task_past_its_walltime_is_killed(node: Node) -> None:
    node.assign("1~2")
    node.begin()
    node.pass_time(1.99)
    assert not any(isinstance(action, Kill) for action in node.actions)
    node.take()
    node.pass_time(0.01)
    assert node.take() == ["look w0", "kill w0"]
    assert node.reap() == ["start w1 in slot 0", "results 1=walltime@0; capacity 1"]
    assert node.losses[1].seconds == pytest.approx(2.0)
    node.take()


def test_a_task_that_ends_within_its_walltime_is_left_alone_and_so_is_its_successor(node: Node) -> None:
    node.assign("1~2", "2~5")
    node.begin()
    node.now += 1.0
    node.end()
    node.read()
    node.begin()
    node.pass_time(4.9)
    assert node.workers[0].alive
    node.pass_time(0.2)
    assert not node.workers[0].alive
    node.reap()
    assert node.outcomes == {1: m.Outcome.VALUE, 2: m.Outcome.WALLTIME}
    node.take()


def test_a_task_whose_result_is_in_the_pipe_at_its_walltime_keeps_it(node: Node) -> None:
    node.assign("1~2", 2)
    node.begin()
    node.end()
    node.take()
    node.pass_time(LOOK_SECONDS)
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.pass_time(5.0)
    assert node.workers[0].alive
    node.take()


def test_at_its_walltime_only_the_task_itself_is_killed(make_node: MakeNode) -> None:
    """The task ends between the look and the kill, and another one must not be given to the dying worker."""
    node = make_node(1, prefetch_capacity=1)
    node.assign("1~2", 2)
    node.begin()
    worker = node.workers[0]

    def ends_just_before(action: object) -> None:
        if isinstance(action, Kill):
            worker.end()

    node.before = ends_just_before
    node.pass_time(2.0)
    node.take()
    assert node.read() == ["results 1@0; capacity 2"]
    node.reap()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE, 2: m.Outcome.VALUE}
    node.take()


def test_a_task_that_is_killed_and_then_reaches_its_walltime_was_killed(node: Node) -> None:
    node.assign("1~2")
    node.begin()
    node.cancel(1, kill=True)
    node.pass_time(3.0)
    assert [action for action in node.actions if isinstance(action, Kill)] == [Kill(0)]
    node.reap()
    assert node.outcomes == {1: m.Outcome.KILLED}
    node.take()


def test_a_task_that_reached_its_walltime_and_is_then_killed_was_out_of_time(node: Node) -> None:
    node.assign("1~2")
    node.begin()
    node.pass_time(2.0)
    node.cancel(1, kill=True)
    node.reap()
    assert node.outcomes == {1: m.Outcome.WALLTIME}
    node.take()


def test_a_walltime_begins_anew_with_the_next_worker(node: Node) -> None:
    node.assign("1~2")
    node.pass_time(1.5)
    node.die()
    node.reap()
    node.get_ready(1)
    node.begin(1)
    node.pass_time(1.9)
    assert node.workers[1].alive
    node.pass_time(0.1)
    assert not node.workers[1].alive
    node.reap(1)
    node.take()
