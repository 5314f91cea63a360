"""The reactor, step by step: what executor and managers say, and what follows."""

from __future__ import annotations

import pytest

from tests.interchange.harness import PERIOD, PYTHON, THRESHOLD, Bench, Gone, Told, task, tasks
from throughway.interchange import reactor as reactor_module
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION


def functions_in(message: m.Assign) -> list[int]:
    return [function.id for function in message.functions]


def joined(bench: Bench, name: str, **options) -> None:
    """A manager joins, and nothing follows from it."""
    bench.join(name, **options)
    assert bench.told(name) == []


# ---------------------------------------------------------------------------------- submission and assignment


class TestAssignment:
    def test_what_is_submitted_goes_to_a_manager(self, bench):
        joined(bench, "a")
        bench.submit([task(7)])
        (assign,) = bench.told("a")
        assert assign.tasks == [task(7)]
        assert functions_in(assign) == [1]
        assert bench.state.owners[7].id == "a"

    def test_without_a_manager_it_waits_and_goes_to_the_first_that_joins(self, bench):
        bench.submit(tasks(1, 2))
        assert bench.waiting() == [1, 2]
        bench.join("a")
        assert bench.assigned("a") == [1, 2]

    def test_a_manager_is_filled_up_to_its_capacity_and_no_further(self, bench):
        joined(bench, "a", workers=2, capacity=5)
        bench.submit(tasks(*range(1, 9)))
        assert bench.assigned("a") == [1, 2, 3, 4, 5]
        assert bench.waiting() == [6, 7, 8]

    def test_an_ended_task_makes_room_for_one(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1, 2, 3, 4))
        assert bench.assigned("a") == [1, 2]
        bench.results("a", 2)
        assert bench.assigned("a") == [3]
        bench.told("executor")

    def test_the_capacity_is_what_the_manager_said_last(self, bench):
        joined(bench, "a", workers=2, capacity=2)
        bench.submit(tasks(*range(1, 10)))
        assert bench.assigned("a") == [1, 2]
        bench.results("a", 1, capacity=4)
        assert bench.assigned("a") == [3, 4, 5]
        bench.results("a", 2, 3, capacity=2)
        assert bench.assigned("a") == []
        bench.results("a", 4, capacity=2)
        assert bench.assigned("a") == [6]
        bench.told("executor")

    def test_idle_workers_come_first_wherever_they_are_and_prefetch_after(self, bench):
        joined(bench, "a", workers=2, capacity=10)
        joined(bench, "b", workers=2, capacity=10)
        bench.submit(tasks(1, 2, 3, 4))
        assert len(bench.assigned("a")) == len(bench.assigned("b")) == 2
        bench.submit(tasks(5, 6))
        # No worker is idle any more: what comes now is held ready, evenly.
        assert len(bench.assigned("a")) == len(bench.assigned("b")) == 1

    def test_nothing_is_prefetched_while_a_worker_idles_elsewhere(self, bench):
        joined(bench, "a", workers=1, capacity=100)
        bench.submit(tasks(*range(1, 51)))
        assert len(bench.assigned("a")) == 50
        joined(bench, "b", workers=1, capacity=100)
        bench.submit(tasks(51))
        assert bench.assigned("b") == [51]
        assert bench.assigned("a") == []

    def test_idle_managers_share_fairly(self, bench):
        names = ["a", "b", "c", "d"]
        for name in names:
            joined(bench, name, workers=10)
        bench.submit(tasks(*range(1, 9)))
        assert [len(bench.assigned(name)) for name in names] == [2, 2, 2, 2]

    def test_a_backlog_is_prefetched_in_fair_shares(self, bench):
        for name in ("a", "b"):
            joined(bench, name, workers=1, capacity=100)
        bench.submit(tasks(*range(1, 43)))
        shares = [len(bench.assigned(name)) for name in ("a", "b")]
        assert sum(shares) == 42
        assert max(shares) - min(shares) <= 2

    def test_many_tasks_leave_in_batches(self, bench, monkeypatch):
        monkeypatch.setattr(reactor_module, "ASSIGN_TASKS", 4)
        joined(bench, "a", workers=10)
        bench.submit(tasks(*range(1, 11)))
        assert [len(assign.tasks) for assign in bench.told("a")] == [4, 4, 2]

    def test_a_batch_is_bounded(self, bench):
        count = reactor_module.ASSIGN_TASKS
        joined(bench, "a", workers=count + 1)
        bench.submit(tasks(*range(count + 1)))
        assert [len(assign.tasks) for assign in bench.told("a")] == [count, 1]

    def test_lower_priorities_go_first(self, bench):
        bench.submit([task(1, priority=5), task(2, priority=-1), task(3), task(4, priority=-1)])
        joined_tasks = []
        bench.join("a", workers=4)
        joined_tasks = bench.assigned("a")
        assert joined_tasks == [2, 4, 3, 1]

    def test_several_submissions_before_one_turn_are_balanced_together(self, bench):
        joined(bench, "a", workers=2)
        joined(bench, "b", workers=2)
        for number in (1, 2):
            bench.executor(m.Submit([task(number)], [m.Function(1, "f1", b"code of 1")]), turn=False)
        bench.step()
        assert len(bench.assigned("a")) == len(bench.assigned("b")) == 1

    def test_a_manager_without_workers_gets_nothing_for_idle_ones(self, bench):
        joined(bench, "a", workers=0, capacity=0)
        bench.submit(tasks(1))
        assert bench.told("a") == []


# --------------------------------------------------------------------------------------- functions and frames


class TestFunctions:
    def test_a_function_goes_to_each_manager_once(self, bench):
        joined(bench, "a", workers=1)
        joined(bench, "b", workers=1)
        bench.submit(tasks(1, 2))
        assert functions_in(bench.told("a")[0]) == [1]
        assert functions_in(bench.told("b")[0]) == [1]
        bench.submit(tasks(3, 4))
        bench.results("a", 1)
        bench.results("b", 2)
        assert functions_in(bench.told("a")[0]) == []
        assert functions_in(bench.told("b")[0]) == []
        bench.told("executor")

    def test_a_function_is_sent_as_it_came(self, bench):
        joined(bench, "a", workers=3)
        bench.submit([task(1, fn=4), task(2, fn=9), task(3, fn=4)])
        (assign,) = bench.told("a")
        assert [(f.id, f.name, f.payload) for f in assign.functions] == [
            (4, "f4", b"code of 4"),
            (9, "f9", b"code of 9"),
        ]

    def test_a_forgotten_function_is_forgotten_by_those_that_know_it_with_their_next_tasks(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.told("a")
        joined(bench, "b", workers=2)
        bench.results("a", 1)
        bench.submit([], forget=[1])
        assert bench.state.functions == {}
        bench.submit(tasks(2, 3, 4, fn=2))
        assert [assign.forget for assign in bench.told("a")] == [[1]]
        assert [assign.forget for assign in bench.told("b")] == [[]]
        bench.told("executor")

    def test_it_is_told_once(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.results("a", 1)
        bench.submit([], forget=[1])
        bench.submit(tasks(2, 3, fn=2))
        bench.results("a", 2)
        assert [assign.forget for assign in bench.told("a")] == [[], [1], []]
        bench.told("executor")

    def test_a_function_that_is_needed_again_before_it_was_forgotten_there_is_sent_again(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.results("a", 1)
        bench.submit([], forget=[1])
        bench.told("a")
        bench.submit(tasks(2))
        (assign,) = bench.told("a")
        assert functions_in(assign) == [1]
        assert assign.forget == []
        bench.told("executor")

    def test_forgetting_what_a_manager_took_with_it(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.results("a", 1)
        bench.close("a")
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")
        bench.submit([], forget=[1])
        assert bench.state.functions == {}


class TestFrames:
    def test_large_frames_travel_behind_the_tasks_in_their_order(self, bench):
        joined(bench, "a", workers=3)
        first, second, third = bytearray(b"1a"), memoryview(b"1b"), b"3"
        bench.submit([task(1, frames=2), task(2), task(3, frames=1)], [first, second, third])
        ((assign, frames),) = bench.told_with_frames("a")
        assert [t.frames for t in assign.tasks] == [2, 0, 1]
        # The very same objects: nothing was copied.
        assert [id(frame) for frame in frames] == [id(first), id(second), id(third)]

    def test_they_wait_with_their_tasks_and_leave_with_priority(self, bench):
        bench.submit([task(1, frames=1, priority=1), task(2, frames=1)], [b"one", b"two"])
        bench.join("a")
        ((assign, frames),) = bench.told_with_frames("a")
        assert [t.id for t in assign.tasks] == [2, 1]
        assert frames == (b"two", b"one")

    def test_they_are_kept_until_the_task_has_ended(self, bench):
        joined(bench, "a", workers=2)
        bench.submit([task(1, frames=1), task(2, frames=1)], [b"one", b"two"])
        bench.told("a")
        assert bench.state.frames == {1: [b"one"], 2: [b"two"]}
        bench.results("a", 1)
        assert bench.state.frames == {2: [b"two"]}
        bench.results("a", 2)
        assert bench.state.frames == {}
        bench.told("executor")

    def test_they_go_with_a_task_that_was_returned(self, bench):
        joined(bench, "a", workers=1)
        bench.submit([task(1, frames=1)], [b"one"])
        bench.told("a")
        bench.manager("a", m.Draining("a", "its time is over"))
        bench.manager("a", m.Returned("a", [1], 0))
        bench.join("b")
        ((_, frames),) = bench.told_with_frames("b")
        assert frames == (b"one",)

    def test_they_are_dropped_with_a_cancelled_task(self, bench):
        bench.submit([task(1, frames=1)], [b"one"])
        bench.executor(m.Cancel([1]))
        assert bench.state.frames == {}
        joined(bench, "a", workers=1)
        bench.submit([task(2, frames=1)], [b"two"])
        bench.told("a")
        bench.executor(m.Cancel([2]))
        bench.manager("a", m.Verdicts([2], []))
        assert bench.state.frames == {}
        bench.told("a")
        bench.told("executor")

    def test_they_are_dropped_with_a_lost_manager(self, bench):
        joined(bench, "a", workers=1)
        bench.submit([task(1, frames=1)], [b"one"])
        bench.close("a")
        assert bench.state.frames == {}
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")

    def test_results_of_one_manager_leave_the_frames_of_others_alone(self, bench):
        joined(bench, "a", workers=1)
        bench.submit([task(1, frames=1)], [b"one"])
        bench.told("a")
        joined(bench, "b", workers=1)
        bench.results("b", 1)
        assert bench.state.frames == {1: [b"one"]}
        bench.told("executor")


class SharedMemory:
    """An executor's shared memory as the interchange reads it: tasks are at their number times a hundred."""

    def __init__(self) -> None:
        self.there: dict[int, list[bytes]] = {}
        self.read: list[int] = []
        """tasks of which the frames were looked at"""

    def put(self, number: int, *frames: bytes, **options) -> m.Task:
        """A task with these frames."""
        self.there[number] = list(frames)
        return task(number, frames=-100 * number, **options)

    def __call__(self, place: int, number: int) -> list[bytes]:
        assert place == 100 * number, "each task has its own place"
        self.read.append(number)
        return self.there.get(number, [])


@pytest.fixture
def memory():
    return SharedMemory()


@pytest.fixture
def sharing(memory):
    """A bench with shared memory; its test must have looked at everything that was done."""
    bench = Bench(arena=memory)
    yield bench
    bench.emptiness_check()


class TestSharedMemory:
    def test_a_manager_that_shares_it_is_sent_the_place(self, sharing, memory):
        joined(sharing, "a", shares=True)
        sharing.submit([memory.put(1, b"one", b"two")])
        ((assign, frames),) = sharing.told_with_frames("a")
        assert assign.tasks == [task(1, frames=-100)]
        assert frames == ()
        assert memory.read == [], "nobody looks at them on the way"

    def test_another_is_sent_what_is_there(self, sharing, memory):
        joined(sharing, "a")
        sharing.submit([memory.put(1, b"one", b"two")])
        ((assign, frames),) = sharing.told_with_frames("a")
        assert assign.tasks == [task(1, frames=2)]
        assert frames == (b"one", b"two")
        assert sharing.state.frames == {}, "it is not kept here"
        assert sharing.state.owners.tasks(sharing.state.owners[1])[1] == task(1, frames=-100), (
            "nor is the record changed"
        )

    @pytest.mark.parametrize("shares", [True, False])
    def test_among_tasks_with_frames_of_their_own(self, sharing, memory, shares):
        joined(sharing, "a", workers=6, shares=shares)
        submitted = [
            task(1, frames=1),
            memory.put(2, b"2a", b"2b"),
            task(3),
            memory.put(4, b"4"),
            task(5, frames=2),
            task(6),
        ]
        sharing.submit(submitted, [b"1", b"5a", b"5b"])
        ((assign, frames),) = sharing.told_with_frames("a")
        if shares:
            assert assign.tasks == submitted
            assert frames == (b"1", b"5a", b"5b")
        else:
            assert [(t.id, t.frames) for t in assign.tasks] == [
                (1, 1),
                (2, 2),
                (3, 0),
                (4, 1),
                (5, 2),
                (6, 0),
            ]
            assert frames == (b"1", b"2a", b"2b", b"4", b"5a", b"5b")
        assert sharing.state.frames == {1: [b"1"], 5: [b"5a", b"5b"]}
        assert list(sharing.state.owners.tasks(sharing.state.owners[2]).values()) == submitted

    def test_managers_of_both_kinds_at_once(self, sharing, memory):
        joined(sharing, "a", workers=2, shares=True)
        joined(sharing, "b", workers=2)
        sharing.submit([memory.put(number, b"%d" % number) for number in (1, 2, 3, 4)])
        ((placed, none),) = sharing.told_with_frames("a")
        ((sent, frames),) = sharing.told_with_frames("b")
        assert [t.frames for t in placed.tasks] == [-100 * t.id for t in placed.tasks]
        assert none == ()
        assert [t.frames for t in sent.tasks] == [1, 1]
        assert frames == tuple(b"%d" % t.id for t in sent.tasks)
        assert {t.id for t in placed.tasks + sent.tasks} == {1, 2, 3, 4}

    @pytest.mark.parametrize("first_shares", [True, False])
    @pytest.mark.parametrize("how", ["returned", "left"])
    def test_given_back_it_goes_to_the_other_kind(self, sharing, memory, first_shares, how):
        joined(sharing, "a", workers=2, shares=first_shares)
        sharing.submit([memory.put(1, b"one"), task(2, frames=1)], [b"two"])
        sharing.told("a")
        sharing.manager("a", m.Draining("a", "its time is over"))
        if how == "returned":
            sharing.manager("a", m.Returned("a", [1, 2], 0))
        else:
            sharing.manager("a", m.Leaving("a", "its time is over"))
            sharing.told("a")
            sharing.told("executor")
        sharing.join("b", workers=2, shares=not first_shares)
        ((assign, frames),) = sharing.told_with_frames("b")
        if first_shares:
            assert assign.tasks == [task(1, frames=1), task(2, frames=1)]
            assert frames == (b"one", b"two")
        else:
            assert assign.tasks == [task(1, frames=-100), task(2, frames=1)]
            assert frames == (b"two",)

    def test_what_did_not_fit_into_a_message_waits_as_it_is(self, sharing, memory, monkeypatch):
        monkeypatch.setattr(reactor_module, "ASSIGN_BYTES", 1000)
        for name, shares in (("a", False), ("b", True)):
            joined(sharing, name, workers=3, shares=shares)
            first = 1 if name == "a" else 4
            sharing.submit([memory.put(number, bytes(1000)) for number in range(first, first + 3)])
            batches = [[t.frames for t in told.message.tasks] for told in sharing.told_with_frames(name)]
            assert batches == ([[-400, -500, -600]] if shares else [[1], [1], [1]])
        assert memory.read == [1, 2, 3], "each once"

    def test_what_is_not_there_any_more_is_sent_without_frames(self, sharing, memory):
        joined(sharing, "a")
        gone = memory.put(1)
        sharing.submit([gone, memory.put(2, b"two")])
        ((assign, frames),) = sharing.told_with_frames("a")
        assert assign.tasks == [task(1), task(2, frames=1)]
        assert frames == (b"two",)

    def test_a_manager_that_comes_back_may_share_it_no_more(self, sharing, memory):
        joined(sharing, "a", workers=1, shares=True)
        sharing.submit([memory.put(1, b"one"), memory.put(2, b"two")])
        assert sharing.assigned("a") == [1]
        sharing.close("a", "reset by peer", gone=False)
        sharing.logged("WARNING")
        sharing.resume("a", workers=1, shares=False, held=[1], functions=[1])
        sharing.results("a", 1)
        sharing.told("executor")
        ((assign, frames),) = sharing.told_with_frames("a")
        assert assign.tasks == [task(2, frames=1)]
        assert frames == (b"two",)

    def test_the_next_interchange_reads_it_as_well(self, memory):
        bench = Bench(
            arena=memory, restore=m.Restore(True, [m.Expected("a", "host-a", "0", [1], 0, False)], [])
        )
        bench.submit([memory.put(2, b"two")])
        bench.join("b", workers=1)
        ((assign, frames),) = bench.told_with_frames("b")
        assert assign.tasks == [task(2, frames=1)]
        assert frames == (b"two",)
        bench.resume("a", workers=2, shares=True, held=[1], functions=[1])
        bench.submit([memory.put(3, b"three")])
        ((assign, frames),) = bench.told_with_frames("a")
        assert assign.tasks == [task(3, frames=-300)]
        assert frames == ()
        bench.told("executor")

    def test_ended_or_cancelled_it_leaves_nothing_here(self, sharing, memory):
        sharing.submit([memory.put(1, b"one")])
        sharing.executor(m.Cancel([1]))
        joined(sharing, "a", shares=True)
        sharing.submit([memory.put(2, b"two"), memory.put(3, b"three")])
        sharing.told("a")
        sharing.results("a", 2)
        sharing.executor(m.Cancel([3]))
        sharing.manager("a", m.Verdicts([3], []))
        assert sharing.state.frames == {}
        assert sharing.state.owners == {}
        sharing.told("a")
        sharing.told("executor")


# ---------------------------------------------------------------------------------------------------- results


class TestResults:
    def test_they_are_forwarded_untouched(self, bench):
        joined(bench, "a", workers=3)
        bench.submit(tasks(1, 2, 3))
        bench.told("a")
        outcomes = bytes([m.Outcome.VALUE, m.Outcome.EXCEPTION, m.Outcome.WORKER_LOST])
        message = m.Results("a", 3, [1, 2, 3], outcomes, [0, 1, 2], {1: 1}, 2.5)
        body, large = memoryview(codec.encode([b"", b"", b""])), bytearray(b"large")
        bench.manager("a", message, [body, large])
        (forward,) = [action for action in bench.trace if hasattr(action, "frames")]
        assert forward.frames is bench.raw, "the very same frames"
        ((told, frames),) = bench.told_with_frames("executor")
        assert told == message
        assert [id(frame) for frame in frames] == [id(body), id(large)]
        assert bench.state.owners == {}

    def test_counts_and_busy_seconds_add_up(self, bench):
        joined(bench, "a", workers=3)
        bench.submit(tasks(1, 2, 3))
        bench.results("a", 1, 2, busy=1.5)
        bench.results("a", 3, busy=0.5)
        status = bench.state.status(bench.now)
        assert (status.submitted, status.completed, status.core_seconds) == (3, 3, 2.0)
        (view,) = [manager.view(bench.now) for manager in bench.state.managers.values()]
        assert (view.tasks_done, view.busy_seconds) == (3, 2.0)
        bench.told("a")
        bench.told("executor")

    def test_those_of_tasks_that_the_manager_does_not_have_are_forwarded_and_not_counted(self, bench):
        # The executor knows best what is late; here nothing must change by it.
        joined(bench, "a", workers=1)
        joined(bench, "b", workers=1)
        bench.submit(tasks(1))
        (holder,) = [name for name in ("a", "b") if bench.told(name)]
        other = "b" if holder == "a" else "a"
        bench.results(other, 1, 77)
        assert bench.state.owners[1].id == holder
        assert bench.state.completed == 0
        assert [message.tasks for message in bench.told("executor")] == [[1, 77]]

    def test_those_of_a_manager_that_was_let_go_are_dropped(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.tick(THRESHOLD)
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")
        bench.results("a", 1)
        assert bench.state.malformed == 1

    def test_started_is_remembered_and_forwarded(self, bench):
        manager = bench.join("a", workers=2)
        bench.submit(tasks(1, 2))
        bench.told("a")
        bench.manager("a", m.Started("a", [2, 99], [1, 0]))
        assert manager.running == {2: (1, bench.now)}
        assert bench.told("executor") == [m.Started("a", [2, 99], [1, 0])]
        bench.results("a", 1, 2)
        assert manager.running is None
        bench.told("executor")


# ------------------------------------------------------------------------------------------------- cancelling


class TestCancel:
    def test_of_a_queued_task(self, bench):
        bench.submit(tasks(1, 2, 3))
        bench.executor(m.Cancel([2]))
        assert bench.told("executor") == [m.Verdicts([2], [])]
        bench.join("a", workers=3)
        assert bench.assigned("a") == [1, 3]

    def test_of_a_task_that_is_not_here(self, bench):
        bench.executor(m.Cancel([5]))
        assert bench.told("executor") == [m.Verdicts([], [5])]

    def test_of_an_assigned_one_is_passed_on_and_its_verdict_back(self, bench):
        joined(bench, "a", workers=1, capacity=2)
        bench.submit(tasks(1, 2, 3))
        bench.told("a")
        bench.executor(m.Cancel([2]))
        assert bench.told("a") == [m.Cancel([2])]
        assert bench.told("executor") == []
        bench.manager("a", m.Verdicts([2], []))
        ((verdict, _),) = bench.told_with_frames("executor")
        assert verdict == m.Verdicts([2], [])
        # There is room again.
        assert bench.assigned("a") == [3]

    def test_refused_it_stays_where_it_is(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.executor(m.Cancel([1]))
        bench.manager("a", m.Verdicts([], [1]))
        assert bench.told("executor") == [m.Verdicts([], [1])]
        assert bench.state.owners[1].id == "a"
        bench.told("a")

    def test_kill_is_passed_on(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.told("a")
        bench.executor(m.Cancel([1], kill=True))
        assert bench.told("a") == [m.Cancel([1], kill=True)]

    def test_of_many_goes_to_each_manager_once(self, bench):
        joined(bench, "a", workers=2)
        joined(bench, "b", workers=2)
        bench.submit(tasks(1, 2, 3, 4, 5, 6))
        at = {name: bench.assigned(name) for name in ("a", "b")}
        bench.executor(m.Cancel([1, 2, 3, 4, 5, 6, 7]))
        assert bench.told("executor") == [m.Verdicts([5, 6], [7])]
        for name in ("a", "b"):
            assert bench.told(name) == [m.Cancel(at[name])]

    def test_one_that_its_manager_was_just_giving_back_never_runs(self, bench):
        # The cancellation and the return cross on the wire: the manager knows nothing of the task any more.
        joined(bench, "a", workers=1, capacity=2)
        bench.submit(tasks(1, 2, 3))
        bench.told("a")
        bench.executor(m.Cancel([2], kill=True))
        bench.told("a")
        bench.manager("a", m.Returned("a", [2], 1))
        assert bench.told("executor") == [m.Verdicts([2], [])]
        bench.manager("a", m.Verdicts([], [2]))
        assert bench.told("executor") == [m.Verdicts([], [2])]
        bench.results("a", 1)
        assert bench.assigned("a") == [3]
        assert 2 not in bench.state.queue
        bench.told("executor")

    def test_refused_once_a_task_may_be_returned_and_run(self, bench):
        joined(bench, "a", workers=1, capacity=2)
        bench.submit(tasks(1, 2))
        bench.executor(m.Cancel([2]))
        bench.manager("a", m.Verdicts([], [2]))
        bench.manager("a", m.Returned("a", [2], 1))
        assert bench.waiting() == [2]
        bench.told("a")
        bench.told("executor")

    def test_a_task_that_ended_meanwhile_can_be_submitted_again(self, bench):
        joined(bench, "a", workers=1, capacity=2)
        bench.submit(tasks(1, 2))
        bench.executor(m.Cancel([2]))
        bench.results("a", 2)
        bench.submit(tasks(2))
        bench.manager("a", m.Returned("a", [2], 1))
        assert bench.waiting() == [2], "the old cancellation is not for the new attempt"
        bench.told("a")
        bench.told("executor")


# ------------------------------------------------------ tasks that come back, managers that drain or are held


class TestReturned:
    def test_they_go_to_the_head_and_elsewhere(self, bench):
        joined(bench, "a", workers=1, capacity=4)
        bench.submit(tasks(1, 2, 3, 4))
        assert bench.assigned("a") == [1, 2, 3, 4]
        bench.submit(tasks(5, 6))
        bench.manager("a", m.Returned("a", [4, 3], 1))
        assert bench.waiting() == [3, 4, 5, 6]
        joined_as_b = bench.join("b", workers=3)
        assert bench.assigned("b") == [3, 4, 5]
        assert joined_as_b.load == 3
        assert bench.told("a") == []

    def test_unknown_ones_are_ignored(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.told("a")
        bench.manager("a", m.Returned("a", [1, 9], 0))
        # Its worker is idle, so the task goes there again.
        assert bench.assigned("a") == [1]


class TestDrain:
    def test_a_draining_manager_gets_nothing_new_finishes_and_leaves(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1, 2, 3))
        bench.told("a")
        bench.ask("drain", "a")
        assert codec.Decoder(bool)(bench.answer()) is True
        assert bench.told("a") == [m.Drain("as the executor asked")]
        bench.manager("a", m.Draining("a", "as the executor asked"))
        bench.results("a", 1)
        assert bench.told("a") == [], "nothing new"
        bench.results("a", 2)
        bench.told("executor")
        bench.manager("a", m.Leaving("a", "drained"))
        assert bench.told("a") == [Gone("drained")]
        assert bench.told("executor") == [m.ManagerLeft("a", "host-a", "0", "drained", lost=False)]
        assert bench.waiting() == [3]
        assert bench.state.status(bench.now).lost_managers == 0

    def test_one_that_drains_by_itself(self, bench):
        joined(bench, "a", workers=2)
        bench.manager("a", m.Draining("a", "SIGTERM"))
        bench.submit(tasks(1))
        assert bench.told("a") == []
        assert bench.state.managers["a"].view(bench.now).draining

    def test_asked_twice_it_is_told_once(self, bench):
        joined(bench, "a")
        bench.ask("drain", "a")
        bench.ask("drain", "a")
        assert len(bench.told("a")) == 1
        assert len(bench.told("executor")) == 2

    def test_asking_for_a_manager_that_is_not_there(self, bench):
        for topic in ("drain", "hold", "release"):
            bench.ask(topic, "ghost")
            assert codec.Decoder(bool)(bench.answer()) is False

    def test_what_it_had_not_seen_when_it_left_was_not_lost(self, bench):
        # The assignment and the farewell cross on the wire: it never had these tasks.
        joined(bench, "a", workers=2)
        bench.submit([task(1, frames=1), task(2)], [b"one"])
        bench.told("a")
        bench.manager("a", m.Draining("a", "its time is over"))
        bench.manager("a", m.Leaving("a", "its time is over"))
        bench.told("a")
        assert bench.told("executor") == [m.ManagerLeft("a", "host-a", "0", "its time is over", lost=False)]
        assert bench.waiting() == [1, 2]
        bench.join("b", workers=2)
        ((assign, frames),) = bench.told_with_frames("b")
        assert [t.id for t in assign.tasks] == [1, 2]
        assert frames == (b"one",)

    def test_one_that_failed_is_lost_and_its_tasks_are_not(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1, 2))
        bench.told("a")
        bench.manager("a", m.Draining("a", "5 workers in a row"))
        bench.manager("a", m.Leaving("a", "5 workers in a row", failed=True))
        bench.told("a")
        left, lost = bench.told("executor")
        assert left == m.ManagerLeft("a", "host-a", "0", "5 workers in a row", lost=True, failed=True)
        assert lost.tasks == []
        assert bench.waiting() == [1, 2]
        assert bench.state.status(bench.now).lost_managers == 1
        bench.logged("ERROR")

    def test_one_that_failed_and_had_worked_before_is_only_lost(self, bench):
        joined(bench, "a")
        bench.manager("a", m.Draining("a", "5 workers in a row"))
        bench.manager("a", m.Leaving("a", "5 workers in a row", failed=True, worked=True))
        bench.told("a")
        left, _ = bench.told("executor")
        assert left == m.ManagerLeft("a", "host-a", "0", "5 workers in a row", lost=True, failed=False)
        bench.logged("ERROR")

    def test_what_was_cancelled_there_does_not_go_elsewhere(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1, 2))
        bench.executor(m.Cancel([1]))
        bench.told("a")
        bench.manager("a", m.Draining("a", "its time is over"))
        bench.manager("a", m.Leaving("a", "its time is over"))
        bench.told("a")
        assert m.Verdicts([1], []) in bench.told("executor")
        assert bench.waiting() == [2]

    def test_its_time_over_it_is_told_to_drain(self, bench):
        joined(bench, "a", ends_in=10.0)
        bench.tick(9.0)
        assert bench.told("a") == []
        bench.tick(1.0)
        assert bench.told("a") == [m.Drain("its time is over")]
        bench.tick(10.0)
        assert bench.told("a") == []


class TestHold:
    def test_a_held_manager_gets_nothing_new_until_it_is_released(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1))
        bench.told("a")
        bench.ask("hold", "a")
        assert codec.Decoder(bool)(bench.answer()) is True
        bench.submit(tasks(2))
        assert bench.told("a") == []
        bench.results("a", 1)
        assert bench.told("a") == []
        bench.ask("release", "a")
        assert bench.assigned("a") == [2]
        bench.told("executor")

    def test_it_shows_in_reports(self, bench):
        joined(bench, "a")
        bench.ask("hold", "a")
        assert not bench.state.managers["a"].view(bench.now).active
        assert bench.state.status(bench.now).managers_held == 1
        bench.told("executor")

    def test_released_it_still_drains(self, bench):
        joined(bench, "a")
        bench.ask("hold", "a")
        bench.manager("a", m.Draining("a", "SIGTERM"))
        bench.ask("release", "a")
        bench.submit(tasks(1))
        assert bench.told("a") == []
        bench.told("executor")


class TestWalltime:
    def test_only_a_manager_with_that_much_time_left_gets_the_task(self, bench):
        joined(bench, "a", workers=4, ends_in=100.0)
        bench.submit([task(1, walltime=200.0), task(2, walltime=50.0), task(3)])
        assert bench.assigned("a") == [2, 3]
        bench.join("b", workers=4, ends_in=300.0)
        assert bench.assigned("b") == [1]

    def test_the_time_left_is_that_of_the_moment(self, bench):
        joined(bench, "a", workers=1, ends_in=100.0)
        bench.tick(60.0)
        assert bench.told("a") == [m.Heartbeat()] * 2
        bench.submit([task(1, walltime=50.0), task(2, walltime=40.0)])
        assert bench.assigned("a") == [2]

    def test_a_manager_without_an_end_takes_any(self, bench):
        joined(bench, "a", workers=2)
        joined(bench, "b", workers=2, ends_in=10.0)
        bench.submit([task(1, walltime=1e6), task(2, walltime=1e6)])
        assert sorted(bench.assigned("a")) == [1, 2]
        assert bench.assigned("b") == []

    def test_a_long_one_does_not_stand_in_the_way_of_shorter_ones(self, bench):
        joined(bench, "a", workers=4, ends_in=100.0)
        # All of similar walltime, the first just too long.
        bench.submit([task(1, walltime=103.0), task(2, walltime=98.0), task(3, walltime=97.5), task(4)])
        assert sorted(bench.assigned("a")) == [2, 3, 4]
        assert bench.waiting() == [1]

    def test_a_manager_that_was_set_aside_is_asked_again_for_what_just_fits(self, bench):
        joined(bench, "a", workers=2, ends_in=100.0)
        bench.submit([task(1, walltime=100.5)])
        assert bench.told("a") == []
        bench.submit([task(2, walltime=100.0)])
        assert bench.assigned("a") == [2]
        bench.submit([task(3, walltime=101.0)])
        assert bench.told("a") == []
        assert bench.waiting() == [1, 3]

    def test_managers_that_were_set_aside_share_fairly(self, bench):
        names = ["a", "b", "c"]
        for name in names:
            joined(bench, name, workers=10, ends_in=100.0)
        bench.submit([task(1, walltime=1000.0)])
        bench.submit(tasks(2, 3, 4))
        shares = [len(bench.assigned(name)) for name in names]
        assert sum(shares) == 3
        assert max(shares) <= 2

    def test_one_that_was_set_aside_may_leave(self, bench):
        joined(bench, "a", ends_in=100.0)
        joined(bench, "b", ends_in=50.0)
        bench.submit([task(1, walltime=1000.0)])
        bench.close("a")
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")
        bench.submit(tasks(2))
        assert bench.assigned("b") == [2]

    def test_its_time_over_a_manager_gets_nothing_at_all(self, bench):
        joined(bench, "a", workers=2, ends_in=0.0)
        bench.tick(1.0)
        bench.told("a")
        bench.submit(tasks(1))
        assert bench.told("a") == []


# --------------------------------------------------------------------------------------------------- liveness


class TestLiveness:
    def test_heartbeats_fill_silence(self, bench):
        joined(bench, "a")
        bench.tick(PERIOD - 0.5)
        assert bench.told("a") == []
        bench.tick(0.5)
        assert bench.told("a") == [m.Heartbeat()]
        bench.tick(PERIOD)
        assert bench.told("a") == [m.Heartbeat()]

    def test_other_messages_save_them(self, bench):
        joined(bench, "a", workers=2)
        bench.tick(PERIOD / 2)
        bench.submit(tasks(1))
        bench.tick(PERIOD / 2)
        assert len(bench.told("a")) == 1
        bench.tick(PERIOD / 2)
        assert bench.told("a") == [m.Heartbeat()]

    def test_silence_beyond_the_threshold_loses_the_manager_with_all_its_tasks(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1, 2, 3))
        bench.told("a")
        bench.tick(THRESHOLD)
        *beats, gone = bench.told("a")
        assert set(map(type, beats)) == {m.Heartbeat}
        assert isinstance(gone, Gone), "should it live, it comes back and is told to start over"
        left, lost = bench.told("executor")
        assert left == m.ManagerLeft("a", "host-a", "0", left.reason, lost=True)
        assert "silent for 120.0 s (heartbeat_threshold: 120 s)" in left.reason
        assert lost == m.Lost("a", "host-a", left.reason, "/logs/a", [1, 2])
        assert bench.waiting() == [3]
        assert bench.state.status(bench.now).lost_managers == 1
        assert len(bench.logged("ERROR")) == 1

    @pytest.mark.parametrize(
        "message",
        [
            m.Heartbeat(),
            m.Started("a", [], []),
            m.Verdicts([], []),
            m.Results("a", 2, [], b"", []),
            m.Answer(9, b""),
        ],
        ids=lambda message: type(message).__name__,
    )
    def test_any_message_is_a_sign_of_life(self, bench, message):
        joined(bench, "a")
        bench.tick(THRESHOLD - 1)
        bench.manager("a", message)
        bench.tick(THRESHOLD - 1)
        assert "a" in bench.state.managers
        bench.told("a")
        bench.told("executor")

    def test_a_closed_connection_loses_the_manager_at_once(self, bench):
        joined(bench, "a", workers=2)
        bench.submit(tasks(1))
        bench.told("a")
        bench.close("a", "reset by peer")
        assert bench.told("a") == [Gone("its connection ended: reset by peer")]
        left, lost = bench.told("executor")
        assert (left.manager, left.lost) == ("a", True)
        assert lost.tasks == [1]
        assert "reset by peer" in lost.reason
        bench.logged("ERROR")

    def test_a_lost_manager_without_tasks(self, bench):
        joined(bench, "a")
        bench.close("a")
        bench.told("a")
        left, lost = bench.told("executor")
        assert left.lost
        assert lost.tasks == [], "nothing was lost with it, and that is known now"
        bench.logged("ERROR")

    def test_others_take_over_what_is_submitted_again(self, bench):
        joined(bench, "a", workers=1)
        bench.submit(tasks(1))
        bench.told("a")
        joined(bench, "b", workers=1)
        bench.close("a")
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")
        bench.submit(tasks(1))
        assert bench.assigned("b") == [1]

    def test_the_end_of_an_unknown_peer_means_nothing(self, bench):
        bench.reactor.peer_left(99, "closed", bench.now)
        bench.step()

    def test_a_manager_that_comes_back_under_its_id_is_watched_once(self, bench):
        joined(bench, "a")
        for _ in range(3):
            bench.close("a", gone=False)
            bench.resume("a")
            bench.tick(1.0)
        bench.logged("WARNING")
        bench.tick(3 * PERIOD)
        assert bench.told("a") == [m.Heartbeat()] * 3
        bench.tick(THRESHOLD - 3 * PERIOD - 2.0)
        bench.manager("a", m.Heartbeat())
        bench.tick(THRESHOLD - 1.0)
        bench.told("a")
        assert len(bench.reactor._deadlines) == 1, "what was to be looked at before is out of the way"

    def test_after_a_farewell_its_id_is_free(self, bench):
        joined(bench, "a")
        bench.manager("a", m.Draining("a", "drained"))
        bench.manager("a", m.Leaving("a", "drained"))
        bench.told("a")
        bench.told("executor")
        joined(bench, "a")


# ---------------------------------------------------------------------------------------------------- refusal


class TestRefusal:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"protocol": PROTOCOL_VERSION + 1}, "install the same version of throughway on both"),
            ({"python": "3.12.1"}, "start the manager with Python 3.11"),
            ({"id": "a"}, "a manager with the id a is registered already"),
            ({"workers": -1}, "-1 workers cannot be"),
            ({"workers": 4, "capacity": 3}, "a capacity of 3 tasks cannot be for 4 workers"),
        ],
        ids=["protocol", "python", "id", "workers", "capacity"],
    )
    def test_one_is_refused_with_the_reason_and_the_others_go_on(self, bench, options, reason):
        joined(bench, "a", workers=1)
        bench.say_hello("b", **{"id": "b", **options})
        refused, gone = bench.told("b")
        assert isinstance(refused, m.Refused)
        assert reason in refused.reason
        assert gone == Gone(refused.reason)
        assert bench.told("executor") == [m.ManagerRefused("host-b", "0", refused.reason)]
        assert [refused.reason in text for text in bench.logged("ERROR")] == [True]
        assert bench.state.status(bench.now).refused_managers == 1
        bench.submit(tasks(1))
        assert bench.assigned("a") == [1]
        # What the refused one says all the same is dropped.
        bench.manager("b", m.Heartbeat())
        assert bench.state.malformed == 1

    def test_another_patch_version_of_python_is_welcome(self, bench):
        joined(bench, "a", python="3.11.0")
        assert PYTHON != "3.11.0"


# ---------------------------------------------------------------------------------- malformed, shutdown, rest


class TestMalformed:
    @pytest.mark.parametrize(
        ("submission", "frames"),
        [
            ([task(1, frames=2), task(2)], [b"one"]),
            ([task(1, frames=1), task(2)], [b"one", b"two"]),
            ([task(1), task(2)], [b"one"]),
            ([task(1, frames=1), task(2)], []),
        ],
        ids=["too few frames", "too many frames", "frames of nobody", "no frames"],
    )
    def test_a_submission_whose_frames_do_not_fit(self, bench, submission, frames):
        joined(bench, "a")
        bench.submit(submission, frames)
        self.check_lost(bench, [1, 2])

    def test_a_submission_without_its_function(self, bench):
        joined(bench, "a")
        bench.executor(m.Submit(tasks(1, 2, fn=3)))
        self.check_lost(bench, [1, 2])

    @staticmethod
    def check_lost(bench: Bench, numbers: list[int]) -> None:
        """None of its tasks is there, and none of its futures hangs."""
        assert bench.told("a") == []
        assert bench.waiting() == []
        assert bench.state.frames == {}
        assert bench.state.submitted == 0
        assert bench.state.malformed == 1
        (lost,) = bench.told("executor")
        assert isinstance(lost, m.Lost)
        assert lost.tasks == numbers
        assert lost.reason
        assert len(bench.logged("ERROR")) == 1

    def test_what_is_no_message_is_counted_and_logged(self, bench):
        bench.reactor.malformed(3, "malformed header of 2 bytes")
        bench.step()
        assert bench.state.status(bench.now).malformed_messages == 1
        (text,) = bench.logged("WARNING")
        assert "malformed header of 2 bytes" in text

    def test_broken_workers_are_the_executor_s_affair(self, bench):
        joined(bench, "a")
        bench.manager("a", m.Broken("a", "the initializer raised", b"record"))
        assert bench.told("executor") == [m.Broken("a", "the initializer raised", b"record")]


class TestShutdown:
    def test_it_is_passed_on_and_everything_ends(self, bench):
        joined(bench, "a")
        joined(bench, "b")
        bench.executor(m.Shutdown("done"))
        assert bench.told("a") == bench.told("b") == [m.Shutdown("done")]
        assert bench.exit == "done"
        bench.exit = None

    def test_a_reason_is_always_given(self, bench):
        bench.executor(m.Shutdown())
        assert bench.exit == "the executor shut down"
        bench.exit = None

    def test_the_executor_s_end_is_everybody_s(self, bench):
        joined(bench, "a")
        bench.reactor.executor_left("closed", bench.now)
        bench.step()
        assert bench.told("a") == [m.Shutdown("the executor is gone (closed)")]
        assert bench.exit == "the executor is gone (closed)"
        bench.exit = None

    def test_it_happens_once(self, bench):
        joined(bench, "a")
        bench.executor(m.Shutdown("done"))
        bench.reactor.executor_left("closed", bench.now)
        bench.step()
        assert bench.told("a") == [m.Shutdown("done")]
        bench.exit = None

    def test_nothing_is_assigned_and_nobody_welcomed_any_more(self, bench):
        bench.executor(m.Shutdown("done"))
        bench.submit(tasks(1))
        bench.say_hello("a")
        refused, _ = bench.told("a")
        assert refused == m.Refused("the executor is shutting down")
        bench.told("executor")
        bench.logged("ERROR")
        bench.exit = None

    def test_nothing_is_assigned_to_those_that_are_there(self, bench):
        joined(bench, "a")
        bench.executor(m.Shutdown("done"))
        bench.submit(tasks(1))
        assert bench.told("a") == [m.Shutdown("done")]
        bench.exit = None


def test_the_bench_notices_what_no_test_asked_about():
    bench = Bench()
    bench.join("a")
    bench.emptiness_check()
    bench.submit(tasks(1))
    with pytest.raises(AssertionError, match="unexpected, by peer"):
        bench.emptiness_check()
    assert isinstance(bench.box("a")[0], Told)
