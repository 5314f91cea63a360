"""Waiting awake, on a clock that the test moves: when it is worth it, how long, and who gets the core meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from throughway.transport import spin
from throughway.transport.spin import YIELD_SECONDS, Spin, wait_awake

LOOK_SECONDS = 1e-6
"""What each look at the clock of the test takes."""


class Machine:
    """A clock that goes on by a microsecond whenever it is read, and how often the core was offered to others."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.offered: list[float] = []
        self.looked = 0

    def monotonic(self) -> float:
        self.now += LOOK_SECONDS
        return self.now

    def sched_yield(self) -> None:
        self.offered.append(self.now)

    def ready_after(self, looks: float) -> Callable[[], bool]:
        """What is ready at the look of this number."""

        def ready() -> bool:
            self.looked += 1
            return self.looked >= looks

        return ready


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(spin, "time", made)
    monkeypatch.setattr(spin, "os", made)
    return made


def test_the_first_wait_is_not_awake() -> None:
    assert not Spin(0.5, 1.0).due


def test_after_a_short_wait_the_next_is_awake() -> None:
    kind = Spin(0.5, 1.0)
    kind.waited(0.999)
    assert kind.due
    kind.waited(1.0)
    assert not kind.due
    kind.waited(0.0)
    assert kind.due


def test_where_there_is_no_time_for_it_none_is() -> None:
    kind = Spin(0.0, 1.0)
    kind.waited(0.0)
    assert not kind.due


def test_once_stopped_it_never_is_again() -> None:
    kind = Spin(0.5, 1.0)
    kind.waited(0.1)
    kind.stop()
    assert (kind.due, kind.seconds) == (False, 0.0)
    # One who waited when it was stopped says so afterwards.
    kind.waited(0.1)
    assert not kind.due


def test_what_is_there_is_not_waited_for(machine: Machine) -> None:
    before = machine.now
    assert wait_awake(machine.ready_after(1), machine.now + 1)
    assert (machine.looked, machine.now, machine.offered) == (1, before, [])


def test_what_comes_in_time_is_seen_at_once(machine: Machine) -> None:
    assert wait_awake(machine.ready_after(10), machine.now + 1)
    assert machine.looked == 10
    assert not machine.offered, "ten looks take less time than the core is kept for"


def test_what_is_there_after_the_deadline_is_taken_too(machine: Machine) -> None:
    assert wait_awake(machine.ready_after(1), machine.now - 1)


def test_it_ends_at_the_deadline(machine: Machine) -> None:
    deadline = machine.now + 0.0005
    assert not wait_awake(machine.ready_after(float("inf")), deadline)
    assert deadline < machine.now <= deadline + YIELD_SECONDS + 2 * LOOK_SECONDS


def test_a_deadline_that_has_passed_is_seen_at_the_first_look(machine: Machine) -> None:
    assert not wait_awake(machine.ready_after(float("inf")), machine.now)
    assert (machine.looked, machine.offered) == (1, [])


def test_the_core_is_offered_to_others_now_and_then(machine: Machine) -> None:
    began = machine.now
    wait_awake(machine.ready_after(float("inf")), began + 0.0005)
    moments = [began, *machine.offered]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert 11 <= len(pauses) <= 13
    assert all(YIELD_SECONDS <= pause <= YIELD_SECONDS + 3 * LOOK_SECONDS for pause in pauses)
