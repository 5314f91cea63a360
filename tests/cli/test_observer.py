from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.fakes import HANG_UP, FakeInterchange, answer, run_view
from throughway import HighThroughputExecutor
from throughway.cli.observer import Observer, ObserverRefused, RunEnded
from throughway.errors import CommandTimeout, ProtocolError, TransportError
from throughway.executors.run_folder import list_runs
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION


def test_it_says_hello_and_asks(tmp_path: Path) -> None:
    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message]:
        return [answer(message.request, run_view(2, completed=7))] if isinstance(message, m.Ask) else []

    path = str(tmp_path / "sock")
    with FakeInterchange(path, reply) as interchange, Observer(path) as observer:
        assert observer.run_view() == run_view(2, completed=7)
        assert observer.run_view().status.completed == 7
    assert interchange.heard == [m.ObserverHello(PROTOCOL_VERSION), m.Ask(1, "run"), m.Ask(2, "run")]


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="No such file or directory"):
        Observer(str(tmp_path / "sock"))


def test_an_answer_that_does_not_come_is_given_up_and_a_later_one_taken(tmp_path: Path) -> None:
    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message]:
        if not isinstance(message, m.Ask) or message.request == 1:
            return []
        return [answer(1, run_view(completed=1)), answer(2, run_view(completed=2))]

    path = str(tmp_path / "sock")
    with FakeInterchange(path, reply), Observer(path, timeout=0.1) as observer:
        with pytest.raises(CommandTimeout, match=re.escape(f"{path} did not answer within 0.1 s")):
            observer.run_view()
        observer._timeout = 30.0
        assert observer.run_view().status.completed == 2


@pytest.mark.parametrize("moment", ["hello", "question"])
def test_a_refusal_is_told(tmp_path: Path, moment: str) -> None:
    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message]:
        if isinstance(message, m.ObserverHello):
            return [m.Refused("it speaks protocol 7")] if moment == "hello" else []
        return [m.Answer(message.request, b"", "it knows no topic 'run'")]

    path = str(tmp_path / "sock")
    said = "it speaks protocol 7" if moment == "hello" else "it knows no topic 'run'"
    with (
        FakeInterchange(path, reply),
        Observer(path) as observer,
        pytest.raises(ObserverRefused, match=re.escape(said)),
    ):
        observer.run_view()


def test_the_end_of_the_run_is_told_while_asking_and_while_waiting(tmp_path: Path) -> None:
    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message] | None:
        return HANG_UP if isinstance(message, m.Ask) or message.protocol == 99 else []

    path = str(tmp_path / "sock")
    with FakeInterchange(path, reply):
        with Observer(path) as observer, pytest.raises(RunEnded, match="is gone"):
            observer.run_view()
        with Observer(path, protocol=99) as observer, pytest.raises(RunEnded, match="is gone"):
            observer.wait(30)


def test_an_answer_that_is_no_view_is_refused(tmp_path: Path) -> None:
    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message]:
        return [m.Answer(message.request, b"\x93no")] if isinstance(message, m.Ask) else []

    path = str(tmp_path / "sock")
    with (
        FakeInterchange(path, reply),
        Observer(path) as observer,
        pytest.raises(ProtocolError, match="no view of a run"),
    ):
        observer.run_view()


def test_a_real_interchange_refuses_another_version_and_goes_on(tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path) as executor:
        executor.start()
        (record,) = list_runs(tmp_path)
        with (
            Observer(record.socket, protocol=PROTOCOL_VERSION + 1) as stranger,
            pytest.raises(
                ObserverRefused, match=f"protocol {PROTOCOL_VERSION}, the observer {PROTOCOL_VERSION + 1}"
            ),
        ):
            stranger.run_view()
        assert executor.submit(pow, 2, 5).result(timeout=30) == 32
        with Observer(record.socket) as observer:
            view = observer.run_view()
            assert view.status.run == record.run
            assert view.status.completed == 1
            assert [manager.worker_count for manager in view.managers] == [1]
            executor.shutdown()
            with pytest.raises(RunEnded):
                observer.run_view()
