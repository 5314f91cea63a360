from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.manager.harness import BUNDLE, PERIOD, THRESHOLD, TINY, Node, frames_of, task
from throughway.manager.actions import Exit, Give, Kill, Look, Revoke
from throughway.manager.reactor import LOOK_SECONDS, MAX_START_FAILURES, STUCK_SECONDS, describe_status
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark

MakeNode: TypeAlias = Callable[..., Node]


def bundle_sizes(node: Node, worker: int | None = None) -> list[int]:
    gives = [action for action in node.actions if isinstance(action, Give)]
    return [len(give.tasks) for give in gives if worker in (None, give.worker)]


# ------------------------------------------------------------------------------------------------ starting workers


def test_all_workers_are_started_and_given_nothing_before_they_are_ready(make_node: MakeNode) -> None:
    node = make_node(2, ready=False)
    assert node.take() == ["start w0 in slot 0", "start w1 in slot 1"]
    assert node.assign(1) == []
    node.get_ready(1)
    assert node.take() == ["give w1: 1 +f1"]


def test_ready_workers_wait_idle(pair: Node) -> None:
    assert list(pair.state.idle) == [0, 1]
    assert pair.turn() == []


# --------------------------------------------------------------------------------------------------------- bundles


def test_tasks_of_an_unknown_function_go_alone(node: Node) -> None:
    assert node.assign(1, 2, 3) == ["give w0: 1 +f1"]
    node.take()
    node.begin()
    node.end(seconds=0.5)
    assert node.read() == ["w0 begins 1", "w0 ends 1", "give w0: 2", "results 1@0; capacity 1"]
    node.take()


def test_tiny_tasks_of_a_known_function_go_together(node: Node) -> None:
    node.learn()
    assert node.assign(*range(100)) == ["give w0: 0-39", "give w0: 40-79"], "the second one is given ahead"
    node.take()


def test_bundles_grow_to_what_takes_a_millisecond(node: Node) -> None:
    node.learn()
    assert max(bundle_sizes(node)) == BUNDLE


def test_tasks_of_a_millisecond_go_alone(node: Node) -> None:
    node.learn()
    node.assign(1)
    node.begin()
    node.end(seconds=1.0)
    node.read()
    node.take()
    assert node.assign(2, 3, 4) == ["give w0: 2"]
    node.take()


def test_a_bundle_ends_before_a_function_that_is_not_known_yet(node: Node) -> None:
    node.learn()
    node.assign(1, 2, "3:f2", 4)
    assert node.take() == ["give w0: 1 2"], "and nothing is given ahead that may take long"


def test_a_task_with_a_walltime_goes_alone_and_nothing_is_given_ahead_of_it(node: Node) -> None:
    node.learn()
    assert node.assign("1~10", 2, 3) == ["give w0: 1"]
    node.take()


def test_a_task_with_a_walltime_is_neither_bundled_nor_given_ahead(node: Node) -> None:
    node.learn()
    assert node.assign(1, 2, "3~10", 4, 5) == ["give w0: 1 2"]
    node.take()


def test_the_size_of_a_bundle_is_bounded(node: Node) -> None:
    for start in range(0, 40_000, 4000):
        node.assign(*range(start, start + 4000))
        node.finish(seconds=0.0)
    node.take()
    assert max(bundle_sizes(node)) <= 256


def test_idle_workers_get_fair_shares(make_node: MakeNode) -> None:
    node = make_node(4)
    node.learn()
    node.assign(*range(10))
    assert sorted(line.split(":")[0] for line in node.take()) == ["give w0", "give w1", "give w2", "give w3"]
    assert bundle_sizes(node)[-4:] == [3, 3, 2, 2]


def test_a_second_bundle_is_given_ahead_and_no_third(node: Node) -> None:
    node.learn()
    node.assign(*range(500))
    assert node.take() == ["give w0: 0-39", "give w0: 40-79"]
    for _ in range(BUNDLE):
        node.begin()
        node.end()
    node.take()
    assert node.read() == ["give w0: 80-119", "results 0-39 @0; capacity 2001"]
    node.take()


def test_lower_priority_numbers_are_given_sooner(node: Node) -> None:
    node.assign("1!5", "2!5", "3!-1", "4!5")
    node.finish()
    begun = [line for line in node.take() if "begins" in line]
    assert begun == ["w0 begins 3", "w0 begins 1", "w0 begins 2", "w0 begins 4"]


# ------------------------------------------------------------------------------------------- functions and frames


def test_a_function_goes_to_each_worker_once(pair: Node) -> None:
    pair.assign(*range(200))
    pair.finish()
    given = [
        (give.worker, one.id) for give in pair.actions if isinstance(give, Give) for one in give.functions
    ]
    assert sorted(given) == [(0, 1), (1, 1)]
    pair.take()


def test_a_function_is_forgotten_by_the_manager_and_by_those_workers_that_know_it(pair: Node) -> None:
    pair.assign(1)
    pair.finish()
    pair.take()
    assert pair.assign("2:f2", forget=[1]) == ["give w1: 2 +f2 -f1"]
    pair.finish()
    pair.assign("3:f2", "4:f2")
    pair.finish()
    assert pair.workers[1].known.keys() == pair.workers[0].known.keys() == {2}
    assert pair.state.functions.keys() == {2}
    pair.take()


def test_a_function_that_comes_again_is_not_forgotten_behind_its_back(node: Node) -> None:
    node.assign(1)
    node.finish()
    node.assign(forget=[1])
    node.take()
    assert node.assign(2) == ["give w0: 2 +f1"], "the worker is not told to forget what it is told again"
    node.finish()
    assert node.workers[0].known.keys() == {1}
    node.take()


def test_a_worker_that_replaces_another_is_sent_functions_again(node: Node) -> None:
    node.assign(1)
    node.finish()
    node.die()
    node.reap()
    node.get_ready(1)
    node.take()
    assert node.assign(2) == ["give w1: 2 +f1"]
    node.take()


def test_large_frames_go_with_their_tasks_and_are_dropped_when_they_end(pair: Node) -> None:
    pair.learn()
    pair.assign("1+2", 2, "3+1", 4)
    assert [give.frames for give in pair.actions[-2:] if isinstance(give, Give)] == [
        frames_of(task("1+2")),
        frames_of(task("3+1")),
    ]
    assert pair.state.frames.keys() == {1, 3}
    pair.finish()  # the workers check that each task gets its own frames
    assert pair.state.frames == {}
    pair.take()


def test_large_frames_of_results_are_passed_on_in_order(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    for frames in (2, 0, 1):
        node.begin()
        node.end(frames=frames)
    node.take()
    assert node.read() == ["results 1+2@0 2@0 3+1@0; capacity 2001"]
    node.take()
    sent = [action.frames for action in node.actions if hasattr(action, "frames")][-1]
    assert sent[1:] == [b"result 0 of 1", b"result 1 of 1", b"result 0 of 3"]


def test_large_frames_survive_the_worker_that_did_not_begin_their_task(node: Node) -> None:
    node.assign("1+1")
    node.die()
    node.reap()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.take()


@pytest.mark.parametrize("end", ["lost", "cancelled", "returned", "cancelled at its worker"])
def test_large_frames_are_dropped_however_a_task_ends(node: Node, end: str) -> None:
    node.assign("1+1", "2+1")
    if end == "lost":
        node.begin()
        node.die()
        node.reap()
        node.cancel(2)
    elif end == "cancelled":
        node.cancel(2)
        node.finish()
    elif end == "cancelled at its worker":
        node.cancel(1)
        node.cancel(2)
    else:
        node.reactor.drain("test")
        node.finish()
    assert node.state.frames == {}
    node.take()


# ------------------------------------------------------------------------------------------------------- capacity


def test_the_capacity_is_one_task_for_each_worker_until_anything_is_known(make_node: MakeNode) -> None:
    assert make_node(3).reactor.capacity == 3


def test_the_capacity_grows_with_tiny_tasks_and_is_told_with_results(make_node: MakeNode) -> None:
    node = make_node(3)
    node.learn()
    assert node.reactor.capacity == 3 + int(3 * 0.05 / (TINY + 5e-6))
    node.assign(1)
    node.finish()
    assert node.take()[-1] == f"results 1@2; capacity {node.reactor.capacity}"


def test_the_capacity_shrinks_with_long_tasks(node: Node) -> None:
    node.learn()
    for number in range(20):
        node.assign(number)
        node.finish(seconds=10.0)
    assert node.reactor.capacity == 1
    node.take()


def test_the_capacity_does_not_count_on_workers_whose_task_is_a_long_one(pair: Node) -> None:
    pair.learn()
    before = pair.reactor.capacity
    pair.assign(1)
    pair.begin(1)
    pair.pass_time(1.0)
    pair.take()
    assert pair.reactor.capacity == 2 + (before - 2) // 2
    pair.end(1)
    pair.read(1)
    assert pair.state.stuck == set()
    pair.take()


@pytest.mark.parametrize("prefetch", [0, 7])
def test_a_fixed_prefetch_capacity_never_changes(make_node: MakeNode, prefetch: int) -> None:
    node = make_node(2, prefetch_capacity=prefetch)
    assert node.reactor.capacity == 2 + prefetch
    node.learn()
    assert node.reactor.capacity == 2 + prefetch
    node.assign(1)
    node.begin(1)
    node.pass_time(1.0)
    assert node.reactor.capacity == 2 + prefetch
    node.take()


def test_with_a_fixed_prefetch_capacity_nothing_is_given_back(make_node: MakeNode) -> None:
    node = make_node(1, prefetch_capacity=2)
    node.assign(*range(20))
    node.begin()
    node.pass_time(1.0)
    assert not any("returned" in line for line in node.take())
    node.end()
    node.read()
    node.finish()
    assert len(node.outcomes) == 20
    node.take()


# ------------------------------------------------------------------------------------- what waits behind a long task


def test_a_task_that_has_run_for_a_moment_is_reported_as_started_once(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.take()
    node.pass_time(1.0)
    lines = node.take()
    assert lines.count("started 1@0") == 1
    assert lines[:2] == ["look w0", "started 1@0"]
    assert node.pass_time(10.0) == [], "a long task is not looked at any more"


def test_a_task_that_ends_at_once_is_not_reported_as_started(node: Node) -> None:
    node.assign(1)
    node.finish()
    node.pass_time(1.0)
    assert not any("started" in line for line in node.take())


def test_a_result_whose_bell_comes_late_is_found_by_looking(pair: Node) -> None:
    pair.learn()
    pair.assign(1, 2)
    pair.begin(1)
    pair.end(1)
    pair.take()
    pair.pass_time(LOOK_SECONDS)
    assert "results 1@1; capacity 4002" in pair.take()


def test_what_waits_behind_a_long_task_goes_to_others(pair: Node) -> None:
    pair.learn()
    pair.assign(1, 2, 3, 4)
    pair.take()
    pair.begin(1)
    for _ in range(2):
        pair.begin(0)
        pair.end(0)
    pair.read(0)
    pair.take()
    pair.pass_time(3 * LOOK_SECONDS)
    assert pair.take() == [
        "look w1",
        "started 1@1",
        "look w1",
        "revoke 1 of w1: 1 came back",
        "give w0: 2",
    ]
    pair.finish()
    assert sorted(pair.workers[0].ran[-3:]) == [2, 3, 4]
    pair.take()


def test_nothing_is_given_to_a_worker_before_it_has_dropped_what_was_taken_back(node: Node) -> None:
    node.learn()
    node.assign(*range(10))
    node.begin()
    node.pass_time(1.0)
    node.end()
    node.take()
    assert node.read() == ["results 0@0; capacity 2001"]
    node.take()
    assert node.assign(10) == []
    node.begin()
    assert node.read() == ["w0 discards 1-9", "give w0: 10"]
    node.take()


def test_two_bundles_of_which_tasks_were_taken_back_are_dropped_one_by_one(node: Node) -> None:
    node.learn()
    node.assign(*range(80))
    assert list(node.state.workers[0].bundles) == [40, 40]
    node.begin()
    node.pass_time(3 * LOOK_SECONDS)
    assert node.state.workers[0].discards == 2
    node.end()
    node.begin()
    node.take()
    assert node.read() == ["results 0@0; capacity 2001"]
    assert node.state.workers[0].discards == 1
    node.begin()
    node.take()
    assert node.read() == ["give w0: 1"]
    node.finish()
    assert len(node.outcomes) == len(set(node.workers[0].ran))
    node.take()


def test_a_bundle_of_which_tasks_are_taken_back_twice_is_dropped_once(node: Node) -> None:
    """A worker that is slow to begin loses first what waits behind, then, by a cancellation, the rest."""
    node.learn()
    node.assign(1, 2, 3)
    node.pass_time(3 * LOOK_SECONDS)
    assert "revoke 2 of w0: 2 came back" in node.take()
    assert node.cancel(1) == ["revoke 1 of w0: 1 came back", "verdicts: cancelled 1"]
    node.take()
    node.begin()
    assert node.read() == ["w0 discards 1-3", "give w0: 2"], "the worker is at work again"
    node.finish()
    node.take()


def test_surplus_goes_back_to_the_interchange_when_tasks_turn_out_long(node: Node) -> None:
    node.learn()
    node.assign(*range(100))
    node.begin()
    node.take()
    node.pass_time(1.0)
    lines = node.take()
    assert lines[-2:] == ["returned 99-1; capacity 1", "look w0"] or lines[-1] == "returned 99-1; capacity 1"
    node.end()
    node.read()
    node.begin()
    node.read()
    assert node.outcomes.keys() >= {0}
    assert node.state.held == 0
    node.take()


def test_a_long_task_stays_known_as_long_although_it_has_not_ended(pair: Node) -> None:
    pair.learn()
    pair.assign(1)
    pair.begin(1)
    pair.pass_time(0.5)
    pair.take()
    assert pair.assign(2, 3, 4) == ["give w0: 2"]
    pair.take()


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
    assert node.read() == ["results 1@0; capacity 2001"]
    node.take()


def test_a_task_that_ended_or_was_never_here_cannot_be_cancelled(node: Node) -> None:
    node.assign(1)
    node.finish()
    node.take()
    assert node.cancel(1, 77) == ["verdicts: refused 1 77"]
    node.take()


def test_one_message_cancels_tasks_wherever_they_are(pair: Node) -> None:
    pair.learn()
    pair.assign(*range(200), "999!9")
    pair.begin(1)
    pair.take()
    lines = pair.cancel(0, 1, 999, 12345)
    assert lines[:3] == [
        "verdicts: cancelled 999, refused 12345",
        "revoke 80 of w1: 79 came back",
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
    assert node.turn() == ["revoke 1 of w0: 0 came back", "results 1@0; capacity 2001", "verdicts: refused 1"]
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
        "results 1@0; capacity 2001",
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
    assert node.read() == ["results 1@0; capacity 2001"]
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


def test_at_its_walltime_only_the_task_itself_is_killed(node: Node) -> None:
    """The task ends between the look and the kill, and another one must not be given to the dying worker."""
    node.assign("1~2", 2)
    node.begin()
    worker = node.workers[0]

    def ends_just_before(action: object) -> None:
        if isinstance(action, Kill):
            worker.end()

    node.before = ends_just_before
    node.pass_time(2.0)
    node.take()
    assert node.read() == ["results 1@0; capacity 2001"]
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


# ---------------------------------------------------------------------------------------------------- dying workers


def test_an_idle_worker_that_dies_is_replaced_in_its_slot(pair: Node) -> None:
    pair.die(1)
    pair.take()
    assert pair.reap(1) == ["start w2 in slot 1"]
    assert pair.state.idle.keys() == {0}
    pair.take()


def test_the_running_task_is_lost_with_its_worker_and_the_rest_goes_on_without_penalty(node: Node) -> None:
    node.learn()
    node.assign(*range(100))
    node.begin()
    node.now += 0.25
    node.die(status=11)
    node.take()
    assert node.reap(stderr="Fatal Python error: Segmentation fault") == [
        "log WARNING: worker 0 was killed by signal 11 (SIGSEGV) while it ran task 0",
        "start w1 in slot 0",
        "results 0=worker_lost@0; capacity 2001",
    ]
    node.take()
    loss = node.losses[0]
    assert (loss.host, loss.manager, loss.worker, loss.log) == ("node1", "m1", 0, "/logs/worker-0.log")
    assert (loss.signal, loss.exit_code) == (11, None)
    assert loss.stderr == "Fatal Python error: Segmentation fault"
    assert loss.reason == "was killed by signal 11 (SIGSEGV)"
    assert loss.seconds == pytest.approx(0.25)
    node.get_ready(1)
    node.finish()
    assert [node.outcomes[number] for number in range(100)] == [m.Outcome.WORKER_LOST] + 99 * [
        m.Outcome.VALUE
    ]
    node.take()


def test_an_exit_status_is_reported(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.die(status=3 << 8)
    node.reap()
    assert (node.losses[1].exit_code, node.losses[1].signal) == (3, None)
    assert node.losses[1].reason == "exited with status 3"
    node.take()


def test_records_that_a_dead_worker_wrote_are_outcomes(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.end()
    node.begin()
    node.end(outcome=m.Outcome.EXCEPTION)
    node.begin()
    node.die()
    node.reap()
    assert [node.outcomes[number] for number in (1, 2, 3)] == [
        m.Outcome.VALUE,
        m.Outcome.EXCEPTION,
        m.Outcome.WORKER_LOST,
    ]
    node.take()


def test_a_worker_that_dies_between_two_tasks_costs_none(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.end()
    node.die()
    node.reap()
    node.get_ready(1)
    node.finish()
    assert {node.outcomes[number] for number in (1, 2, 3)} == {m.Outcome.VALUE}
    node.take()


def test_a_worker_that_dies_before_it_begins_costs_none(node: Node) -> None:
    node.assign(1, 2)
    node.die()
    node.reap()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE, 2: m.Outcome.VALUE}
    assert [line for line in node.take() if "begins" in line] == ["w1 begins 1", "w1 begins 2"]


def test_a_worker_that_dies_after_its_last_task_costs_none(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.end()
    node.die()
    node.take()
    assert node.reap() == ["start w1 in slot 0", "results 1@0; capacity 2001"]
    node.take()


def test_a_worker_that_dies_while_it_is_to_drop_a_bundle_costs_the_running_task_alone(node: Node) -> None:
    node.learn()
    node.assign(*range(80))
    node.begin()
    node.pass_time(3 * LOOK_SECONDS)
    assert node.state.workers[0].discards == 2
    node.die()
    node.reap()
    node.get_ready(1)
    node.finish()
    lost = [number for number in range(80) if node.outcomes[number] != m.Outcome.VALUE]
    assert lost == [0]
    node.take()


def test_the_death_of_a_worker_between_a_look_and_its_revocation(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.pass_time(LOOK_SECONDS)
    node.take()

    def dies(action: object) -> None:
        if isinstance(action, Revoke):
            node.workers[0].status = 9

    node.before = dies
    node.pass_time(1.5 * LOOK_SECONDS)
    node.reap()
    node.get_ready(1)
    node.finish()
    assert [node.outcomes[number] for number in (1, 2, 3)] == [
        m.Outcome.WORKER_LOST,
        m.Outcome.VALUE,
        m.Outcome.VALUE,
    ]
    node.take()


def test_what_a_dead_worker_is_said_to_have_done_later_is_ignored(node: Node) -> None:
    node.assign(1)
    node.die()
    node.reap()
    node.take()
    node.reactor.records_came(0, [], node.now)
    node.reactor.revoked(0, 0, node.now)
    node.reactor.looked(0, node.now)
    node.reactor.worker_ended(0, 9, 0, "", "", node.now)
    assert node.turn() == []


def test_workers_that_keep_dying_at_their_start_end_the_manager_with_the_reason(make_node: MakeNode) -> None:
    node = make_node(2, ready=False)
    node.take()
    for number in range(MAX_START_FAILURES):
        assert not node.exited
        node.die(number, status=1 << 8)
        node.reap(number, stderr="ImportError: no module named quantum")
    lines = node.take()
    assert lines[-1] == (
        "exit 1: 5 workers in a row ended before they were ready; "
        "the last exited with status 1: ImportError: no module named quantum"
    )
    assert lines[1].startswith("log ERROR: worker 0 exited with status 1 before it was ready")


def test_one_worker_that_gets_ready_ends_the_row_of_failures(make_node: MakeNode) -> None:
    node = make_node(1, ready=False)
    for number in range(3 * MAX_START_FAILURES):
        if number % MAX_START_FAILURES == MAX_START_FAILURES - 1:
            node.get_ready(number)
        node.die(number)
        node.reap(number)
    assert not node.exited
    node.take()


def test_a_failing_initializer_is_reported_and_its_worker_gets_nothing(make_node: MakeNode) -> None:
    node = make_node(1, ready=False)
    node.assign(1)
    node.take()
    node.workers[0].write(0, Mark.INITIALIZER_FAILED, b"record", 0.0)
    assert node.read() == ["broken: the initializer raised (record)"]
    node.take()
    node.die(status=1 << 8)
    lines = node.reap()
    assert lines[-1] == "start w1 in slot 0"
    node.take()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with status 0"),
        (3 << 8, "exited with status 3"),
        (11, "was killed by signal 11 (SIGSEGV)"),
        (11 | 0x80, "was killed by signal 11 (SIGSEGV)"),
        (9, "was killed by signal 9 (SIGKILL: the kernel kills so when memory runs out)"),
        (64, "was killed by signal 64 (SIGRTMAX)"),
        (40, "was killed by signal 40 (unknown)"),
    ],
)
def test_the_end_of_a_process_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text


# ----------------------------------------------------------------------------------------------- max_tasks_per_child


def test_a_worker_is_given_no_more_than_its_tasks_and_then_replaced(make_node: MakeNode) -> None:
    node = make_node(1, max_tasks_per_child=3)
    node.assign(*range(10))
    node.finish()
    assert node.outcomes.keys() == set(range(10))
    assert [line for line in node.take() if "start" in line] == [f"start w{n} in slot 0" for n in (1, 2, 3)]


def test_a_worker_with_few_tasks_left_gets_a_small_bundle_and_none_ahead(make_node: MakeNode) -> None:
    node = make_node(1, max_tasks_per_child=100)
    node.assign(*range(95))
    node.finish()
    node.take()
    assert node.assign(*range(100, 200)) == ["give w0: 100-104"]
    node.finish()
    assert len(node.outcomes) == 195
    node.take()


def test_tasks_that_were_taken_back_do_not_count(make_node: MakeNode) -> None:
    node = make_node(1, max_tasks_per_child=4)
    node.assign(1)
    node.finish()
    node.take()
    node.assign(2, 3, 4)
    given = bundle_sizes(node)[-1]
    assert given > 1
    node.begin()
    node.pass_time(3 * LOOK_SECONDS)
    node.end()
    node.read()
    node.begin()
    node.read()
    node.finish()
    node.assign(5, 6, 7)
    node.finish()
    assert node.outcomes.keys() == {1, 2, 3, 4, 5, 6, 7}
    assert sorted(node.workers) == [1]
    node.take()


# --------------------------------------------------------------------------------------------- a worker out of order


def test_a_worker_that_answers_for_a_task_of_another_is_killed_and_all_it_began_is_lost(pair: Node) -> None:
    pair.learn()
    pair.assign(1, 2, 3, 4)
    worker = pair.workers[1]
    worker.begin()
    worker.write(4, m.Outcome.VALUE)
    pair.take()
    assert pair.read(1) == [
        "log ERROR: worker 1 answered task 4, which it does not have: a task broke its pipe",
        "kill w1",
    ]
    pair.take()
    assert 4 not in pair.outcomes
    pair.reap(1)
    pair.get_ready(2)
    pair.finish()
    assert [pair.outcomes[number] for number in (1, 2, 3, 4)] == [m.Outcome.WORKER_LOST] + 3 * [
        m.Outcome.VALUE
    ]
    pair.take()


def test_an_idle_worker_that_answers_is_killed_and_gets_nothing_meanwhile(node: Node) -> None:
    node.workers[0].write(1, m.Outcome.VALUE)
    node.read()
    node.take()
    assert node.assign(1) == []
    node.reap()
    node.get_ready(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.take()


def test_an_answer_given_twice_is_taken_once(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.end()
    node.workers[0].write(1, m.Outcome.EXCEPTION)
    node.begin()
    node.end()
    node.take()
    lines = node.read()
    assert "kill w0" in lines
    node.reap()
    node.get_ready(1)
    node.finish()
    # The second task was begun, and what the worker says of it is not believed any more.
    assert [node.outcomes[number] for number in (1, 2, 3)] == [
        m.Outcome.VALUE,
        m.Outcome.WORKER_LOST,
        m.Outcome.VALUE,
    ]
    assert [line for line in node.take() if "begins" in line] == ["w1 begins 3"]


def test_a_worker_that_claims_what_it_does_not_run_costs_all_that_it_claimed(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.workers[0].claims -= 1
    node.die()
    node.reap()
    node.get_ready(1)
    node.finish()
    assert [node.outcomes[number] for number in (1, 2, 3)] == [
        m.Outcome.WORKER_LOST,
        m.Outcome.WORKER_LOST,
        m.Outcome.VALUE,
    ]
    node.take()


def test_a_worker_that_drops_what_was_not_taken_back_is_killed(node: Node) -> None:
    node.workers[0].write(0, Mark.DISCARDED)
    node.read()
    assert "kill w0" in node.take()
    node.reap()
    node.get_ready(1)
    node.assign(1)
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.take()


# ---------------------------------------------------------------------------------------------------------- ending


def test_a_drained_manager_gives_back_its_queue_finishes_and_leaves(node: Node) -> None:
    node.assign(1, 2, 3)
    node.begin()
    node.take()
    assert node.say(m.Drain("maintenance")) == [
        "log INFO: draining: maintenance",
        "draining: maintenance",
        "returned 3 2; capacity 0",
    ]
    node.take()
    node.end()
    assert node.read()[1:] == [
        "results 1@0; capacity 2001",
        "leaving: maintenance",
        "exit 0: maintenance",
    ]
    node.take()


def test_an_idle_manager_that_is_drained_leaves_at_once(node: Node) -> None:
    assert node.say(m.Drain("maintenance")) == [
        "log INFO: draining: maintenance",
        "draining: maintenance",
        "leaving: maintenance",
        "exit 0: maintenance",
    ]
    node.take()
    assert node.turn() == [], "it leaves once"


def test_a_second_drain_changes_nothing(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.say(m.Drain("first"))
    node.take()
    assert node.say(m.Drain("second")) == []
    node.end()
    node.read()
    assert "exit 0: first" in node.take()


def test_tasks_that_come_after_the_drain_go_back(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.say(m.Drain("maintenance"))
    node.take()
    assert node.assign(2, 3) == ["returned 3 2; capacity 0"]
    node.take()
    node.finish()
    node.take()


def test_while_draining_what_waits_behind_a_long_task_goes_back(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.say(m.Drain("maintenance"))
    node.pass_time(3 * LOOK_SECONDS)
    lines = node.take()
    assert "returned 3 2; capacity 0" in lines
    node.end()
    node.read()
    assert node.exited
    node.take()


def test_while_draining_a_dead_worker_is_not_replaced_and_what_it_had_goes_back(pair: Node) -> None:
    pair.learn()
    pair.assign(1, 2, 3, 4)
    pair.begin(0)
    pair.begin(1)
    pair.say(m.Drain("maintenance"))
    pair.die(0)
    pair.take()
    assert pair.reap(0) == [
        "log WARNING: worker 0 was killed by signal 9 (SIGKILL: the kernel kills so when memory runs out) "
        "while it ran task 3",
        "returned 4; capacity 0",
        "results 3=worker_lost@0; capacity 4002",
    ]
    pair.take()
    pair.finish()
    assert pair.take()[-2:] == ["leaving: maintenance", "exit 0: maintenance"]


def test_a_drain_period_drains(make_node: MakeNode) -> None:
    node = make_node(1, drain_at=1020.0)
    assert node.pass_time(19.9) == []
    node.pass_time(0.1)
    assert node.take() == [
        "log INFO: draining: its time is over",
        "draining: its time is over",
        "leaving: its time is over",
        "exit 0: its time is over",
    ]


def test_cancelling_while_draining(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.say(m.Drain("maintenance"))
    node.take()
    lines = node.cancel(1, 3)
    assert lines == [
        "revoke 3 of w0: 2 came back",
        "verdicts: cancelled 3",
        "verdicts: refused 1",
        "returned 2; capacity 0",
    ]
    node.take()
    node.finish()
    node.take()


def test_a_shutdown_ends_the_manager_at_once(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.take()
    assert node.say(m.Shutdown("the executor shut down")) == ["exit 0: the executor shut down"]
    node.take()


def test_a_manager_whose_interchange_is_gone_ends(node: Node) -> None:
    node.reactor.interchange_left("closed")
    assert node.turn() == ["exit 1: the interchange is gone: closed"]
    node.take()


def test_a_manager_that_has_left_does_not_mind_that_the_interchange_goes(node: Node) -> None:
    node.say(m.Drain("maintenance"))
    node.take()
    node.reactor.interchange_left("closed")
    assert node.reactor.turn(node.now) == [Exit("the interchange is gone: closed", 0)]


# -------------------------------------------------------------------------------------------------------- liveness


def test_silence_is_filled_with_heartbeats(node: Node) -> None:
    assert node.reactor.next_deadline() == node.now + PERIOD
    assert node.pass_time(PERIOD * 2.5) == ["heartbeat", "heartbeat"]
    node.take()


def test_traffic_takes_the_place_of_heartbeats(node: Node) -> None:
    for number in range(5):
        node.now += PERIOD * 0.7
        node.assign(number)
        node.finish()
    assert "heartbeat" not in node.take()


def test_an_interchange_that_is_silent_for_too_long_is_given_up(node: Node) -> None:
    node.pass_time(THRESHOLD - 0.1)
    assert not node.exited
    node.pass_time(0.1)
    assert node.take()[-1] == "exit 1: the interchange was silent for 120.0 s (heartbeat_threshold)"


def test_any_message_of_the_interchange_ends_its_silence(node: Node) -> None:
    for _ in range(4):
        node.pass_time(THRESHOLD * 0.9)
        node.say(m.Heartbeat())
    assert not node.exited
    node.take()


def test_a_manager_with_nothing_to_do_is_not_woken_before_its_heartbeat(node: Node) -> None:
    node.learn()
    node.pass_time(1.0)
    node.take()
    assert node.reactor.next_deadline() > node.now + PERIOD / 2


# ------------------------------------------------------------------------------------------------------- questions


def test_explaining_a_queued_task(node: Node) -> None:
    node.assign(1, 2, "3!-1", 4)
    node.take()
    found = node.explain(4)
    assert (found.state, found.waits_for, found.ahead) == ("at a manager", "a free worker", 2)
    assert (found.manager, found.host, found.block, found.worker) == ("m1", "node1", "0", -1)


def test_explaining_a_task_behind_another_at_its_worker(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.take()
    found = node.explain(3)
    assert (found.state, found.waits_for, found.ahead) == ("at a worker", "the tasks before it", 2)
    assert (found.worker, found.log) == (0, "/logs/worker-0.log")


def test_explaining_a_running_task(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.now += 3.0
    node.take()
    found = node.explain(1)
    assert (found.state, found.waits_for, found.ahead, found.seconds) == ("running", "", 0, 3.0)
    assert (found.worker, found.log) == (0, "/logs/worker-0.log")
    node.take()


@pytest.mark.parametrize("subject", ["7", "nonsense", "", "-1", "²"])
def test_explaining_what_is_not_here(node: Node, subject: str) -> None:
    node.say(m.Ask(5, "explain", subject))
    assert node.take() == [
        "answer 5: unknown; waits for: nothing: its outcome is on its way; ahead: 0; worker -1; seconds None"
    ]


def test_packages_are_reported_by_the_shell(node: Node) -> None:
    assert node.say(m.Ask(9, "packages")) == ["report packages for request 9"]
    node.take()


# ------------------------------------------------------------------------------------------------------------ sums


def test_running_time_is_summed_and_told_once(pair: Node) -> None:
    pair.assign(1, 2)
    pair.finish(seconds=0.5)
    pair.assign(3)
    pair.finish(seconds=0.25)
    results = [message for message in pair.told if isinstance(message, m.Results)]
    assert sum(message.busy for message in results) == pytest.approx(1.25)
    pair.take()


def test_each_outcome_names_its_worker(pair: Node) -> None:
    pair.assign(1, 2)
    pair.begin(0)
    pair.begin(1)
    pair.end(0, outcome=m.Outcome.FAILED)
    pair.end(1, outcome=m.Outcome.EXCEPTION)
    pair._read(0)
    pair._read(1)
    pair.turn()
    assert pair.take()[-1] == "results 2=failed@0 1=exception@1; capacity 4002"


def test_a_look_at_a_worker_that_has_nothing_does_no_harm(node: Node) -> None:
    node.reactor._actions.append(Look(0))
    assert node.turn() == ["look w0"]
    node.take()


def test_a_stuck_worker_stops_being_one_when_its_task_is_cancelled_unbegun(node: Node) -> None:
    node.assign(1)
    node.pass_time(STUCK_SECONDS)
    assert node.state.stuck == {0}
    node.cancel(1)
    node.begin()
    node.read()
    assert node.state.stuck == set()
    node.take()
