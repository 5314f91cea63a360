from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from tests.processes import alive, process_record, title
from tests.waiting import wait_until
from tests.worker import tasks
from tests.worker.nursery import ROOT, Nursery, NurseryWorker, error_of
from throughway.protocol.bundles import Dismissal, Exited, FromZygote, Mark, Setup, Spawn, Spawned
from throughway.protocol.configuration import WorkerConfig
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call

MakeNursery: TypeAlias = Callable[..., Nursery]


def initializer(fn: Callable[..., object], *args: object) -> dict[str, bytes]:
    """The fields of a configuration with this initializer."""
    payload, frames = pack_call(args, {})
    assert not frames
    return {"initializer": FunctionTable().lookup(fn).function.payload, "initializer_call": payload}


# ------------------------------------------------------------------------------------------------------- starting


def test_a_worker_says_that_it_is_ready_and_who_it_is(nursery: Nursery) -> None:
    worker = nursery.worker(environment={"THROUGHWAY_WORKER_RANK": "7"})
    pid = worker.run(tasks.pid)
    nursery.pump(lambda: worker.process.pid != 0, "the message of the zygote")
    assert worker.process.pid == pid
    assert title(pid) == f"throughway-worker {worker.number} of a test"
    assert worker.run(tasks.environment, "THROUGHWAY_WORKER_RANK") == "7"


def test_workers_are_forked_from_the_zygote_into_groups_of_their_own(nursery: Nursery) -> None:
    one, other = nursery.worker(), nursery.worker()
    pids = [one.run(tasks.pid), other.run(tasks.pid)]
    assert len(set(pids)) == 2
    for pid in pids:
        record = process_record(pid)
        assert record is not None and record.parent == nursery.client.pid
        assert os.getpgid(pid) == pid


def test_workers_do_not_share_a_random_sequence(nursery: Nursery) -> None:
    assert nursery.worker().run(tasks.random_number) != nursery.worker().run(tasks.random_number)


def test_a_worker_is_pinned_to_its_cores(nursery: Nursery) -> None:
    core = min(os.sched_getaffinity(0))
    assert nursery.worker(affinity=[core]).run(os.sched_getaffinity, 0) == {core}


def test_a_worker_has_its_pipes_and_nothing_of_the_zygote_or_of_others(nursery: Nursery) -> None:
    nursery.worker()
    worker = nursery.worker()
    found = worker.run(tasks.descriptors)
    assert {name: found[name] for name in (0, 1, 2)} == {
        0: os.devnull,
        1: str(worker.log),
        2: str(worker.log),
    }
    kinds = sorted(text.partition(":")[0] for name, text in found.items() if name > 2)
    assert [kind for kind in kinds if kind != f"/proc/{worker.process.pid}/fd"] == [
        "anon_inode",
        "pipe",
        "pipe",
        "pipe",
        "socket",
        "socket",
    ], "claims, tasks, results, bell; and the pair that wakes the zygote"


def test_what_a_task_starts_does_not_inherit_the_pipes(worker: NurseryWorker) -> None:
    assert set(worker.run(tasks.descriptors_of_a_child)) <= {"0", "1", "2", "3"}, (
        "3 is the folder that it lists"
    )


def test_a_worker_has_nothing_to_read_from(worker: NurseryWorker) -> None:
    assert worker.run(tasks.read_stdin) == ""


def test_the_import_path_and_the_directory_are_those_of_the_configuration(
    make_nursery: MakeNursery, tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "beside_the_script.py").write_text("def where(): return __file__\n")
    paths = [str(tmp_path / "modules"), ROOT]
    worker = make_nursery(sys_path=paths, working_directory=str(tmp_path)).worker()
    assert worker.run(tasks.directory) == str(tmp_path)
    assert worker.run(tasks.path)[: len(paths)] == paths
    sys.path.append(paths[0])
    try:
        import beside_the_script  # type: ignore[import-not-found]

        assert worker.run(beside_the_script.where) == str(tmp_path / "modules" / "beside_the_script.py")
    finally:
        sys.path.remove(paths[0])
        sys.modules.pop("beside_the_script", None)


def test_a_path_that_is_known_already_is_not_added_again(make_nursery: MakeNursery) -> None:
    worker = make_nursery(sys_path=[ROOT, *sys.path]).worker()
    path = worker.run(tasks.path)
    assert len(path) == len(set(path))


def test_a_directory_that_is_not_on_this_host_does_not_stop_workers(
    make_nursery: MakeNursery, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = make_nursery(working_directory="/nowhere/at/all").worker()
    assert worker.run(tasks.double, 2) == 4
    assert "cannot work in /nowhere/at/all on this host: No such file or directory" in capfd.readouterr().err


def test_a_configuration_may_be_larger_than_a_message(make_nursery: MakeNursery) -> None:
    value = os.urandom(1_500_000).hex()
    worker = make_nursery(**initializer(tasks.set_mark, value)).worker()
    assert worker.run(tasks.get_mark) == value


def test_a_log_that_cannot_be_written_ends_the_worker_and_no_other(
    nursery: Nursery, worker: NurseryWorker
) -> None:
    broken = nursery.spawn(log="/nowhere/worker.log")
    assert broken.wait() == 1 << 8
    assert broken.records == []
    assert worker.run(tasks.double, 2) == 4


# ---------------------------------------------------------------------------------------------------- initializers


def test_an_initializer_runs_before_any_task(make_nursery: MakeNursery) -> None:
    worker = make_nursery(**initializer(tasks.set_mark, "made")).worker()
    assert worker.run(tasks.get_mark) == "made"
    assert worker.text() == "the mark is made\n"


def test_an_initializer_that_raises_is_reported_and_ends_the_worker(make_nursery: MakeNursery) -> None:
    worker = make_nursery(**initializer(tasks.fail, "no licence")).spawn()
    record = worker.next_record()
    assert record.outcome == Mark.INITIALIZER_FAILED
    error = error_of(record._replace(outcome=1))
    assert isinstance(error, LookupError) and error.args == ("no licence",)
    assert worker.wait() == 1 << 8
    assert worker.records == []


def test_an_initializer_that_cannot_be_loaded_is_reported(make_nursery: MakeNursery) -> None:
    worker = make_nursery(initializer=b"nonsense").spawn()
    assert worker.next_record().outcome == Mark.INITIALIZER_FAILED
    assert worker.wait() == 1 << 8


def test_an_initializer_that_exits_ends_the_worker(make_nursery: MakeNursery) -> None:
    worker = make_nursery(**initializer(tasks.exit_at_once, 3)).spawn()
    assert worker.wait() == 3 << 8
    assert worker.records == []


# --------------------------------------------------------------------------------------------------- how workers end


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ((tasks.exit_with, 0), 0),
        ((tasks.exit_with, None), 0),
        ((tasks.exit_with, 3), 3 << 8),
        ((tasks.exit_with, -1), 255 << 8),
        ((tasks.exit_with, "a reason"), 1 << 8),
        ((tasks.exit_at_once, 42), 42 << 8),
        ((tasks.kill_self,), signal.SIGKILL),
        ((tasks.kill_self, signal.SIGTERM), signal.SIGTERM),
        ((tasks.segfault,), signal.SIGSEGV),
    ],
)
def test_the_end_of_a_worker_is_reported_with_its_status(
    worker: NurseryWorker, call: tuple[object, ...], status: int
) -> None:
    worker.give(call, (tasks.double, 1))
    assert worker.wait() == status
    assert worker.records == [], "a task that ends its worker has no record"
    assert worker.unclaimed == 1, "and the one behind it was not begun"


def test_what_a_task_prints_as_it_exits_is_in_the_log(worker: NurseryWorker) -> None:
    worker.give((tasks.exit_with, "no more data"))
    worker.wait()
    assert worker.text() == "about to exit\nno more data\n"


def test_what_a_task_prints_is_in_the_log_even_if_it_is_killed_at_once(worker: NurseryWorker) -> None:
    worker.give((tasks.print_and_die, "last words"))
    assert worker.wait() == signal.SIGKILL
    assert worker.text() == "last words\n"


def test_output_and_errors_are_in_the_log_in_their_order(worker: NurseryWorker) -> None:
    worker.run(tasks.say, "grüße")
    worker.run(tasks.say, "lone \udcff surrogate")
    assert worker.text() == "grüße\nGRÜSSE\nlone \\udcff surrogate\nLONE \\udcff SURROGATE\n"


def test_a_segmentation_fault_leaves_its_traceback_in_the_log(worker: NurseryWorker) -> None:
    worker.give((tasks.segfault,))
    assert worker.wait() == signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in worker.text()
    assert "in segfault" in worker.text()
    assert "Fatal Python error" in worker.process.stderr()


def test_results_that_were_written_outlive_the_worker(worker: NurseryWorker) -> None:
    first, second, _ = worker.give((tasks.double, 1), (tasks.double, 2), (tasks.kill_self,))
    worker.wait()
    assert [worker.outcome(first), worker.outcome(second)] == [2, 4]
    assert worker.unclaimed == 0


def test_a_worker_that_is_told_to_stop_ends_after_its_tasks(worker: NurseryWorker) -> None:
    (task,) = worker.give((tasks.double, 4))
    worker.stop()
    assert worker.outcome(task) == 8
    assert worker.wait() == 0


def test_a_worker_ends_after_as_many_tasks_as_it_may_run(make_nursery: MakeNursery) -> None:
    worker = make_nursery(max_tasks_per_child=3).worker()
    numbers = worker.give((tasks.double, 1), (tasks.double, 2))
    numbers += worker.give((tasks.double, 3))
    assert worker.wait() == 0
    assert [worker.outcome(number) for number in numbers] == [2, 4, 6]


def test_tasks_that_were_taken_back_do_not_count_among_those(make_nursery: MakeNursery) -> None:
    worker = make_nursery(max_tasks_per_child=3).worker()
    (first, *_) = worker.give((tasks.double, 1), (tasks.double, 2), (tasks.double, 3), claims=1)
    assert worker.outcome(first) == 2
    assert worker.next_record().outcome == Mark.DISCARDED
    second, third = worker.give((tasks.double, 4), (tasks.double, 5))
    assert worker.wait() == 0
    assert [worker.outcome(second), worker.outcome(third)] == [8, 10]


# ------------------------------------------------------------------------------------------- nothing is left behind


def test_what_a_task_started_dies_with_its_worker(worker: NurseryWorker) -> None:
    child = worker.run(tasks.start_child)
    assert alive(child)
    worker.process.kill()
    worker.wait()
    wait_until(lambda: not alive(child), what="the end of the child")


def test_what_a_task_started_dies_with_a_worker_that_ends_by_itself(worker: NurseryWorker) -> None:
    child = worker.run(tasks.start_child)
    worker.give((tasks.exit_at_once, 0))
    worker.wait()
    wait_until(lambda: not alive(child), what="the end of the child")


def test_a_kill_that_comes_before_the_zygote_named_the_process_is_done_then(nursery: Nursery) -> None:
    worker = nursery.spawn()
    assert worker.process.pid == 0
    worker.process.kill()
    assert worker.wait() == signal.SIGKILL


def test_workers_die_with_a_zygote_that_is_killed(make_nursery: MakeNursery, tmp_path: Path) -> None:
    nursery = make_nursery()
    pids = []
    for worker in (nursery.worker(), nursery.worker()):
        pids.append(worker.run(tasks.pid))
        worker.give((tasks.wait_for_file, str(tmp_path / "never")))
    os.kill(nursery.client.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), what="the end of the workers")
    nursery.pump(lambda: nursery.ended, "the end of the control socket")


def test_all_end_when_the_manager_closes_the_control_socket(
    make_nursery: MakeNursery, tmp_path: Path
) -> None:
    nursery = make_nursery()
    idle, busy = nursery.worker(), nursery.worker()
    pids = [idle.run(tasks.pid), busy.run(tasks.pid), busy.run(tasks.start_child)]
    busy.give((tasks.wait_for_file, str(tmp_path / "never")))
    nursery.client.close()
    assert not any(map(alive, pids[:2])), "once the zygote is gone, its workers are"
    wait_until(lambda: not alive(pids[2]), what="the end of the child")


def test_a_stopped_worker_ends_as_well(make_nursery: MakeNursery) -> None:
    nursery = make_nursery()
    pid = nursery.worker().run(tasks.pid)
    os.kill(pid, signal.SIGSTOP)
    nursery.client.close()
    assert not alive(pid)


# ------------------------------------------------------------------------------------- telling of the manager's end

NOBODY = ["/no/such/program"]
"""What cannot be started: that it was to be is said at once."""


def note_of(path: Path) -> list[str]:
    """A command that writes its last argument to this file; without one it is the shell's name."""
    return ["/bin/sh", "-c", f'printf %s "$0" > {path}.part; mv {path}.part {path}']


def test_the_death_of_the_manager_is_told(make_nursery: MakeNursery, tmp_path: Path) -> None:
    told = tmp_path / "told"
    nursery = make_nursery(obituary=note_of(told))
    pid = nursery.worker().run(tasks.pid)
    nursery.client.control.close()  # without a word, as where its process dies
    wait_until(told.exists, what="it to be told")
    assert told.read_text() == "/bin/sh"
    wait_until(lambda: not alive(pid), what="the end of the worker")


def test_what_a_manager_says_as_it_ends_is_told_before_its_zygote_is_gone(
    make_nursery: MakeNursery, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    nursery = make_nursery(obituary=note_of(told))
    pid = nursery.worker().run(tasks.pid)
    nursery.client.close("it ended itself: SIGTERM, again")
    assert not alive(pid)
    assert told.read_text() == "it ended itself: SIGTERM, again"


def test_a_manager_that_dismisses_its_zygote_is_not_told_of(
    make_nursery: MakeNursery, capfd: pytest.CaptureFixture[str]
) -> None:
    make_nursery(obituary=NOBODY).client.close()
    assert capfd.readouterr().err == ""


def test_a_dismissal_counts_if_the_manager_left_something_unread(
    make_nursery: MakeNursery, capfd: pytest.CaptureFixture[str]
) -> None:
    nursery = make_nursery(obituary=NOBODY)
    nursery.spawn()
    unread = select.poll()
    unread.register(nursery.client.control, select.POLLIN)
    assert unread.poll(20_000), "the zygote says that the worker runs"
    os.kill(nursery.client.pid, signal.SIGSTOP)
    try:
        nursery.client.control.send(msgspec.msgpack.encode(Dismissal()))
        nursery.client.control.close()
    finally:
        os.kill(nursery.client.pid, signal.SIGCONT)
    nursery.client.close()
    assert capfd.readouterr().err == ""


def test_a_zygote_that_fails_ends_its_workers_and_does_not_take_its_manager_for_dead(
    make_nursery: MakeNursery, capfd: pytest.CaptureFixture[str]
) -> None:
    nursery = make_nursery(obituary=NOBODY)
    worker = nursery.worker()
    pids = [worker.run(tasks.pid), worker.run(tasks.start_child)]
    nursery.client.control.send(b"\xc1")
    nursery.pump(lambda: nursery.ended, "the end of the control socket")
    nursery.client.close()
    error = capfd.readouterr().err
    assert "malformed" in error, "the reason is there to be read"
    assert "cannot tell" not in error
    wait_until(lambda: not any(map(alive, pids)), what="the end of all processes")


def test_all_end_if_there_is_nobody_to_tell_it(
    make_nursery: MakeNursery, capfd: pytest.CaptureFixture[str]
) -> None:
    nursery = make_nursery(obituary=NOBODY)
    worker = nursery.worker()
    pids = [worker.run(tasks.pid), worker.run(tasks.start_child)]
    nursery.client.control.close()
    nursery.client.close()
    error = capfd.readouterr().err
    assert error.startswith("cannot tell that the manager is gone, with /no/such/program: ")
    assert "Traceback" not in error
    wait_until(lambda: not any(map(alive, pids)), what="the end of all processes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_zygote_leaves_signals_to_its_manager(nursery: Nursery, number: int) -> None:
    nursery.worker()  # by now it has its handlers
    os.kill(nursery.client.pid, number)
    assert nursery.worker().run(tasks.double, 1) == 2


def test_workers_die_of_a_signal_that_asks_them_to_end(worker: NurseryWorker) -> None:
    os.kill(worker.run(tasks.pid), signal.SIGTERM)
    assert worker.wait() == signal.SIGTERM


# ------------------------------------------------------------------------------------------------------- in a crowd


def test_a_manager_that_starts_many_workers_before_it_listens_is_not_locked_out(tmp_path: Path) -> None:
    """Each side would wait for the other to read: so the zygote keeps what its socket does not take."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20.0)
    code = (
        "import socket, sys; from throughway.worker.zygote import Zygote; "
        "control = socket.socket(fileno=int(sys.argv[1])); "
        "control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1); Zygote(control).run()"
    )
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    zygote = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    encode = msgspec.msgpack.encode
    try:
        ours.send(encode(Setup(encode(WorkerConfig()), True)))
        with open(os.devnull, "rb") as null:
            for number in range(60):
                order = Spawn(number, number, "throughway: nobody", "/nowhere/log", {}, [], "here", "m1")
                socket.send_fds(ours, [encode(order)], 4 * [null.fileno()])
        decoder = msgspec.msgpack.Decoder(FromZygote)
        messages = [decoder.decode(ours.recv(4096)) for _ in range(120)]
        assert {message.worker for message in messages if isinstance(message, Spawned)} == set(range(60))
        assert {message.worker for message in messages if isinstance(message, Exited)} == set(range(60))
    finally:
        ours.close()
        zygote.wait(20)


def test_a_worker_that_cannot_be_forked_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where the user has as many processes as he may have."""
    code = (
        "import errno, os, sys, throughway.worker.zygote as zygote\n"
        "fork = os.fork\n"
        "def refuse():\n"
        "    if os.path.exists(sys.argv[2]): raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "    return fork()\n"
        "os.fork = refuse\n"
        "zygote.main(sys.argv[1:2])\n"
    )
    full = tmp_path / "full"
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", code, command[-1], str(full)], **options)

    with monkeypatch.context() as patch:
        patch.setattr("throughway.manager.supervision.subprocess.Popen", start)
        nursery = Nursery.start(tmp_path)
    try:
        worker = nursery.worker()
        full.touch()
        refused = nursery.spawn()
        assert refused.wait() == 1 << 8
        assert refused.unforked == "Resource temporarily unavailable"
        assert refused.process.stderr() == "cannot start this worker: Resource temporarily unavailable"
        full.unlink()
        later = nursery.worker()
        assert [worker.run(tasks.double, 1), later.run(tasks.double, 2)] == [2, 4]
        assert (worker.unforked, later.unforked) == ("", "")
    finally:
        nursery.close()
