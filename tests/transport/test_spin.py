"""Waiting awake, on a clock that the test moves: when it is worth it, how long, and who gets the core meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from throughway.transport import spin
from throughway.transport.spin import (
    ASLEEP_SECONDS,
    CROWDED_SECONDS,
    LONGEST_SECONDS,
    SOON_SECONDS,
    YIELD_SECONDS,
    Spin,
)

LOOK_SECONDS = 1e-6
"""What each look at the clock of the test takes."""


class Machine:
    """A clock that goes on by a microsecond whenever it is read, and how often the core was offered to others."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.offered: list[float] = []
        self.looked = 0
        self.others_take = 0.0
        """for how long others have the core each time"""

    def monotonic(self) -> float:
        self.now += LOOK_SECONDS
        return self.now

    def sched_yield(self) -> None:
        self.offered.append(self.now)
        self.now += self.others_take

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


def test_after_a_short_wait_the_next_is_awake(machine: Machine) -> None:
    kind = Spin(0.5, 1.0)
    kind.waited(machine.now - 0.999)
    assert kind.due
    kind.waited(machine.now - 1.0)
    assert not kind.due
    kind.waited(machine.now)
    assert kind.due


def test_where_there_is_no_time_for_it_none_is(machine: Machine) -> None:
    kind = Spin(0.0, 1.0)
    kind.waited(machine.now)
    assert not kind.due


def test_once_stopped_it_never_is_again(machine: Machine) -> None:
    kind = Spin(0.5, 1.0)
    kind.waited(machine.now)
    kind.stop()
    assert (kind.due, kind.seconds) == (False, 0.0)
    # One who waited when it was stopped says so afterwards.
    kind.waited(machine.now)
    assert not kind.due


def wait(machine: Machine, looks: float, seconds: float) -> bool:
    return Spin(0.5, 1.0).wait(machine.ready_after(looks), machine.now + seconds)


def test_what_is_there_is_not_waited_for(machine: Machine) -> None:
    before = machine.now
    assert wait(machine, 1, 1.0)
    assert (machine.looked, machine.now, machine.offered) == (1, before, [])


def test_what_comes_in_time_is_seen_at_once(machine: Machine) -> None:
    assert wait(machine, 10, 1.0)
    assert machine.looked == 10
    assert not machine.offered, "ten looks take less time than the core is kept for"


def test_what_is_there_after_the_deadline_is_taken_too(machine: Machine) -> None:
    assert wait(machine, 1, -1.0)


def test_it_ends_at_the_deadline(machine: Machine) -> None:
    deadline = machine.now + 0.0005
    assert not wait(machine, math.inf, 0.0005)
    assert deadline < machine.now <= deadline + YIELD_SECONDS + 3 * LOOK_SECONDS


def test_a_deadline_that_has_passed_is_seen_at_the_first_look(machine: Machine) -> None:
    assert not wait(machine, math.inf, 0.0)
    assert (machine.looked, machine.offered) == (1, [])


def test_the_core_is_offered_to_others_now_and_then(machine: Machine) -> None:
    began = machine.now
    wait(machine, math.inf, 0.0005)
    pauses = [later - earlier for earlier, later in pairwise([began, *machine.offered])]
    assert 11 <= len(pauses) <= 13
    assert all(YIELD_SECONDS <= pause <= YIELD_SECONDS + 4 * LOOK_SECONDS for pause in pauses)


def test_who_takes_the_core_for_a_moment_changes_nothing(machine: Machine) -> None:
    machine.others_take = CROWDED_SECONDS / 2
    kind = Spin(0.5, 1.0)
    assert kind.wait(machine.ready_after(200), machine.now + 1.0)
    assert machine.offered
    kind.waited(machine.now)
    assert kind.due


def test_on_a_busy_core_waits_are_asleep_for_a_while(machine: Machine) -> None:
    machine.others_take = 0.003
    kind = Spin(0.5, 1.0)
    assert not kind.wait(machine.ready_after(math.inf), machine.now + 1.0)
    assert len(machine.offered) == 1, "it lost the core once, and does not offer it again"
    began = machine.now
    kind.waited(machine.now)
    assert not kind.due
    machine.now = began + 0.9 * ASLEEP_SECONDS
    kind.waited(machine.now)
    assert not kind.due
    machine.now = began + ASLEEP_SECONDS
    kind.waited(machine.now)
    assert kind.due


def test_what_came_while_others_had_the_core_is_seen(machine: Machine) -> None:
    machine.others_take = 0.003
    assert Spin(0.5, 1.0).wait(lambda: bool(machine.offered), machine.now + 1.0)


def asleep(kind: Spin, machine: Machine) -> float:
    """How long waits are asleep after the next one is crowded."""
    assert not kind.wait(machine.ready_after(math.inf), machine.now + 1.0)
    began = machine.now
    kind.waited(machine.now)
    while not kind.due:
        machine.now += 0.001
        kind.waited(machine.now)
    return machine.now - began


def test_on_a_core_that_stays_busy_they_are_asleep_longer_and_longer(machine: Machine) -> None:
    machine.others_take = 0.003
    kind = Spin(0.5, 1.0)
    times = [asleep(kind, machine) for _ in range(10)]
    assert times[:4] == [pytest.approx(ASLEEP_SECONDS * 2**power, abs=0.002) for power in range(4)]
    assert times[-2:] == [pytest.approx(LONGEST_SECONDS, abs=0.002)] * 2


def test_a_core_that_is_busy_now_and_then_is_not_avoided_for_long(machine: Machine) -> None:
    machine.others_take = 0.003
    kind = Spin(0.5, 1.0)
    for _ in range(5):
        assert asleep(kind, machine) == pytest.approx(ASLEEP_SECONDS, abs=0.002)
        machine.now += 1.1 * SOON_SECONDS


def test_what_disturbs_now_and_then_does_not_add_up(machine: Machine) -> None:
    """Though waits were asleep for long before: else, the longer they are, the sooner it would seem, and for ever."""
    machine.others_take = 0.003
    kind = Spin(0.5, 1.0)
    times = [asleep(kind, machine) for _ in range(7)]
    assert times[-1] > SOON_SECONDS
    machine.now += 1.1 * SOON_SECONDS
    assert asleep(kind, machine) == pytest.approx(ASLEEP_SECONDS, abs=0.002)
