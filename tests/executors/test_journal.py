"""The journal: what is done is found again, and nothing else is."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.waiting import wait_until
from throughway.errors import InvalidResourceSpecification, JournalError
from throughway.executors import journal as module
from throughway.executors.actions import Tell
from throughway.executors.journal import Journal
from throughway.executors.journal_keys import labelled
from throughway.executors.reactor import ExecutorReactor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.messages import Outcome
from throughway.serialize.functions import Entry, FunctionTable
from throughway.serialize.payloads import pack_call, pack_result

VALUE = int(Outcome.VALUE)
Open = Callable[[], Journal]


class Future:
    """What the journal must know of a future."""

    def __init__(self, entry: Entry, task: int) -> None:
        self._entry = entry
        self.task_id = task
        self.ended = False
        self._key: Any = None

    def done(self) -> bool:
        return self.ended


class Caller:
    """One run of a script: it submits calls, and their results come."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.table = FunctionTable()
        self.futures: dict[int, Future] = {}
        self.count = 0

    def recall(self, fn: Any, *args: Any, label: str | None = None) -> tuple[Any] | None:
        """What the journal has for a call; where that is nothing, the call is submitted."""
        entry = self.table.lookup(fn)
        key = self.journal.key(fn, entry, args, {}, *pack_call(args, {}), label)
        if key is None:
            return None
        kept = self.journal.recall(key)
        if kept is None:
            self.count += 1
            self.futures[self.count] = Future(entry, self.count)
            self.journal.submitted(key, self.futures[self.count], label)
        return kept

    def results(self, values: dict[int, Any], outcome: int = VALUE) -> None:
        payloads: list[bytes] = []
        frames: list[memoryview] = []
        counts: dict[int, int] = {}
        for index, value in enumerate(values.values()):
            payload, large = pack_result(value)
            payloads.append(payload)
            frames += large
            if large:
                counts[index] = len(large)
        outcomes = bytes([outcome] * len(values))
        self.journal.results(list(values), outcomes, payloads, counts, frames, self.futures)
        for task in values:
            self.futures[task].ended = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.journal"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the journal anew, as another run does; the one before is closed."""
    journals: list[Journal] = []

    def open_again() -> Journal:
        for before in journals:
            before.close()
        journals.append(Journal(str(path), "label"))
        journals[-1].open()
        return journals[-1]

    yield open_again
    for journal in journals:
        journal.close()


def test_results_are_there_in_the_next_run(opened: Open) -> None:
    array = numpy.arange(100_000)
    values = [None, 1, "text", [array, {"a": array[::2]}], bytes(50_000)]
    caller = Caller(opened())
    assert [caller.recall(abs, number) for number in range(5)] == [None] * 5
    caller.results(dict(enumerate(values, start=1)))
    caller = Caller(opened())
    kept = [caller.recall(abs, number) for number in range(5)]
    assert caller.recall(abs, 99) is None
    assert caller.journal.recalled == 5
    found = [one[0] for one in kept if one is not None]
    assert found[:3] == values[:3]
    assert found[4] == values[4]
    assert (found[3][0] == array).all()
    found[3][0][0] = 5  # it is the caller's


def test_in_the_same_run_they_are_there_at_once(opened: Open) -> None:
    caller = Caller(opened())
    caller.recall(abs, 1, label="one")
    caller.results({1: "done"})
    assert caller.recall(max, 7, label="one") == ("done",)


def test_what_failed_or_was_lost_runs_again(opened: Open) -> None:
    for outcome in (Outcome.EXCEPTION, Outcome.FAILED, Outcome.WORKER_LOST, Outcome.KILLED):
        caller = Caller(opened())
        assert caller.recall(abs, 1) is None
        caller.results({1: "x"}, int(outcome))


def test_tasks_that_are_not_its_own_are_passed_over(opened: Open) -> None:
    caller = Caller(opened())
    caller.recall(abs, 1)
    caller.futures[2] = Future(caller.table.lookup(abs), 2)
    caller.journal.results(
        [9, 2, 1], bytes(3), [pack_result(value)[0] for value in (9, 2, 1)], {}, [], caller.futures
    )
    assert caller.journal.recorded == 1


def test_equal_calls_have_results_of_their_own(opened: Open) -> None:
    caller = Caller(opened())
    for _ in range(3):
        caller.recall(abs, 1)
    caller.results({1: "first", 2: "second"})
    caller = Caller(opened())
    assert [caller.recall(abs, 1) for _ in range(3)] == [("first",), ("second",), None]


def test_a_key_names_one_task_at_a_time(opened: Open) -> None:
    caller = Caller(opened())
    caller.recall(abs, 1, label="one")
    with pytest.raises(
        InvalidResourceSpecification, match="key='one' is that of task 1, which has no outcome"
    ):
        caller.recall(abs, 1, label="one")
    caller.futures[1].ended = True
    assert caller.recall(abs, 1, label="one") is None


def test_a_call_without_comparable_content_is_not_kept(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller(opened())
    lock = threading.Lock()
    entry = caller.table.lookup(abs)
    for _ in range(2):
        assert caller.journal.key(abs, entry, (lock,), {}, b"main__", [], None) is None
    (said,) = caplog.messages
    assert "a call of abs has no content that can be compared" in said
    assert "give it a key" in said


def test_a_result_that_cannot_be_used_runs_again(
    opened: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller(opened())
    caller.recall(abs, 1)
    caller.recall(abs, 2)
    caller.journal.results(
        [1, 2], bytes(2), [b"no pickle", pack_result("x" * 100)[0]], {}, [], caller.futures
    )
    journal = opened()
    data = bytearray(path.read_bytes())
    data[data.index(b"xxx")] ^= 1
    path.write_bytes(data)
    caller = Caller(journal)
    assert caller.recall(abs, 1) is None
    assert caller.recall(abs, 2) is None
    assert len(caplog.messages) == 2
    assert all("a result cannot be used, and its task runs again" in said for said in caplog.messages)
    caller.results({1: "fresh", 2: "too"})
    caller = Caller(opened())
    assert (caller.recall(abs, 1), caller.recall(abs, 2)) == (("fresh",), ("too",))


def test_what_was_not_written_whole_is_cut_off_and_said(
    opened: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller(opened())
    for number in range(3):
        caller.recall(abs, number)
        caller.results({number + 1: number})
    caller.journal.close()
    os.truncate(path, path.stat().st_size - 3)
    caller = Caller(opened())
    (said,) = caplog.messages
    assert "were not written whole, and are cut off" in said
    assert [caller.recall(abs, number) for number in range(3)] == [(0,), (1,), None]
    caller.results({1: 2})
    caplog.clear()
    caller = Caller(opened())
    assert [caller.recall(abs, number) for number in range(3)] == [(0,), (1,), (2,)]
    assert not caplog.messages


def test_what_is_damaged_costs_itself_alone(
    opened: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller(opened())
    for number in range(3):
        caller.recall(abs, number)
        caller.results({number + 1: "x" * 100 + str(number)})
    caller.journal.close()
    data = bytearray(path.read_bytes())
    data[data.index(b"xxx0") - 120] ^= 1
    path.write_bytes(data)
    caller = Caller(opened())
    (said,) = caplog.messages
    assert "are damaged, and are passed over" in said
    kept = [caller.recall(abs, number) for number in range(3)]
    assert [one is None for one in kept] == [True, False, False]


# ------------------------------------------------------------------------------------------------------- to the disk


def test_what_was_appended_is_in_the_file_at_once_and_on_the_disk_soon(opened: Open, path: Path) -> None:
    journal = opened()
    marks: list[int] = []
    journal.on_safe = marks.append
    caller = Caller(journal)
    assert journal.safe == journal.mark
    caller.recall(abs, 1)
    before = path.stat().st_size
    caller.results({1: "value"})
    assert path.stat().st_size > before
    mark = journal.mark
    assert journal.flush(timeout=30)
    assert journal.safe >= mark
    wait_until(lambda: marks and marks[-1] >= mark)


def test_a_disk_that_is_full_loses_no_result_and_says_so(
    opened: Open, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(opened())
    for number in range(4):
        caller.recall(abs, number)
    caller.results({1: "before"})
    assert caller.journal.flush(timeout=30)
    write = os.pwritev

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", full)
    caller.results({2: "lost"})
    caller.results({3: "lost"})
    assert caller.journal.flush(timeout=30), "nobody waits for a full disk"
    (said,) = caplog.messages
    assert "cannot be written: No space left on device: make room" in said
    monkeypatch.setattr(os, "pwritev", write)
    caller.results({4: "after"})
    caller.journal.close()
    assert any("can be written again; 2 results are not in it" in said for said in caplog.messages)
    assert any("2 results could not be written: their tasks run again" in said for said in caplog.messages)
    caller = Caller(opened())
    assert [caller.recall(abs, number) for number in range(4)] == [("before",), None, None, ("after",)]


def test_a_disk_that_fails_to_sync_holds_nobody_up(
    opened: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    caller = Caller(opened())
    caller.recall(abs, 1)
    caller.results({1: "value"})
    assert caller.journal.flush(timeout=30)
    assert "Input/output error" in caplog.text


# -------------------------------------------------------------------------------------------------- what is not needed


def test_a_journal_that_is_mostly_useless_is_made_smaller(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "COMPACT_BYTES", 1000)
    caller = Caller(opened())
    caller.recall(abs, 0)
    for number in range(100):
        caller.journal._places.pop(labelled("same"), None)
        caller.recall(max, number, label="same")
        caller.results({number + 2: "x" * 100 + str(number)})
    caller.journal.close()
    before = path.stat().st_size
    caller = Caller(opened())
    assert path.stat().st_size < before / 20
    assert any("made smaller, from" in said for said in caplog.messages)
    assert caller.recall(max, 0, label="same") == ("x" * 100 + "99",)
    assert caller.recall(abs, 0) is None
    caller = Caller(opened())
    assert caller.recall(max, 0, label="same") == ("x" * 100 + "99",)


def test_memory_is_bounded_by_keys_and_not_by_values(opened: Open) -> None:
    caller = Caller(opened())
    for number in range(20):
        caller.recall(abs, number)
        caller.results({number + 1: bytes(1_000_000)})
    journal = opened()
    assert len(journal) == 20
    held = sum(len(key) for key in journal._places)
    assert held == 20 * 16


def test_it_is_closed_and_opened_again(opened: Open, path: Path) -> None:
    journal = opened()
    journal.open()
    with pytest.raises(JournalError, match="in use by process"):
        Journal(str(path)).open()
    journal.close()
    journal.close()
    other = Journal(str(path))
    other.open()
    other.close()


def test_a_fork_leaves_it_to_the_parent(opened: Open, path: Path) -> None:
    journal = opened()
    child = os.fork()
    if not child:
        journal.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(JournalError, match="in use by process"):
        Journal(str(path)).open()
    caller = Caller(journal)
    caller.recall(abs, 1)
    caller.results({1: 1})
    assert Caller(opened()).recall(abs, 1) == (1,)


# ------------------------------------------------------------------------------------------------ acknowledgements


class Keeper:
    """A journal whose disk the test moves on."""

    def __init__(self) -> None:
        self.mark = self.safe = 0
        self.kept: list[list[int]] = []

    def results(
        self, tasks: Any, outcomes: Any, payloads: Any, counts: Any, frames: Any, futures: Any
    ) -> None:
        assert [task for task in tasks if task in futures], "it is asked before the futures are told"
        self.kept.append(list(tasks))
        self.mark += 1


class Outstanding:
    """A future, as the reactor sees it."""

    def __init__(self, task: int) -> None:
        self._task = m.Task(task, 1, b"")
        self.value: Any = None

    def _set_value(self, value: Any) -> None:
        self.value = value


def test_results_are_acknowledged_once_they_are_safe() -> None:
    reactor = ExecutorReactor(list)
    reactor.journal = keeper = Keeper()
    for number in range(3):
        reactor.futures[number] = Outstanding(number)
        message = m.Results("a", 1, [number], bytes(1), [0], number=number + 1, waiting=True)
        reactor.interchange_said(message, [codec.encode([pack_result(number)[0]])], 1.0)
    assert keeper.kept == [[0], [1], [2]]

    def acknowledged(now: float) -> list[dict[str, int]]:
        reactor.turn(now)
        told = [action.message for action in reactor.actions() if isinstance(action, Tell)]
        return [message.received for message in told if isinstance(message, m.Acknowledge)]

    assert acknowledged(9.0) == []
    keeper.safe = 2
    reactor.kept(2, 9.0)
    assert acknowledged(9.0) == [{"a": 2}]
    keeper.safe = 3
    reactor.kept(3, 9.5)
    assert acknowledged(9.5) == [{"a": 3}]
    # What a former interchange had sent already is not kept again.
    reactor.interchange_said(m.Results("a", 1, [2], bytes(1), [0], number=3), [codec.encode([b""])], 10.0)
    assert len(keeper.kept) == 3
