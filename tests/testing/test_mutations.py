"""The simulation's invariants can fail: known faults of the kind that recovery invites are planted, and found."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec
import pytest

from throughway.executors.reactor import ExecutorReactor
from throughway.interchange.actions import Note, Send
from throughway.interchange.reactor import InterchangeReactor
from throughway.manager.reactor import ManagerReactor
from throughway.manager.results import ResultLog
from throughway.protocol import messages as m
from throughway.testing.simulation.plan import make_plan
from throughway.testing.simulation.world import simulate

SEEDS = 600
"""A planted fault must be found within so many seeds. Most are within ten."""

Plant = Callable[[pytest.MonkeyPatch], None]


def wrapped(kind: type, name: str, around: Callable) -> Plant:
    """A fault that is a method which does something else: ``around`` gets the original and its arguments."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(kind, name)

        @functools.wraps(original)
        def method(*arguments, **named):
            return around(original, *arguments, **named)

        monkeypatch.setattr(kind, name, method)

    return plant


def drop_acknowledgements(original, results, number):
    pass


def send_nothing_again(original, reactor, welcome, now):
    original(reactor, msgspec.structs.replace(welcome, seen=1 << 40), now)


def note_nothing(original, reactor, manager, tasks, now):
    original(reactor, manager, tasks, now)
    reactor._actions = [action for action in reactor._actions if not isinstance(action, Note)]


def accept_the_lost(original, reactor, peer, hello, now):
    if hello.id in reactor.state.lost:
        del reactor.state.lost[hello.id]
        hello = msgspec.structs.replace(hello, held=[], ended=[])
    original(reactor, peer, hello, now)


def queue_what_is_held(original, reactor, manager, peer, hello, now):
    original(reactor, manager, peer, msgspec.structs.replace(hello, held=[]), now)


def queue_what_has_ended(original, reactor, manager, peer, hello, now):
    original(reactor, manager, peer, msgspec.structs.replace(hello, ended=[]), now)


def forget_what_never_arrived(original, reactor, manager, peer, hello, now):
    tasks = reactor.state.owners.numbers(manager)
    original(reactor, manager, peer, msgspec.structs.replace(hello, held=[*hello.held, *tasks]), now)


def forget_numbers(original, reactor, assigned, now):
    restore = original(reactor, assigned, now)
    if restore is not None:
        reactor._received.clear()
        managers = [msgspec.structs.replace(manager, received=0) for manager in restore.managers]
        restore = msgspec.structs.replace(restore, managers=managers)
    return restore


def run_the_lost_again_without_leave(original, reactor, message):
    for task in message.tasks:
        future = reactor.futures.get(task)
        if future is not None:
            reactor.outbox.append(future._task)


def lose_the_outbox(original, reactor, assigned, now):
    restore = original(reactor, assigned, now)
    reactor.outbox.clear()
    return restore


def take_all_for_unsent(original, reactor, assigned, now):
    return original(reactor, {}, now)


def forget_open_cancellations(original, reactor, assigned, now):
    restore = original(reactor, assigned, now)
    reactor._actions = []
    return restore


def a_cut_is_a_death(original, reactor, peer, reason, now, *, gone=True):
    original(reactor, peer, reason, now, gone=True)


def hear_nothing_but_heartbeats(original, reactor, peer, message, raw, now):
    manager = reactor.state.peers.get(peer)
    before = manager.last_heard if manager is not None else now
    original(reactor, peer, message, raw, now)
    if manager is not None and not isinstance(message, m.Heartbeat):
        manager.last_heard = before


def one_claim_more(original, reactor, number, count, now):
    worker = reactor.state.workers.get(number)
    if worker is not None and len(worker.pending) > count:
        count += 1
    original(reactor, number, count, now)


def all_was_claimed(original, reactor, number, status, unclaimed, stderr, log, now):
    original(reactor, number, status, 0, stderr, log, now)


def cancelled_for_sure(original, reactor, message):
    running = [task for task in message.tasks if task in reactor.state.holders]
    original(reactor, message)
    if running:
        reactor._tell(m.Verdicts(running, []))


def leave_without_waiting(original, reactor, now):
    reactor.results.kept.clear()
    return original(reactor, now)


def hand_in_twice(original, reactor, message):
    tasks = [reactor.futures[task]._task for task in message.tasks if task in reactor.futures]
    original(reactor, message)
    reactor.outbox.extend(tasks)


def drop_the_verdict(original, reactor, manager, message):
    actions = len(reactor._actions)
    original(reactor, manager, message)
    reactor._actions[actions:] = [one for one in reactor._actions[actions:] if not isinstance(one, Send)]


def retry_beyond_the_last(original, reactor, future):
    future._retries += 1
    return original(reactor, future)


MUTATIONS: dict[str, Plant] = {
    "manager: acknowledgements are dropped": wrapped(ResultLog, "acknowledged", drop_acknowledgements),
    "manager: nothing is sent again": wrapped(ManagerReactor, "welcomed", send_nothing_again),
    "manager: a claim too many is taken back": wrapped(ManagerReactor, "revoked", one_claim_more),
    "manager: a dead worker had claimed all": wrapped(ManagerReactor, "worker_ended", all_was_claimed),
    "manager: what runs is said to be cancelled": wrapped(ManagerReactor, "_cancel", cancelled_for_sure),
    "manager: results are not kept": wrapped(ManagerReactor, "turn", leave_without_waiting),
    "interchange: assignments are not noted": wrapped(InterchangeReactor, "_assign", note_nothing),
    "interchange: a lost manager is welcome": wrapped(
        InterchangeReactor, "manager_said_hello", accept_the_lost
    ),
    "interchange: what is held is queued": wrapped(InterchangeReactor, "_resume", queue_what_is_held),
    "interchange: what has ended is queued": wrapped(InterchangeReactor, "_resume", queue_what_has_ended),
    "interchange: what never arrived is forgotten": wrapped(
        InterchangeReactor, "_resume", forget_what_never_arrived
    ),
    "interchange: a cut is a death": wrapped(InterchangeReactor, "peer_left", a_cut_is_a_death),
    "interchange: only heartbeats are life": wrapped(
        InterchangeReactor, "manager_said", hear_nothing_but_heartbeats
    ),
    "interchange: verdicts are dropped": wrapped(InterchangeReactor, "_judged", drop_the_verdict),
    "executor: numbers do not survive": wrapped(ExecutorReactor, "interchange_left", forget_numbers),
    "executor: the lost run again without leave": wrapped(
        ExecutorReactor, "_lost", run_the_lost_again_without_leave
    ),
    "executor: the outbox does not survive": wrapped(ExecutorReactor, "interchange_left", lose_the_outbox),
    "executor: notes are not read": wrapped(ExecutorReactor, "interchange_left", take_all_for_unsent),
    "executor: cancellations do not survive": wrapped(
        ExecutorReactor, "interchange_left", forget_open_cancellations
    ),
    "executor: verdicts hand tasks in again": wrapped(ExecutorReactor, "_judged", hand_in_twice),
    "executor: retries never end": wrapped(ExecutorReactor, "_retry", retry_beyond_the_last),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_found(name, monkeypatch):
    MUTATIONS[name](monkeypatch)
    assert any(simulate(make_plan(seed)).failure for seed in range(SEEDS)), f"{SEEDS} seeds went well"
