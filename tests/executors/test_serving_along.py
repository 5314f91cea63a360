"""Who submits one task after the other reads what comes back: with real processes, and whatever comes in between.

`a_long_loan` makes whoever has the wire keep it for a minute: what nobody asks back in time is a test that fails.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.errors import ExecutorFailed
from throughway.executors import serving as serving_module
from throughway.executors import shell as shell_module
from throughway.executors.futures import TaskFuture
from throughway.executors.serving import Serving
from throughway.manager.sizing import cores_available
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.transport.interface import Arrival, Closed, Event

SECONDS = 20.0
"""For whatever must happen at all."""

pytestmark = pytest.mark.skipif(
    cores_available() < 2, reason="with one core, only the executor's thread reads"
)


class Stream:
    """An executor to which this thread submits one task after the other."""

    def __init__(self, executor: HighThroughputExecutor) -> None:
        self.executor = executor
        executor.start()
        assert executor._run is not None
        self.run = executor._run
        self.serving = self.run.shell.serving
        self.numbers = itertools.count()
        self.futures: list[TaskFuture[int]] = []
        self.takers: list[str] = []
        """the names of the threads that took results"""
        self._take = self.run.reactor.take_plain
        self.run.reactor.take_plain = self._watch  # type: ignore[method-assign]

    def _watch(self, message: m.Results, frames: Any, now: float, *, inert: bool = False) -> bool:
        taken = self._take(message, frames, now, inert=inert)
        if taken:
            self.takers.append(threading.current_thread().name)
        return taken

    def submit(self, **options: Any) -> TaskFuture[int]:
        future = self.executor.options(**options).submit(tasks.add, next(self.numbers))
        assert isinstance(future, TaskFuture)
        self.futures.append(future)
        return future

    def flow(self, until: Callable[[], object], what: str) -> None:
        """Submit until something holds."""
        deadline = time.monotonic() + SECONDS
        while not until():
            assert time.monotonic() < deadline, f"waited {SECONDS:g} s in vain for {what}"
            self.submit()

    def until_lent(self) -> None:
        """Submit until this thread is the one that reads."""
        self.flow(lambda: self.serving.lent, "the wire to be lent")

    def check(self) -> None:
        """Every task has given what it should."""
        assert [future.result(timeout=SECONDS) for future in self.futures] == list(range(len(self.futures)))
        assert self.executor.outstanding == 0


@pytest.fixture
def patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, this thread submits quickly enough."""
    monkeypatch.setattr(shell_module, "STREAM_SECONDS", 60.0)


@pytest.fixture
def a_long_loan(monkeypatch: pytest.MonkeyPatch, patiently: None) -> None:
    monkeypatch.setattr(serving_module, "LEND_SECONDS", 60.0)


@pytest.fixture
def stream(runs: Path, patiently: None) -> Iterator[Stream]:
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1
        yield Stream(executor)


def test_who_submits_takes_results(stream: Stream) -> None:
    stream.flow(lambda: len(stream.takers) >= 5, "results that were taken by this thread")
    assert set(stream.takers) == {threading.current_thread().name}
    stream.check()
    assert stream.run.reactor.restarts == 0


def test_the_thread_reads_again_soon(stream: Stream) -> None:
    stream.until_lent()
    # Nobody waits, and nobody submits any more.
    wait_until(lambda: all(future.done() for future in stream.futures), SECONDS, "all results")
    wait_until(lambda: not stream.serving.lent, SECONDS, "the wire to be taken back")
    stream.check()


def test_tasks_that_were_left_to_the_next_one_are_sent_all_the_same(stream: Stream) -> None:
    for _ in range(20):
        stream.until_lent()
        # One that comes too soon after the one before it to be sent.
        last = stream.submit()
        wait_until(last.done, SECONDS, "the last result")
    stream.check()


def test_who_waits_for_a_result_has_it_read(a_long_loan: None, stream: Stream) -> None:
    stream.until_lent()
    stream.check()
    assert not stream.serving.lent


def test_one_who_waits_elsewhere_has_it_read(a_long_loan: None, stream: Stream) -> None:
    stream.until_lent()
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(stream.futures[-1].result(timeout=SECONDS)))
    waiting.start()
    waiting.join()
    assert found == [len(stream.futures) - 1]
    stream.check()


def test_who_waits_for_room_has_it_made(
    a_long_loan: None, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "FEW_TASKS", 0)  # lent at each message, however few tasks it has
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs, max_outstanding=50) as executor:
        stream = Stream(executor)
        lent = 0
        for _ in range(5000):
            stream.submit()
            assert executor.outstanding <= 50
            lent += stream.serving.lent
        assert lent, "it was never lent"
        stream.check()


def test_what_is_asked_meanwhile_is_answered(a_long_loan: None, stream: Stream) -> None:
    stream.until_lent()
    assert len(stream.executor.connected_managers()) == 1
    stream.flow(lambda: stream.serving.lent, "the wire to be lent again")
    future = stream.submit(priority=5)
    if not future.cancel():
        assert future.result(timeout=SECONDS) == len(stream.futures) - 1
    stream.futures.remove(future)
    assert sorted(one.result(timeout=SECONDS) for one in stream.futures) == list(range(len(stream.futures)))


def test_a_callback_may_cancel_meanwhile(a_long_loan: None, stream: Stream, tmp_path: Path) -> None:
    """In the executor's thread, which reads the answer itself."""
    gate = tmp_path / "gate"
    held = [stream.executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    never = stream.executor.options(priority=9).submit(tasks.add, 1)
    said: list[object] = []

    def called(future: Future[Any]) -> None:
        said.append((never.cancel(), threading.current_thread() is stream.run.shell._thread))

    held[0].add_done_callback(called)
    gate.touch()
    stream.flow(lambda: said, "the callback")
    assert said in ([(True, True)], [(False, True)])
    stream.check()


def test_the_end_does_not_wait(a_long_loan: None, runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "throughway"):
        for options in ({}, {"cancel_futures": True}):
            executor = HighThroughputExecutor(max_workers_per_node=2, run_dir=runs)
            stream = Stream(executor)
            stream.until_lent()
            before = time.monotonic()
            executor.shutdown(**options)
            assert time.monotonic() - before < 30
            done = wait(stream.futures, timeout=0)
            assert not done.not_done
            assert options or not any(future.cancelled() for future in stream.futures)
    assert "did not end by itself" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_a_thread_that_fails_does_not_wait_either(
    a_long_loan: None, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "FAREWELL_SECONDS", 60.0)
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        stream = Stream(executor)
        stream.until_lent()

        def turn(now: float) -> None:
            raise RuntimeError("of its own")

        monkeypatch.setattr(stream.run.reactor, "turn", turn)
        stream.run.shell.wake()
        with pytest.raises(ExecutorFailed, match="of its own"):
            stream.flow(lambda: False, "the end")
        assert stream.run.shell.join(SECONDS)


def test_callbacks_run_in_the_executors_thread(stream: Stream) -> None:
    where: list[str] = []
    stream.until_lent()
    for _ in range(3000):
        stream.submit().add_done_callback(lambda future: where.append(threading.current_thread().name))
    stream.check()
    wait_until(lambda: len(where) == 3000, SECONDS, "all callbacks")
    # Those that were added to a task that was done run where they are added, as ever.
    assert stream.run.shell._thread.name in where


def test_errors_go_through_the_thread(stream: Stream) -> None:
    failing = []
    for number in range(3000):
        stream.submit()
        if number % 100 == 0:
            failing.append(stream.executor.submit(tasks.fail, str(number)))
    for number, future in enumerate(failing):
        with pytest.raises(ValueError, match=rf"^{100 * number}\b"):
            future.result(timeout=SECONDS)
    stream.check()


def test_the_interchange_may_die_meanwhile(a_long_loan: None, stream: Stream) -> None:
    for restarts in (1, 2):
        stream.until_lent()
        pid = stream.run.shell.interchange_pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not alive(pid), SECONDS, "the interchange to be gone")
        stream.flow(lambda n=restarts: stream.run.reactor.restarts == n, "another interchange")
        stream.check()


def test_several_threads_may_submit(stream: Stream) -> None:
    def submit(first: int) -> list[TaskFuture[int]]:
        return [stream.executor.submit(tasks.add, first, n) for n in range(5000)]

    found: dict[int, list[TaskFuture[int]]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: submit(n)}), name=f"submits {n}")
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first, futures in found.items():
        assert [future.result(timeout=SECONDS) for future in futures] == list(range(first, first + 5000))
    assert stream.executor.outstanding == 0
    assert not {name for name in stream.takers if not name.startswith(("submits", "MainThread"))}


def test_a_value_that_runs_code_as_it_is_loaded_is_not_for_one_who_submits(stream: Stream) -> None:
    """It may wait for a lock that he has, or for room that only the executor's thread can make."""
    lock = threading.Lock()
    where: list[str] = []

    def note() -> None:
        with lock:
            where.append(threading.current_thread().name)

    loading[:] = [note, stream.submit]
    try:
        stream.until_lent()
        with lock:
            results = [stream.executor.submit(Loads, n) for n in range(3000)]
        wait_until(lambda: len(where) == 3000, SECONDS, "all of them")
        assert [future.result(timeout=SECONDS).number for future in results] == list(range(3000))
    finally:
        loading.clear()
    assert set(where) == {stream.run.shell._thread.name}
    wait_until(lambda: stream.executor.outstanding == 0, SECONDS, "all results")
    assert sorted(future.result(timeout=0) for future in stream.futures) == list(range(len(stream.futures)))


loading: list[Callable[[], object]] = []


class Loads:
    """Arrives by calling what is in ``loading``."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.number,)


def arrive(number: int) -> Loads:
    for call in loading:
        call()
    return Loads(number)


def test_a_finalizer_may_submit_where_there_is_a_bound(
    patiently: None, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "FEW_TASKS", 0)
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs, max_outstanding=50) as executor:
        stream = Stream(executor)

        class Submits:
            """Gone as soon as nobody refers to it: in the middle of whatever made it go."""

            def __init__(self) -> None:
                self.live = True

            def __del__(self) -> None:
                if self.live:
                    stream.submit()

        kept = [Submits() for _ in range(10)]
        take = stream.run.reactor.take_plain

        def drop(message: m.Results, frames: Any, now: float, *, inert: bool = False) -> bool:
            # As the last reference to what a task was about may go where its result is taken.
            if inert and kept:
                kept.pop()
            return take(message, frames, now, inert=inert)

        stream.run.reactor.take_plain = drop  # type: ignore[method-assign]
        try:
            stream.flow(lambda: not kept, "all finalizers to have run")
        finally:
            for submits in kept:
                submits.live = False
        # Not in order: one was submitted in the middle of another.
        found = sorted(future.result(timeout=SECONDS) for future in stream.futures)
        assert found == list(range(len(stream.futures)))


def test_a_stack_that_is_nearly_full_costs_nothing_but_that_call(stream: Stream) -> None:
    def down(frames: int) -> None:
        if frames:
            down(frames - 1)
            return
        for _ in range(200):
            with contextlib.suppress(RecursionError):
                stream.futures.append(stream.executor.submit(tasks.add, len(stream.futures)))

    here = len(inspect.stack(0))
    limit = sys.getrecursionlimit()
    for depth in range(limit - here - 60, limit - here, 3):
        stream.until_lent()
        with contextlib.suppress(RecursionError):
            down(depth)
    assert all(future.result(timeout=SECONDS) is not None for future in stream.futures)
    assert stream.run.reactor.restarts == 0
    wait_until(lambda: stream.executor.outstanding == 0, SECONDS, "all results")


def test_one_who_submits_now_and_then_leaves_the_reading_to_the_thread(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon after one another that is."""
    monkeypatch.setattr(shell_module, "QUIET_SECONDS", 0.0)
    gate = tmp_path / "gate"
    held = [stream.executor.submit(tasks.hold, str(gate)) for _ in range(2)]
    for _ in range(100):
        stream.submit()
        assert not stream.serving.lent
    gate.touch()
    assert wait(held, SECONDS).not_done == set()
    stream.check()


# ----------------------------------------------------------------------------------------------- step by step


class FakeWire:
    """What was said to it; ``incoming`` is what the next `take` brings."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.incoming: list[Event] = []
        self.arrived: list[Event] = []
        self.error: BaseException | None = None

    def pause(self, peer: int, paused: bool) -> None:
        self.said.append("paused" if paused else "goes on")

    def take(self, peer: int) -> None:
        self.said.append("read")
        if self.error is not None:
            raise self.error
        self.arrived += self.incoming
        self.incoming = []

    def receive(self) -> list[Event]:
        events, self.arrived = self.arrived, []
        return events

    def pending(self) -> bool:
        return bool(self.arrived)


class FakeReactor:
    """Takes results of manager "plain" and no others."""

    def __init__(self) -> None:
        self.futures: dict[int, object] = {}
        self.broken: Exception | None = None
        self.deadline = 100.0
        self.taken: list[int] = []

    def take_plain(self, message: m.Results, frames: Any, now: float, *, inert: bool = False) -> bool:
        assert inert
        if message.manager != "plain":
            return False
        self.taken.append(message.number)
        return True

    def next_deadline(self) -> float:
        return self.deadline


class Steps:
    """A `Serving` with nothing but fakes around it."""

    def __init__(self) -> None:
        self.wire = FakeWire()
        self.reactor = FakeReactor()
        self.cuts = 0
        self.wakes = 0
        self.serving = Serving(
            self.reactor,  # type: ignore[arg-type]
            self.wire,  # type: ignore[arg-type]
            threading.RLock(),
            busy=lambda: False,
            wake=self.wake,
            cut_short=self.cut,
            serves=True,
        )
        self.serving.waits_until = 100.0

    def wake(self) -> None:
        self.wakes += 1

    def cut(self) -> None:
        self.cuts += 1

    def said(self) -> list[str]:
        said, self.wire.said = self.wire.said, []
        return said


def results(number: int, manager: str = "plain") -> Arrival:
    return Arrival(0, [codec.encode(m.Results(manager, 9, [number], bytes(1), [0], number=number))])


def test_it_is_lent_once_and_prolonged() -> None:
    steps = Steps()
    serving = steps.serving
    steps.wire.incoming = [results(1)]
    serving.read_along(10.0)
    assert (steps.said(), steps.wakes, serving.lent_until) == (["paused", "read"], 1, 10.004)
    # The thread has seen that it is to look earlier.
    serving.waits_until = serving.lent_until
    steps.wire.incoming = [results(2), results(3)]
    serving.read_along(10.002)
    assert (steps.said(), steps.wakes, serving.lent_until) == (["read"], 1, 10.006)
    serving.take_back(10.0059)
    assert (steps.said(), serving.lent) == ([], True)
    serving.take_back(10.006)
    assert (steps.said(), serving.lent) == (["goes on"], False)
    serving.take_back(10.007)
    serving.take_back()
    assert (steps.said(), steps.wakes, steps.reactor.taken) == ([], 1, [1, 2, 3])


@pytest.mark.parametrize("event", [results(1, "odd"), Closed(0, "gone"), Arrival(0, [b"nonsense"])])
def test_what_is_not_plain_is_left_in_order(event: Event) -> None:
    steps = Steps()
    serving = steps.serving
    steps.wire.incoming = [results(1), event, results(2)]
    serving.read_along(10.0)
    assert steps.reactor.taken == [1]
    assert len(serving.deferred) == 2
    assert (steps.said(), steps.wakes, serving.lent) == (["paused", "read", "goes on"], 1, False)
    serving.read_along(10.005)
    assert steps.said() == [], "soon afterwards it is not tried again"
    serving.read_along(10.02)
    assert steps.said() == ["goes on"], "nor before the thread has done its part"
    serving.deferred.clear()
    serving.read_along(10.02)
    assert steps.said() == ["paused", "read"]


def test_whoever_waits_recalls_it() -> None:
    steps = Steps()
    serving = steps.serving
    serving.recall()
    assert steps.wakes == 0, "it is not lent"
    serving.read_along(time.monotonic())
    steps.wakes = 0
    serving.recall()
    assert steps.wakes == 1
    serving.take_back(time.monotonic())
    assert steps.said() == ["paused", "read", "goes on"]
    serving.read_along(time.monotonic() - 0.001)
    assert steps.said() == []


def test_it_is_not_lent_to_one_who_reads_already_or_once_others_may_not() -> None:
    steps = Steps()
    serving = steps.serving
    with serving.lock:
        serving.read_along(10.0)
    taken = threading.Event()
    over = threading.Event()

    def hold() -> None:
        with serving.lock:
            taken.set()
            over.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(SECONDS)
    serving.read_along(10.0)
    over.set()
    thread.join()
    steps.reactor.broken = RuntimeError()
    serving.read_along(10.0)
    steps.reactor.broken = None
    serving.stop()
    serving.read_along(10.0)
    assert steps.said() == []
    assert not serving.lent


def test_once_others_may_not_the_thread_reads_again_at_once() -> None:
    steps = Steps()
    serving = steps.serving
    serving.read_along(10.0)
    steps.wakes = 0
    serving.stop()
    assert steps.wakes == 1
    serving.take_back(10.001)
    assert steps.said() == ["paused", "read", "goes on"]


def test_an_error_in_the_middle_is_told_and_ends_the_loan() -> None:
    steps = Steps()
    serving = steps.serving
    steps.wire.error = MemoryError()
    with pytest.raises(MemoryError):
        serving.read_along(10.0)
    assert (steps.cuts, steps.wakes, steps.said()) == (1, 1, ["paused", "read", "goes on"])
    assert not serving.lent
    assert serving.lock.acquire(blocking=False)
    serving.lock.release()
