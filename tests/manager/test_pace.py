from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.manager.harness import task
from throughway.manager.pace import (
    BUNDLE_SECONDS,
    HOLD_SECONDS,
    MAX_HELD_TASKS,
    OVERHEAD_SECONDS,
    Pace,
)

SECONDS = st.floats(0, 1e6, allow_nan=False)


def pace(**seconds: float) -> Pace:
    """What is known after one task of each function, given as ``f1=0.5``."""
    made = Pace()
    for name, each in seconds.items():
        made.learn(int(name[1:]), each)
    return made


def test_a_task_of_an_unknown_function_goes_alone() -> None:
    assert Pace().bundle([task(1), task(2)]) == 1


def test_nothing_is_held_before_anything_is_known() -> None:
    assert Pace().depth(100) == 0


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 100), (94e-6, 10), (0.5e-3, 1), (1e-3, 1), (10.0, 1)])
def test_a_bundle_takes_about_a_millisecond(seconds: float, size: int) -> None:
    assert pace(f1=seconds).bundle([task(number) for number in range(100)]) == size


def test_a_bundle_may_hold_tasks_of_several_functions() -> None:
    known = pace(f1=100e-6, f2=300e-6)
    assert (
        known.bundle([task("1:f1"), task("2:f2"), task("3:f1"), task("4:f2"), task("5:f2"), task("6:f1")])
        == 4
    )


def test_a_bundle_ends_before_a_function_that_is_not_known() -> None:
    assert pace(f1=0.0).bundle([task(1), task(2), task("3:f2"), task(4)]) == 2


@pytest.mark.parametrize(("specs", "size"), [(["1~5", 2], 1), ([1, "2~5", 3], 1), ([1, 2, "3~5"], 2)])
def test_a_task_with_a_walltime_is_never_bundled(specs: list[int | str], size: int) -> None:
    assert pace(f1=0.0).bundle([task(spec) for spec in specs]) == size


def test_what_was_forgotten_is_unknown() -> None:
    known = pace(f1=0.0)
    known.forget(1)
    known.forget(1)
    assert known.bundle([task(1), task(2)]) == 1


def test_estimates_follow_a_change_within_some_tasks() -> None:
    known = pace(f1=10e-6)
    for _ in range(30):
        known.learn(1, 1.0)
    assert known.bundle([task(1), task(2)]) == 1
    assert known.depth(8) == 0
    for _ in range(100):
        known.learn(1, 10e-6)
    assert known.bundle([task(number) for number in range(100)]) > 50
    assert known.depth(8) > 1000


def test_a_single_long_task_does_not_make_a_function_long_for_good() -> None:
    known = pace(f1=10e-6)
    known.at_least(1, 0.2)
    assert known.bundle([task(1), task(2)]) == 1
    for _ in range(60):
        known.learn(1, 10e-6)
    assert known.bundle([task(1), task(2)]) == 2


def test_a_task_that_has_not_ended_is_known_to_take_as_long_at_least() -> None:
    known = pace(f1=10e-6)
    known.at_least(1, 0.002)
    assert known.bundle([task(1), task(2)]) == 1
    known.at_least(1, 0.001)
    known.at_least(2, 0.5)
    assert known.bundle([task("1:f2"), task("2:f2")]) == 1


@pytest.mark.parametrize("workers", [0, 1, 7])
def test_the_depth_is_what_workers_do_in_the_time_to_hold_for(workers: int) -> None:
    assert pace(f1=97.5e-6).depth(workers) == int(workers * HOLD_SECONDS / 100e-6)


def test_the_depth_is_bounded() -> None:
    assert pace(f1=0.0).depth(10_000) == MAX_HELD_TASKS


@given(st.integers(1, 5000), SECONDS, SECONDS)
def test_learning_of_many_tasks_at_once_is_learning_of_each(count: int, first: float, each: float) -> None:
    one_by_one, at_once = pace(f1=first), pace(f1=first)
    for _ in range(min(count, 200)):
        one_by_one.learn(1, each)
    at_once.learn(1, each * min(count, 200), min(count, 200))
    assert math.isclose(one_by_one._functions[1], at_once._functions[1], rel_tol=1e-6, abs_tol=1e-9)
    assert one_by_one._mean is not None and at_once._mean is not None
    assert math.isclose(one_by_one._mean, at_once._mean, rel_tol=1e-6, abs_tol=1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 3), SECONDS), max_size=30),
    st.lists(st.integers(1, 3), min_size=1, max_size=50),
)
def test_a_bundle_is_never_empty_and_no_larger_than_what_is_known_to_fit(
    learnt: list[tuple[int, float]], functions: list[int]
) -> None:
    known = Pace()
    for function, seconds in learnt:
        known.learn(function, seconds)
    tasks = [task(f"{number}:f{function}") for number, function in enumerate(functions)]
    size = known.bundle(tasks)
    assert 1 <= size <= len(tasks)
    if size > 1:
        total = sum(known._functions[one.function] + OVERHEAD_SECONDS for one in tasks[:size])
        assert total <= BUNDLE_SECONDS
    assert 0 <= known.depth(64) <= MAX_HELD_TASKS
