from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from throughway.interchange import assigned
from throughway.interchange.assigned import PAGE, PAGE_BITS, AssignedTasks, Holder
from throughway.protocol import codec
from throughway.protocol.messages import Task


def task(number: int, size: int = 8) -> Task:
    return Task(number, 1, number.to_bytes(8, "little") * (size // 8))


def put(owners: AssignedTasks[Holder], holder: Holder, *numbers: int, size: int = 8) -> None:
    tasks = [task(number, size) for number in numbers]
    owners.put(holder, numbers, tasks, codec.encode(tasks))


def blocks(holder: Holder) -> list[assigned.Block]:
    found = []
    block = holder.first
    while block is not None:
        found.append(block)
        block = block.after
    return found


@pytest.fixture
def owners() -> AssignedTasks[Holder]:
    return AssignedTasks()


@pytest.fixture
def holder() -> Holder:
    return Holder()


class TestMapping:
    def test_empty(self, owners, holder):
        assert owners == {}
        assert not owners
        assert owners.get(1) is None
        assert 1 not in owners
        with pytest.raises(KeyError):
            owners[1]
        assert owners.numbers(holder) == [] == owners.take(holder, [1])

    def test_who_has_a_task(self, owners, holder):
        other = Holder()
        put(owners, holder, 1, 2, 5 * PAGE)
        put(owners, other, 3)
        assert owners == {1: holder, 2: holder, 3: other, 5 * PAGE: holder}
        assert len(owners) == 4
        assert owners
        assert (holder.load, other.load) == (3, 1)
        assert owners.by_holder() == {holder: [1, 2, 5 * PAGE], other: [3]}

    def test_a_run_over_several_pages(self, owners, holder):
        numbers = range(PAGE - 3, 3 * PAGE + 2)
        put(owners, holder, *numbers)
        assert owners.keys() == set(numbers)
        assert owners.end(holder, numbers) == len(numbers)
        assert owners == {}
        assert owners._pages == {}

    def test_in_the_order_in_which_they_were_assigned(self, owners, holder):
        put(owners, holder, 9, 3, 4)
        put(owners, holder, 1)
        assert owners.numbers(holder) == [9, 3, 4, 1] == list(owners.tasks(holder))


class TestEnd:
    def test_what_others_have_is_left_alone(self, owners, holder):
        other = Holder()
        put(owners, holder, 1, 2)
        put(owners, other, 3, 4)
        assert owners.end(holder, [2, 3, 4, 99, -1]) == 1
        assert owners == {1: holder, 3: other, 4: other}

    def test_named_twice_it_ends_once(self, owners, holder):
        put(owners, holder, 1, 2, 3, 4)
        assert owners.end(holder, [1, 1, 4, 4]) == 2
        assert owners.end(holder, [1, 4]) == 0
        assert owners.numbers(holder) == [2, 3]

    def test_several_blocks_in_any_order(self, owners, holder):
        for first in range(0, 12, 3):
            put(owners, holder, first, first + 1, first + 2)
        assert owners.end(holder, [11, 0, 3, 1, 10, 2, 9]) == 7
        assert owners.numbers(holder) == [4, 5, 6, 7, 8]
        assert [block.left for block in blocks(holder)] == [2, 3]
        owners.sanity_check([holder])

    def test_an_ended_block_is_dropped_wherever_it_stands(self, owners, holder):
        for number in range(5):
            put(owners, holder, number)
        for number in (2, 0, 4, 1, 3):
            owners.end(holder, [number])
            owners.sanity_check([holder])
        assert blocks(holder) == []
        assert (holder.first, holder.last) == (None, None)


class TestTake:
    def test_in_the_order_asked_and_once_each(self, owners, holder):
        other = Holder()
        put(owners, holder, 1, 2, 3)
        put(owners, holder, 7)
        put(owners, other, 5)
        assert owners.take(holder, [7, 5, 2, 7, 1, 99]) == [task(7), task(2), task(1)]
        assert owners == {3: holder, 5: other}

    def test_it_may_be_assigned_again(self, owners, holder):
        other = Holder()
        put(owners, holder, 1, 2)
        put(owners, other, *[one.id for one in owners.take(holder, [1])])
        assert owners.end(holder, [1, 2]) == 1
        put(owners, holder, *[one.id for one in owners.take(other, [1])])
        assert owners == {1: holder}
        owners.sanity_check([holder, other])


class TestMemory:
    def test_large_tasks_are_kept_one_by_one(self, owners, holder):
        put(owners, holder, 1, 2, 3, size=assigned.PACKED_BYTES)
        (block,) = blocks(holder)
        assert block.packed == b""
        owners.end(holder, [2])
        assert owners.take(holder, [3]) == [task(3, assigned.PACKED_BYTES)]
        assert block.loose is not None
        assert list(block.loose) == [1], "what is over is not kept"
        owners.sanity_check([holder])

    def test_small_blocks_are_left_as_they_are(self, owners, holder):
        for first in range(0, 100_000, 10):
            put(owners, holder, *range(first, first + 10))
            owners.end(holder, range(first + 1, first + 10))
        assert (holder.kept, holder.waste) == (0, 0)
        assert all(len(block.packed) <= assigned.SMALL_BYTES for block in blocks(holder))

    def test_one_long_task_among_many_short_ones(self, owners, holder):
        for first in range(0, 200 * 512, 512):
            put(owners, holder, *range(first, first + 512), size=48)
            owners.end(holder, range(first + 1, first + 512))
            owners.sanity_check([holder])
        kept = sum(len(block.packed) for block in blocks(holder))
        assert kept < assigned.WASTE_BYTES + 2 * 512 * 64 + 200 * 64, "most of what has ended is not kept"
        assert list(owners.tasks(holder).values()) == [task(first, 48) for first in range(0, 200 * 512, 512)]

    def test_first_in_first_out_packs_nothing_anew(self, owners, holder, monkeypatch):
        def repack(*arguments: Any) -> None:
            raise AssertionError("nothing is to be gained")

        monkeypatch.setattr(AssignedTasks, "_repack", repack)
        for first in range(0, 100 * 512, 512):
            put(owners, holder, *range(first, first + 512), size=48)
            for done in range(first - 2048, first - 1536, 64):
                owners.end(holder, range(max(0, done), max(0, done + 64)))
        assert owners.numbers(holder) == list(range(100 * 512 - 512 - 1536, 100 * 512))

    def test_pages_go_with_their_last_task(self, owners, holder):
        for number in range(0, 10 * PAGE, PAGE // 2):
            put(owners, holder, number)
        assert len(owners._pages) == 10
        owners.end(holder, range(1, 10 * PAGE))
        assert owners._pages.keys() == {0}
        assert len(owners._pages[0]) == PAGE + 1, "a page is a list of so many places"


NUMBERS = st.lists(
    st.one_of(st.integers(0, 3 * PAGE), st.integers(0, 40).map(lambda page: page << PAGE_BITS)), max_size=40
)


class AgainstDicts(RuleBasedStateMachine):
    """Does as a dict of dicts would."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: AssignedTasks[Holder] = AssignedTasks()
        self.holders = [Holder() for _ in range(3)]
        self.model: list[dict[int, Task]] = [{} for _ in range(3)]

    @rule(
        who=st.integers(0, 2), numbers=NUMBERS, size=st.sampled_from([8, 8, 64, 1024, assigned.PACKED_BYTES])
    )
    def put(self, who: int, numbers: list[int], size: int) -> None:
        numbers = [number for number in dict.fromkeys(numbers) if number not in self.owners]
        if numbers:
            put(self.owners, self.holders[who], *numbers, size=size)
            self.model[who].update((number, task(number, size)) for number in numbers)

    @rule(who=st.integers(0, 2), first=st.integers(0, 2 * PAGE), count=st.integers(1, 2 * PAGE))
    def put_run(self, who: int, first: int, count: int) -> None:
        self.put(who, list(range(first, first + count)), 256)

    @rule(who=st.integers(0, 2), numbers=NUMBERS)
    def end(self, who: int, numbers: list[int]) -> None:
        had = [self.model[who].pop(number, None) for number in numbers]
        assert self.owners.end(self.holders[who], numbers) == sum(one is not None for one in had)

    @rule(who=st.integers(0, 2), first=st.integers(0, 2 * PAGE), count=st.integers(1, 3 * PAGE))
    def end_run(self, who: int, first: int, count: int) -> None:
        self.end(who, list(range(first, first + count)))

    @rule(who=st.integers(0, 2), numbers=NUMBERS)
    def take(self, who: int, numbers: list[int]) -> None:
        had = [self.model[who].pop(number, None) for number in numbers]
        assert self.owners.take(self.holders[who], numbers) == [one for one in had if one is not None]

    @invariant()
    def agreement(self) -> None:
        self.owners.sanity_check(self.holders)
        assert self.owners == {
            number: holder for holder, tasks in zip(self.holders, self.model, strict=True) for number in tasks
        }
        by_holder = self.owners.by_holder()
        for holder, tasks in zip(self.holders, self.model, strict=True):
            assert self.owners.tasks(holder) == tasks
            assert self.owners.numbers(holder) == list(tasks)
            assert by_holder.get(holder, []) == [number for number in self.owners if number in tasks]
            assert holder.load == len(tasks)


TestAgainstDicts = AgainstDicts.TestCase
TestAgainstDicts.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
