"""The reactor without its interchange for a while: work goes on, results are kept, and the next hello tells all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.manager.harness import THRESHOLD, Node
from throughway.manager import reactor as reactor_module
from throughway.manager.pace import HOLD_SECONDS
from throughway.manager.reactor import LOOK_SECONDS, PARTING_SECONDS, Link
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark

MakeNode: TypeAlias = Callable[..., Node]

CUT = "log WARNING: cut off from the interchange: reset"


def run(node: Node, *tasks: int, worker: int = 0) -> None:
    """These tasks come one after the other, and each ends before the next."""
    for task in tasks:
        node.assign(task)
        node.begin(worker)
        node.end(worker)
        node.read(worker)
    node.take()


# --------------------------------------------------------------------------------------------------- the greeting


def test_the_first_hello_says_that_there_is_nothing(make_node: MakeNode) -> None:
    node = make_node(2, connected=False)
    assert node.reactor.link is Link.DOWN
    hello = node.hello()
    assert not hello.again
    assert (hello.held, hello.ended, hello.functions, hello.draining) == ([], [], [], None)
    greeting = node.reactor.link
    node.welcome()
    assert (greeting, node.reactor.link) == (Link.GREETING, Link.UP)
    assert node.take() == ["hello; capacity 2"]


def test_a_hello_that_was_not_answered_may_have_been_heard(make_node: MakeNode) -> None:
    node = make_node(1, connected=False)
    assert not node.hello().again
    node.disconnect()
    assert node.hello().again, "it may be registered, and its welcome lost"
    node.take()


def test_the_next_hello_says_what_it_has(pair: Node) -> None:
    pair.assign(1, 2, "3:f2", 4)
    pair.begin(1)
    pair.end(1)
    pair.read(1)
    pair.take()
    assert pair.disconnect() == [CUT]
    hello = pair.hello()
    assert hello.again
    assert sorted(hello.held) == [2, 3, 4]
    assert hello.ended == [(1, [1])]
    assert hello.functions == [1, 2]
    assert hello.capacity == pair.reactor.capacity
    pair.take()


def test_work_goes_on_without_a_connection(pair: Node) -> None:
    pair.assign(1, 2, 3, 4)
    pair.disconnect()
    pair.take()
    pair.finish()
    assert sorted(pair.state.functions) == [1]
    assert pair.state.held == 0
    assert not any(line.startswith(("results", "started")) for line in pair.take()), "nobody is told"
    hello = pair.hello()
    assert hello.held == []
    assert sorted(task for _, tasks in hello.ended for task in tasks) == [1, 2, 3, 4]
    pair.take()
    pair.welcome()
    said = [message for message in pair.told if isinstance(message, m.Results)]
    assert [message.number for message in said] == list(range(1, len(said) + 1)), "in order"
    assert pair.outcomes.keys() == {1, 2, 3, 4}
    pair.take()


# ------------------------------------------------------------------------------------------------------- results


def test_results_are_counted_and_kept_until_they_are_acknowledged(node: Node) -> None:
    run(node, 1, 2, 3)
    assert [message.number for message in node.told if isinstance(message, m.Results)] == [1, 2, 3]
    size = node.reactor.results.kept_bytes
    assert size > 0
    node.acknowledge(2)
    assert 0 < node.reactor.results.kept_bytes < size
    node.acknowledge(3)
    assert node.reactor.results.kept_bytes == 0


def test_an_old_acknowledgement_says_nothing_new(node: Node) -> None:
    run(node, 1, 2)
    node.acknowledge(2)
    node.acknowledge(1)
    assert node.reactor.results.kept_bytes == 0


def test_an_acknowledgement_rides_on_an_assignment(node: Node) -> None:
    run(node, 1, 2)
    assign, _ = node.assignment([3])
    assign.received = 2
    node.say(assign)
    assert node.reactor.results.kept_bytes == 0
    node.take()


def test_after_the_welcome_what_did_not_arrive_is_said_again(node: Node) -> None:
    run(node, 1, 2, 3)
    node.disconnect()
    assert node.hello().ended == [(1, [1]), (2, [2]), (3, [3])]
    node.take()
    # The executor has the first, the interchange the second, and the third was lost.
    assert node.welcome(received=1, seen=2) == ["again: results 3@0; capacity 2816"]
    node.take()
    node.disconnect()
    assert node.hello().ended == [(2, [2]), (3, [3])], "it is kept until the executor has it"
    node.take()
    assert node.welcome(received=3) == []
    assert node.reactor.results.kept_bytes == 0


def test_what_ends_between_hello_and_welcome_is_said_once(node: Node) -> None:
    node.assign(1, 2)
    node.disconnect()
    assert sorted(node.hello().held) == [1, 2]
    node.take()
    node.finish()
    assert not any(line.startswith("results") for line in node.take())
    node.welcome()
    said = [message for message in node.told if isinstance(message, m.Results)]
    assert sorted(task for message in said for task in message.tasks) == [1, 2]
    assert [message.number for message in said] == sorted({message.number for message in said})
    node.take()


def test_large_frames_are_kept_with_their_results(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.end(frames=2)
    node.disconnect()
    node.read()
    node.hello()
    node.take()
    assert node.welcome() == ["results 1+2@0; capacity 2816"]
    node.take()


def test_too_much_unacknowledged_stops_new_work_until_it_is_acknowledged(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(node, 1)
    size = node.reactor.results.kept_bytes
    monkeypatch.setattr(reactor_module, "RETAINED_BYTES", 2 * size + size // 2)
    run(node, 2)
    assert not node.reported[2].waiting, "there is room"
    run(node, 3)
    assert node.reported[3].waiting, "the executor should say what it has"
    assert node.reactor.results.kept_bytes == 3 * size
    assert node.assign(4) == []
    assert node.state.queue.waiting.keys() == {4}
    assert node.acknowledge(1) == ["give w0: 4"], "what is acknowledged makes room"
    node.take()


def test_too_much_unacknowledged_does_not_stop_what_workers_have(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.learn()
    monkeypatch.setattr(reactor_module, "RETAINED_BYTES", 10)
    node.assign(1, 2, 3)
    node.begin()
    node.end()
    node.read()
    node.finish()
    assert node.outcomes.keys() >= {1, 2, 3}
    node.take()


# ----------------------------------------------------------------------------------- what is lost with a connection


def test_what_runs_is_told_again(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.pass_time(LOOK_SECONDS)
    assert "started 1@0" in node.take()
    node.disconnect()
    node.hello()
    node.take()
    assert node.welcome() == ["started 1@0"]
    node.take()


def test_what_began_to_run_meanwhile_is_told_too(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.disconnect()
    node.pass_time(3 * LOOK_SECONDS)
    assert "started 1@0" not in node.take()
    node.hello()
    node.take()
    assert node.welcome() == ["started 1@0"]
    node.take()


def test_a_verdict_that_nobody_hears_shows_in_what_it_has(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.said(m.Cancel([1, 3]))
    # The cancellation is acted on when the connection has just gone.
    node.disconnect()
    assert not any(line.startswith("verdicts") for line in node.take())
    assert sorted(node.hello().held) == [1, 2], "what never runs is not here any more"
    node.take()
    node.welcome()
    # It is asked again about the other.
    assert "verdicts: refused 1" in node.cancel(1)
    node.take()


def test_a_verdict_between_hello_and_welcome_is_told_after_it(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.said(m.Cancel([3]))
    node.reactor.interchange_left("reset")
    assert sorted(node.hello().held) == [1, 2, 3]
    node.take()
    assert "revoke 3 of w0: 2 came back" in node.turn()
    node.take()
    assert node.welcome()[0] == "verdicts: cancelled 3"
    node.take()


def test_what_is_to_be_said_is_dropped_where_the_next_hello_says_it(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.said(m.Cancel([3]))
    node.reactor.interchange_left("reset")
    node.hello()
    node.turn()
    node.disconnect()
    assert sorted(node.hello().held) == [1, 2]
    node.take()
    assert not any(line.startswith("verdicts") for line in node.welcome())
    node.take()


def test_nothing_is_given_back_while_nobody_takes_it(node: Node) -> None:
    node.learn()
    node.assign(1, 2, 3)
    node.begin()
    node.disconnect()
    node.pass_time(2 * HOLD_SECONDS)
    assert sorted(node.hello().held) == [1, 2, 3]
    assert not any(line.startswith("returned") for line in node.take())
    assert node.welcome() == ["started 1@0", "returned 3 2; capacity 1"]
    node.take()


def test_a_failed_initializer_is_told_again(make_node: MakeNode) -> None:
    node = make_node(1, ready=False)
    node.disconnect()
    node.workers[0].write(0, Mark.INITIALIZER_FAILED, b"record", 0.0)
    node.read()
    assert node.take()[1:] == [CUT]
    for _ in range(2):
        node.hello()
        node.take()
        assert node.welcome() == ["broken: the initializer raised (record)"]
        node.disconnect()
        node.take()


# ------------------------------------------------------------------------------------------------------ draining


def test_a_drain_without_a_connection_is_said_with_the_hello(node: Node) -> None:
    node.assign(1, 2)
    node.begin()
    node.disconnect()
    node.reactor.drain("SIGTERM")
    node.turn()
    assert node.take()[-1] == "log INFO: draining: SIGTERM"
    assert node.hello().draining == "SIGTERM"
    node.take()
    assert node.welcome() == ["returned 2; capacity 0"]
    node.end()
    node.read()
    node.acknowledge()
    assert node.take()[-2:] == ["leaving: SIGTERM", "exit 0: SIGTERM"]


def test_a_drain_between_hello_and_welcome_is_said_after_it(node: Node) -> None:
    node.assign(1, 2)
    node.begin()
    node.disconnect()
    assert node.hello().draining is None
    node.reactor.drain("SIGTERM")
    node.turn()
    node.take()
    assert node.welcome() == ["draining: SIGTERM", "returned 2; capacity 0"]
    node.take()


def test_it_does_not_leave_before_its_results_are_acknowledged(node: Node) -> None:
    run(node, 1)
    node.say(m.Drain("maintenance"))
    node.disconnect()
    assert not node.exited
    node.take()
    node.hello()
    node.take()
    assert node.welcome() == ["again: results 1@0; capacity 2816"]
    node.take()
    assert node.acknowledge() == ["leaving: maintenance", "exit 0: maintenance"]
    node.take()


@pytest.mark.parametrize("greeting", [False, True])
def test_one_that_is_registered_says_that_it_leaves(node: Node, greeting: bool) -> None:
    """Tasks may be on their way to it: only its farewell tells that they never ran."""
    node.disconnect()
    if greeting:
        node.hello()
    node.reactor.drain("SIGTERM")
    node.turn()
    assert not node.exited
    if not greeting:
        node.hello()
    node.take()
    assert node.welcome()[-2:] == ["leaving: SIGTERM", "exit 0: SIGTERM"]
    node.take()


def test_it_waits_a_moment_for_its_interchange_before_it_leaves_without(node: Node) -> None:
    run(node, 1)
    # Nobody has said anything for long: what counts is since when nobody is there.
    node.pass_time(3 * PARTING_SECONDS)
    node.disconnect()
    node.reactor.drain("SIGTERM")
    node.pass_time(PARTING_SECONDS - 1.0)
    assert not node.exited
    node.hello()
    node.take()
    node.pass_time(0.5)
    assert node.take() == []
    node.pass_time(1.0)
    assert node.take() == ["exit 1: it was told to end, and nobody is there to take its last results"]


def test_with_tasks_it_does_not_leave_so_soon(node: Node) -> None:
    node.assign(1)
    node.begin()
    node.disconnect()
    node.reactor.drain("SIGTERM")
    node.pass_time(3 * PARTING_SECONDS)
    assert not node.exited
    node.take()


def test_one_that_nobody_knows_just_goes(make_node: MakeNode) -> None:
    node = make_node(1, connected=False)
    node.reactor.drain("SIGTERM")
    assert node.turn() == ["log INFO: draining: SIGTERM", "exit 0: SIGTERM"]
    node.take()


# ------------------------------------------------------------------------------------------------------ liveness


@pytest.mark.parametrize("greeting", [False, True])
def test_without_an_interchange_for_long_it_ends(node: Node, greeting: bool) -> None:
    node.pass_time(10.0)
    node.say(m.Heartbeat())
    node.disconnect()
    if greeting:
        node.hello()
    node.take()
    node.pass_time(THRESHOLD - 1.0)
    assert node.take() == [], "no heartbeat for nobody"
    node.pass_time(2.0)
    (line,) = node.take()
    assert line == "exit 1: the interchange was silent for 120.0 s (heartbeat_threshold)"


def test_a_welcome_is_a_sign_of_life(node: Node) -> None:
    node.disconnect()
    node.pass_time(THRESHOLD - 1.0)
    node.hello()
    node.welcome()
    node.take()
    node.pass_time(THRESHOLD - 1.0)
    assert set(node.take()) == {"heartbeat"}


# ------------------------------------------------------------------------------------------------ behind long tasks


def test_what_is_more_than_its_capacity_behind_a_long_task_goes_back_at_once(pair: Node) -> None:
    pair.learn()
    pair.assign(1, 2, 3, 4, 5)
    pair.begin(0)
    pair.begin(1)
    pair.take()
    pair.pass_time(2 * HOLD_SECONDS)
    returned = [line for line in pair.take() if line.startswith("returned")]
    assert returned == ["returned 5 3 2; capacity 2"]
    assert pair.state.held == 2
