from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.processes import alive
from throughway.manager.supervision import PIPE_BYTES, STDERR_BYTES, WorkerProcess, ZygoteClient, tail
from throughway.protocol.bundles import Mark, Setup
from throughway.protocol.configuration import WorkerConfig
from throughway.transport.framing import Unframer
from throughway.transport.records import Record, pack_record

MakeWorker: TypeAlias = Callable[[], "Ends"]


class Ends:
    """A worker's pipes with both their ends in this process."""

    def __init__(self, folder: Path) -> None:
        self.process = WorkerProcess(0, 0, str(folder / "worker-0.log"))
        self.tasks, self.claims, self.results = self.process.for_worker
        self._unframer = Unframer()
        self.messages: list[list[bytes]] = []
        os.set_blocking(self.tasks, False)

    def read(self, limit: int = 1 << 30) -> int:
        """Read from the task pipe, at most so many bytes; returns how many it were."""
        count = 0
        while count < limit:
            try:
                if self._unframer.direct is not None:
                    size = os.readv(self.tasks, [self._unframer.direct[: limit - count]])
                    messages = self._unframer.fed(size)
                else:
                    data = os.read(self.tasks, min(1 << 16, limit - count))
                    size = len(data)
                    messages = self._unframer.feed(data)
            except BlockingIOError:
                break
            count += size
            self.messages += [[bytes(frame) for frame in frames] for frames in messages]
        return count

    def claim(self) -> bool:
        try:
            os.eventfd_read(self.claims)
        except BlockingIOError:
            return False
        return True

    def write(self, record: Record) -> None:
        os.write(self.results, b"".join(pack_record(*record)))

    def end(self) -> None:
        """The worker's ends are closed, as by its death."""
        if self.tasks >= 0:
            os.close(self.tasks)
            os.close(self.results)
            self.tasks = self.results = -1

    def close(self) -> None:
        self.end()
        self.process.close()


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    made: list[Ends] = []

    def make() -> Ends:
        made.append(Ends(tmp_path))
        return made[-1]

    yield make
    for ends in made:
        ends.close()


@pytest.fixture
def worker(make_worker: MakeWorker) -> Ends:
    return make_worker()


# ----------------------------------------------------------------------------------------------------------- giving


def test_what_is_given_arrives_with_its_claims(worker: Ends) -> None:
    assert worker.process.give([b"bundle"], 2)
    assert worker.process.give([b"other", b"frame", b"", bytearray(b"last")], 1)
    worker.read()
    assert worker.messages == [[b"bundle"], [b"other", b"frame", b"", b"last"]]
    assert [worker.claim() for _ in range(4)] == [True, True, True, False]


def test_claims_are_there_before_what_they_are_for(worker: Ends) -> None:
    assert not worker.process.give([bytes(4 * PIPE_BYTES)], 5)
    assert worker.claim()


@pytest.mark.parametrize("step", [4096, 100_000, 1 << 30])
def test_a_slow_reader_gets_everything_in_order(worker: Ends, step: int) -> None:
    sent = [[b"head %d" % number, os.urandom(300_000), b"tail"] for number in range(6)]
    done = [worker.process.give(frames, 1) for frames in sent]
    assert not done[-1], "more than a pipe holds"
    while len(worker.messages) < len(sent):
        assert worker.read(step), "what was given is under way"
        worker.process.write()
    assert worker.process.write()
    assert worker.messages == sent


def test_a_full_pipe_does_not_keep_the_manager_waiting(worker: Ends) -> None:
    assert not worker.process.give([bytes(10 * PIPE_BYTES)], 1)
    assert not worker.process.give([b"next"], 1)
    assert not worker.process.write()


def test_what_is_given_to_a_dead_worker_is_dropped(worker: Ends) -> None:
    assert not worker.process.give([bytes(4 * PIPE_BYTES)], 3)
    worker.end()
    assert worker.process.write(), "nobody waits until it can be written"
    assert worker.process.give([b"more"], 2)
    assert worker.process.unclaimed() == 5


# ----------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(("limit", "taken"), [(0, 0), (1, 1), (3, 3), (4, 4), (99, 4)])
def test_claims_are_taken_back_up_to_a_limit(worker: Ends, limit: int, taken: int) -> None:
    worker.process.give([b"bundle"], 5)
    assert worker.claim()
    assert worker.process.revoke(limit) == taken
    assert sum(worker.claim() for _ in range(10)) == 4 - taken


def test_each_claim_is_had_by_one_of_two_processes(worker: Ends) -> None:
    """They are taken back while another process claims as fast as it can."""
    count = 20_000
    code = (
        "import os, sys\n"
        "claims = int(sys.argv[1]); got = 0\n"
        "print('go', flush=True)\n"
        "try:\n"
        "    while True: os.eventfd_read(claims); got += 1\n"
        "except BlockingIOError: print(got)\n"
    )
    worker.process.give([b"bundle"], count)
    claimer = subprocess.Popen(
        [sys.executable, "-c", code, str(worker.claims)],
        pass_fds=[worker.claims],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert claimer.stdout is not None
    assert claimer.stdout.readline() == "go\n"
    taken = worker.process.revoke(count // 2)
    text, _ = claimer.communicate(timeout=20)
    assert int(text) + taken == count


def test_the_claims_that_a_dead_worker_left(worker: Ends) -> None:
    worker.process.give([b"bundle"], 7)
    assert worker.claim() and worker.claim()
    worker.end()
    assert worker.process.unclaimed() == 5
    assert worker.process.unclaimed() == 0


# ---------------------------------------------------------------------------------------------------------- reading


def test_records_are_read(worker: Ends) -> None:
    worker.write(Record(1, 0, 0.5, b"value", ()))
    assert worker.process.read() == [Record(1, 0, 0.5, b"value", ())]
    assert worker.process.read() == []


def test_all_that_a_dying_worker_wrote_is_read(worker: Ends) -> None:
    worker.write(Record(1, 0, 0.5, b"first", ()))
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=worker.results)
    worker.end()
    assert child.stdin is not None
    child.stdin.write(b"".join(pack_record(2, 0, 0.5, b"last", ())))
    child.stdin.close()
    assert [record.task for record in worker.process.read_to_end(20.0)] == [1, 2]
    assert worker.process.reader.ended
    assert child.wait(20) == 0


def test_a_worker_that_wrote_nonsense_is_not_waited_for(worker: Ends) -> None:
    os.write(worker.results, bytes(8) + b"\xff" * 100)
    began = time.monotonic()
    assert worker.process.read_to_end(20.0) == []
    assert time.monotonic() - began < 10.0
    assert worker.process.reader.fault


def test_a_pipe_that_is_never_closed_is_waited_for_in_vain_but_not_for_ever(worker: Ends) -> None:
    worker.write(Record(1, 0, 0.5, b"value", ()))
    began = time.monotonic()
    assert [record.task for record in worker.process.read_to_end(0.02)] == [1]
    assert time.monotonic() - began >= 0.02
    assert worker.process.read_to_end(-1.0) == []


# ---------------------------------------------------------------------------------------------------------- killing


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, as a worker does."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_killed(worker: Ends, victim: subprocess.Popen[bytes]) -> None:
    worker.process.spawned(victim.pid)
    worker.process.kill()
    assert victim.wait(20) == -signal.SIGKILL


def test_a_worker_whose_process_is_not_known_yet_is_killed_once_it_is(
    worker: Ends, victim: subprocess.Popen[bytes]
) -> None:
    worker.process.kill()
    worker.process.spawned(victim.pid)
    assert victim.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("read", [WorkerProcess.read, lambda process: process.read_to_end(0.0)])
def test_a_worker_of_which_only_its_own_word_is_known_is_killed(
    worker: Ends, victim: subprocess.Popen[bytes], read: Callable[[WorkerProcess], list[Record]]
) -> None:
    """As where the zygote died as soon as it had forked it."""
    worker.process.kill()
    ready = Record(0, Mark.READY, 0.0, victim.pid.to_bytes(4, "little"), [])
    worker.write(ready)
    assert [record.outcome for record in read(worker.process)] == [Mark.READY]
    assert victim.wait(20) == -signal.SIGKILL


def test_a_worker_that_has_ended_is_not_killed(worker: Ends, victim: subprocess.Popen[bytes]) -> None:
    """Its process id may be another's by now."""
    worker.process.spawned(victim.pid)
    worker.process.dead = True
    worker.process.kill()
    assert victim.poll() is None


def test_killing_what_is_gone_is_no_error(worker: Ends, victim: subprocess.Popen[bytes]) -> None:
    worker.process.spawned(victim.pid)
    worker.process.kill()
    victim.wait(20)
    worker.process.kill()


# ------------------------------------------------------------------------------------------------------------- logs


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log, 100) == ""
    log.write_text("one\ntwo\n")
    assert tail(log, 100) == "one\ntwo"
    assert tail(log, 5) == "two", "from the start of a line"
    log.write_text("a line without an end " * 100)
    assert len(tail(log, 50)) == 49
    log.write_bytes(b"\xff\xfe not text \x00\n")
    assert tail(log, 100) == "�� not text \x00"


def test_the_log_of_a_worker(worker: Ends) -> None:
    Path(worker.process.log).write_text("".join(f"line {number}\n" for number in range(1000)))
    text = worker.process.stderr()
    assert text.endswith("line 999")
    assert len(text) <= STDERR_BYTES
    assert text.splitlines()[0].startswith("line ")


# ----------------------------------------------------------------------------------------------------------- zygotes


def test_a_zygote_ends_with_its_client() -> None:
    client = ZygoteClient(WorkerConfig(), None)
    assert alive(client.pid)
    client.close()
    assert not alive(client.pid)


def test_the_end_of_a_zygote_is_noticed() -> None:
    client = ZygoteClient(WorkerConfig(), None)
    os.kill(client.pid, signal.SIGKILL)
    assert client.receive() is None
    client._say(Setup(b"", True), ())  # to tell a dead one something is no error
    client.close()


def test_a_zygote_may_be_a_fork_of_this_process() -> None:
    """Run in a process of its own: the tests' one has threads, which a fork does not take along."""
    code = (
        "import os\n"
        "from throughway.manager.supervision import ZygoteClient\n"
        "from throughway.protocol.configuration import WorkerConfig\n"
        "from throughway.worker.zygote import Zygote\n"
        "client = ZygoteClient(WorkerConfig(), lambda control: Zygote(control).run())\n"
        "assert os.path.exists(f'/proc/{client.pid}')\n"
        "client.close()\n"
        "assert not os.path.exists(f'/proc/{client.pid}')\n"
        "print('done')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30
    )
    assert run.stdout == "done\n", run.stderr
