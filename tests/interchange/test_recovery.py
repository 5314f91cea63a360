"""Managers that are cut off and come back, interchanges that follow others, and acknowledgements on their way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interchange.harness import PERIOD, THRESHOLD, Bench, Gone, Told, task, tasks
from throughway.interchange import reactor as reactor_module
from throughway.interchange.reactor import ACKNOWLEDGE_SECONDS, DYING_SECONDS, LOST_REMEMBERED
from throughway.interchange.state import UNKNOWN_FUNCTION
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION

RECONNECT = 10.0


def busy(bench: Bench, name: str, *numbers: int, **options) -> None:
    """A manager joins and is given these tasks, and nothing else is of interest."""
    options.setdefault("workers", len(numbers))
    bench.join(name, **options)
    bench.submit(tasks(*numbers))
    assert bench.assigned(name) == list(numbers)


def cut(bench: Bench, name: str) -> None:
    bench.close(name, "reset by peer", gone=False)
    (text,) = bench.logged("WARNING")
    assert "is cut off: reset by peer" in text


# ------------------------------------------------------------------------------------------- a connection breaks


class TestAbsent:
    def test_a_manager_that_is_cut_off_is_given_nothing_and_keeps_what_it_has(self, bench):
        busy(bench, "a", 1, workers=2)
        cut(bench, "a")
        assert bench.told("executor") == [], "nothing is lost yet"
        bench.submit(tasks(2))
        assert bench.waiting() == [2]
        assert bench.state.owners[1].id == "a"
        assert bench.state.managers["a"].view(bench.now).absent

    def test_it_hears_no_heartbeats_and_is_lost_after_the_threshold(self, bench):
        busy(bench, "a", 1, 2)
        bench.tick(10.0)
        bench.manager("a", m.Heartbeat())
        bench.tick(5.0)
        cut(bench, "a")
        bench.tick(THRESHOLD - 0.1)
        assert bench.told("a") == []
        assert bench.told("executor") == []
        bench.tick(0.1)
        left, lost = bench.told("executor")
        assert (left.manager, left.lost) == ("a", True)
        assert left.reason == "it did not come back (heartbeat_threshold: 120 s)"
        assert lost == m.Lost("a", "host-a", left.reason, "/logs/a", [1, 2])
        bench.logged("ERROR")
        assert bench.told("a") == []
        assert bench.reactor.next_deadline() is None or not bench.state.managers

    def test_its_silence_does_not_count_twice(self, bench):
        bench.join("a")
        bench.tick(THRESHOLD - 1.0)
        bench.told("a")
        cut(bench, "a")
        bench.tick(THRESHOLD - 2.0)
        assert "a" in bench.state.managers
        assert bench.resume("a") == m.Welcome(PROTOCOL_VERSION, PERIOD, THRESHOLD)

    def test_one_whose_process_is_gone_is_lost_at_once(self, bench):
        busy(bench, "a", 1)
        bench.close("a", "closed", gone=True)
        bench.told("a")
        assert bench.told("executor")[1].tasks == [1]
        bench.logged("ERROR")

    def test_work_goes_elsewhere_meanwhile(self, bench):
        busy(bench, "a", 1, workers=2)
        cut(bench, "a")
        bench.join("b", workers=2)
        bench.submit(tasks(2, 3))
        assert bench.assigned("b") == [2, 3]
        bench.resume("a", held=[1], functions=[1])
        bench.submit(tasks(4))
        assert bench.assigned("a") == [4]

    def test_questions_are_answered_without_it(self, bench):
        busy(bench, "a", 1)
        bench.ask("explain", "1", request=1)
        bench.ask("packages", request=2)
        bench.told("a")
        assert bench.told("executor") == []
        cut(bench, "a")
        answers = bench.told("executor")
        assert sorted(answer.request for answer in answers) == [1, 2]
        bench.ask("explain", "1", request=3)
        bench.ask("packages", request=4)
        assert [answer.request for answer in bench.told("executor")] == [3, 4]

    def test_set_aside_for_its_walltime_it_may_be_cut_off_and_come_back(self, bench):
        bench.join("a", ends_in=100.0)
        bench.submit([task(1, walltime=1000.0)])
        assert bench.told("a") == []
        cut(bench, "a")
        bench.resume("a", ends_in=2000.0)
        assert bench.assigned("a") == [1]


class TestResume:
    def test_what_never_arrived_goes_elsewhere_and_all_else_goes_on(self, bench):
        busy(bench, "a", 1, 2, 3, 4)
        cut(bench, "a")
        bench.join("b", workers=4)
        assert bench.assigned("b") == []
        bench.resume("a", workers=4, held=[1], ended=[(1, [2])], functions=[1])
        assert bench.assigned("a") + bench.assigned("b") != []
        owners = {number: owner.id for number, owner in bench.state.owners.items()}
        assert (owners[1], owners[2]) == ("a", "a"), "its result is on its way"
        assert bench.notes[3] == owners[3]
        assert bench.told("executor") == []
        bench.results("a", 2, number=1)
        bench.told("executor")

    def test_the_welcome_says_what_has_arrived(self, bench):
        busy(bench, "a", 1, 2, 3)
        bench.results("a", 1)
        bench.results("a", 2)
        bench.executor(m.Acknowledge({"a": 1}))
        bench.told("executor")
        bench.told("a")
        cut(bench, "a")
        welcome = bench.resume("a", held=[3], ended=[(2, [2])], functions=[1])
        assert (welcome.received, welcome.seen) == (1, 2)

    def test_results_that_had_arrived_are_not_passed_on_again(self, bench):
        busy(bench, "a", 1, 2)
        bench.results("a", 1)
        bench.told("executor")
        cut(bench, "a")
        bench.resume("a", workers=2, held=[2], ended=[(1, [1])], functions=[1])
        bench.results("a", 1, number=1, capacity=5)
        assert bench.told("executor") == []
        assert bench.state.completed == 1
        assert bench.state.managers["a"].capacity == 5, "but what they say of its room counts"
        bench.results("a", 2)
        assert [message.number for message in bench.told("executor")] == [2]

    def test_what_ended_and_had_arrived_may_be_there_again(self, bench):
        """Its worker died, it had another try, and was sent to the same manager: that never arrived."""
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        bench.submit(tasks(1))
        assert bench.assigned("a") == [1]
        cut(bench, "a")
        bench.resume("a", workers=1, ended=[(1, [1])], functions=[1])
        assert bench.assigned("a") == [1], "it is sent again"

    def test_what_it_gave_back_without_being_heard_goes_elsewhere(self, bench):
        busy(bench, "a", 1, 2, workers=2)
        bench.manager("a", m.Started("a", [1], [0]))
        bench.told("executor")
        cut(bench, "a")
        bench.resume("a", workers=1, held=[1], functions=[1])
        assert bench.waiting() == [2]
        assert bench.notes[2] == ""
        bench.join("b")
        assert bench.assigned("b") == [2]

    def test_a_cancellation_whose_verdict_was_lost(self, bench):
        busy(bench, "a", 1, 2, 3)
        bench.executor(m.Cancel([1, 2]))
        bench.executor(m.Cancel([3], kill=True))
        bench.told("a")
        cut(bench, "a")
        bench.resume("a", held=[1, 3], functions=[1], workers=3)
        assert bench.told("executor") == [m.Verdicts([2], [])], "what it has not will not run"
        assert bench.told("a") == [m.Cancel([1]), m.Cancel([3], kill=True)]

    def test_a_cancellation_while_it_is_away(self, bench):
        busy(bench, "a", 1, 2)
        cut(bench, "a")
        bench.executor(m.Cancel([1, 2], kill=True))
        assert bench.told("executor") == []
        bench.resume("a", held=[1], functions=[1], workers=2)
        assert bench.told("executor") == [m.Verdicts([2], [])]
        assert bench.told("a") == [m.Cancel([1], kill=True)]
        bench.manager("a", m.Verdicts([], [1]))
        assert not bench.state.killing
        bench.told("executor")

    def test_what_it_knows_of_functions_counts(self, bench):
        bench.join("a", workers=2)
        bench.submit([task(1, fn=1), task(2, fn=2)])
        bench.told("a")
        cut(bench, "a")
        # The message with the functions never arrived.
        bench.resume("a", workers=2)
        (assign,) = bench.told("a")
        assert [function.id for function in assign.functions] == [1, 2]
        cut(bench, "a")
        bench.resume("a", workers=2, functions=[1])
        (assign,) = bench.told("a")
        assert [function.id for function in assign.functions] == [2]

    def test_a_function_that_it_should_have_forgotten_is_forgotten_in_the_end(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.submit([], forget=[1])
        bench.told("executor")
        cut(bench, "a")
        bench.resume("a", workers=1, functions=[1])
        assert not bench.state.knowers.get(1)
        bench.submit(tasks(2, fn=2))
        (assign,) = bench.told("a")
        assert assign.forget == [1]

    def test_a_function_that_was_forgotten_while_it_was_away(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        cut(bench, "a")
        bench.submit([], forget=[1])
        bench.resume("a", workers=1, functions=[1])
        assert bench.state.knowers == {}
        bench.submit(tasks(2, fn=2))
        (assign,) = bench.told("a")
        assert assign.forget == [1]

    def test_a_forgotten_function_that_it_never_got_needs_no_word(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        bench.submit([], forget=[1])
        cut(bench, "a")
        bench.resume("a", workers=1)
        bench.submit(tasks(2, fn=2))
        (assign,) = bench.told("a")
        assert assign.forget == []

    def test_a_word_that_never_came_is_said_again(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        bench.submit([], forget=[1])
        bench.submit(tasks(2, fn=2))
        assert bench.told("a")[0].forget == [1]
        cut(bench, "a")
        bench.resume("a", workers=1, functions=[1])
        (assign,) = bench.told("a")
        assert (assign.forget, [function.id for function in assign.functions]) == ([1], [2])

    def test_held_it_is_held_when_it_comes_back(self, bench):
        bench.join("a")
        bench.ask("hold", "a")
        cut(bench, "a")
        bench.resume("a")
        bench.submit(tasks(1))
        assert bench.told("a") == []
        bench.told("executor")

    @pytest.mark.parametrize("before", [False, True], ids=["while it is away", "before"])
    def test_drained_it_is_told_when_it_comes_back(self, bench, before):
        bench.join("a")
        if before:
            bench.ask("drain", "a")
            bench.told("a")
        cut(bench, "a")
        if not before:
            bench.ask("drain", "a")
        bench.told("executor")
        bench.resume("a")
        assert bench.told("a") == [m.Drain("as it was told before")]
        cut(bench, "a")
        bench.resume("a", draining="as it was told before")
        assert bench.told("a") == [], "it knows"
        bench.submit(tasks(1))
        assert bench.told("a") == []

    def test_one_that_drains_by_now_is_given_nothing(self, bench):
        bench.join("a")
        cut(bench, "a")
        bench.resume("a", draining="SIGTERM")
        bench.submit(tasks(1))
        assert bench.told("a") == []

    def test_its_time_is_over_while_it_is_away(self, bench):
        bench.join("a", ends_in=50.0)
        cut(bench, "a")
        bench.tick(60.0)
        assert bench.told("a") == []
        bench.resume("a", ends_in=0.0)
        bench.tick(0.1)
        assert bench.told("a") == [m.Drain("its time is over")]

    def test_over_another_connection_while_the_first_still_stands(self, bench):
        """The interchange has not noticed yet that the first is broken."""
        busy(bench, "a", 1, 2)
        former = bench.peers["a"]
        bench.resume("a", held=[1], functions=[1], workers=2)
        assert bench.boxes.pop(former) == [Gone("it came back over another connection")]
        assert bench.assigned("a") == [2]
        bench.reactor.peer_left(former, "reset", bench.now, gone=False)
        bench.step()
        assert bench.state.managers["a"].peer == bench.peers["a"]
        bench.reactor.manager_said(former, m.Heartbeat(), [b""], bench.now)
        bench.step()
        assert bench.state.malformed == 1

    def test_another_one_of_its_id_is_refused_while_it_is_there(self, bench):
        bench.join("a")
        first = bench.peers["a"]
        bench.say_hello("a")
        refused, _ = bench.told("a")
        assert refused == m.Refused("a manager with the id a is registered already")
        bench.peers["a"] = first
        bench.told("executor")
        bench.logged("ERROR")

    def test_a_task_that_it_should_not_have_is_killed(self, bench):
        busy(bench, "a", 1)
        cut(bench, "a")
        bench.resume("a", held=[1, 77], functions=[1], workers=2)
        assert bench.told("a") == [m.Cancel([77], kill=True)]
        (text,) = bench.logged("ERROR")
        assert "1 tasks that are not its own" in text

    def test_it_is_silent_again_for_a_whole_threshold_before_it_is_lost(self, bench):
        bench.join("a")
        cut(bench, "a")
        bench.tick(THRESHOLD - 1.0)
        bench.resume("a")
        bench.tick(THRESHOLD - 1.0)
        assert "a" in bench.state.managers
        bench.tick(1.0)
        assert "a" not in bench.state.managers
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")


class TestTooLate:
    def test_one_that_was_given_up_is_told_to_start_over_and_its_results_are_counted(self, bench):
        busy(bench, "a", 1, 2, 3)
        cut(bench, "a")
        bench.tick(THRESHOLD)
        bench.told("executor")
        bench.logged("ERROR")
        bench.say_hello("a", again=True, held=[1], ended=[(1, [2]), (2, [3])])
        refused, gone = bench.told("a")
        assert refused.again
        assert "given up before it came back: 2 late results and 1 tasks" in refused.reason
        assert gone == Gone(refused.reason)
        assert bench.told("executor") == []
        assert len(bench.logged("WARNING")) == 1
        status = bench.state.status(bench.now)
        assert (status.late_results, status.refused_managers) == (2, 0)
        bench.join("a2")

    def test_silent_over_a_connection_it_is_let_go_and_may_start_over(self, bench):
        busy(bench, "a", 1)
        bench.tick(THRESHOLD)
        assert isinstance(bench.told("a")[-1], Gone)
        bench.told("executor")
        bench.logged("ERROR")
        bench.say_hello("a", again=True, held=[1])
        assert bench.told("a")[0].again
        bench.logged("WARNING")

    @pytest.mark.parametrize("options", [{"held": [5]}, {"ended": [(3, [5])]}], ids=["tasks", "results"])
    def test_one_that_nobody_knows_and_that_has_something_starts_over(self, bench, options):
        bench.say_hello("a", again=True, **options)
        refused, _ = bench.told("a")
        assert refused.again
        bench.logged("WARNING")

    def test_one_that_nobody_knows_and_that_has_nothing_is_welcome(self, bench):
        assert bench.resume("a") == m.Welcome(PROTOCOL_VERSION, PERIOD, THRESHOLD)
        assert bench.told("executor") == [m.ManagerJoined("a", "host-a", "0", 2)]

    def test_of_another_version_it_is_refused_for_good(self, bench):
        bench.say_hello("a", again=True, held=[5], protocol=1)
        refused, _ = bench.told("a")
        assert not refused.again
        assert "speaks protocol 1" in refused.reason
        bench.told("executor")
        bench.logged("ERROR")

    def test_only_so_many_are_remembered(self, bench, monkeypatch):
        monkeypatch.setattr(reactor_module, "LOST_REMEMBERED", 2)
        for name in ("a", "b", "c"):
            bench.join(name)
            bench.close(name)
            bench.told(name)
        assert list(bench.state.lost) == ["b", "c"]
        bench.told("executor")
        bench.logged("ERROR")


# ---------------------------------------------------------------------------------------------------- obituaries


class TestObituary:
    def test_of_one_that_is_absent_loses_it_at_once(self, bench):
        busy(bench, "a", 1)
        cut(bench, "a")
        peer = bench.die("a", "process 4000 of manager a was killed by signal 9")
        left, lost = bench.told("executor")
        assert left.reason == lost.reason == "process 4000 of manager a was killed by signal 9"
        assert lost.tasks == [1]
        assert bench.boxes.pop(peer) == [Gone("thank you")]
        bench.logged("ERROR")

    def test_of_one_that_has_a_connection_leaves_its_last_messages_time(self, bench):
        busy(bench, "a", 1, 2)
        bench.boxes.pop(bench.die("a", "killed"))
        assert bench.told("executor") == []
        bench.results("a", 1)
        assert [message.tasks for message in bench.told("executor")] == [[1]]
        bench.tick(DYING_SECONDS - 0.1)
        assert bench.told("executor") == []
        bench.tick(0.1)
        left, lost = bench.told("executor")
        assert left.reason == "killed"
        assert lost.tasks == [2]
        bench.told("a")
        bench.logged("ERROR")

    def test_the_end_of_its_connection_ends_the_wait(self, bench):
        busy(bench, "a", 1)
        bench.boxes.pop(bench.die("a", "killed"))
        bench.close("a", "reset", gone=False)
        left, lost = bench.told("executor")
        assert (left.reason, lost.tasks) == ("killed", [1])
        bench.told("a")
        bench.logged("ERROR")

    def test_of_an_unknown_one_means_nothing(self, bench):
        assert bench.boxes.pop(bench.die("ghost")) == [Gone("thank you")]

    def test_before_the_executor_has_spoken_it_waits(self):
        bench = Bench(restore=None)
        bench.die("a", "killed")
        bench.executor(m.Restore(True, [m.Expected("a", "host-a", "0", [1])]))
        left, lost = bench.told("executor")
        assert (left.reason, lost.tasks) == ("killed", [1])


class TestNotesOfTheDead:
    """What a manager had given to workers, as far as its notes could be read: nothing else has started."""

    def test_what_was_not_given_to_a_worker_runs_elsewhere(self, bench):
        busy(bench, "a", 1, 2, 3, 4)
        bench.close("a", given={1, 3, 99})
        _, lost = bench.told("executor")
        assert lost.tasks == [1, 3]
        assert bench.waiting() == [2, 4]
        bench.join("b", workers=2)
        assert bench.assigned("b") == [2, 4]
        bench.told("executor")
        bench.told("a")
        bench.logged("ERROR")

    def test_what_is_being_cancelled_and_was_not_given_is_cancelled(self, bench):
        busy(bench, "a", 1, 2)
        bench.executor(m.Cancel([2]))
        bench.told("a")
        bench.close("a", given={1})
        verdicts, _, lost = bench.told("executor")
        assert verdicts.cancelled == [2]
        assert lost.tasks == [1]
        assert bench.waiting() == []
        bench.told("a")
        bench.logged("ERROR")

    def test_the_zygote_tells_them_elsewhere(self, bench):
        busy(bench, "a", 1, 2)
        cut(bench, "a")
        peer = bench.die("a", "killed", given=[2])
        _, lost = bench.told("executor")
        assert lost.tasks == [2]
        assert bench.waiting() == [1]
        bench.executor(m.Cancel([1]))
        bench.told("executor")
        bench.boxes.pop(peer)
        bench.logged("ERROR")


# ------------------------------------------------------------------------------------------ another interchange


def follow(*managers: m.Expected, lost: tuple[str, ...] = ()) -> Bench:
    """A bench whose interchange follows another."""
    return Bench(reconnect=RECONNECT, restore=m.Restore(True, list(managers), list(lost)))


@pytest.fixture
def successor() -> Iterator[Bench]:
    """An interchange that is told of manager a with tasks 1 to 4, of which the executor has 7 messages of results."""
    bench = follow(m.Expected("a", "host-a", "0", [1, 2, 3, 4], 7))
    (text,) = bench.logged("WARNING")
    assert "1 managers of the former interchange may have 4 tasks: they have 10 s to come back" in text
    yield bench
    bench.emptiness_check()


class TestSuccessor:
    def test_what_managers_may_have_is_noted_once_more(self, successor):
        assert successor.notes == dict.fromkeys([1, 2, 3, 4], "a")
        assert successor.state.owners.keys() == {1, 2, 3, 4}
        assert all(owner.id == "a" for owner in successor.state.owners.values())

    def test_a_manager_comes_back_and_goes_on(self, successor):
        welcome = successor.resume("a", workers=4, held=[1, 2], ended=[(7, [9]), (8, [3])], functions=[1])
        assert (welcome.received, welcome.seen) == (7, 7)
        joined, returned = sorted(successor.told("executor"), key=lambda message: type(message).__name__)
        assert joined == m.ManagerJoined("a", "host-a", "0", 4)
        assert returned == m.Returned("a", [4], 0), "only the executor knows more than its number"
        assert successor.notes[4] == ""
        successor.results("a", 3, number=8)
        successor.results("a", 1, 2, number=9)
        assert [message.tasks for message in successor.told("executor")] == [[3], [1, 2]]
        assert successor.state.owners == {}

    def test_what_was_handed_back_is_submitted_and_runs(self, successor):
        successor.resume("a", workers=4)
        successor.told("executor")
        successor.submit(tasks(1, 2, 3, 4))
        assert successor.assigned("a") == [1, 2, 3, 4]
        assert all(
            task.function == 1
            for task in successor.state.owners.tasks(successor.state.managers["a"]).values()
        )

    def test_tasks_of_which_only_the_number_is_known_may_be_given_back(self, successor):
        successor.resume("a", workers=1, held=[1, 2, 3, 4], functions=[1])
        record = successor.state.managers["a"]
        assert {task.function for task in successor.state.owners.tasks(record).values()} == {UNKNOWN_FUNCTION}
        successor.told("executor")
        successor.manager("a", m.Returned("a", [3, 4], 2))
        assert successor.told("executor") == [m.Returned("a", [3, 4], 0)]
        successor.manager("a", m.Draining("a", "SIGTERM"))
        successor.results("a", 1, number=8)
        successor.manager("a", m.Leaving("a", "SIGTERM"))
        told = successor.told("executor")
        assert m.Returned("a", [2], 0) in told
        assert isinstance(told[-1], m.ManagerLeft)
        successor.told("a")

    def test_what_is_being_cancelled_is_not_handed_back(self, successor):
        successor.executor(m.Cancel([1, 2, 3], kill=True))
        assert successor.told("executor") == []
        successor.resume("a", workers=4, held=[1], functions=[1])
        told = successor.told("executor")
        assert m.Verdicts([2, 3], []) in told
        assert m.Returned("a", [4], 0) in told
        assert successor.told("a") == [m.Cancel([1], kill=True)]

    def test_one_that_does_not_come_back_is_lost(self, successor):
        successor.tick(RECONNECT - 0.1)
        assert successor.told("executor") == []
        successor.tick(0.1)
        left, lost = successor.told("executor")
        assert (left.host, left.block, left.lost) == ("host-a", "0", True)
        assert lost.tasks == [1, 2, 3, 4]
        successor.logged("ERROR")
        successor.say_hello("a", again=True, held=[1])
        assert successor.told("a")[0].again
        successor.logged("WARNING")

    def test_what_is_submitted_meanwhile_goes_to_others(self, successor):
        successor.join("b", workers=2)
        successor.submit(tasks(5, 6))
        assert successor.assigned("b") == [5, 6]

    def test_what_is_handed_in_twice_is_there_once(self, successor):
        successor.submit(tasks(5))
        successor.submit(tasks(5, 6))
        assert successor.waiting() == [5, 6]
        assert successor.state.submitted == 2
        successor.join("b", workers=2)
        assert successor.assigned("b") == [5, 6]
        successor.submit([task(5), task(1), task(7)])
        assert successor.waiting() == [7]

    def test_functions_that_are_forgotten_before_it_is_back(self, successor):
        successor.submit([], forget=[1])
        successor.resume("a", workers=4, held=[2], functions=[1, 2])
        successor.told("executor")
        successor.submit(tasks(5, fn=3))
        (assign,) = successor.told("a")
        assert assign.forget == [1], "what it holds may need the other"

    def test_functions_of_what_it_holds_are_forgotten_when_the_executor_says_so(self, successor):
        successor.resume("a", workers=4, held=[2], functions=[1, 2])
        successor.told("executor")
        successor.results("a", 2, number=8)
        successor.submit([], forget=[1, 2])
        successor.submit(tasks(5, fn=3))
        (assign,) = successor.told("a")
        assert assign.forget == [1, 2]
        successor.told("executor")

    def test_functions_that_nobody_may_need_are_forgotten(self, successor):
        successor.resume("a", workers=4, functions=[1, 2])
        successor.told("executor")
        successor.submit(tasks(1, fn=1))
        (assign,) = successor.told("a")
        assert (assign.forget, [function.id for function in assign.functions]) == ([2], [1])

    def test_holds_outlive_it(self):
        bench = follow(m.Expected("a", "host-a", "0", [], 0, held=True))
        bench.resume("a")
        bench.submit(tasks(1))
        assert bench.told("a") == []
        assert bench.state.status(bench.now).managers_held == 1

    def test_those_that_were_given_up_stay_so(self):
        bench = follow(lost=("z", "a"))
        assert list(bench.state.lost) == ["z", "a"]
        bench.say_hello("a", again=True)
        assert bench.told("a")[0].again

    def test_only_so_many_of_them_are_remembered(self):
        names = tuple(f"m{number}" for number in range(LOST_REMEMBERED + 2))
        assert list(follow(lost=names).state.lost)[:1] == ["m2"]

    def test_results_of_one_that_is_back_are_known_by_their_number(self, successor):
        successor.resume("a", workers=4, held=[1, 2, 3, 4], functions=[1])
        successor.told("executor")
        successor.results("a", 1, number=7)
        assert successor.told("executor") == [], "the executor has the seventh"

    def test_it_is_told_once(self, successor):
        successor.executor(m.Restore(True, [m.Expected("b", "h", "0", [9])]))
        assert successor.state.malformed == 1
        assert "b" not in successor.state.managers


class TestEarly:
    """Managers that find the new interchange before its executor has told it of the former one."""

    def test_they_are_answered_once_it_has(self):
        bench = Bench(restore=None)
        bench.say_hello("a", again=True, held=[1], functions=[1])
        bench.say_hello("b", workers=2)
        bench.say_hello("c", again=True, held=[3])
        assert bench.box("a") == bench.box("b") == bench.box("c") == []
        assert bench.state.managers == {}
        bench.executor(m.Restore(True, [m.Expected("a", "host-a", "0", [1, 2], 4)], ["c"]))
        welcome, *_ = bench.told("a")
        assert (welcome.received, welcome.seen) == (4, 4)
        assert isinstance(bench.told("b")[0], m.Welcome)
        assert bench.told("c")[0].again
        assert bench.state.owners.keys() == {1}
        assert m.Returned("a", [2], 0) in bench.told("executor")

    def test_those_that_are_gone_again_are_not(self):
        bench = Bench(restore=None)
        bench.say_hello("a", again=True, held=[1])
        bench.close("a", "closed")
        bench.executor(m.Restore(True, [m.Expected("a", "host-a", "0", [1])]))
        assert bench.told("a") == []
        assert bench.state.managers["a"].view(bench.now).absent

    def test_the_first_interchange_of_a_run_expects_nobody(self):
        bench = Bench(restore=None)
        bench.say_hello("a")
        bench.executor(m.Restore())
        assert isinstance(bench.told("a")[0], m.Welcome)
        assert not bench.logged("WARNING")


# ---------------------------------------------------------------------------------------------- acknowledgements


class TestAcknowledgements:
    def test_one_rides_on_the_next_assignment(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        bench.executor(m.Submit(tasks(2), [], [], {"a": 1}))
        (assign,) = bench.told("a")
        assert assign.received == 1
        bench.tick(2 * ACKNOWLEDGE_SECONDS)
        assert bench.told("a") == []
        bench.results("a", 2)
        bench.submit(tasks(3))
        assert bench.told("a")[0].received == 0, "it is said once"
        bench.told("executor")

    def test_where_nothing_is_assigned_it_goes_after_a_moment(self, bench):
        busy(bench, "a", 1, 2, workers=2)
        bench.join("b", workers=2)
        bench.results("a", 1)
        bench.told("executor")
        bench.executor(m.Submit([], [], [], {"a": 1}))
        assert bench.reactor.next_deadline() == bench.now + ACKNOWLEDGE_SECONDS
        bench.tick(ACKNOWLEDGE_SECONDS / 2)
        assert bench.told("a") == []
        bench.tick(ACKNOWLEDGE_SECONDS / 2)
        assert bench.told("a") == [m.Acknowledged(1)]

    def test_one_that_comes_alone_is_passed_on_at_once(self, bench):
        busy(bench, "a", 1, 2)
        bench.join("b")
        bench.results("a", 1)
        bench.told("executor")
        bench.executor(m.Acknowledge({"a": 1, "b": 0, "ghost": 3}))
        assert bench.told("a") == [m.Acknowledged(1)]
        assert bench.told("b") == []
        bench.executor(m.Acknowledge({"a": 1}))
        assert bench.told("a") == [], "that is no news"

    def test_one_that_is_away_hears_it_with_its_welcome(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        cut(bench, "a")
        bench.executor(m.Acknowledge({"a": 1}))
        welcome = bench.resume("a", ended=[(1, [1])], functions=[1])
        assert (welcome.received, welcome.seen) == (1, 1)
        bench.tick(2 * ACKNOWLEDGE_SECONDS)
        assert bench.told("a") == []

    def test_one_that_was_to_be_told_leaves(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.executor(m.Submit([], [], [], {"a": 1}))
        bench.close("a")
        bench.told("a")
        bench.told("executor")
        bench.logged("ERROR")
        bench.tick(2 * ACKNOWLEDGE_SECONDS)
        assert not bench.state.untold

    def test_one_that_was_to_be_told_is_cut_off(self, bench):
        busy(bench, "a", 1)
        bench.results("a", 1)
        bench.told("executor")
        bench.executor(m.Submit([], [], [], {"a": 1}))
        cut(bench, "a")
        assert bench.resume("a", ended=[(1, [1])]).received == 1


class TestHeartbeatsOfTheExecutor:
    def test_they_are_answered_at_once(self, bench):
        bench.executor(m.Heartbeat())
        assert bench.told("executor") == [m.Heartbeat()]


def test_verdicts_are_for_the_attempt_that_the_manager_has(bench):
    """What crosses with the end of an attempt must not settle the next one."""
    busy(bench, "a", 1)
    bench.executor(m.Cancel([1]))
    bench.told("a")
    bench.results("a", 1)
    bench.told("executor")
    bench.join("b", workers=1)
    bench.manager("a", m.Draining("a", "SIGTERM"))
    bench.submit(tasks(1))
    assert bench.assigned("b") == [1]
    bench.manager("a", m.Verdicts([1], []))
    bench.manager("a", m.Verdicts([], [1]))
    assert bench.told("executor") == []
    assert bench.state.owners[1].id == "b"


def test_the_very_frames_of_results_are_passed_on_after_a_return(bench):
    busy(bench, "a", 1)
    cut(bench, "a")
    bench.resume("a", held=[1], functions=[1], workers=1)
    bench.results("a", 1)
    (forward,) = [action for action in bench.trace if hasattr(action, "frames")]
    assert forward.frames is bench.raw
    ((told, frames),) = bench.told_with_frames("executor")
    assert Told(told, frames).message.tasks == [1]
    assert codec.decode_result_body(frames[0]) == [b"value of 1"]
