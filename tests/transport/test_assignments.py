"""The notes that outlive an interchange: what was written is read, whatever the moment of its end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from throughway.transport.assignments import MIN_WORDS, AssignmentNotes, new_notes, read_notes, write_notes


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = new_notes()
    yield made
    os.close(made)


def writer(descriptor: int, current: dict[str, set[int]]) -> AssignmentNotes:
    return AssignmentNotes(os.dup(descriptor), lambda: list(current.items()))


def test_nothing_noted(descriptor: int) -> None:
    assert read_notes(descriptor) == {}
    writer(descriptor, {}).close()
    assert read_notes(descriptor) == {}


def test_the_last_note_of_a_task_counts(descriptor: int) -> None:
    notes = writer(descriptor, {})
    notes.note("manager-ä", [1, 2, 3])
    notes.note("other", [4, 2])
    notes.note("", [3, 4])
    notes.close()
    assert read_notes(descriptor) == {"manager-ä": [1], "other": [2]}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_assigned_is_found_again_however_much_was_noted(descriptor: int, seed: int) -> None:
    choose = random.Random(seed)
    current: dict[str, set[int]] = {}
    notes = writer(descriptor, current)
    next_task = 1
    longest = 0
    for _ in range(1500):
        name = f"manager-{choose.randrange(40)}"
        tasks = list(range(next_task, next_task + choose.randrange(1, 400)))
        next_task += len(tasks)
        notes.note(name, tasks)
        current.setdefault(name, set()).update(tasks)
        if choose.random() < 0.9:
            other = choose.choice(list(current))
            done = [task for task in current[other] if choose.random() < 0.95]
            current[other].difference_update(done)
        if choose.random() < 0.1:
            other = choose.choice(list(current))
            back = sorted(current[other])[:50]
            notes.note("", back)
            current[other].difference_update(back)
        if not choose.randrange(100):
            found = {task: manager for manager, tasks in read_notes(descriptor).items() for task in tasks}
            assert all(found[task] == manager for manager, tasks in current.items() for task in tasks)
            longest = max(longest, len(found))
    notes.close()
    assert os.fstat(descriptor).st_size < 8 * 40 * max(MIN_WORDS, longest), "it does not grow for ever"


def test_a_batch_larger_than_a_region(descriptor: int) -> None:
    current = {"small": {1}}
    notes = writer(descriptor, current)
    notes.note("small", [1])
    notes.note("large", range(10, 10 + 3 * MIN_WORDS))
    notes.note("after", [5])
    notes.close()
    found = read_notes(descriptor)
    assert found["small"] == [1]
    assert found["after"] == [5]
    assert len(found["large"]) == 3 * MIN_WORDS


def test_a_writer_killed_at_any_moment_leaves_whole_notes(descriptor: int) -> None:
    reader, told = os.pipe()
    child = os.fork()
    if not child:
        notes = AssignmentNotes(descriptor, list)
        task = 0
        while True:
            notes.note(f"manager-{task % 7}", [task, task + 1, task + 2])
            task += 3
            if task == 3000:
                os.write(told, b"x")
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(told)
    found = read_notes(descriptor)
    tasks = sorted(task for tasks in found.values() for task in tasks)
    assert tasks
    assert tasks == list(range(tasks[0], tasks[-1] + 1)), "nothing is missing in between"
    assert all(
        int(name.removeprefix("manager-")) == task // 3 * 3 % 7 for name, ids in found.items() for task in ids
    )


def test_a_writer_goes_on_after_what_is_there(descriptor: int) -> None:
    many = {f"manager-{number}": list(range(number * 1000, number * 1000 + 1000)) for number in range(100)}
    write_notes(descriptor, many)
    assert read_notes(descriptor) == many
    notes = writer(descriptor, {})
    assert read_notes(descriptor) == many, "to open it changes nothing"
    notes.note("manager-1", [5])
    notes.note("new", [2000])
    notes.close()
    many["manager-0"].remove(5)
    many["manager-1"].append(5)
    many["manager-2"].remove(2000)
    found = read_notes(descriptor)
    assert {name: sorted(tasks) for name, tasks in found.items()} == {
        name: sorted(tasks) for name, tasks in {**many, "new": [2000]}.items()
    }
