"""Peers of another protocol version, by bytes that version 1 was recorded to send: refused with the reason, at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.hostile.peer import Peer
from tests.waiting import wait_until
from throughway import ExecutorFailed, HighThroughputExecutor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.configuration import ManagerConfig, WorkerConfig, write_configuration
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.protocol.views import StatusView
from throughway.transport.interface import Arrival, Opened
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire, listening_socket

MANAGER_1 = bytes.fromhex(
    "8fa474797065a76d616e61676572a870726f746f636f6c01a26964ac303132333435363738396162a4686f7374a56e6f646537a5626c"
    "6f636ba130a3706964cd10e1a6707974686f6ea6332e31312e37a776657273696f6ea5302e312e30a7776f726b65727302a863617061"
    "6369747902a5636f72657302a66d656d6f7279ce40000000a773746172746564cb41d954fc40000000a7656e64735f696ec0a36c6f67"
    "a52f6c6f6773"
)
OBSERVER_1 = bytes.fromhex("82a474797065a86f62736572766572a870726f746f636f6c01")
REFUSED_1 = bytes.fromhex("82a474797065a772656675736564a6726561736f6ea172")

SPEAKER = """
import sys
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire
from throughway.protocol import codec
from throughway.transport.interface import Arrival
import json
wire, poller = UnixWire.connect(json.load(open(sys.argv[1]))["socket"]), Poller()
wire.register(poller)
wire.send(0, [bytes.fromhex("{hello}")])
while True:
    poller.wait(30)
    for event in wire.receive():
        if isinstance(event, Arrival):
            print("throughway manager: refused by the interchange:", codec.decode_greeting(event.frames[0]).reason)
            sys.exit(1)
"""


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[HighThroughputExecutor]:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path / "runs") as one:
        one.submit(abs, 1).result(30)
        yield one


@pytest.mark.parametrize(
    ("hello", "version"),
    [
        pytest.param(MANAGER_1, 1, id="manager of version 1"),
        pytest.param(OBSERVER_1, 1, id="observer of version 1"),
        pytest.param(
            MANAGER_1.replace(b"\xa8protocol\x01", b"\xa8protocol\x63").replace(b"\xa5cores", b"\xa5stuff"),
            None,
            id="manager of version 99 without a field",
        ),
        pytest.param(
            OBSERVER_1.replace(b"\x82", b"\x83") + b"\xa3new\x01", 1, id="observer with a new field"
        ),
    ],
)
def test_another_version_is_refused(
    executor: HighThroughputExecutor, hello: bytes, version: int | None
) -> None:
    run = executor._run
    assert run is not None
    peer = Peer(run.folder.socket)
    try:
        peer.say(hello)
        if version is None:
            # Without what a hello must have, it is none: it is counted as malformed.
            wait_until(
                lambda: msgspec.msgpack.decode(executor._ask("status"), type=StatusView).malformed_messages,
                20,
            )
        else:
            (said,) = wait_until(peer.messages, 20)
            refused = codec.decode_greeting(said)
            assert isinstance(refused, m.Refused)
            assert str(version) in refused.reason
            assert str(PROTOCOL_VERSION) in refused.reason
            wait_until(peer.hung_up, 20)
    finally:
        peer.close()
    assert executor.submit(abs, -2).result(20) == 2


def test_managers_of_version_1_end_in_an_error_that_says_so(tmp_path: Path) -> None:
    speaker = tmp_path / "speaker.py"
    speaker.write_text(SPEAKER.format(hello=MANAGER_1.hex()))
    package = str(Path(codec.__file__).parents[2])
    with HighThroughputExecutor(
        run_dir=tmp_path / "runs",
        launch_cmd=f"env PYTHONPATH={package} {{python}} -P {speaker} {{config}}",
    ) as executor:
        error = executor.submit(abs, 1).exception(timeout=40)
    assert isinstance(error, ExecutorFailed)
    assert f"speaks protocol 1, this interchange {PROTOCOL_VERSION}: install the same version" in str(error)


def test_a_manager_that_version_1_refuses_ends_and_says_why(tmp_path: Path) -> None:
    path = str(tmp_path / "interchange")
    wire, poller = UnixWire.listen(listening_socket(path)), Poller()
    wire.register(poller)
    config = ManagerConfig(
        run="r1",
        block="0",
        folder=str(tmp_path),
        socket=path,
        max_workers_per_node=1,
        worker=WorkerConfig(working_directory=str(tmp_path)),
    )
    write_configuration(config, tmp_path / "manager.json")
    process = subprocess.Popen(
        [sys.executable, "-m", "throughway.manager", str(tmp_path / "manager.json")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:

        def greeted() -> bool:
            poller.wait(0.05)
            for event in wire.receive():
                if isinstance(event, Arrival):
                    wire.send(event.peer, [REFUSED_1])
                    return True
                assert isinstance(event, Opened)
            return False

        wait_until(greeted, 20)
        assert process.wait(20) == 1
        assert process.stdout is not None
        assert "refused by the interchange: r" in process.stdout.read()
    wire.close()
    poller.close()
