"""The wire between machines, on one: TCP on the loopback address, with and without encryption."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import throughway
from tests.executors import tasks
from tests.transport.ends import Side
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors.futures import TaskFuture
from throughway.executors.run import Run
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, python_version
from throughway.providers import LocalProvider
from throughway.transport.curve import CurveKeys, load_manager_keys
from throughway.transport.framing import framed
from throughway.transport.unix import UnixWire
from throughway.transport.zeromq import ZmqConnector

numpy = pytest.importorskip("numpy")


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def executor(request: pytest.FixtureRequest, runs: Path) -> Iterator[HighThroughputExecutor]:
    """Two managers with a worker each, over TCP."""
    provider = LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2)
    with HighThroughputExecutor(
        address="127.0.0.1", encrypted=request.param, provider=provider, max_workers_per_node=1, run_dir=runs
    ) as own:
        wait_until(lambda: len(own.connected_managers()) == 2, 30, "two managers")
        yield own


@pytest.fixture
def encrypted(runs: Path) -> Iterator[HighThroughputExecutor]:
    with HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=1, run_dir=runs) as own:
        assert own.submit(tasks.add, 1).result(timeout=30) == 1
        yield own


def run_of(executor: HighThroughputExecutor) -> Run:
    assert executor._run is not None
    return executor._run


def port_of(executor: HighThroughputExecutor) -> int:
    port = run_of(executor).shell.port
    assert port is not None
    return port


def listening(pids: list[int]) -> list[tuple[str, str]]:
    """The TCP sockets at which any of these processes listens: protocol and local address in hexadecimal."""
    inodes = set()
    for pid in pids:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except OSError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path("/proc/net", table)
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            words = line.split()
            if words[9] in inodes and (words[3] == "0A" or table.startswith("udp")):
                found.append((table, words[1]))
    return found


def processes(executor: HighThroughputExecutor) -> list[int]:
    return [
        os.getpid(),
        run_of(executor).shell.interchange_pid,
        *(view.pid for view in executor.connected_managers()),
    ]


def hold_both(executor: HighThroughputExecutor, folder: Path) -> tuple[Path, list[TaskFuture[int]]]:
    """Both workers run a task each, until the gate is made."""
    gate = folder / "gate"
    futures = [
        executor.submit(tasks.hold, str(gate), str(folder / f"started-{number}")) for number in range(2)
    ]
    wait_until(lambda: len(list(folder.glob("started-*"))) == 2, 20, "both workers to be busy")
    return gate, futures


def check_loss_of_one(gate: Path, futures: list[TaskFuture[int]], match: str) -> None:
    """One of them was lost with its manager, as it says, and the other goes on."""
    (lost,) = [future for future in futures if future.done()]
    with pytest.raises(throughway.ManagerLost, match=match):
        lost.result()
    gate.touch()
    (other,) = [future for future in futures if future is not lost]
    assert other.result(timeout=20) > 0


# ------------------------------------------------------------------------------------------------------------- everyday


def test_tasks_of_all_sizes(executor: HighThroughputExecutor) -> None:
    assert list(executor.map(tasks.add, range(2000))) == list(range(2000))
    array = numpy.arange(3_000_000, dtype="float64")
    doubled = executor.submit(operator.mul, array, 2).result(timeout=30)
    assert (doubled == array * 2).all()
    blocks = [os.urandom(200_000) for _ in range(20)]
    assert [
        future.result(timeout=30) for future in [executor.submit(bytes.upper, block) for block in blocks]
    ] == [block.upper() for block in blocks]


def test_errors_and_losses(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="over there"):
        executor.submit(tasks.fail, "over there").result(timeout=20)
    with pytest.raises(throughway.WorkerLost, match="status 3"):
        executor.submit(os._exit, 3).result(timeout=20)
    with pytest.raises(throughway.WalltimeExceeded):
        executor.options(walltime=0.05).submit(tasks.hold, "/no/such/gate").result(timeout=20)
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1


def test_cancelling(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate, blockers = hold_both(executor, tmp_path)
    marks = tmp_path / "marks"
    marks.mkdir()
    waiting = [executor.submit(tasks.count_run, str(marks), number) for number in range(20)]
    assert [future.cancel() for future in waiting] == [True] * 20
    assert not blockers[0].cancel()
    executor.kill(blockers[0])
    with pytest.raises(throughway.TaskKilled):
        blockers[0].result(timeout=20)
    gate.touch()
    assert blockers[1].result(timeout=20) > 0
    assert not list(marks.iterdir())


def test_a_killed_manager_is_noticed_at_once(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate, futures = hold_both(executor, tmp_path)
    victim, _ = executor.connected_managers()
    before = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: any(future.done() for future in futures), 20, "the loss")
    assert time.monotonic() - before < 10, "far sooner than heartbeat_threshold"
    check_loss_of_one(gate, futures, victim.manager)
    wait_until(lambda: len(executor.connected_managers()) == 2, 30, "another manager in its place")


def test_a_manager_that_is_told_twice_to_end_is_noticed_at_once(
    executor: HighThroughputExecutor, tmp_path: Path
) -> None:
    """As by ``scancel``, given again because what runs takes long."""
    gate, futures = hold_both(executor, tmp_path)
    victim, _ = executor.connected_managers()

    def gone() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGTERM)
        return any(future.done() for future in futures)

    wait_until(gone, 20, "the loss")
    check_loss_of_one(gate, futures, f"{victim.manager}.*it ended itself: SIGTERM, again")


def test_a_manager_that_fails_is_noticed_at_once(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=2, run_dir=runs) as executor:
        lost = executor.submit(tasks.hold, "/no/such/gate", str(tmp_path / "started"))
        wait_until((tmp_path / "started").exists, 30, "it to run")
        (victim,) = executor.connected_managers()
        # Its notes of what it gave to workers soon need more room.
        resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (1, 1))
        others = [executor.submit(tasks.add, number) for number in range(40_000)]
        with pytest.raises(
            throughway.ManagerLost, match=f"{victim.manager}.*it failed: OSError: .*too large"
        ):
            lost.result(timeout=30)
        # Of these, some may have been given to the other worker, and all that were not go on.
        fates = [future.exception(timeout=30) for future in others]
        assert fates.count(None) > 20_000
        assert all(fate is None or isinstance(fate, throughway.ManagerLost) for fate in fates)


def test_a_job_that_is_killed_as_a_whole_is_noticed_by_its_provider(
    executor: HighThroughputExecutor, tmp_path: Path
) -> None:
    """As when a node fails or a scheduler ends a job: nobody is left there who could tell."""
    gate, futures = hold_both(executor, tmp_path)
    victim, _ = executor.connected_managers()
    os.killpg(victim.pid, signal.SIGKILL)
    wait_until(lambda: any(future.done() for future in futures), 20, "the loss")
    check_loss_of_one(gate, futures, "its block's job has ended")


def test_a_killed_interchange_is_replaced_at_the_same_port(
    executor: HighThroughputExecutor, tmp_path: Path
) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    marks = tmp_path / "marks"
    marks.mkdir()
    running = executor.submit(tasks.hold, str(gate), str(started))
    wait_until(started.exists, 20, "it to run")
    before = {view.manager for view in executor.connected_managers()}
    waiting = [executor.submit(tasks.count_run, str(marks), number) for number in range(500)]
    port = port_of(executor)
    os.kill(run_of(executor).shell.interchange_pid, signal.SIGKILL)
    waiting += [executor.submit(tasks.count_run, str(marks), number) for number in range(500, 600)]
    for future in waiting:
        future.result(timeout=30)
    gate.touch()
    assert running.result(timeout=20) == int(started.read_text())
    assert [len(path.read_text()) for path in marks.iterdir()] == [1] * 600
    wait_until(
        lambda: {view.manager for view in executor.connected_managers()} == before, 20, "both to be back"
    )
    assert port_of(executor) == port
    assert run_of(executor).reactor.restarts == 1


# --------------------------------------------------------------------------------------------------------------- ports


def test_nothing_listens_without_an_address(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
        worker = executor.submit(tasks.worker_pid).result(timeout=20)
        mine = set(listening([os.getpid()]))
        assert listening([*processes(executor)[1:], worker]) == []
        executor.start()
        assert set(listening([os.getpid()])) == mine


def test_one_port_of_one_address_is_listened_at(executor: HighThroughputExecutor) -> None:
    (found,) = listening(processes(executor)[1:])
    assert found == ("tcp", f"0100007F:{port_of(executor):04X}")


# ----------------------------------------------------------------------------------------------- strangers


@pytest.fixture
def busy(encrypted: HighThroughputExecutor) -> Iterator[Callable[[], None]]:
    """Calls that show that the executor works all the while."""
    before = run_of(encrypted).shell.interchange_pid
    (manager,) = encrypted.connected_managers()

    def check() -> None:
        assert list(encrypted.map(tasks.add, range(300))) == list(range(300))

    yield check
    check()
    assert run_of(encrypted).shell.interchange_pid == before
    assert [view.manager for view in encrypted.connected_managers()] == [manager.manager]


def test_clients_without_a_key_are_not_heard(
    encrypted: HighThroughputExecutor, busy: Callable[[], None]
) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        monitor = client.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_DISCONNECTED
        )
        client.connect(f"tcp://127.0.0.1:{port_of(encrypted)}")
        client.send_multipart([codec.encode(hello())])
        busy()
        assert monitor.poll(10_000), "it is disconnected"
        assert not client.poll(0)
        client.disable_monitor()
        monitor.close()


@pytest.mark.parametrize("whose", ["listener", "own"])
def test_clients_with_a_wrong_key_are_not_heard(
    encrypted: HighThroughputExecutor, busy: Callable[[], None], whose: str
) -> None:
    keys = load_manager_keys(run_of(encrypted).folder.path / "certificates")
    stranger = CurveKeys.generate()
    wire = ZmqConnector(
        f"tcp://127.0.0.1:{port_of(encrypted)}",
        keys=stranger if whose == "own" else keys.own,
        listener_key=keys.interchange if whose == "own" else stranger.public,
    )
    side = Side(wire)
    try:
        deadline = time.monotonic() + 2 if whose == "listener" else time.monotonic() + 20
        while time.monotonic() < deadline and not side.closed:
            side.turn()
            busy()
        assert not side.opened
        assert side.closed or wire.trouble or whose == "listener"
    finally:
        wire.close()
        side.selector.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0CURVE" + b"\0" * 43 + b"\x06" + b"\xff" * 8,
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + b"\0" * 44 + b"\x02" + b"\xff" * 8 + b"x" * 10_000,
        os.urandom(1 << 20),
    ],
    ids=["nothing", "zeros", "http", "oversized handshake", "oversized frame", "noise"],
)
def test_garbage_on_the_port(
    encrypted: HighThroughputExecutor, busy: Callable[[], None], data: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", port_of(encrypted)), timeout=10) as stranger:
        busy()
        with_reset(lambda: stranger.sendall(data))
        busy()
        with_reset(lambda: stranger.recv(1 << 16))


def with_reset(action: Callable[[], object]) -> None:
    """Do something that the other side may answer by hanging up."""
    try:
        action()
    except (ConnectionError, TimeoutError):
        return


# ------------------------------------------------------------------------------------------- managers that do not fit


def hello(**changes: Any) -> m.ManagerHello:
    fields: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "id": "impostor",
        "host": "other-host",
        "block": "77",
        "pid": 1,
        "python": python_version(),
        "version": "0",
        "workers": 1,
        "capacity": 1,
        "cores": 1,
        "memory": 1 << 30,
        "started": 0.0,
        "log": "/nowhere",
    }
    return m.ManagerHello(**{**fields, **changes})


class FakeManager:
    """A manager of the test's: says and reads what the test wants."""

    def __init__(self, executor: HighThroughputExecutor) -> None:
        run = run_of(executor)
        if run.shell.port is None:
            self.wire: Any = UnixWire.connect(run.folder.socket)
        else:
            folder = run.folder.path / "certificates"
            keys = load_manager_keys(folder) if folder.exists() else None
            self.wire = ZmqConnector(
                f"tcp://127.0.0.1:{run.shell.port}",
                keys=None if keys is None else keys.own,
                listener_key=None if keys is None else keys.interchange,
            )
        self.side = Side(self.wire)
        self.until(lambda: bool(self.side.opened))
        self.peer = self.side.opened[0].peer

    def until(self, condition: Callable[[], bool]) -> None:
        def turned() -> bool:
            self.side.turn()
            return condition()

        wait_until(turned, 20, lambda: f"what the fake manager expects; it saw {self.side.events}")

    def say(self, message: m.Message, *frames: bytes) -> None:
        self.wire.send(self.peer, [codec.encode(message), *frames])

    def say_raw(self, *frames: bytes) -> None:
        self.wire.send(self.peer, list(frames))

    def close(self) -> None:
        self.wire.close()
        self.side.selector.close()


@pytest.fixture(params=["unix", "tcp"])
def joined(
    request: pytest.FixtureRequest, runs: Path
) -> Iterator[tuple[HighThroughputExecutor, FakeManager]]:
    address = None if request.param == "unix" else "127.0.0.1"
    with HighThroughputExecutor(address=address, max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=30) == 1
        fake = FakeManager(executor)
        try:
            yield executor, fake
        finally:
            fake.close()


Joined = tuple[HighThroughputExecutor, FakeManager]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, ["protocol", "other-host", "same version of throughway"]),
        ({"python": "3.9.2"}, ["Python 3.9.2", "other-host", "worker_init"]),
        ({"workers": -1}, ["-1 workers"]),
        ({"capacity": 0}, ["capacity of 0"]),
    ],
)
def test_a_manager_that_does_not_fit_is_refused_alone(
    joined: Joined, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], words: list[str]
) -> None:
    executor, fake = joined
    with caplog.at_level(logging.INFO, logger="throughway"):
        fake.say(hello(**changes))
        fake.until(lambda: bool(fake.side.closed))
        wait_until(lambda: any("refused" in record.getMessage() for record in caplog.records), 20, "the log")
    (greeting,) = [codec.decode_greeting(message[0]) for message in fake.side.messages()]
    assert isinstance(greeting, m.Refused)
    (said,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "block 77 on other-host" in said
    for word in words:
        assert word in greeting.reason
        assert word in said
    assert executor.submit(tasks.add, 2).result(timeout=20) == 2
    assert len(executor.connected_managers()) == 1


def test_one_that_died_before_it_was_heard_has_started_nothing(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a zombie by then: its parent, the provider, looks only now and then."""
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=30) == 1
        (manager,) = executor.connected_managers()
        executor.hold_manager(manager.manager)
        future = executor.submit(tasks.add, 2)
        wait_until(lambda: executor.status_report().pending == 1, 20, "it to wait")
        interchange = run_of(executor).shell.interchange_pid
        script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        script += "s.sendall(sys.stdin.buffer.read())"
        head, _ = framed([codec.encode(hello(given=4))])
        os.kill(interchange, signal.SIGSTOP)
        try:
            with subprocess.Popen(
                [sys.executable, "-c", script, run_of(executor).folder.socket], stdin=subprocess.PIPE
            ) as dead:
                assert dead.stdin is not None
                dead.stdin.write(head + codec.encode(hello(given=4)))
                dead.stdin.close()
                os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
                with caplog.at_level(logging.INFO, logger="throughway"):
                    os.kill(interchange, signal.SIGCONT)
                    wait_until(lambda: "its connection ended" in caplog.text, 20, "its end to be noticed")
        finally:
            os.kill(interchange, signal.SIGCONT)
        executor.release_manager(manager.manager)
        assert future.result(timeout=20) == 2


def test_a_manager_that_speaks_twice_is_refused(joined: Joined) -> None:
    executor, fake = joined
    (manager,) = executor.connected_managers()
    fake.say(hello(id=manager.manager))
    fake.until(lambda: bool(fake.side.closed))
    assert executor.submit(tasks.add, 2).result(timeout=20) == 2


@pytest.mark.parametrize(
    "header",
    [b"", b"\xc1", b"\x80", os.urandom(200), codec.encode(m.Shutdown("please")), codec.encode(m.Heartbeat())],
    ids=["empty", "never used", "empty map", "noise", "shutdown", "heartbeat"],
)
def test_what_is_no_hello_is_dropped(joined: Joined, header: bytes) -> None:
    executor, fake = joined
    fake.say_raw(header)
    wait_until(lambda: malformed(executor) == 1, 20, "it to be counted")
    assert executor.submit(tasks.add, 2).result(timeout=20) == 2


def malformed(executor: HighThroughputExecutor) -> int:
    import msgspec

    from throughway.protocol.views import StatusView

    return msgspec.msgpack.decode(executor._ask("status"), type=StatusView).malformed_messages


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        # Of tasks that there are not: the executor may hear of them only once it has submitted the next.
        pytest.param(m.Results("impostor", 1, [91, 92, 93], b"\0", [0]), [b"\x90"], id="lengths"),
        pytest.param(m.Results("impostor", 1, [91], b"\0", [0]), [], id="no body"),
        pytest.param(m.Results("impostor", 1, [91], b"\0", [0]), [b"no body"], id="bad body"),
        pytest.param(
            m.Results("impostor", 1, [1 << 62], b"\0", [0], {0: 5}), [codec.encode([b"x"])], id="unknown task"
        ),
        pytest.param(m.Results("impostor", -5, [], b"", []), [codec.encode([])], id="negative capacity"),
        pytest.param(m.Started("impostor", [99], []), [], id="started"),
        pytest.param(m.Verdicts([99], [100]), [], id="verdicts"),
        pytest.param(m.Returned("impostor", [99], 10), [], id="returned"),
    ],
)
def test_a_manager_that_talks_nonsense_harms_nobody(
    joined: Joined, message: m.Message, frames: list[bytes]
) -> None:
    executor, fake = joined
    fake.say(hello())
    fake.until(lambda: bool(fake.side.messages()))
    executor.hold_manager("impostor")
    fake.say(message, *frames)
    fake.say(m.Leaving("impostor", "enough"))
    fake.until(lambda: bool(fake.side.closed))
    assert executor.submit(tasks.add, 2).result(timeout=20) == 2
    assert "impostor" not in [view.manager for view in executor.connected_managers()]


def test_a_broken_initializer_whose_exception_cannot_be_read(joined: Joined) -> None:
    executor, fake = joined
    fake.say(hello())
    fake.until(lambda: bool(fake.side.messages()))
    future = executor.submit(tasks.hold, "/no/such/gate")
    fake.say(m.Broken("impostor", "it says so", b"no record"))
    error = future.exception(timeout=20)
    assert isinstance(error, throughway.InitializerFailed)
    assert isinstance(error.__cause__, throughway.DeserializationError)
