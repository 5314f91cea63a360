"""Messages that make no sense on the socket of a real run: its interchange goes on, and takes no memory for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzzing.maker import Maker, Seeded
from tests.hostile.peer import Peer
from tests.hostile.soak import sample
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, python_version

GROWTH_BYTES = 64 << 20
MESSAGES = 300


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HighThroughputExecutor]:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path_factory.mktemp("runs")) as one:
        one.submit(abs, 1).result(30)
        yield one


def socket_of(executor: HighThroughputExecutor) -> str:
    run = executor._run
    assert run is not None
    return str(Path(run.folder.socket))


def hello(name: str) -> bytes:
    """That of a manager without workers, which is given nothing."""
    return codec.encode(
        m.ManagerHello(PROTOCOL_VERSION, name, "host", "0", 1, python_version(), "0", 0, 0, 1, 1, 0.0)
    )


def garbage(peer: Peer, rng: random.Random) -> None:
    """Frames of any bytes, and messages that end too soon or have a bit changed."""
    good = hello("g")
    for _ in range(MESSAGES):
        data = bytearray(rng.randbytes(rng.randrange(60)) if rng.random() < 0.4 else good)
        if rng.random() < 0.5 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        peer.say(bytes(data[: rng.randrange(len(data) + 1)]), rng.randbytes(rng.randrange(50)))


def nonsense(peer: Peer, rng: random.Random) -> None:
    """What a registered manager may say, about tasks and managers that are not its own."""
    peer.say(hello(f"n{rng.random()}"))
    wait_until(peer.messages, 20)
    make = Maker(Seeded(rng))
    for _ in range(MESSAGES):
        message = make.message(m.FromManager)
        if isinstance(message, m.Leaving | m.Broken):
            # It may leave, or say that workers cannot work: that is believed.
            continue
        if isinstance(message, m.Returned | m.Results):
            # With room for tasks it would be given some, and keep them.
            message.capacity = 0
        peer.say(codec.encode(message), *make.frames())


def replay(peer: Peer, rng: random.Random) -> None:
    """The same hello again and again, over one connection."""
    for _ in range(MESSAGES):
        peer.say(hello("replayed"))


def out_of_order(peer: Peer, rng: random.Random) -> None:
    """Everything that a manager would say, before it says who it is."""
    make = Maker(Seeded(rng))
    made = [make.message(m.FromManager) for _ in range(MESSAGES)]
    said = [codec.encode(message) for message in made if not isinstance(message, m.Broken)]
    for message in [*said, hello("late"), *reversed(said[:3])]:
        peer.say(message)


def oversized(peer: Peer, rng: random.Random) -> None:
    """Frames of megabytes that nobody asked for."""
    for _ in range(20):
        peer.say(hello("large"), bytes(4 << 20))


def questions(peer: Peer, rng: random.Random) -> None:
    """An observer that may only look, and asks for everything."""
    peer.say(codec.encode(m.ObserverHello(PROTOCOL_VERSION)))
    make = Maker(Seeded(rng))
    for number in range(MESSAGES):
        topic = rng.choice(
            ["status", "managers", "run", "hold", "drain", "explain", "packages", "shutdown", "x"]
        )
        peer.say(codec.encode(m.Ask(number, topic, make.value(str))))
        peer.say(codec.encode(m.Shutdown("please")))


@pytest.mark.parametrize("attack", [garbage, nonsense, replay, out_of_order, oversized, questions])
def test_the_interchange_goes_on(
    executor: HighThroughputExecutor, attack: Callable[[Peer, random.Random], None]
) -> None:
    run = executor._run
    assert run is not None
    pid = run.shell.interchange_pid
    before = sample(pid)
    assert before is not None
    for seed in range(3):
        peer = Peer(socket_of(executor))
        try:
            attack(peer, random.Random(seed))
            peer.flush()
            assert executor.submit(abs, -seed).result(20) == seed
        finally:
            peer.close()
    wait_until(lambda: len(executor.connected_managers()) == 1, 20)
    assert sum(executor.map(abs, range(100))) == sum(range(100))
    after = sample(pid)
    assert run.shell.interchange_pid == pid, "it was not started again"
    assert after is not None
    assert after[0] - before[0] < GROWTH_BYTES
    assert after[1] <= before[1] + 1
