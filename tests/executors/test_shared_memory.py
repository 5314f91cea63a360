"""Large arguments on one machine: they arrive as they were at `submit`, and their memory always comes back."""

from __future__ import annotations

import errno
import itertools
import operator
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import pytest

import throughway
from tests.executors import tasks
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors.futures import TaskFuture
from throughway.transport import arena as arena_module
from throughway.transport.arena import UNIT_BYTES, Arena, Lease

Make: TypeAlias = Callable[..., HighThroughputExecutor]

LARGE = 100_000


@pytest.fixture
def make(runs: Path) -> Iterator[Make]:
    """Makes executors of the test's own, with one worker unless said otherwise."""
    made: list[HighThroughputExecutor] = []

    def make(**parameters: Any) -> HighThroughputExecutor:
        made.append(HighThroughputExecutor(**{"max_workers_per_node": 1, "run_dir": runs, **parameters}))
        made[-1].start()
        return made[-1]

    yield make
    for executor in made:
        # A test that failed may have left a task that waits for ever.
        executor._end(True, cancel_futures=True, kill=True)


def arena_of(executor: HighThroughputExecutor) -> Arena:
    assert executor._arena is not None
    return executor._arena


def taken(executor: HighThroughputExecutor) -> int:
    """The units that tasks have."""
    arena = arena_of(executor)
    free = sum(len(units) << power for power, units in enumerate(arena._free))
    return arena._units - free - sum(1 << power for power, _ in arena._freed.copy())


def await_all_free(executor: HighThroughputExecutor) -> None:
    wait_until(lambda: taken(executor) == 0, what=lambda: f"{taken(executor)} units to come back")
    arena_of(executor).sanity_check()


def watch_puts(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether there was room, of each task with large arguments from now on."""
    arena = arena_of(executor)
    put = arena.put
    fitted: list[bool] = []

    def watched(task: int, frames: Sequence[memoryview]) -> Lease | None:
        lease = put(task, frames)
        fitted.append(lease is not None)
        return lease

    monkeypatch.setattr(arena, "put", watched)
    return fitted


def occupy(
    executor: HighThroughputExecutor, folder: Path, name: str = "busy"
) -> tuple[TaskFuture[int], Path]:
    """Keep a worker busy until the file that is returned is there."""
    gate, started = folder / f"gate-{name}", folder / f"started-{name}"
    future = executor.submit(tasks.hold, str(gate), str(started))
    wait_until(started.exists, 20, "the task to start")
    return future, gate


def same(left: Any, right: Any) -> bool:
    """The same kind, the same contents, and for arrays the same layout."""
    if type(left) is not type(right):
        return False
    if isinstance(left, numpy.ndarray):
        flags = [
            (one.flags.c_contiguous, one.flags.f_contiguous, one.flags.writeable) for one in (left, right)
        ]
        return left.dtype == right.dtype and numpy.array_equal(left, right) and flags[0] == flags[1]
    return bool(left == right)


def frozen(array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    array.setflags(write=False)
    return array


def arrays() -> list[Any]:
    return [
        numpy.arange(LARGE, dtype="int32"),
        numpy.linspace(0, 1, 40_000),
        numpy.arange(90_000).reshape(300, 300),
        numpy.asfortranarray(numpy.arange(90_000).reshape(300, 300)),
        frozen(numpy.arange(LARGE)),
        frozen(numpy.asfortranarray(numpy.arange(90_000.0).reshape(300, 300))),
        numpy.zeros((50, 50, 50), dtype="complex64"),
    ]


def blobs() -> list[Any]:
    sizes = (16_384, 16_385, 65_536, 3_000_000)
    return [kind(os.urandom(size)) for size in sizes for kind in (bytes, bytearray)]


# -------------------------------------------------------------------------------------------------- what arrives


def test_arguments_arrive_as_they_were(
    executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(value: Any) -> tuple[str, bool | None, Any]:
        return type(value).__name__, value.flags.writeable if hasattr(value, "flags") else None, value

    fitted = watch_puts(executor, monkeypatch)
    values = [*arrays(), *blobs()]
    for value, future in [(value, executor.submit(look, value)) for value in values]:
        kind, writable, back = future.result(timeout=20)
        assert kind == type(value).__name__
        assert writable == (value.flags.writeable if isinstance(value, numpy.ndarray) else None)
        assert same(back, value)
    assert fitted == [True] * len(values)
    await_all_free(executor)


def test_several_in_any_place(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(*args: Any, **kwargs: Any) -> Any:
        return list(args), kwargs

    fitted = watch_puts(executor, monkeypatch)
    array, data = numpy.arange(LARGE), os.urandom(LARGE)
    args = [1, array, data, [array[:50_000], {"deep": array * 2}], b"small", array[::2], bytearray(data)]
    given = {"named": array + 1, "text": "t" * LARGE, "again": data}
    back, named = executor.submit(gather, *args, **given).result(timeout=20)
    assert all(same(back[index], args[index]) for index in (0, 1, 2, 4, 6))
    assert numpy.array_equal(back[5], array[::2])
    assert numpy.array_equal(back[3][0], array[:50_000])
    assert numpy.array_equal(back[3][1]["deep"], array * 2)
    assert numpy.array_equal(named.pop("named"), array + 1)
    assert named == {"text": "t" * LARGE, "again": data}
    assert fitted == [True]
    await_all_free(executor)


def test_a_function_may_write_into_its_arguments(executor: HighThroughputExecutor) -> None:
    def overwrite(array: Any, data: bytearray) -> tuple[int, int]:
        found = int(array.sum()), sum(data)
        array[:] = -1
        data[:] = bytes(len(data))
        return found

    array, data = numpy.ones(LARGE, dtype="int64"), bytearray(b"\1" * LARGE)
    futures = [executor.submit(overwrite, array, data) for _ in range(20)]
    assert [future.result(timeout=20) for future in futures] == [(LARGE, LARGE)] * 20
    assert array.sum() == LARGE
    assert sum(data) == LARGE


def test_a_read_only_array_stays_read_only_for_the_function(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="read-only"):
        executor.submit(numpy.ndarray.fill, frozen(numpy.zeros(LARGE)), 1).result(timeout=20)


@pytest.mark.parametrize("kind", ["bytearray", "array"])
def test_what_changes_after_submit_does_not_reach_the_worker(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    executor = make()
    fitted = watch_puts(executor, monkeypatch)
    busy, gate = occupy(executor, tmp_path)
    memory = bytearray(b"\1" * LARGE)
    data = memory if kind == "bytearray" else numpy.frombuffer(memory, dtype="uint8")
    futures = []
    for value in (2, 3, 4):
        futures.append(executor.submit(tasks.total, data))
        memory[:] = bytes([value]) * LARGE
    gate.touch()
    assert [future.result(timeout=20) for future in futures] == [LARGE, 2 * LARGE, 3 * LARGE]
    assert busy.result(timeout=20)
    assert fitted == [True] * 3


def test_threads_that_submit_at_once(
    executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = watch_puts(executor, monkeypatch)
    wrong: list[int] = []

    def work(number: int) -> None:
        blocks = [bytes([number, index]) * 20_000 for index in range(50)]
        futures = [executor.submit(bytes.upper, block) for block in blocks]
        for block, future in zip(blocks, futures, strict=True):
            if future.result(timeout=30) != block.upper():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert fitted == [True] * 300
    await_all_free(executor)


def test_map(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = watch_puts(executor, monkeypatch)
    blocks = [os.urandom(40_000) for _ in range(40)]
    assert list(executor.map(bytes.hex, blocks)) == [block.hex() for block in blocks]
    assert list(executor.map(bytes.hex, blocks, chunksize=7)) == [block.hex() for block in blocks]
    assert len(fitted) >= 40
    await_all_free(executor)


# -------------------------------------------------------------------------------------------- memory that comes back


def test_the_memory_comes_back_while_the_futures_are_kept(executor: HighThroughputExecutor) -> None:
    futures = [executor.submit(len, bytes(LARGE)) for _ in range(50)]
    assert [future.result(timeout=20) for future in futures] == [LARGE] * 50
    await_all_free(executor)


def test_the_memory_comes_back_though_the_futures_are_not(executor: HighThroughputExecutor) -> None:
    for _ in range(50):
        executor.submit(len, bytes(LARGE))
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    await_all_free(executor)


def test_the_memory_comes_back_after_errors(make: Make, tmp_path: Path) -> None:
    def fail(data: bytes) -> None:
        raise ValueError(len(data))

    def give_generator(data: bytes) -> Any:
        return (byte for byte in data)

    def exit_now(data: bytes) -> None:
        os._exit(len(data) % 7)

    executor = make()
    data = bytes(LARGE)
    failing: list[tuple[Callable[[Any], Any], type[BaseException]]] = [
        (fail, ValueError),
        (give_generator, throughway.SerializationError),
        (exit_now, throughway.WorkerLost),
        (operator.neg, TypeError),
    ]
    for function, error in failing:
        with pytest.raises(error):
            executor.submit(function, data).result(timeout=20)
        await_all_free(executor)
    with pytest.raises(throughway.WalltimeExceeded):
        executor.options(walltime=0.05).submit(tasks.hold_and_total, str(tmp_path / "never"), data).result(
            timeout=20
        )
    await_all_free(executor)
    with pytest.raises(throughway.SerializationError):
        executor.submit(len, [numpy.zeros(LARGE), threading.Lock()]).result(timeout=20)
    await_all_free(executor)


def test_the_memory_comes_back_after_cancels_and_kills(make: Make, tmp_path: Path) -> None:
    executor = make()
    data = bytes(LARGE)
    started = tmp_path / "started"
    running = executor.submit(tasks.hold_and_total, str(tmp_path / "never"), data, str(started))
    wait_until(started.exists, 20, "the task to start")
    waiting = [executor.submit(len, data) for _ in range(20)]
    killed = [executor.submit(len, data) for _ in range(5)]
    assert taken(executor) == 26 * 8
    assert [future.cancel() for future in waiting] == [True] * 20
    wait_until(lambda: taken(executor) == 6 * 8, what="that of the cancelled to come back")
    for future in (*killed, running):
        executor.kill(future)
    with pytest.raises(throughway.TaskKilled):
        running.result(timeout=20)
    assert all(future.cancelled() for future in killed)
    await_all_free(executor)
    assert executor.submit(len, data).result(timeout=20) == LARGE


@pytest.mark.parametrize("how", ["wait", "cancel", "kill", "no wait"])
def test_the_memory_comes_back_at_the_end(make: Make, tmp_path: Path, how: str) -> None:
    executor = make()
    arena = arena_of(executor)
    data = bytes(LARGE)
    gate = tmp_path / "gate"
    futures = [executor.submit(tasks.hold_and_total, str(gate), data) for _ in range(3)]
    futures += [executor.submit(len, data) for _ in range(20)]
    if how == "kill":
        executor._end(True, cancel_futures=True, kill=True)
    else:
        closer = threading.Timer(0, gate.touch)
        closer.start()
        executor.shutdown(wait=how != "no wait", cancel_futures=how == "cancel")
        closer.join()
    wait_until(lambda: all(future.done() for future in futures), 20, "the futures to end")
    wait_until(lambda: taken(executor) == 0, what="all to come back")
    wait_until(lambda: arena._closed, 20, "its end")
    assert arena.put(1, [memoryview(data)]) is None
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(len, data)


def arena_traces(pid: int | str = "self") -> list[str]:
    """Descriptors and mappings of a process that are of shared memory for arguments."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:  # that of the listing
            continue
    found += Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [text for text in found if "throughway-arena" in text]


def test_nothing_of_it_stays_open(make: Make) -> None:
    before = arena_traces()
    for _ in range(2):
        executor = make()
        assert executor.submit(len, bytes(LARGE)).result(timeout=20) == LARGE
        assert len(arena_traces()) > len(before)
        executor.shutdown()
        assert arena_traces() == before


def test_nothing_of_it_stays_open_where_the_start_fails(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    before = arena_traces()
    monkeypatch.setattr("throughway.executors.interchange_process.InterchangeProcess.start", refuse)
    executor = HighThroughputExecutor(run_dir=runs)
    with pytest.raises(OSError, match="no more processes"):
        executor.start()
    assert arena_traces() == before
    executor.shutdown()


def test_what_tasks_start_has_nothing_of_it(executor: HighThroughputExecutor) -> None:
    def descriptors_of_a_child(data: bytes) -> str:
        import subprocess

        return subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True
        ).stdout

    assert "throughway-arena" not in executor.submit(descriptors_of_a_child, bytes(LARGE)).result(timeout=20)


# ------------------------------------------------------------------------------------------------------------- losses


def test_a_retry_gets_what_was_submitted(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make(max_workers_per_node=2)
    fitted = watch_puts(executor, monkeypatch)
    array, text = numpy.full((150, 150), 4, dtype="int32"), bytearray(b"\3" * LARGE)
    values: list[Any] = [array, text]
    view = executor.options(retries=1)
    futures = [
        view.submit(tasks.overwrite_and_die_once, str(tmp_path), number, value)
        for number, value in enumerate(values)
    ]
    array[:] = 99
    text[:] = bytes(LARGE)
    assert [future.result(timeout=30) for future in futures] == [4 * 150 * 150, 3 * LARGE]
    assert [(tmp_path / str(number)).stat().st_size for number in range(2)] == [2, 2]
    assert fitted == [True] * 2
    await_all_free(executor)


def test_a_killed_manager(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make(prefetch_capacity=5)
    fitted = watch_puts(executor, monkeypatch)
    gate, started = tmp_path / "gate", tmp_path / "started"
    lost = executor.submit(tasks.hold_and_total, str(tmp_path / "never"), b"\1" * LARGE, str(started))
    wait_until(started.exists, 20, "the task to start")
    data = bytearray(LARGE)
    futures = []
    for number in range(20):
        data[:] = bytes([number]) * LARGE
        futures.append(executor.options(retries=1).submit(tasks.hold_and_total, str(gate), data))
    (manager,) = executor.connected_managers()
    os.kill(manager.pid, signal.SIGKILL)
    with pytest.raises(throughway.ManagerLost):
        lost.result(timeout=20)
    gate.touch()
    assert [future.result(timeout=30) for future in futures] == [number * LARGE for number in range(20)]
    assert fitted == [True] * 21
    await_all_free(executor)


def test_a_killed_interchange(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make(prefetch_capacity=5)
    fitted = watch_puts(executor, monkeypatch)
    run = executor._run
    assert run is not None
    gate, started = tmp_path / "gate", tmp_path / "started"
    futures = [executor.submit(tasks.hold_and_total, str(gate), b"\1" * LARGE, str(started))]
    wait_until(started.exists, 20, "the task to start")
    data = bytearray(LARGE)

    def submit(numbers: range) -> None:
        for number in numbers:
            data[:] = bytes([number]) * LARGE
            futures.append(executor.submit(tasks.hold_and_total, str(gate), data))

    submit(range(2, 20))
    for first in (20, 30):
        before = run.shell.interchange_pid
        os.kill(before, signal.SIGKILL)
        submit(range(first, first + 5))
        wait_until(lambda: run.shell.interchange_pid != before, 20, "another interchange")  # noqa: B023
        submit(range(first + 5, first + 10))
    gate.touch()
    expected = [number * LARGE for number in range(1, 40)]
    assert [future.result(timeout=30) for future in futures] == expected
    assert fitted == [True] * 39
    assert run.reactor.restarts == 2
    await_all_free(executor)


# ---------------------------------------------------------------------------------------------- with little, or none


def test_where_it_is_full_the_rest_travels_as_it_did(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena_module, "ARENA_BYTES", 32 * UNIT_BYTES)
    executor = make()
    fitted = watch_puts(executor, monkeypatch)
    busy, gate = occupy(executor, tmp_path)
    sizes = [20_000, LARGE, 200_000, 20_000, 1_000_000, 16_384, 50_000, LARGE, LARGE, 30_000]
    values = [kind(os.urandom(size)) for size in sizes for kind in (bytes, bytearray)]
    futures = [executor.submit(tasks.give, value) for value in values]
    assert True in fitted[:4] and False in fitted[4:]
    gate.touch()
    for value, future in zip(values, futures, strict=True):
        assert same(future.result(timeout=20), value)
    busy.result(timeout=20)
    await_all_free(executor)
    assert executor.submit(len, bytes(32 * UNIT_BYTES)).result(timeout=20) == 32 * UNIT_BYTES
    assert fitted[-1], "once it is free, all of it is"


@pytest.mark.parametrize("where", ["/proc/1/fd/987654", "/dev/null", "an ordinary file"])
def test_managers_that_cannot_open_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "an ordinary file":
        file = tmp_path / "file"
        file.write_bytes(bytes(LARGE))
        where = str(file)
    monkeypatch.setattr(Arena, "path", property(lambda self: where))
    executor = make(prefetch_capacity=3)
    fitted = watch_puts(executor, monkeypatch)
    busy, gate = occupy(executor, tmp_path)
    values = [*arrays(), *blobs()]
    futures = [executor.submit(tasks.give, value) for value in values]
    pairs = [executor.submit(max, b"a" * LARGE, b"b" * LARGE, b"c" * 20_000) for _ in range(3)]
    gate.touch()
    for value, future in zip(values, futures, strict=True):
        assert same(future.result(timeout=20), value)
    assert [pair.result(timeout=20) for pair in pairs] == [b"c" * 20_000] * 3
    assert busy.result(timeout=20)
    assert fitted == [True] * (len(values) + 3), "the executor does not know"
    await_all_free(executor)
    (manager,) = executor.connected_managers()
    log = (Path(manager.log).parent / f"manager-{manager.pid}.log").read_text()
    assert f"cannot open the executor's shared memory {where}" in log
    assert "large arguments come over the socket" in log


def test_managers_that_cannot_open_it_and_an_interchange_that_dies(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Arena, "path", property(lambda self: "/proc/1/fd/987654"))
    executor = make(prefetch_capacity=2)
    run = executor._run
    assert run is not None
    busy, gate = occupy(executor, tmp_path)
    futures = [
        executor.submit(tasks.hold_and_total, str(gate), bytes([number]) * LARGE) for number in range(10)
    ]
    before = run.shell.interchange_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: run.shell.interchange_pid != before, 20, "another interchange")
    gate.touch()
    assert [future.result(timeout=20) for future in futures] == [number * LARGE for number in range(10)]
    assert busy.result(timeout=20)
    await_all_free(executor)


@pytest.mark.parametrize("shares", [True, False])
def test_a_task_whose_arguments_are_gone_fails_alone(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    """It cannot be: as long as its future is not done, they are there."""
    if not shares:
        monkeypatch.setattr(Arena, "path", property(lambda self: "/proc/1/fd/987654"))
    executor = make(prefetch_capacity=0)
    busy, gate = occupy(executor, tmp_path)
    gone = executor.submit(bytes.upper, b"g" * LARGE)
    place = gone._frames.place  # type: ignore[union-attr]
    gone._frames = ()
    other = executor.submit(bytes.upper, b"o" * LARGE)
    assert other._frames.place == place  # type: ignore[union-attr]
    last = executor.submit(bytes.upper, b"small")
    gate.touch()
    error = gone.exception(timeout=20)
    assert isinstance(error, throughway.ThroughwayError)
    if shares:
        assert f"the arguments of task {gone.task_id} are no longer" in str(error)
    assert other.result(timeout=20) == b"O" * LARGE
    assert last.result(timeout=20) == b"SMALL"
    assert busy.result(timeout=20)
    await_all_free(executor)


def test_over_the_network_there_is_none(make: Make) -> None:
    before = arena_traces()
    executor = make(address="127.0.0.1", encrypted=False)
    assert executor._arena is None
    assert arena_traces() == before
    data = bytearray(os.urandom(LARGE))
    assert executor.submit(tasks.give, data).result(timeout=20) == data
    (manager,) = executor.connected_managers()
    assert arena_traces(manager.pid) == []


def test_a_system_that_has_none(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create = os.memfd_create

    def refuse(name: str, *arguments: int) -> int:
        if name == "throughway-arena":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return create(name, *arguments)

    monkeypatch.setattr(os, "memfd_create", refuse)
    with caplog.at_level("INFO", "throughway.executor"):
        executor = make()
    assert executor._arena is None
    assert "no shared memory for large arguments" in caplog.text
    assert executor.submit(len, bytes(LARGE)).result(timeout=20) == LARGE


def test_a_limit_of_the_address_space_is_not_used_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    get = resource.getrlimit

    def limited(kind: int) -> tuple[int, int]:
        return (1 << 28, 1 << 28) if kind == resource.RLIMIT_AS else get(kind)

    monkeypatch.setattr(resource, "getrlimit", limited)
    assert arena_of(make())._units * UNIT_BYTES <= (1 << 28) // arena_module.MEMORY_SHARE


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_of_the_users_process_has_nothing_of_it(executor: HighThroughputExecutor) -> None:
    child = os.fork()
    if not child:
        os._exit(len(arena_traces()))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert executor.submit(len, bytes(LARGE)).result(timeout=20) == LARGE


def test_the_limit_of_arguments_still_holds(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make(max_payload_bytes=LARGE)
    fitted = watch_puts(executor, monkeypatch)
    for large in (bytes(LARGE), bytearray(LARGE), numpy.zeros(LARGE, dtype="uint8")):
        with pytest.raises(throughway.ResultTooLarge, match="max_payload_bytes"):
            executor.submit(len, large).result(timeout=20)
    with pytest.raises(throughway.ResultTooLarge):
        executor.submit(max, bytes(LARGE // 2), bytes(LARGE // 2)).result(timeout=20)
    assert fitted == []
    assert executor.submit(len, bytes(LARGE - 1000)).result(timeout=20) == LARGE - 1000
    assert fitted == [True]
    await_all_free(executor)


def test_a_journal_knows_a_task_by_its_arguments_wherever_they_are(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [bytes([number]) * LARGE for number in range(5)]
    for sizes, new in ((arena_module.ARENA_BYTES, 5), (UNIT_BYTES, 0)):
        monkeypatch.setattr(arena_module, "ARENA_BYTES", sizes)
        executor = make(journal=tmp_path / "results.journal")
        futures = [executor.submit(sum, block) for block in blocks]
        assert [future.result(timeout=20) for future in futures] == [number * LARGE for number in range(5)]
        assert sum(not future.from_journal for future in futures) == new
        await_all_free(executor)
        executor.shutdown()


def test_executors_do_not_share_theirs_with_each_other(make: Make) -> None:
    one, other = make(), make()
    assert arena_of(one).key != arena_of(other).key
    futures = [
        executor.submit(sum, bytes([number]) * LARGE)
        for number, executor in zip(range(20), itertools.cycle([one, other]), strict=False)
    ]
    assert [future.result(timeout=20) for future in futures] == [number * LARGE for number in range(20)]
    await_all_free(one)
    await_all_free(other)
