from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.manager.harness import BUNDLE, PERIOD, THRESHOLD, TINY, Node, frames_of, task
from throughway.manager.actions import Give, Look, Tell
from throughway.manager.reactor import LOOK_SECONDS, STUCK_SECONDS
from throughway.protocol import messages as m

MakeNode: TypeAlias = Callable[..., Node]


def bundle_sizes(node: Node) -> list[int]:
    return [len(action.tasks) for action in node.actions if isinstance(action, Give)]


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
    assert node.assign(*range(120)) == ["give w0: 0-55", "give w0: 56-111"], "the second one is given ahead"
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
    assert node.take() == ["give w0: 0-55", "give w0: 56-111"]
    for _ in range(BUNDLE):
        node.begin()
        node.end()
    node.take()
    assert node.read() == ["give w0: 112-167", "results 0-55 @0; capacity 2816"]
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


def test_what_is_in_shared_memory_passes_through_as_it_is(pair: Node) -> None:
    pair.learn()
    pair.assign("1+-7", 2, "3+-9", "4+-1000000")
    gives = [action for action in pair.actions[-2:] if isinstance(action, Give)]
    assert [(one.id, one.frames) for give in gives for one in give.tasks] == [
        (1, -7),
        (2, 0),
        (3, -9),
        (4, -1_000_000),
    ]
    assert [give.frames for give in gives] == [[], []]
    assert pair.state.frames == {}
    pair.finish()
    assert pair.outcomes.keys() >= {1, 2, 3, 4}
    assert {pair.outcomes[number] for number in (1, 2, 3, 4)} == {m.Outcome.VALUE}
    pair.take()


def test_shared_memory_and_frames_are_not_mixed_up(pair: Node) -> None:
    pair.learn()
    pair.assign("1+2", "2+-5", "3+1", "4+-2", 5, "6+3")
    assert pair.state.frames.keys() == {1, 3, 6}
    gives = [action for action in pair.actions[-2:] if isinstance(action, Give)]
    assert [give.frames for give in gives] == [
        [frame for one in give.tasks for frame in frames_of(one)] for give in gives
    ]
    pair.finish()  # the workers check that each task gets its own frames
    assert pair.state.frames == {}
    assert {pair.outcomes[number] for number in range(1, 7)} == {m.Outcome.VALUE}
    pair.take()


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_places_do_not_make_up_for_frames_that_are_missing(node: Node, frames: int) -> None:
    """Two frames are announced; with minus one added there would be one, with one of three there are too many."""
    message, _ = node.assignment(["1+2", "2+-1"])
    node.say(message, [b"frame"] * frames)
    assert node.outcomes == {1: m.Outcome.MANAGER_LOST, 2: m.Outcome.MANAGER_LOST}
    assert node.state.frames == {}
    node.take()


def test_what_is_in_shared_memory_survives_the_worker_that_did_not_begin_it(node: Node) -> None:
    node.assign("1+-4")
    node.die()
    node.reap()
    node.get_ready(1)
    (give,) = [action for action in node.actions if isinstance(action, Give) and action.worker == 1]
    assert [(one.id, one.frames) for one in give.tasks] == [(1, -4)]
    node.finish()
    assert node.outcomes == {1: m.Outcome.VALUE}
    node.take()


def test_large_frames_of_results_are_passed_on_in_order(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    for frames in (2, 0, 1):
        node.begin()
        node.end(frames=frames)
    node.take()
    assert node.read() == ["results 1+2@0 2@0 3+1@0; capacity 2816"]
    node.take()
    sent = [action for action in node.actions if isinstance(action, Tell)][-1].frames
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
    node.assign("1+1", "2+1", "3+-1")
    node.cancel(3)
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
    assert node.reactor.capacity == 3 + int(3 * 0.05 / (TINY + 2.5e-6))
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
    assert "results 1@1; capacity 5633" in pair.take()


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
    assert node.read() == ["results 0@0; capacity 2816"]
    node.take()
    assert node.assign(10) == []
    node.begin()
    assert node.read() == ["w0 discards 1-9", "give w0: 10"]
    node.take()


def test_two_bundles_of_which_tasks_were_taken_back_are_dropped_one_by_one(node: Node) -> None:
    node.learn()
    node.assign(*range(80))
    assert list(node.state.workers[0].bundles) == [BUNDLE, 80 - BUNDLE]
    node.begin()
    node.pass_time(3 * LOOK_SECONDS)
    assert node.state.workers[0].discards == 2
    node.end()
    node.begin()
    node.take()
    assert node.read() == ["results 0@0; capacity 2816"]
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
    assert pair.take()[-1] == "results 2=failed@0 1=exception@1; capacity 5633"


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
