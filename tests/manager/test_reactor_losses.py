from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.manager.harness import Node
from throughway.manager.actions import Exit, Give, Revoke
from throughway.manager.reactor import (
    LOOK_SECONDS,
    MAX_START_FAILURES,
    PARTING_SECONDS,
    START_AGAIN_SECONDS,
    describe_status,
)
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark

MakeNode: TypeAlias = Callable[..., Node]


def bundle_sizes(node: Node) -> list[int]:
    return [len(action.tasks) for action in node.actions if isinstance(action, Give)]


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
        "results 0=worker_lost@0; capacity 2816",
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
    assert node.reap() == ["start w1 in slot 0", "results 1@0; capacity 2816"]
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


def test_a_manager_without_workers_leaves_once_the_interchange_knows_why(make_node: MakeNode) -> None:
    """Its workers may end sooner than it is welcome; the executor is to hear of the initializer, not of a loss."""
    node = make_node(1, ready=False, connected=False)
    node.hello()
    for number in range(MAX_START_FAILURES):
        node.workers[number].write(0, Mark.INITIALIZER_FAILED, b"record", 0.0)
        node.read(number)
        node.die(number, status=1 << 8)
        node.reap(number)
    assert not node.exited
    node.take()
    lines = node.welcome()
    assert [line.split(":")[0] for line in lines] == ["draining", "broken", "leaving", "exit 1"]
    assert node.told[-1] == m.Leaving("m1", node.reactor.state.draining or "", failed=True)
    node.take()


@pytest.mark.parametrize("greeted", [False, True])
def test_a_manager_without_workers_ends_with_the_reason_where_nobody_welcomes_it(
    make_node: MakeNode, greeted: bool
) -> None:
    node = make_node(1, ready=False, connected=False)
    if greeted:
        node.hello()
    for number in range(MAX_START_FAILURES):
        node.die(number, status=1 << 8)
        node.reap(number)
    node.pass_time(PARTING_SECONDS - 1)
    assert not node.exited
    node.pass_time(1)
    assert node.take()[-1].startswith("exit 1: 5 workers in a row")


def test_what_runs_on_other_workers_is_finished_first(make_node: MakeNode) -> None:
    node = make_node(2, ready=False)
    node.get_ready(0)
    node.assign(1)
    node.begin()
    failing = 1
    for _ in range(MAX_START_FAILURES):
        node.die(failing, status=1 << 8)
        node.reap(failing)
        failing = max(node.workers)
    assert not node.exited
    assert node.told[-1] == m.Draining("m1", node.reactor.state.draining or "")
    node.finish()
    node.acknowledge()
    assert node.outcomes == {1: m.Outcome.VALUE}
    assert node.take()[-1].startswith("exit 1: 5 workers in a row")
    assert node.told[-1:] == [m.Leaving("m1", node.reactor.state.draining or "", failed=True, worked=True)]


def test_one_worker_that_gets_ready_ends_the_row_of_failures(make_node: MakeNode) -> None:
    node = make_node(1, ready=False)
    for number in range(3 * MAX_START_FAILURES):
        if number % MAX_START_FAILURES == MAX_START_FAILURES - 1:
            node.get_ready(number)
        node.die(number)
        node.reap(number)
    assert not node.exited
    node.take()


def test_a_zygote_that_dies_while_many_workers_start_is_one_failure(make_node: MakeNode) -> None:
    node = make_node(3 * MAX_START_FAILURES, ready=False)
    node.get_ready(0)
    node.assign(1)
    node.begin()
    node.workers[1].write(0, Mark.READY, b"", 0.0)
    node.take()
    lines = node.lose_zygote()
    slots = ", ".join(map(str, range(2, 3 * MAX_START_FAILURES)))
    assert lines[0] == (
        f"log ERROR: before they were ready, these workers died with the process that forks workers: {slots}"
    )
    assert [line for line in lines if "log ERROR" in line] == lines[:1]
    assert sum("start w" in line for line in lines) == 3 * MAX_START_FAILURES
    assert node.state.draining is None
    assert node.outcomes == {1: m.Outcome.WORKER_LOST}
    node.get_ready(max(node.workers))
    node.assign(2)
    node.finish()
    assert node.outcomes[2] == m.Outcome.VALUE
    node.take()


def test_zygotes_that_keep_dying_end_the_manager(make_node: MakeNode) -> None:
    node = make_node(2, ready=False)
    for _ in range(MAX_START_FAILURES):
        assert not node.exited
        node.lose_zygote()
    assert node.take()[-1] == (
        "exit 1: 5 workers in a row ended before they were ready; "
        "the last died with the process that forks workers"
    )
    assert node.told[-1] == m.Leaving("m1", node.reactor.state.draining or "", failed=True, worked=False)


def test_a_zygote_that_dies_with_ready_workers_alone_is_no_failure(pair: Node) -> None:
    for _ in range(2 * MAX_START_FAILURES):
        pair.take()
        lines = pair.lose_zygote()
        assert [line.split()[0] for line in lines] == ["start", "start"]
        for number in list(pair.workers):
            pair.get_ready(number)
    assert not pair.exited
    pair.take()


def test_a_worker_that_cannot_be_forked_is_tried_again_a_while_later(make_node: MakeNode) -> None:
    node = make_node(4, max_tasks_per_child=1)
    node.assign(1, 2, 3, 4)
    for number in range(4):
        node.begin(number)
    node.end(0)
    node.reap(0)
    number = 4
    for _ in range(3 * MAX_START_FAILURES):
        node.take()
        assert node.refuse(number) == [
            "log ERROR: worker 0 cannot be started: Resource temporarily unavailable"
        ]
        node.pass_time(START_AGAIN_SECONDS)
        number += 1
        assert number in node.workers
    assert node.state.draining is None
    node.get_ready(number)
    node.assign(5)
    node.finish()
    assert node.outcomes.keys() == {1, 2, 3, 4, 5}
    node.take()


def test_no_worker_that_can_be_forked_for_a_moment_is_tried_again_by_all(make_node: MakeNode) -> None:
    """All slots are refused within a moment: that is one try, however many they are."""
    node = make_node(3 * MAX_START_FAILURES, ready=False)
    for number in list(node.workers):
        node.refuse(number)
    assert not node.workers
    assert not node.exited
    node.pass_time(START_AGAIN_SECONDS)
    assert len(node.workers) == 3 * MAX_START_FAILURES
    node.get_ready(min(node.workers))
    assert node.state.draining is None
    node.take()


def test_where_no_worker_can_be_started_at_all_the_manager_ends_with_the_reason(make_node: MakeNode) -> None:
    node = make_node(3, ready=False)
    for tries in range(MAX_START_FAILURES):
        assert not node.exited, tries
        for number in list(node.workers):
            node.refuse(number, "Cannot allocate memory")
        if not node.exited:
            node.pass_time(START_AGAIN_SECONDS)
    assert node.take()[-1] == "exit 1: no worker can be started: Cannot allocate memory"
    assert node.told[-1] == m.Leaving("m1", node.reactor.state.draining or "", failed=True, worked=False)


def test_a_worker_that_gets_ready_ends_the_row_of_refused_starts(make_node: MakeNode) -> None:
    node = make_node(1, ready=False)
    for tries in range(3 * MAX_START_FAILURES):
        (number,) = node.workers
        if tries % (MAX_START_FAILURES - 1) == 0:
            node.get_ready(number)
            node.die(number)
            node.reap(number)
            (number,) = node.workers
        node.refuse(number)
        node.pass_time(START_AGAIN_SECONDS)
    assert not node.exited
    node.take()


def test_refused_starts_do_not_add_to_workers_that_died(make_node: MakeNode) -> None:
    node = make_node(2, ready=False)
    node.get_ready(0)
    for _ in range(2 * MAX_START_FAILURES):
        node.refuse(max(node.workers))
        node.pass_time(START_AGAIN_SECONDS)
    number = max(node.workers)
    node.die(number)
    node.reap(number)
    assert node.state.draining is None
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
    assert node.read()[1:] == ["results 1@0; capacity 2816, waits"]
    node.take()
    assert node.acknowledge() == ["leaving: maintenance", "exit 0: maintenance"]
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
    node.acknowledge()
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
    assert not node.exited, "the executor may not have the result yet"
    node.acknowledge()
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
    log, *lines = pair.reap(0)
    assert log.startswith("log WARNING: worker 0 was killed by signal 9")
    assert lines == [
        "returned 4; capacity 0",
        "results 3=worker_lost@0; capacity 5633, waits",
    ]
    pair.take()
    pair.finish()
    pair.acknowledge()
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


def test_a_manager_that_has_left_does_not_mind_that_the_interchange_goes(node: Node) -> None:
    node.say(m.Drain("maintenance"))
    node.take()
    node.reactor.interchange_left("closed")
    assert node.reactor.turn(node.now) == [Exit("the interchange is gone: closed", 0)]
