from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.fakes import FakeInterchange, answer, run_view
from tests.cli.terminal import Terminal
from throughway import HighThroughputExecutor
from throughway.cli.observer import ObserverRefused
from throughway.cli.status import watch
from throughway.errors import CommandTimeout, TransportError
from throughway.executors.run_folder import RunFolder, list_runs
from throughway.protocol import messages as m
from throughway.protocol.identifiers import RunId

pytestmark = pytest.mark.timeout(60)


class Output(io.StringIO):
    """Text that can be waited for while another thread writes it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            count = super().write(text)
            self._written.notify_all()
        return count

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        with self._written:
            assert self._written.wait_for(lambda: condition(self.getvalue()), 30), self.getvalue()


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "nowhere"
    output = Output()
    assert watch(Console(file=output), output, run_dir=str(place)) == 1
    assert f"nothing is running: no live run of this user in {place}" in capsys.readouterr().err
    assert output.getvalue() == ""


def test_ended_runs_are_not_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(RunId("ab12cd34"), "docking", tmp_path).end()
    assert watch(Console(file=Output()), Output(), run_dir=str(tmp_path)) == 1
    assert "nothing is running" in capsys.readouterr().err


def test_once_shows_what_the_executor_itself_tells(tmp_path: Path) -> None:
    with HighThroughputExecutor("docking", max_workers_per_node=1, run_dir=tmp_path) as executor:
        assert sum(executor.map(abs, range(100))) == 4950
        (manager,) = executor.connected_managers()
        output = Output()
        assert watch(Console(file=Output()), output, once=True, json=True, run_dir=str(tmp_path)) == 0
        (line,) = output.getvalue().splitlines()
        found = json.loads(line)
        assert found["run"]["label"] == found["status"]["label"] == "docking"
        assert found["status"]["submitted"] == found["status"]["completed"] == 100
        assert found["status"]["outstanding"] == 0
        assert found["managers"][0]["manager"] == manager.manager
        assert found["managers"][0]["tasks_done"] == 100
        assert found["managers"][0]["state"] == "active"
        assert found["rates"]["tasks_out_per_second"] > 0

        executor.hold_manager(manager.manager)
        console = Console(file=Output(), width=80)
        assert watch(console, Output(), once=True, run="docking", run_dir=str(tmp_path)) == 0
        assert f"docking  run {found['run']['run']}" in text_of(console)
        row = next(line for line in text_of(console).splitlines() if str(manager.pid) in line)
        assert row.split()[-1] == "held"
        assert "rates are means since the run began" in text_of(console)


def test_one_of_several_is_named_by_id_or_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def view(label: str) -> Callable[[m.ObserverHello | m.Ask], list[m.Message]]:
        def reply(message: m.ObserverHello | m.Ask) -> list[m.Message]:
            shown = run_view(1)
            shown.status.label = label
            return [answer(message.request, shown)] if isinstance(message, m.Ask) else []

        return reply

    one = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    two = RunFolder(RunId("ef567890"), "folding", tmp_path)
    try:
        with FakeInterchange(one.socket, view("docking")), FakeInterchange(two.socket, view("folding")):
            assert watch(Console(file=Output()), Output(), once=True, run_dir=str(tmp_path)) == 1
            said = capsys.readouterr().err
            assert "several are running" in said
            assert "throughway status ab12cd34   docking, process " in said
            assert "throughway status ef567890   folding, process " in said
            assert (
                watch(Console(file=Output()), Output(), run="screening", once=True, run_dir=str(tmp_path))
                == 1
            )
            said = capsys.readouterr().err
            assert "no run 'screening' is running in" in said
            assert "throughway status ab12cd34" in said
            for name, label in (("folding", "folding"), ("ef", "folding"), ("ab12cd34", "docking")):
                output = Output()
                console = Console(file=Output())
                assert watch(console, output, run=name, once=True, json=True, run_dir=str(tmp_path)) == 0
                assert json.loads(output.getvalue())["run"]["label"] == label
    finally:
        one.end()
        two.end()


@pytest.mark.parametrize("kind", ["terminal", "plain", "json"])
def test_it_watches_until_the_run_ends(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, documents = Output(), Output()
    console = Console(file=text, width=80, height=24, force_terminal=kind == "terminal", color_system=None)
    statuses: list[int] = []

    def follow() -> None:
        statuses.append(watch(console, documents, json=kind == "json", interval=0.05, run_dir=str(tmp_path)))

    written = documents if kind == "json" else text
    sign = {"terminal": "tasks/s in", "plain": " tasks/s in", "json": "tasks_in_per_second"}[kind]
    with HighThroughputExecutor("docking", max_workers_per_node=1, run_dir=tmp_path) as executor:
        assert executor.submit(abs, -1).result(timeout=30) == 1
        (record,) = list_runs(tmp_path)
        thread = threading.Thread(target=follow)
        thread.start()
        written.wait_for(lambda text: text.count(sign) >= 3)
    thread.join(30)
    assert statuses == [0]
    ending = f"run {record.run} (docking) has ended; its logs are in {record.folder}"
    if kind == "json":
        assert ending in capsys.readouterr().err
        found = [json.loads(line) for line in documents.getvalue().splitlines()]
        assert [entry["status"]["completed"] for entry in found] == [1] * len(found)
        first, second = (entry["status"]["uptime"] for entry in found[:2])
        assert found[0]["rates"]["seconds"] == first
        assert found[1]["rates"]["seconds"] == pytest.approx(second - first)
        assert found[-1]["rates"]["tasks_out_per_second"] == 0
    else:
        assert text.getvalue().endswith(ending + "\n")
    if kind == "plain":
        lines = text.getvalue().splitlines()
        assert all(
            line.startswith(f"docking {record.run}, 1 manager, 1 worker (1 idle)") for line in lines[:-1]
        )


def test_ctrl_c_leaves_the_view_and_the_run_alone(tmp_path: Path) -> None:
    with HighThroughputExecutor("docking", max_workers_per_node=1, run_dir=tmp_path) as executor:
        assert executor.submit(abs, -1).result(timeout=30) == 1
        with Terminal("status", "--interval", "0.1", "--run-dir", str(tmp_path)) as terminal:
            terminal.read_until("active")
            shown = terminal.screen.replace("\r", "\n").splitlines()
            terminal.press_ctrl_c()
            assert terminal.wait() == 0
        assert "Traceback" not in terminal.screen
        assert max(map(len, shown)) <= 80
        assert executor.submit(abs, -2).result(timeout=30) == 2


def test_an_interchange_that_does_not_answer_is_said_and_asked_again(tmp_path: Path) -> None:
    silent = threading.Event()

    def reply(message: m.ObserverHello | m.Ask) -> list[m.Message] | None:
        if not isinstance(message, m.Ask):
            return []
        if message.request == 1:
            return [answer(1, run_view(2))]
        if not silent.is_set():
            silent.set()
            return []
        return None

    folder = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    try:
        console = Console(file=Output(), width=80, height=24, force_terminal=True, color_system=None)
        with FakeInterchange(folder.socket, reply):
            assert watch(console, Output(), interval=0.01, run_dir=str(tmp_path), timeout=2.0) == 0
    finally:
        folder.end()
    assert "did not answer within 2 s" in " ".join(text_of(console).split())
    assert "has ended" in text_of(console)


def test_without_any_answer_it_fails(tmp_path: Path) -> None:
    folder = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    try:
        with (
            FakeInterchange(folder.socket, lambda message: []),
            pytest.raises(CommandTimeout, match="stopped or overloaded"),
        ):
            watch(Console(file=Output()), Output(), run_dir=str(tmp_path), timeout=0.1)
    finally:
        folder.end()


def test_a_refusal_is_shown(tmp_path: Path) -> None:
    folder = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    try:
        with (
            FakeInterchange(folder.socket, lambda message: [m.Refused("it speaks protocol 7")]),
            pytest.raises(ObserverRefused, match="it speaks protocol 7"),
        ):
            watch(Console(file=Output()), Output(), once=True, run_dir=str(tmp_path))
    finally:
        folder.end()


def test_a_run_without_its_socket_is_told_with_its_logs(tmp_path: Path) -> None:
    folder = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    try:
        with pytest.raises(TransportError, match=f"its logs are in {folder.path}"):
            watch(Console(file=Output()), Output(), once=True, run_dir=str(tmp_path))
    finally:
        folder.end()
