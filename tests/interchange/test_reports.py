"""What the interchange answers: status, managers, explanations, and questions that managers answer."""

from __future__ import annotations

import msgspec
import pytest

from tests.interchange.harness import PERIOD, Bench, Told, task, tasks
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.views import Explanation, ManagerView, RunView, StatusView

status_of: codec.Decoder[StatusView] = codec.Decoder(StatusView)
managers_of: codec.Decoder[list[ManagerView]] = codec.Decoder(list[ManagerView])
run_of: codec.Decoder[RunView] = codec.Decoder(RunView)
explanation_of: codec.Decoder[Explanation] = codec.Decoder(Explanation)

OBSERVER = 500
"""A peer that is no manager."""


def explain(bench: Bench, subject: object) -> Explanation:
    bench.ask("explain", str(subject))
    return explanation_of(bench.answer())


def observe(bench: Bench, topic: str, subject: str = "", request: int = 1) -> m.Answer:
    bench.observe(OBSERVER, m.Ask(request, topic, subject))
    (told,) = bench.boxes.pop(OBSERVER)
    assert isinstance(told, Told)
    return told.message


# ---------------------------------------------------------------------------------------------------- reports


def test_status_adds_everything_up(bench):
    bench.join("a", workers=4, cores=8, memory=100)
    bench.join("b", workers=2, cores=4, memory=50)
    bench.tick(5.0)
    bench.submit(tasks(1, 2, 3, 4, 5, 6, 7, 8))
    bench.results("a", bench.box("a")[0].message.tasks[0].id, busy=0.5)
    bench.ask("hold", "b")
    for name in ("a", "b", "executor"):
        bench.told(name)
    bench.ask("status")
    status = status_of(bench.answer())
    assert status == StatusView(
        run="run",
        label="label",
        uptime=5.0,
        cores=12,
        memory=150,
        managers=2,
        workers=6,
        idle_workers=0,
        pending=1,
        assigned=6,
        submitted=8,
        completed=1,
        core_seconds=0.5,
        managers_held=1,
    )


def test_managers_are_shown_as_they_are(bench):
    bench.join("a", workers=2, block="7", ends_in=100.0, pid=41, version="1.2", memory=64, cores=3)
    bench.tick(10.0)
    bench.submit(tasks(1))
    bench.tick(5.0)
    bench.told("a")
    bench.ask("managers")
    (view,) = managers_of(bench.answer())
    assert view == ManagerView(
        manager="a",
        host="host-a",
        block="7",
        pid=41,
        worker_count=2,
        idle_workers=1,
        tasks=1,
        idle_duration=0.0,
        active=True,
        draining=False,
        python_version="3.11.7",
        throughway_version="1.2",
        cores=3,
        memory=64,
        age=15.0,
        seconds_left=85.0,
        silence=15.0,
        log="/logs/a",
    )


def test_a_manager_is_idle_since_its_last_task_ended(bench):
    bench.join("a")
    bench.submit(tasks(1))
    bench.tick(10.0)
    bench.results("a", 1)
    bench.tick(4.0)
    assert bench.state.managers["a"].view(bench.now).idle_duration == 4.0
    bench.told("a")
    bench.told("executor")


def test_seconds_left_are_never_negative_and_none_without_an_end(bench):
    bench.join("a", ends_in=1.0)
    bench.join("b")
    bench.tick(2.0)
    bench.told("a")
    bench.ask("managers")
    assert [view.seconds_left for view in managers_of(bench.answer())] == [0.0, None]


def test_a_run_is_status_and_managers(bench):
    bench.join("a")
    bench.ask("run")
    view = run_of(bench.answer())
    assert view.status == bench.state.status(bench.now)
    assert [manager.manager for manager in view.managers] == ["a"]


def test_an_unknown_topic_is_answered_with_an_error(bench):
    bench.ask("weather", request=9)
    assert bench.told("executor") == [
        m.Answer(9, b"", "this interchange knows no topic 'weather' for this peer")
    ]


# -------------------------------------------------------------------------------------------------- observers


@pytest.mark.parametrize("topic", ["status", "managers", "run"])
def test_observers_may_look(bench, topic):
    bench.join("a")
    answer = observe(bench, topic, request=3)
    assert answer.request == 3
    assert answer.payload
    assert not answer.error


@pytest.mark.parametrize("topic", ["hold", "release", "drain", "explain", "packages"])
def test_observers_may_change_nothing_and_trouble_nobody(bench, topic):
    manager = bench.join("a")
    answer = observe(bench, topic, "a")
    assert "knows no topic" in answer.error
    assert manager.open


# ---------------------------------------------------------------------------------------------------- explain


class TestExplain:
    @pytest.mark.parametrize("subject", ["5", "", "x", "-1", "5.0"])
    def test_a_task_that_is_not_here(self, bench, subject):
        explanation = explain(bench, subject)
        assert explanation.state == "unknown"
        assert "its outcome is on its way" in explanation.waits_for

    def test_no_manager_at_all(self, bench):
        bench.submit(tasks(1, 2))
        explanation = explain(bench, 2)
        assert (explanation.task, explanation.state, explanation.ahead) == (2, "at the interchange", 1)
        assert explanation.waits_for.startswith("a manager: none is registered")

    def test_all_held_or_draining(self, bench):
        for name in ("a", "b", "c"):
            bench.join(name)
        for name in ("a", "b"):
            bench.ask("hold", name)
        bench.ask("drain", "c")
        bench.submit(tasks(1))
        bench.told("c")
        bench.told("executor")
        waits_for = explain(bench, 1).waits_for
        assert waits_for == "a manager that takes tasks: 2 of 3 are held, 1 drain"

    def test_no_manager_with_the_time(self, bench):
        bench.join("a", ends_in=500.0)
        bench.join("b", ends_in=100.0)
        bench.tick(20.0)
        bench.submit([task(1, walltime=900.0)])
        waits_for = explain(bench, 1).waits_for
        assert waits_for == "a manager with 900 s left for its walltime: the most that any has left is 480 s"

    def test_no_workers(self, bench):
        bench.join("a", workers=0)
        bench.submit(tasks(1))
        assert explain(bench, 1).waits_for.startswith("workers:")

    def test_all_workers_busy(self, bench):
        bench.join("a", workers=1, ends_in=1000.0)
        bench.submit([task(1), task(2, walltime=10.0), task(3)])
        bench.told("a")
        assert explain(bench, 3) == Explanation(3, "at the interchange", "a free worker", ahead=1)

    def test_an_assigned_task_is_explained_by_its_manager(self, bench):
        bench.join("a", block="4")
        bench.submit(tasks(1))
        bench.told("a")
        bench.ask("explain", "1", request=31)
        (question,) = bench.told("a")
        assert (question.topic, question.subject) == ("explain", "1")
        assert bench.told("executor") == []
        payload = codec.encode(Explanation(1, "running", manager="a", worker=1, seconds=2.0))
        bench.manager("a", m.Answer(question.request, payload))
        assert bench.told("executor") == [m.Answer(31, payload)]

    def test_a_manager_that_leaves_before_it_answers(self, bench):
        bench.join("a", block="4")
        bench.submit(tasks(1))
        bench.told("a")
        bench.ask("explain", "1", request=31)
        bench.close("a")
        answer, *_ = bench.told("executor")
        assert answer.request == 31
        assert explanation_of(answer.payload) == Explanation(
            1, "at a manager", manager="a", host="host-a", block="4", log="/logs/a"
        )
        bench.told("a")
        bench.logged("ERROR")

    def test_a_manager_that_knows_nothing(self, bench):
        bench.join("a")
        bench.submit(tasks(1))
        bench.told("a")
        bench.ask("explain", "1")
        (question,) = bench.told("a")
        bench.manager("a", m.Answer(question.request, b""))
        assert explanation_of(bench.answer()).state == "at a manager"

    def test_an_answer_to_nothing_and_one_too_many(self, bench):
        bench.join("a")
        bench.submit(tasks(1))
        bench.ask("explain", "1")
        question = bench.told("a")[-1]
        for _ in range(2):
            bench.manager("a", m.Answer(question.request, codec.encode(Explanation(1, "running"))))
        bench.manager("a", m.Answer(12345, b""))
        assert explanation_of(bench.answer()).state == "running"


# --------------------------------------------------------------------------------------------------- packages


class TestPackages:
    def questions(self, bench: Bench, *names: str) -> dict[str, int]:
        found = {}
        for name in names:
            (question,) = bench.told(name)
            assert question.topic == "packages"
            found[name] = question.request
        assert len(set(found.values())) == len(names)
        return found

    def packages(self, bench: Bench) -> dict[str, dict[str, str]]:
        return msgspec.msgpack.decode(bench.answer(), type=dict[str, dict[str, str]])

    def test_none_without_managers(self, bench):
        bench.ask("packages")
        assert self.packages(bench) == {}

    def test_they_are_gathered_from_all_and_answered_once(self, bench):
        bench.join("a")
        bench.join("b")
        bench.ask("packages")
        requests = self.questions(bench, "a", "b")
        bench.manager("b", m.Answer(requests["b"], codec.encode({"numpy": "2"})))
        assert bench.told("executor") == []
        bench.manager("a", m.Answer(requests["a"], codec.encode({"numpy": "1"})))
        assert self.packages(bench) == {"a": {"numpy": "1"}, "b": {"numpy": "2"}}

    def test_a_manager_that_leaves_is_left_out(self, bench):
        bench.join("a")
        bench.join("b")
        bench.ask("packages")
        requests = self.questions(bench, "a", "b")
        bench.manager("b", m.Answer(requests["b"], codec.encode({"numpy": "2"})))
        bench.close("a")
        answer, *_ = bench.told("executor")
        assert msgspec.msgpack.decode(answer.payload) == {"b": {"numpy": "2"}}
        bench.told("a")
        bench.logged("ERROR")

    def test_an_empty_answer_leaves_its_manager_out(self, bench):
        bench.join("a")
        bench.join("b")
        bench.ask("packages")
        requests = self.questions(bench, "a", "b")
        bench.manager("a", m.Answer(requests["a"], b""))
        bench.manager("b", m.Answer(requests["b"], codec.encode({})))
        assert self.packages(bench) == {"b": {}}

    def test_a_manager_that_never_answers_is_lost_by_its_silence(self, bench):
        bench.join("a")
        bench.ask("packages")
        bench.tick(4 * PERIOD)
        answer, left, _ = bench.told("executor")
        assert msgspec.msgpack.decode(answer.payload) == {}
        assert left.lost
        bench.told("a")
        bench.logged("ERROR")
