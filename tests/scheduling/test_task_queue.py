from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from throughway.protocol.messages import Task
from throughway.scheduling import task_queue
from throughway.scheduling.task_queue import TaskQueue, walltime_class


def task(number: int, priority: int = 0, walltime: float = 0.0) -> Task:
    return Task(number, 1, b"", 0, priority, walltime)


def queue_of(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    queue.push(tasks)
    queue.sanity_check()
    return queue


def ids(tasks: list[Task]) -> list[int]:
    return [task.id for task in tasks]


PRIORITIES = st.integers(-2, 2)


# --------------------------------------------------------------------------------------------------- examples


def test_first_in_first_out():
    queue = queue_of(task(1), task(2), task(3))
    assert ids(queue.take(2)) == [1, 2]
    assert ids(queue.take(5)) == [3]
    assert queue.take(1) == []
    assert len(queue) == 0


def test_lower_priority_numbers_first_and_in_order_within():
    queue = queue_of(task(1, 5), task(2, -3), task(3), task(4, -3), task(5, 5))
    assert ids(queue.take(9)) == [2, 4, 3, 1, 5]


def test_a_priority_comes_and_goes_and_comes():
    queue = queue_of(task(1, 1))
    assert ids(queue.take(1)) == [1]
    queue.push([task(2, 2), task(3, 1)])
    assert ids(queue.take(2)) == [3, 2]


def test_taking_nothing():
    queue = queue_of(task(1))
    assert queue.take(0) == []
    assert 1 in queue


def test_tasks_of_different_walltimes_are_taken_in_order_of_submission():
    queue = queue_of(task(1, 0, 50.0), task(2), task(3, 0, 500.0), task(4), task(5, 0, 50.0))
    assert ids(queue.take(5)) == [1, 2, 3, 4, 5]


def test_a_limit_leaves_what_does_not_fit_at_its_place():
    queue = queue_of(task(1, 0, 500.0), task(2, 0, 50.0), task(3), task(4, 0, 500.0))
    assert ids(queue.take(9, limit=100.0)) == [2, 3]
    assert ids(queue.take(9)) == [1, 4]


def test_a_limit_is_a_bound_that_may_be_reached():
    queue = queue_of(task(1, 0, 100.0))
    assert queue.take(1, limit=99.999) == []
    assert ids(queue.take(1, limit=100.0)) == [1]


def test_a_negative_limit_lets_nothing_through():
    assert queue_of(task(1)).take(1, limit=-1.0) == []


def test_a_task_that_does_not_fit_stands_in_nobody_s_way():
    queue = queue_of(task(1, 0, 103.0), task(2, 0, 101.0), task(3, 0, 103.0), task(4, 0, 101.0))
    assert ids(queue.take(9, limit=102.0)) == [2, 4]


def test_a_removed_task_that_would_not_fit_stands_in_nobody_s_way():
    queue = queue_of(*[task(n, 0, 1000.0 + n) for n in range(16)], task(20, 0, 103.0), task(21, 0, 101.0))
    queue.remove(20)
    assert queue.shortest() == 101.0
    assert ids(queue.take(9, limit=102.0)) == [21]


def test_in_a_shared_class_each_task_is_judged_by_itself():
    queue = queue_of(
        *[task(n, 0, 1000.0 + n) for n in range(16)],
        *[task(20 + n, 0, walltime) for n, walltime in enumerate([101.0, 101.5, 103.0, 101.0])],
    )
    # The third does not fit, and stands in the way of the fourth: the price of sharing.
    assert ids(queue.take(9, limit=102.0)) == [20, 21]
    assert ids(queue.take(2, limit=103.0)) == [22, 23]


def test_removed_tasks_are_never_taken():
    queue = queue_of(task(1), task(2, 1), task(3), task(4, 0, 5.0))
    removed = queue.remove(3)
    assert removed is not None
    assert removed.id == 3
    assert queue.remove(3) is None
    assert queue.remove(99) is None
    assert 3 not in queue
    assert len(queue) == 3
    queue.sanity_check()
    assert ids(queue.take(9)) == [1, 4, 2]


def test_pushed_back_they_stand_at_the_head_in_the_order_of_their_ids():
    queue = queue_of(*map(task, range(1, 7)))
    first, second, third = queue.take(3)
    queue.push_back([third, first])
    assert ids(queue.take(9)) == [1, 3, 4, 5, 6]
    queue.push_back([second])
    assert ids(queue.take(9)) == [2]


def test_pushed_back_they_keep_their_priorities():
    queue = queue_of(task(1, 1), task(2, 0), task(3, 1))
    queue.push_back(queue.take(2))
    assert ids(queue.take(9)) == [2, 1, 3]


def test_a_task_may_be_removed_and_come_again():
    queue = queue_of(task(1), task(2), task(3))
    two = queue.remove(2)
    assert two is not None
    queue.push([two])
    queue.sanity_check()
    assert ids(queue.take(9)) == [1, 3, 2]


def test_a_task_may_be_removed_and_come_back_to_the_head():
    queue = queue_of(task(1), task(2), task(3))
    three = queue.remove(3)
    assert three is not None
    queue.push_back([three])
    queue.sanity_check()
    assert ids(queue.take(1)) == [3]
    assert ids(queue.take_last(1)) == [2]


def test_the_last_are_those_that_would_have_waited_longest():
    queue = queue_of(task(1), task(2, 1), task(3, 1, 60.0), task(4))
    assert ids(queue.take_last(3)) == [3, 2, 4]
    assert ids(queue.take_last(3)) == [1]


def test_the_last_leave_removed_ones_out():
    queue = queue_of(task(1), task(2), task(3))
    queue.remove(3)
    assert ids(queue.take_last(1)) == [2]


def test_a_removed_task_at_the_end_of_a_queue_does_not_make_it_the_last():
    queue = queue_of(task(3), task(2, 0, 10.0))
    queue.push([task(1)])
    queue.remove(1)
    assert ids(queue.take_last(1)) == [3]


def test_ahead():
    queue = queue_of(task(1, 1), task(2), task(3), task(4, 1))
    assert [queue.ahead(number) for number in (2, 3, 1, 4)] == [0, 1, 2, 3]


def test_ahead_of_a_task_that_came_again():
    queue = queue_of(task(1), task(2), task(3), task(4), task(5, 0, 50.0))
    (one,) = queue.take(1)
    queue.remove(2)
    queue.push([one])
    assert [queue.ahead(number) for number in (3, 4, 1)] == [0, 1, 2]


@given(st.lists(PRIORITIES, min_size=1, max_size=20), st.data())
def test_ahead_counts_what_is_taken_before(priorities, data):
    queue = queue_of(*[task(number, priority) for number, priority in enumerate(priorities)])
    again = queue.take(data.draw(st.integers(0, len(priorities) - 1)))
    queue.push(data.draw(st.permutations(again)))
    for number in data.draw(st.lists(st.sampled_from(range(len(priorities))), max_size=3)):
        queue.remove(number)
    expected = {old: queue.ahead(old) for old in queue.waiting}
    assert {old.id: place for place, old in enumerate(queue.take(99))} == expected


def test_shortest():
    queue = TaskQueue()
    assert queue.shortest() == math.inf
    queue.push([task(1, 0, 60.0), task(2, 0, 30.0)])
    assert queue.shortest() == 30.0
    queue.remove(2)
    assert queue.shortest() == 60.0
    queue.push([task(3)])
    assert queue.shortest() == 0.0


def test_iterating_gives_what_waits():
    queue = queue_of(task(1), task(2))
    queue.remove(1)
    assert ids(list(queue)) == [2]


def test_places_of_removed_tasks_are_given_up(monkeypatch):
    monkeypatch.setattr(task_queue, "_COMPACT_ABOVE", 10)
    queue = queue_of(*map(task, range(100)))
    for number in range(98):
        queue.remove(number)
        queue.sanity_check()
        assert len(queue._dead) <= max(11, len(queue) + 1)
    assert ids(queue.take(9)) == [98, 99]


def test_giving_places_up_keeps_the_order(monkeypatch):
    monkeypatch.setattr(task_queue, "_COMPACT_ABOVE", 2)
    queue = queue_of(*map(task, range(1, 8)))
    queue.push([task(0)])  # a task of a retry comes last, whatever its id
    for number in (1, 2, 3, 4, 5):
        queue.remove(number)
    assert queue._dead == set()
    assert ids(queue.take(9)) == [6, 7, 0]


@pytest.mark.parametrize("walltime", [0.001, 0.5, 1.0, 59.0, 60.0, 3600.0, 86_400.0, 1e7])
def test_a_class_is_an_upper_bound_that_is_near(walltime):
    assert walltime <= walltime_class(walltime) * (1 + 1e-9)
    assert walltime_class(walltime) <= 1.19 * walltime
    assert walltime_class(0.0) == walltime_class(-1.0) == 0.0


# ------------------------------------------------------------------------------------------------- properties


@given(st.lists(st.tuples(PRIORITIES, st.floats(0, 1e5)), max_size=60), st.integers(1, 9))
def test_without_a_limit_all_are_taken_by_priority_and_then_by_submission(specifications, count):
    tasks = [task(number, *spec) for number, spec in enumerate(specifications)]
    queue = queue_of(*tasks)
    taken: list[Task] = []
    while queue:
        some = queue.take(count)
        assert 1 <= len(some) <= count
        taken += some
        queue.sanity_check()
    assert taken == sorted(tasks, key=lambda task: (task.priority, task.id))


@given(
    st.lists(st.tuples(PRIORITIES, st.floats(0, 100)), max_size=60), st.lists(st.floats(0, 120), max_size=9)
)
def test_with_any_number_of_walltimes_limits_hold_and_shortest_tells_whether_any_fits(specifications, limits):
    tasks = [task(number, *spec) for number, spec in enumerate(specifications)]
    queue = queue_of(*tasks)
    taken: list[Task] = []
    for limit in limits:
        shortest = queue.shortest()
        some = queue.take(3, limit)
        queue.sanity_check()
        assert bool(some) == (shortest <= limit)
        assert all(task.walltime <= limit for task in some)
        taken += some
    taken += queue.take(len(tasks) + 1)
    assert sorted(ids(taken)) == list(range(len(tasks)))


# -------------------------------------------------------------------------------------- against a naive model

WALLTIMES = [0.0, 10.0, 100.0, 101.0, 102.0]
"""Few enough for each to have a class of its own; some of them similar."""


class Model:
    """The same, said plainly: a list for each walltime and priority."""

    def __init__(self) -> None:
        self.lists: dict[tuple[float, int], list[Task]] = {}

    def push(self, tasks: list[Task]) -> None:
        for new in tasks:
            self.lists.setdefault((new.walltime, new.priority), []).append(new)

    def push_back(self, tasks: list[Task]) -> None:
        for old in sorted(tasks, key=lambda task: -task.id):
            self.lists.setdefault((old.walltime, old.priority), []).insert(0, old)

    def remove(self, number: int) -> bool:
        for some in self.lists.values():
            for old in some:
                if old.id == number:
                    some.remove(old)
                    return True
        return False

    def take(self, count: int, limit: float) -> list[int]:
        taken: list[int] = []
        while len(taken) < count:
            heads = [some[0] for (walltime, _), some in self.lists.items() if some and walltime <= limit]
            if not heads:
                break
            first = min(heads, key=lambda task: (task.priority, task.id))
            self.remove(first.id)
            taken.append(first.id)
        return taken

    def take_last(self, count: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < count:
            tails = [some[-1] for some in self.lists.values() if some]
            if not tails:
                break
            last = max(tails, key=lambda task: (task.priority, task.id))
            self.remove(last.id)
            taken.append(last.id)
        return taken

    def tasks(self) -> list[Task]:
        return [old for some in self.lists.values() for old in some]


class TaskQueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue()
        self.model = Model()
        self.next = 0
        self.out: dict[int, Task] = {}
        """tasks that were taken or removed, and may come again"""
        # Places of removed tasks are given up early, so that it happens at all.
        self.compact_above = task_queue._COMPACT_ABOVE
        task_queue._COMPACT_ABOVE = 4

    def teardown(self) -> None:
        task_queue._COMPACT_ABOVE = self.compact_above

    @rule(specs=st.lists(st.tuples(PRIORITIES, st.sampled_from(WALLTIMES)), min_size=1, max_size=6))
    def push(self, specs) -> None:
        tasks = [task(self.next + index, *spec) for index, spec in enumerate(specs)]
        self.next += len(tasks)
        self.queue.push(iter(tasks))
        self.model.push(tasks)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), head=st.booleans())
    def come_again(self, data, head) -> None:
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.out)), unique=True, min_size=1))
        tasks = [self.out.pop(number) for number in numbers]
        if head:
            self.queue.push_back(iter(tasks))
            self.model.push_back(tasks)
        else:
            self.queue.push(tasks)
            self.model.push(tasks)

    @precondition(lambda self: self.next)
    @rule(data=st.data())
    def remove(self, data) -> None:
        number = data.draw(st.integers(0, self.next))
        found = self.queue.remove(number)
        assert (found is not None) == self.model.remove(number)
        if found is not None:
            assert found.id == number
            self.out[number] = found

    @rule(count=st.integers(0, 8), limit=st.sampled_from([math.inf, 0.0, 50.0, 100.0, 101.5, -1.0]))
    def take(self, count, limit) -> None:
        taken = self.queue.take(count, limit)
        assert ids(taken) == self.model.take(count, limit)
        self.out.update((old.id, old) for old in taken)

    @rule(count=st.integers(0, 4))
    def take_last(self, count) -> None:
        taken = self.queue.take_last(count)
        assert ids(taken) == self.model.take_last(count)
        self.out.update((old.id, old) for old in taken)

    @invariant()
    def agree(self) -> None:
        self.queue.sanity_check()
        tasks = self.model.tasks()
        assert sorted(ids(list(self.queue))) == sorted(ids(tasks))
        assert len(self.queue) == len(tasks)
        assert self.queue.shortest() == min((old.walltime for old in tasks), default=math.inf)


TestTaskQueueAgainstModel = TaskQueueMachine.TestCase
TestTaskQueueAgainstModel.settings = settings(max_examples=150, stateful_step_count=40)
