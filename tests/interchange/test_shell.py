"""What the shell of the interchange finds out of processes; the rest of it is tested with real executors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.interchange.harness import hello
from throughway.interchange.shell import _notes_of
from throughway.transport.assignments import GIVEN, AssignmentNotes, new_notes, read_notes


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@pytest.fixture
def gone() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def notes(process: int, **options: object) -> dict[str, list[int]]:
    descriptor = _notes_of(hello("a", **options), process)
    try:
        return {name: list(tasks) for name, tasks in read_notes(descriptor).items()}
    finally:
        os.close(descriptor)


def test_the_notes_of_a_living_manager_are_read_by_the_number_that_it_has_here() -> None:
    descriptor = new_notes()
    writer = AssignmentNotes(os.dup(descriptor), list)
    writer.note(GIVEN, [1, 2])
    assert notes(os.getpid(), given=descriptor, pid=1) == {GIVEN: [1, 2]}
    writer.close()
    os.close(descriptor)


def test_one_that_died_unheard_has_noted_nothing(zombie: int, gone: int) -> None:
    assert notes(zombie, given=4) == {}
    assert notes(gone, given=4) == {}


def test_a_zombie_of_an_ordinary_user_belongs_to_root(zombie: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("throughway.interchange.shell.os.open", refuse)
        found = _notes_of(hello("a", given=4), zombie)
    assert read_notes(found) == {}
    os.close(found)


def test_what_cannot_be_known_is_not_guessed(zombie: int) -> None:
    """One that had tasks before; one of another namespace, whose number means nothing here; one that hides."""
    for again, process in ((True, zombie), (False, 0), (False, os.getpid())):
        with pytest.raises(OSError):  # noqa: PT011 - any
            _notes_of(hello("a", given=1 << 20, again=again), process)
