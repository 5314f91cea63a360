"""Whole managers in processes of their own; the test is their interchange, over a Unix socket."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import msgspec
import pytest

from tests.processes import alive, living, process_ids, process_record, title
from tests.waiting import wait_until
from tests.worker import tasks
from throughway.manager.reactor import Link
from throughway.manager.shell import FAREWELL_SECONDS, SIGTERM_SECONDS, ManagerShell, installed_packages
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.bundles import FromZygote
from throughway.protocol.configuration import ManagerConfig, WorkerConfig, write_configuration
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.protocol.views import Explanation
from throughway.serialize.exceptions import unpack_exception
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call, unpack_result
from throughway.transport.interface import Arrival, Closed, Opened
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire, listening_socket

ROOT = str(Path(__file__).parents[2])
SECONDS = 20.0
PREFETCH = 1000
"""A manager that adapts would give back what takes long, and expect it again later."""
Start: TypeAlias = Callable[..., "Manager"]


class Manager:
    """A manager's process, and the interchange to which it belongs."""

    def __init__(
        self, folder: Path, *, welcome: bool = True, worker: dict[str, Any] | None = None, **config: Any
    ) -> None:
        self.folder = folder
        path = str(folder / "interchange")
        self._wire = UnixWire.listen(listening_socket(path))
        self._poller = Poller()
        self._wire.register(self._poller)
        document = ManagerConfig(
            run="r1",
            block="0",
            folder=str(folder),
            socket=path,
            worker=WorkerConfig(**{"sys_path": [ROOT], "working_directory": str(folder), **(worker or {})}),
            **{"max_workers_per_node": 2, "cores_per_worker": 0.1, "prefetch_capacity": PREFETCH, **config},
        )
        write_configuration(document, folder / "manager.json")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "throughway.manager", str(folder / "manager.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.messages: list[Any] = []
        """what it said"""
        self.outcomes: dict[int, m.Outcome] = {}
        self.values: dict[int, Any] = {}
        """task → its value, its exception, or its loss"""
        self.gone = False
        self._peer = -1
        self._table = FunctionTable()
        self._entries: list[Any] = []
        self._sent: set[int] = set()
        self._next = 1
        self.hello: m.ManagerHello = self._wait_for_hello()
        if welcome:
            self.say(m.Welcome(PROTOCOL_VERSION, 30.0, 120.0))

    def _wait_for_hello(self) -> m.ManagerHello:
        self.pump(lambda: bool(self.messages), "its hello")
        hello = self.messages.pop()
        assert isinstance(hello, m.ManagerHello)
        return hello

    # ------------------------------------------------------------------------------------------------------- saying

    def say(self, message: m.Message, frames: Sequence[Any] = ()) -> None:
        self._wire.send(self._peer, [codec.encode(message), *frames])

    def assign(self, *calls: tuple[Any, ...], walltime: float = 0.0) -> list[int]:
        """Give it calls, each a function and its arguments; returns the tasks' numbers."""
        assigned, functions, frames = [], {}, []
        for fn, *arguments in calls:
            entry = self._table.lookup(fn)
            self._entries.append(entry)
            payload, large = pack_call(tuple(arguments), {})
            frames += large
            functions[entry.function.id] = entry.function
            assigned.append(m.Task(self._next, entry.function.id, payload, len(large), 0, walltime))
            self._next += 1
        new = [function for number, function in functions.items() if number not in self._sent]
        self._sent.update(functions)
        self.say(m.Assign(assigned, new), frames)
        return [one.id for one in assigned]

    def occupy(self, until: Path | None = None) -> list[int]:
        """Give both workers a task that runs until this file is there, or for ever; waits until they run them."""
        flags = [str(self.folder / f"begun-{number}") for number in range(2)]
        end = str(until or self.folder / "never")
        numbers = self.assign(*[(tasks.make_file_and_wait, flag, end) for flag in flags])
        wait_until(lambda: all(map(os.path.exists, flags)), what="both tasks to run")
        return numbers

    def cancel(self, *numbers: int, kill: bool = False) -> None:
        self.say(m.Cancel(list(numbers), kill))

    def ask(self, topic: str, subject: str = "") -> bytes:
        """Ask it something, and wait for the answer."""
        self.say(m.Ask(7, topic, subject))
        return bytes(self.wait_for(m.Answer).payload)

    # ------------------------------------------------------------------------------------------------------ hearing

    def pump(self, condition: Callable[[], bool], what: str) -> None:
        """Hear what it says until the condition holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"waited {SECONDS:g} s in vain for {what}; its log: {self.log()}"
            if not self._wire.pending():
                self._poller.wait(left)
            for event in self._wire.receive():
                if isinstance(event, Opened):
                    self._peer = event.peer
                elif isinstance(event, Closed):
                    self.gone = True
                else:
                    self._arrived(event)

    def _arrived(self, event: Arrival) -> None:
        header, *frames = event.frames
        if not hasattr(self, "hello"):
            self.messages.append(codec.decode_hello(header))
            return
        message = codec.decode_from_manager(header)
        if not isinstance(message, m.Heartbeat):
            self.messages.append(message)
        if isinstance(message, m.Results):
            self.say(m.Acknowledged(message.number))
            payloads = codec.decode_result_body(frames[0])
            at = 1
            for index, number in enumerate(message.tasks):
                count = message.frames.get(index, 0)
                self._settle(
                    number, m.Outcome(message.outcomes[index]), payloads[index], frames[at : at + count]
                )
                at += count

    def _settle(self, number: int, outcome: m.Outcome, payload: bytes, frames: Sequence[Any]) -> None:
        assert number not in self.outcomes, f"task {number} has two outcomes"
        self.outcomes[number] = outcome
        if outcome == m.Outcome.VALUE:
            self.values[number] = unpack_result(payload, frames)
        elif outcome in (m.Outcome.EXCEPTION, m.Outcome.FAILED):
            self.values[number] = unpack_exception(payload)
        else:
            self.values[number] = codec.decode_loss(payload)

    def wait_for(self, kind: type[Any]) -> Any:
        """The next message of this kind, which is taken out."""
        self.pump(lambda: any(isinstance(one, kind) for one in self.messages), f"a {kind.__name__}")
        found = next(one for one in self.messages if isinstance(one, kind))
        self.messages.remove(found)
        return found

    def results(self, *numbers: int) -> list[Any]:
        """What these tasks gave, waiting for them."""
        self.pump(lambda: self.outcomes.keys() >= set(numbers), f"the outcomes of {numbers}")
        return [self.values[number] for number in numbers]

    def run(self, *call: Any) -> Any:
        """Run one call and return what it gave."""
        (result,) = self.results(*self.assign(call))
        return result

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        self.pump(lambda: self.gone, "its end")
        return self.process.wait(SECONDS)

    def output(self) -> str:
        """What it printed. Only after its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("manager-*.log"))

    def family(self) -> list[int]:
        """The process ids of its zygote and its workers, at this moment."""
        records = living(process_ids())
        members = [self.process.pid]
        for member in members:  # and theirs: numbers begin again at the highest, so their order says nothing
            members += [record.pid for record in records if record.parent == member]
        return members[1:]

    def zygote(self) -> int:
        # A worker that was forked just now has its title still.
        (pid,) = [
            pid
            for pid in self.family()
            if title(pid) == "throughway-zygote"
            and (record := process_record(pid)) is not None
            and record.parent == self.process.pid
        ]
        return pid

    def close(self) -> None:
        self._wire.close()
        self._poller.close()
        if self.process.poll() is None:
            self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a manager with two workers."""
    made: list[Manager] = []

    def make(**config: Any) -> Manager:
        made.append(Manager(tmp_path, **config))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(start: Start) -> Manager:
    return start()


# ---------------------------------------------------------------------------------------------------- a normal life


def test_a_manager_introduces_itself_runs_tasks_and_ends_when_it_is_told_to(manager: Manager) -> None:
    hello = manager.hello
    assert (hello.protocol, hello.python, hello.block) == (PROTOCOL_VERSION, python_version(), "0")
    assert (hello.workers, hello.capacity, hello.pid) == (2, 2 + PREFETCH, manager.process.pid)
    assert hello.memory > 1 << 20 and hello.cores >= 1
    assert manager.results(*manager.assign(*[(tasks.double, number) for number in range(300)])) == [
        2 * number for number in range(300)
    ]
    wait_until(lambda: len(manager.family()) == 3, what="a zygote and two workers")
    family = manager.family()
    manager.say(m.Shutdown("that is all"))
    assert manager.wait() == 0
    assert not any(map(alive, family))
    assert manager.output() == ""
    assert "manager ends: that is all" in manager.log()


def test_large_arguments_and_results_pass_through(manager: Manager) -> None:
    data = os.urandom(4 << 20)
    calls = [(tasks.double, data), (tasks.double, 1), (tasks.zeros, 8 << 20), (len, data)]
    assert manager.results(*manager.assign(*calls)) == [data + data, 2, bytes(8 << 20), 4 << 20]


def test_workers_know_their_place(manager: Manager) -> None:
    numbers = manager.assign(*[(tasks.environment, "THROUGHWAY_WORKER_RANK")] * 50)
    assert set(manager.results(*numbers)) <= {"0", "1"}
    assert manager.run(tasks.environment, "THROUGHWAY_MANAGER_ID") == manager.hello.id
    assert manager.run(tasks.environment, "THROUGHWAY_RUN_ID") == "r1"
    assert manager.run(tasks.directory) == str(manager.folder)


def test_accelerators_are_shared_out_and_given_back(start: Start) -> None:
    manager = start(available_accelerators=["3", "5"])
    for _ in range(3):
        numbers = manager.assign(*[(tasks.environment, "CUDA_VISIBLE_DEVICES")] * 20)
        assert set(manager.results(*numbers)) <= {"3", "5"}
        manager.run(tasks.kill_self)


def test_packages_are_told(manager: Manager) -> None:
    packages = msgspec.msgpack.decode(manager.ask("packages"))
    assert packages == installed_packages()
    assert "msgspec" in packages


def test_a_message_that_makes_no_sense_is_dropped(manager: Manager) -> None:
    for header in (b"", b"nonsense", b"\xc1", codec.encode(m.Listening(1))):
        manager._wire.send(manager._peer, [header])
    assert manager.run(tasks.double, 1) == 2
    told = "dropped a message of the interchange: malformed header of 8 bytes"
    wait_until(lambda: told in manager.log(), what="the line in its log")


def test_a_manager_that_is_refused_says_why(start: Start) -> None:
    manager = start(welcome=False)
    manager.say(m.Refused("install the same version"))
    assert manager.wait() == 1
    assert manager.output() == "throughway manager: refused by the interchange: install the same version\n"


def test_a_manager_whose_interchange_goes_ends_with_all_that_it_started(manager: Manager) -> None:
    child = manager.run(tasks.start_child)
    manager.occupy()
    family = manager.family()
    manager._wire.close()  # nobody listens any more either, as when the executor is gone, too
    assert manager.process.wait(SECONDS) == 1
    assert not any(map(alive, family))
    wait_until(lambda: not alive(child), what="the end of the child")
    assert manager.output().startswith("throughway manager: the interchange is gone")


def test_an_interchange_that_is_silent_is_given_up(start: Start) -> None:
    manager = start(heartbeat_period=0.05, heartbeat_threshold=0.3)
    assert manager.wait() == 1
    assert "heartbeat_threshold" in manager.output()


# ---------------------------------------------------------------------------------------------------------- draining


def test_a_termination_signal_drains(manager: Manager) -> None:
    flag = manager.folder / "flag"
    running = manager.occupy(until=flag)
    waiting = manager.assign(*[(tasks.double, 1)] * 3)
    os.kill(manager.process.pid, signal.SIGTERM)
    assert manager.wait_for(m.Draining).reason == "SIGTERM"
    assert sorted(manager.wait_for(m.Returned).tasks) == waiting
    flag.touch()
    assert manager.results(*running) == [str(flag)] * 2
    assert manager.wait_for(m.Leaving).reason == "SIGTERM"
    assert manager.wait() == 0


def test_a_second_termination_signal_ends_at_once(manager: Manager) -> None:
    manager.occupy()
    before = time.monotonic()
    os.kill(manager.process.pid, signal.SIGTERM)
    manager.wait_for(m.Draining)

    def again() -> bool:
        if manager._poller.ready():
            manager.pump(lambda: manager.gone or not manager._poller.ready(), "what it says last")
        if not manager.gone:
            os.kill(manager.process.pid, signal.SIGTERM)
        return manager.gone

    # One that comes within a second is the same one, handed on by somebody else.
    wait_until(again, SECONDS, "its end")
    assert time.monotonic() - before > SIGTERM_SECONDS
    assert manager.wait() == 0
    assert "manager ends: SIGTERM, again" in manager.log()


def test_an_interrupt_is_left_to_the_user_process(manager: Manager) -> None:
    os.kill(manager.process.pid, signal.SIGINT)
    assert manager.run(tasks.double, 1) == 2


def test_a_drain_period_drains(start: Start) -> None:
    manager = start(drain_period=0.2)
    assert manager.hello.ends_in is not None
    assert 0 <= manager.hello.ends_in <= 0.2
    assert manager.wait_for(m.Draining).reason == manager.wait_for(m.Leaving).reason == "its time is over"
    assert manager.wait() == 0


class NoZygote:
    """Starts nothing, and notes how it is closed."""

    obituaries: ClassVar[list[str]] = []

    def __init__(self, config: WorkerConfig, fork: object) -> None:
        self.control, self.theirs = socket.socketpair()

    def spawn(self, order: object, worker: Any, bell: int) -> None:
        worker.passed()

    def receive(self) -> FromZygote | None:
        return None

    def close(self, obituary: str = "") -> None:
        self.obituaries.append(obituary)
        self.control.close()
        self.theirs.close()


@pytest.fixture
def shell_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], ManagerShell]]:
    """Makes a manager's shell in this process, without workers; its interchange takes what is said."""
    monkeypatch.setattr("throughway.manager.shell.ZygoteClient", NoZygote)
    monkeypatch.setattr(NoZygote, "obituaries", [])
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = [(number, signal.getsignal(number)) for number in numbers]
    wire = UnixWire.listen(listening_socket(str(tmp_path / "wire")))
    config = ManagerConfig("r1", "0", str(tmp_path), socket=str(tmp_path / "wire"), max_workers_per_node=1)
    yield lambda: ManagerShell(
        config, "no document", lambda control: None, logging.getLogger("throughway.test")
    )
    wire.close()
    for number, handler in previous:
        signal.signal(number, handler)


def test_a_signal_is_acted_upon_between_two_events(
    monkeypatch: pytest.MonkeyPatch, shell_here: Callable[[], ManagerShell]
) -> None:
    """It may arrive while the reactor is at work; so what it asks for comes as an event of its own."""
    shell = shell_here()
    reactor = shell._reactor
    seen: list[str | None] = []
    real_turn = reactor.turn

    def turn(now: float) -> list[Any]:
        if not seen:
            reactor.link = Link.UP
            os.kill(os.getpid(), signal.SIGTERM)
            # The handler has run by now, in the middle of the reactor's turn.
            seen.append(reactor.state.draining)
        return real_turn(now)

    monkeypatch.setattr(reactor, "turn", turn)
    end = shell.run()
    assert seen == [None]
    assert end.reason == "SIGTERM"


def fail(shell: ManagerShell) -> None:
    raise OSError("no space,\nnowhere\0")


def terminate_twice(shell: ManagerShell) -> None:
    shell._on_signals(bytes([signal.SIGTERM]))
    shell._terminated_at -= 2 * SIGTERM_SECONDS
    shell._on_signals(bytes([signal.SIGTERM]))


@pytest.mark.parametrize(
    ("happens", "obituary"),
    [
        pytest.param(fail, "it failed: OSError: no space, nowhere ", id="failure"),
        pytest.param(terminate_twice, "it ended itself: SIGTERM, again", id="SIGTERM"),
        pytest.param(
            lambda shell: setattr(shell._reactor, "_last_heard", -math.inf),
            "it ended itself: the interchange was silent for inf s (heartbeat_threshold)",
            id="silence",
        ),
        pytest.param(
            lambda shell: shell._reactor.interchange_said(m.Shutdown("that is all"), [], 0.0),
            "",
            id="shutdown",
        ),
        pytest.param(
            lambda shell: shell._on_greeting(m.Refused("too late", again=True), 0.0), "", id="refusal"
        ),
        pytest.param(lambda shell: shell._reactor.drain("maintenance"), "", id="leaving"),
    ],
)
def test_what_the_interchange_cannot_know_of_the_end_is_told_by_the_zygote(
    monkeypatch: pytest.MonkeyPatch,
    shell_here: Callable[[], ManagerShell],
    happens: Callable[[ManagerShell], object],
    obituary: str,
) -> None:
    shell = shell_here()
    real_turn = shell._reactor.turn
    did: list[bool] = []

    def turn(now: float) -> list[Any]:
        if not did:
            did.append(True)
            shell._reactor.link = Link.UP
            happens(shell)
        return real_turn(now)

    monkeypatch.setattr(shell._reactor, "turn", turn)
    if happens is fail:
        with pytest.raises(OSError, match="no space"):
            shell.run()
    else:
        shell.run()
    assert NoZygote.obituaries == [obituary]


def test_a_manager_that_finds_no_interchange_has_nothing_to_be_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = ManagerConfig(
            "r1",
            "0",
            str(tmp_path),
            addresses=["127.0.0.1"],
            port=nobody.getsockname()[1],
            address_probe_timeout=0.3,
            max_workers_per_node=1,
        )
        write_configuration(config, tmp_path / "manager.json")
        # Whoever tells of it would have the same output, and is waited for.
        run = subprocess.run(
            [sys.executable, "-m", "throughway.manager", str(tmp_path / "manager.json")],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert run.returncode == 1
    assert run.stderr.startswith("throughway manager: ")
    assert "cannot tell" not in run.stderr


@pytest.mark.parametrize(("sent_each_second", "gone"), [(1 << 20, True), (0, False)])
def test_the_last_results_are_waited_for_as_long_as_they_move(
    monkeypatch: pytest.MonkeyPatch, sent_each_second: int, gone: bool
) -> None:
    clock = 0.0
    left = 20 << 20

    class SlowWire:
        def backlog(self, peer: int) -> int:
            return left

    class Clock:
        def wait(self, seconds: float) -> None:
            nonlocal clock, left
            clock += seconds
            left = max(0, left - int(sent_each_second * seconds))

    shell = object.__new__(ManagerShell)
    shell._peer = 0
    shell._wire = SlowWire()  # type: ignore[assignment]
    shell._selector = Clock()  # type: ignore[assignment]
    monkeypatch.setattr("throughway.manager.shell.time.monotonic", lambda: clock)
    shell._farewell()
    assert (left == 0) == gone
    assert clock == pytest.approx(20.0 if gone else FAREWELL_SECONDS, abs=0.2)


# ---------------------------------------------------------------------------------------------------- losses and ends


def test_a_killed_worker_costs_its_task_and_is_replaced(manager: Manager) -> None:
    first, second = manager.assign((tasks.print_and_die, "last words"), (tasks.double, 1))
    assert manager.results(second) == [2]
    (loss,) = manager.results(first)
    assert manager.outcomes[first] == m.Outcome.WORKER_LOST
    assert (loss.signal, loss.exit_code, loss.manager) == (9, None, manager.hello.id)
    assert loss.stderr == "last words"
    assert Path(loss.log).read_text() == "last words\n"
    assert loss.worker in (0, 1)
    numbers = manager.assign(*[(tasks.pid,)] * 100)
    assert len(set(manager.results(*numbers))) <= 2
    wait_until(lambda: len(manager.family()) == 3, what="the new worker")


@pytest.mark.parametrize(
    ("call", "exit_code", "number"),
    [
        ((tasks.exit_with, 3), 3, None),
        ((tasks.exit_at_once, 0), 0, None),
        ((tasks.segfault,), None, signal.SIGSEGV),
    ],
)
def test_the_end_of_a_worker_is_told(
    manager: Manager, call: tuple[Any, ...], exit_code: int | None, number: int | None
) -> None:
    loss = manager.run(*call)
    assert (loss.exit_code, loss.signal) == (exit_code, number)
    if number == signal.SIGSEGV:
        assert "Fatal Python error: Segmentation fault" in loss.stderr


def test_a_storm_of_deaths_loses_nothing_else(manager: Manager) -> None:
    calls = [(tasks.kill_self,) if number % 7 == 0 else (tasks.double, number) for number in range(70)]
    numbers = manager.assign(*calls)
    results = manager.results(*numbers)
    for number, result in enumerate(results):
        if number % 7 == 0:
            assert result.signal == 9
        else:
            assert result == 2 * number


def test_the_running_time_of_a_lost_task_is_told(manager: Manager) -> None:
    number, _ = manager.occupy()
    while number not in manager.wait_for(m.Started).tasks:
        pass
    manager.cancel(number, kill=True)
    (loss,) = manager.results(number)
    assert manager.outcomes[number] == m.Outcome.KILLED
    assert loss.seconds >= 0.005


def test_a_task_past_its_walltime_is_killed_and_its_neighbour_is_not(manager: Manager) -> None:
    flag = manager.folder / "flag"
    (neighbour,) = manager.assign((tasks.wait_for_file, str(flag)))
    (late,) = manager.assign((tasks.wait_for_file, str(manager.folder / "never")), walltime=0.05)
    (loss,) = manager.results(late)
    assert manager.outcomes[late] == m.Outcome.WALLTIME
    assert loss.seconds >= 0.05
    flag.touch()
    assert manager.results(neighbour) == [str(flag)]


def long_and_short(manager: Manager, count: int) -> tuple[int, list[int]]:
    """Has a long task begun, given together with short ones of the same function; returns their numbers."""
    short = (tasks.make_file_and_wait, os.devnull, str(manager.folder))
    manager.results(*manager.assign(*[short] * 400))
    begun = manager.folder / "begun"
    first, *rest = manager.assign(
        (tasks.make_file_and_wait, str(begun), str(manager.folder / "never")), *[short] * count
    )
    wait_until(begun.exists, what="the long task to begin")
    return first, rest


def test_killing_a_running_task_leaves_those_behind_it(start: Start) -> None:
    manager = start(max_workers_per_node=1)
    running, (next_one, *rest) = long_and_short(manager, 20)
    explanation = msgspec.msgpack.decode(manager.ask("explain", str(rest[-1])), type=Explanation)
    assert explanation.state in ("at a worker", "at a manager")
    manager.cancel(running, next_one, kill=True)
    cancelled: list[int] = []
    refused: list[int] = []
    while not {running, next_one} <= {*cancelled, *refused}:
        verdict = manager.wait_for(m.Verdicts)
        cancelled += verdict.cancelled
        refused += verdict.refused
    assert (cancelled, refused) == ([next_one], [running])
    assert manager.results(*rest) == [str(manager.folder)] * 19
    (loss,) = manager.results(running)
    assert manager.outcomes[running] == m.Outcome.KILLED
    assert loss.signal == signal.SIGKILL
    assert next_one not in manager.outcomes


def test_tasks_behind_a_long_one_go_to_the_worker_that_is_free(manager: Manager) -> None:
    running, rest = long_and_short(manager, 100)
    assert manager.results(*rest) == [str(manager.folder)] * 100
    assert running not in manager.outcomes


def test_a_killed_zygote_costs_what_ran_and_is_replaced(manager: Manager) -> None:
    running = manager.occupy()
    waiting = manager.assign(*[(tasks.double, 1)] * 5)
    child_starters = manager.family()
    os.kill(manager.zygote(), signal.SIGKILL)
    assert manager.results(*waiting) == [2] * 5
    assert [loss.signal for loss in manager.results(*running)] == [9, 9]
    assert not any(map(alive, child_starters))
    wait_until(lambda: "the zygote is gone; starting another" in manager.log(), what="the line in its log")


def test_a_zygote_that_dies_while_workers_start_costs_no_more_than_that(start: Start, tmp_path: Path) -> None:
    """There are more of them than may fail in a row."""
    flag = tmp_path / "go"
    payload, _ = pack_call((str(flag),), {})
    initializer = FunctionTable().lookup(tasks.wait_for_file).function.payload
    manager = start(max_workers_per_node=8, worker={"initializer": initializer, "initializer_call": payload})
    wait_until(lambda: len(manager.family()) == 9, what="a zygote and 8 workers")
    os.kill(manager.zygote(), signal.SIGKILL)
    # Those that live for a moment longer would get ready.
    told = "died with the process that forks workers: 0, 1, 2, 3, 4, 5, 6, 7\n"
    wait_until(lambda: told in manager.log(), what="the end of the zygote and its workers")
    flag.touch()
    assert manager.run(tasks.double, 1) == 2
    assert manager.log().count("died with the process") == 1


def test_a_worker_that_cannot_be_forked_for_a_moment_costs_only_that_moment(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the user has as many processes as he may have."""
    full = tmp_path / "full"
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, os\n"
        "fork = os.fork\n"
        "def refuse():\n"
        f"    if os.path.exists({str(full)!r}): raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "    return fork()\n"
        "os.fork = refuse\n"
    )
    path = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    manager = start(available_accelerators=["0", "1"])
    assert manager.run(tasks.double, 1) == 2
    wait_until(lambda: len(manager.family()) == 3, what="both workers")
    full.touch()
    (lost,) = manager.assign((tasks.exit_at_once, 3))
    assert manager.results(lost)[0].exit_code == 3
    text = "cannot be started: Resource temporarily unavailable"
    wait_until(lambda: manager.log().count(text) >= 2, what="a second try to fork a worker")
    assert manager.run(tasks.double, 2) == 4
    full.unlink()
    running = manager.occupy()
    manager.cancel(*running, kill=True)
    manager.results(*running)
    assert "before it was ready" not in manager.log()


def test_what_tasks_started_dies_with_a_killed_zygote(manager: Manager) -> None:
    child = manager.run(tasks.start_child)
    os.kill(manager.zygote(), signal.SIGKILL)
    wait_until(lambda: not alive(child), what="the end of the child")
    assert manager.run(tasks.double, 1) == 2


def test_all_ends_with_a_killed_manager(manager: Manager) -> None:
    child = manager.run(tasks.start_child)
    manager.occupy()
    family = manager.family()
    assert child in family and len(family) == 4
    manager.process.kill()
    assert manager.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, family)), what="the end of all processes")


def write_into_own_pipe() -> None:
    """Writes nonsense where the worker writes its records."""
    import fcntl
    import os

    for name in os.listdir("/proc/self/fd"):
        try:
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
            is_pipe = os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
        except OSError:
            continue
        if is_pipe and flags & os.O_ACCMODE == os.O_WRONLY and flags & os.O_NONBLOCK:
            os.write(int(name), b"\xff" * 1000)


def test_a_task_that_writes_into_its_pipe_is_lost_alone(manager: Manager) -> None:
    def broken() -> None:
        write_into_own_pipe()

    (number,) = manager.assign((broken,), walltime=60.0)  # so that nothing is given ahead to its worker
    rest = manager.assign(*[(tasks.double, number) for number in range(20)])
    manager.results(number)
    assert manager.outcomes[number] == m.Outcome.WORKER_LOST
    assert manager.results(*rest) == [2 * number for number in range(20)]
    wait_until(lambda: "a task broke its pipe" in manager.log(), what="the line in its log")


def test_workers_are_replaced_after_as_many_tasks_as_they_may_run(start: Start) -> None:
    manager = start(worker={"max_tasks_per_child": 3})
    pids = manager.results(*manager.assign(*[(tasks.pid,)] * 30))
    assert len(set(pids)) >= 10
    assert max(pids.count(pid) for pid in pids) <= 3


def test_an_initializer_that_fails_ends_the_manager_with_the_reason(start: Start) -> None:
    payload, _ = pack_call(("no licence",), {})
    initializer = FunctionTable().lookup(tasks.fail).function.payload
    manager = start(worker={"initializer": initializer, "initializer_call": payload})
    broken = manager.wait_for(m.Broken)
    error = unpack_exception(broken.record)
    assert isinstance(error, LookupError) and error.args == ("no licence",)
    assert manager.wait() == 1
    assert "5 workers in a row ended before they were ready" in manager.output()
