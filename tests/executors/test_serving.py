"""Who waits for a lone task reads its result: with real processes, and whatever comes in between.

Where a test needs somebody to wait awake, for as long as it takes, it puts an `Awake` in place of the executor's
`Spin`: then none of this depends on how quick the machine is.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

import throughway
from tests.executors import tasks
from tests.executors.scripts import Script
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors import futures, interchange_process
from throughway.executors.actions import Action, Tell
from throughway.executors.futures import RUNNING, CancelledError, TaskFuture
from throughway.executors.run import Run
from throughway.executors.serving import FEW_TASKS
from throughway.manager.sizing import cores_available
from throughway.protocol import messages as m
from throughway.transport import spin
from throughway.transport.spin import Spin

SECONDS = 20.0
"""For whatever must happen at all."""

AWAKE_SECONDS = 10.0
"""For whoever waits awake. Waits that are given less time than this sleep at once."""


class Awake(Spin):
    """Waits are always awake, and for long; ``told`` is what was said of them."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, 0.0)
        self.due = True
        self.told: list[float] = []

    def waited(self, began: float) -> None:
        self.told.append(time.monotonic() - began)
        self.due = self.seconds > 0


class Watched:
    """A running executor, somebody of which waits awake, and who took which results."""

    def __init__(self, executor: HighThroughputExecutor, seconds: float) -> None:
        self.executor = executor
        executor.start()
        run = executor._run
        assert run is not None
        self.run, self.shell = run, run.shell
        self.spin = self.shell.serving.spin = Awake(seconds)
        self.taken: list[str] = []
        self.left: list[str] = []
        """the names of the threads that took results, and that had to leave them to the executor's"""
        self.told: list[m.Message] = []
        self._take_plain = run.reactor.take_plain
        self._perform = self.shell._perform
        run.reactor.take_plain = self._watch_taking  # type: ignore[method-assign]
        self.shell._perform = self._watch_telling  # type: ignore[method-assign]

    def _watch_taking(self, message: m.Results, frames: Any, now: float, *, inert: bool = False) -> bool:
        taken = self._take_plain(message, frames, now, inert=inert)
        (self.taken if taken else self.left).append(threading.current_thread().name)
        return taken

    def _watch_telling(self, action: Action) -> None:
        if isinstance(action, Tell):
            self.told.append(action.message)
        self._perform(action)

    def serving(
        self, others: ThreadPoolExecutor, future: TaskFuture[Any], *, running: bool = True
    ) -> Future[Any]:
        """Have a thread wait for ``future`` and read in place of the executor's; what it gets.

        It cannot where the executor's thread is about to do something, and sleeps: then another one tries. What runs
        already has told so: that is for the executor's thread, too. (`running` would make a condition.)
        """
        waiting: list[Future[Any]] = []
        if running:
            wait_until(lambda: future._state == RUNNING, SECONDS, "the task to run")

        def asleep() -> int:
            return 0 if future._late is None else len(future._late.sleepers)

        def reads() -> bool:
            return any(stream.paused for stream in self.shell._wire.streams.values())

        def another_reads() -> bool:
            # One who went to sleep has taken it away.
            self.spin.due = True
            waiting.append(others.submit(future.result, SECONDS))
            wait_until(lambda: reads() or asleep() == len(waiting), SECONDS, "somebody to read, or to sleep")
            return reads()

        wait_until(another_reads, SECONDS, "somebody to read the wire")
        return waiting[-1]


@pytest.fixture
def watch(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """Makes an executor with one worker that is up, and watches it."""
    # However busy the machine is.
    monkeypatch.setattr(spin, "CROWDED_SECONDS", SECONDS)
    executors: list[HighThroughputExecutor] = []

    def make(seconds: float = AWAKE_SECONDS, **options: Any) -> Watched:
        executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, **options)
        executors.append(executor)
        assert executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1
        return Watched(executor, seconds)

    yield make
    for executor in executors:
        # Should the test have failed, nobody opens the gates of its tasks.
        executor._end(True, cancel_futures=True, kill=True)


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for tasks."""
    with ThreadPoolExecutor(32, thread_name_prefix="other") as pool:
        yield pool


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What `tasks.hold` waits for, once it is there."""
    return tmp_path / "gate"


# ------------------------------------------------------------------------------------------------- who takes what


def test_who_waits_takes_the_result(watch: Callable[..., Watched]) -> None:
    watched = watch()

    def taken() -> bool:
        assert watched.executor.submit(tasks.add, 20, 22).result(timeout=SECONDS) == 42
        return len(watched.taken) >= 10

    wait_until(taken, SECONDS, "ten results that were taken where they were waited for")
    assert set(watched.taken) == {threading.current_thread().name}
    assert not watched.left
    assert watched.executor.outstanding == 0


def test_it_is_told_how_long_it_took(watch: Callable[..., Watched]) -> None:
    watched = watch()

    def told() -> list[float]:
        # A task that is done before it is waited for tells nothing.
        watched.executor.submit(tasks.add, 1).result(timeout=SECONDS)
        return watched.spin.told

    assert len(wait_until(told, SECONDS, "a wait")) == 1
    assert 0 < watched.spin.told[0] < SECONDS


def test_by_itself_it_comes_to_that(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No `Awake` here: a short wait makes the next one awake.
    monkeypatch.setattr(spin, "CROWDED_SECONDS", SECONDS)
    if cores_available() < 2:
        pytest.skip("there is one core")
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        executor.start()
        assert executor._run is not None
        its_spin = executor._run.shell.serving.spin
        # However slow the machine is.
        its_spin.seconds, its_spin.short = AWAKE_SECONDS, SECONDS
        reactor = executor._run.reactor
        taken: list[str] = []
        take_plain = reactor.take_plain

        def watching(message: m.Results, frames: Any, now: float, *, inert: bool = False) -> bool:
            taken.append(threading.current_thread().name)
            return take_plain(message, frames, now, inert=inert)

        reactor.take_plain = watching  # type: ignore[method-assign]

        def served() -> bool:
            return executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1 and len(taken) > 3

        wait_until(served, SECONDS, "a result that was taken where it was waited for")
        assert set(taken) == {threading.current_thread().name}


def test_callbacks_run_in_the_executors_thread(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    waiting = watched.serving(others, future)
    called: list[str] = []
    future.add_done_callback(lambda done: called.append(threading.current_thread().name))
    gate.touch()
    assert waiting.result(SECONDS) > 0
    wait_until(lambda: called, SECONDS, "the callback")
    assert called == ["throughway: executor"]
    assert not watched.taken
    assert watched.left
    assert watched.left[0].startswith("other")


def test_who_waits_in_other_ways_is_told(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    serving = watched.serving(others, future)
    waits: list[Callable[[], Any]] = [
        lambda: wait([future], SECONDS).done,
        lambda: list(as_completed([future], SECONDS)),
        lambda: future.exception(SECONDS),
    ]
    sleeping = [others.submit(way) for way in waits]
    wait_until(lambda: len(future._waiters) >= 2, SECONDS, "all to wait")
    gate.touch()
    assert serving.result(SECONDS) > 0
    assert [way.result(SECONDS) for way in sleeping] == [{future}, [future], None]


def test_threads_that_wait_for_the_same_task_all_get_it(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    waiting = [watched.serving(others, future)]
    asleep = 0 if future._late is None else len(future._late.sleepers)
    waiting += [others.submit(future.result, SECONDS) for _ in range(3)]
    wait_until(
        lambda: future._late is not None and len(future._late.sleepers) == asleep + 3,
        SECONDS,
        "three to sleep",
    )
    gate.touch()
    assert len({each.result(SECONDS) for each in waiting}) == 1
    assert len(watched.taken) == 1


def test_who_waits_takes_the_results_of_others_too(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, tmp_path: Path
) -> None:
    watched = watch()
    attempts = itertools.count()

    def took_both() -> bool:
        watched.taken.clear()
        watched.left.clear()
        gate = tmp_path / f"gate{next(attempts)}"
        first = watched.executor.submit(tasks.hold, str(gate))
        wait_until(lambda: first._state == RUNNING, SECONDS, "the first to run")
        second = watched.executor.submit(tasks.add, 20, 22)
        serving = watched.serving(others, second, running=False)
        sleeping = others.submit(first.result, SECONDS)
        wait_until(lambda: first._late is not None and first._late.sleepers, SECONDS, "the other to sleep")
        gate.touch()
        assert sleeping.result(SECONDS) > 0
        assert serving.result(SECONDS) == 42
        # The second may say that it runs: that ends it.
        return bool(watched.taken) and not watched.left

    wait_until(took_both, SECONDS, "both results to be taken by one who waited for one of them")
    assert len(set(watched.taken)) == 1


def test_threads_that_wait_for_tasks_of_their_own(
    watch: Callable[..., Watched], others: ThreadPoolExecutor
) -> None:
    watched = watch(0.0005)

    def loop(first: int) -> list[int]:
        numbers = range(first, first + 150)
        return [watched.executor.submit(tasks.add, number).result(timeout=SECONDS) for number in numbers]

    firsts = [1000 * number for number in range(3)]
    assert list(others.map(loop, firsts)) == [list(range(first, first + 150)) for first in firsts]
    assert watched.executor.outstanding == 0


@pytest.mark.parametrize("kind", ["unpicklable", "unloadable"])
def test_errors_go_through_the_thread(watch: Callable[..., Watched], kind: str) -> None:
    watched = watch()

    def failed() -> int:
        with pytest.raises(ValueError, match="on purpose"):
            watched.executor.submit(tasks.fail, "on purpose").result(timeout=SECONDS)
        with pytest.raises((throughway.SerializationError, throughway.DeserializationError)):
            watched.executor.submit(tasks.make, kind).result(timeout=SECONDS)
        return len(watched.left) >= 2

    wait_until(failed, SECONDS, "errors that were left to the thread")
    assert not watched.taken
    assert watched.executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1


def test_large_results_go_through_the_thread(watch: Callable[..., Watched]) -> None:
    watched = watch()
    block = os.urandom(3_000_000)

    def came() -> int:
        assert watched.executor.submit(tasks.give, block).result(timeout=SECONDS) == block
        return len(watched.left)

    wait_until(came, SECONDS, "a large result that was left to the thread")
    assert not watched.taken


def test_a_task_that_is_cancelled_meanwhile(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch(0.05)
    running = watched.executor.submit(tasks.hold, str(gate))
    wait_until(running.running, SECONDS, "the first to run")
    waiting = [watched.executor.submit(tasks.add, number) for number in range(2)]
    serving = others.submit(waiting[0].exception, SECONDS)
    result = others.submit(waiting[1].result, SECONDS)
    assert all(future.cancel() for future in waiting)
    for each in (serving, result):
        with pytest.raises(CancelledError):
            each.result(SECONDS)
    gate.touch()
    assert running.result(timeout=SECONDS) > 0


def test_a_time_limit_and_a_retry(watch: Callable[..., Watched], tmp_path: Path, gate: Path) -> None:
    watched = watch()
    again = watched.executor.options(retries=1).submit(tasks.die_once, str(tmp_path), 7)
    assert again.result(timeout=SECONDS) == 7
    with pytest.raises(throughway.WalltimeExceeded):
        watched.executor.options(walltime=0.1).submit(tasks.hold, str(gate)).result(timeout=SECONDS)


# --------------------------------------------------------------------------------------------------- time and room


@pytest.mark.parametrize("timeout", [0, 0.0001, 0.1])
def test_time_runs_out(watch: Callable[..., Watched], gate: Path, timeout: float) -> None:
    watched = watch(0.02)
    future = watched.executor.submit(tasks.hold, str(gate))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(timeout=timeout)
    assert not watched.spin.due, "a wait that timed out was no short one"
    assert future._late is not None
    assert not future._late.sleepers
    gate.touch()
    assert future.result(timeout=SECONDS) > 0


def test_managers_hear_within_a_second_that_their_results_are_here(
    watch: Callable[..., Watched],
) -> None:
    # The thread waits for the next heartbeat, half a minute away, unless it is woken.
    watched = watch()
    reactor = watched.run.reactor
    wait_until(
        lambda: not reactor._acknowledgements and watched.shell.serving.waits_until > reactor._heard_at + 5,
        SECONDS,
        "a thread that has nothing to say",
    )

    def taken() -> int:
        watched.executor.submit(tasks.add, 1).result(timeout=SECONDS)
        return len(watched.taken)

    wait_until(taken, SECONDS, "a result that was taken where it was waited for")
    numbers = dict(reactor._received)
    wait_until(lambda: m.Acknowledge(numbers) in watched.told, 10, lambda: f"{numbers} in {watched.told}")


def test_with_more_than_a_few_tasks_it_is_the_thread_that_reads(
    watch: Callable[..., Watched], gate: Path
) -> None:
    watched = watch(0.1)
    futures = [watched.executor.submit(tasks.hold, str(gate)) for _ in range(FEW_TASKS + 1)]
    looked: list[str] = []

    class Probe:
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            looked.append("somebody read")
            return []

    watched.shell.serving.probe = Probe()  # type: ignore[assignment]
    for future in futures:
        with pytest.raises(TimeoutError):
            future.result(timeout=0.2)
        watched.spin.due = True
    assert not looked
    gate.touch()
    assert wait(futures, SECONDS).not_done == set()


@pytest.mark.parametrize("limit", range(1, FEW_TASKS + 1))
def test_where_somebody_may_wait_for_room_it_is_the_thread_that_reads(
    runs: Path, others: ThreadPoolExecutor, limit: int
) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, max_outstanding=limit) as executor:
        executor.start()
        assert executor._run is not None
        assert executor._run.shell.serving.spin.seconds == 0

        def loop(first: int) -> int:
            return sum(executor.submit(tasks.add, first).result(timeout=SECONDS) for _ in range(40))

        assert list(others.map(loop, range(5))) == [40 * number for number in range(5)]


def test_who_waits_for_room_gets_it(watch: Callable[..., Watched], others: ThreadPoolExecutor) -> None:
    watched = watch(0.0005, max_outstanding=FEW_TASKS + 1)

    def loop(first: int) -> int:
        futures = [watched.executor.submit(tasks.add, first) for _ in range(100)]
        return sum(future.result(timeout=SECONDS) for future in reversed(futures))

    assert list(others.map(loop, range(4))) == [100 * number for number in range(4)]


def test_with_a_journal_it_is_the_thread_that_reads(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.journal"
    for came in (0, 20):
        with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs, journal=path) as executor:
            found = [executor.submit(tasks.add, number) for number in range(20)]
            assert [future.result(timeout=SECONDS) for future in found] == list(range(20))
            assert sum(future.from_journal for future in found) == came
            assert executor._run is None or executor._run.shell.serving.spin.seconds == 0


ONE_CORE = """
import os, sys
from tests.executors import tasks
from throughway import HighThroughputExecutor
from throughway.protocol.configuration import InterchangeConfig, read_configuration
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with HighThroughputExecutor(max_workers_per_node=1, run_dir=sys.argv[1]) as executor:
    print(sum(executor.submit(tasks.add, 1).result(timeout=30) for _ in range(50)))
    document = read_configuration(f"{executor.run_folder}/interchange.json", InterchangeConfig)
    print(executor._run.shell.serving.spin.seconds, document.spins)
"""


def test_with_one_core_nobody_waits_awake(runs: Path) -> None:
    with Script(["-c", ONE_CORE, runs]) as script:
        status, output, errors = script.ended(50)
    assert (status, output.splitlines()) == (0, ["50", "0.0 False"]), errors


# ------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("wait_for_all", [True, False])
def test_a_shutdown_while_somebody_reads(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path, wait_for_all: bool
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    serving = watched.serving(others, future)
    ending = others.submit(watched.executor.shutdown, wait_for_all)
    wait_until(lambda: not watched.spin.seconds, SECONDS, "nobody to read any more")
    gate.touch()
    assert serving.result(SECONDS) > 0
    ending.result(SECONDS)
    wait_until(lambda: not watched.shell._thread.is_alive(), SECONDS, "the end")
    with pytest.raises(RuntimeError, match="after shutdown"):
        watched.executor.submit(tasks.add, 1)


def test_a_shutdown_that_cancels_while_somebody_reads(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch(0.2)
    running, waiting = (watched.executor.submit(tasks.hold, str(gate)) for _ in range(2))
    serving = watched.serving(others, waiting, running=False)
    watched.executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        serving.result(SECONDS)
    gate.touch()
    assert running.result(timeout=SECONDS) > 0


def test_the_interchange_is_killed_while_somebody_reads(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    serving = watched.serving(others, future)
    os.kill(watched.shell.interchange_pid, signal.SIGKILL)
    wait_until(lambda: watched.run.reactor.restarts == 1, SECONDS, "another interchange")
    gate.touch()
    assert serving.result(SECONDS) > 0
    assert watched.executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1


def test_who_submits_finds_the_interchange_gone_while_somebody_reads(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    # The one who reads ends just then, and the thread hears nothing of a socket that somebody else has closed.
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    wait_until(lambda: future._state == RUNNING, SECONDS, "the task to run")
    ends = threading.Event()
    found = threading.Event()

    class Probe:
        """Nothing comes, until the test says that the time is up."""

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            if ends.is_set():
                found.wait(SECONDS)
                watched.spin.seconds = 0.0005
                raise MemoryError
            return []

    watched.shell.serving.probe = Probe()  # type: ignore[assignment]
    serving = watched.serving(others, future)
    os.kill(watched.shell.interchange_pid, signal.SIGKILL)
    wait_until(lambda: not alive(watched.shell.interchange_pid), SECONDS, "the interchange to be gone")
    ends.set()
    more = watched.executor.submit(tasks.add, 1)
    found.set()
    with pytest.raises(MemoryError):
        serving.result(SECONDS)
    wait_until(lambda: watched.run.reactor.restarts == 1, SECONDS, "another interchange")
    gate.touch()
    assert more.result(timeout=SECONDS) == 1
    assert future.result(timeout=SECONDS) > 0


def test_an_error_in_the_middle_of_a_message_costs_an_interchange_and_no_task(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch()
    wire = watched.shell._wire
    raised: list[str] = []

    def take(peer: int) -> None:
        raised.append(threading.current_thread().name)
        raise MemoryError

    monkeypatch.setattr(wire, "take", take)

    def cut_short() -> bool:
        future = watched.executor.submit(tasks.add, 20, 22)
        try:
            assert future.result(timeout=SECONDS) == 42
        except MemoryError:
            assert future.result(timeout=SECONDS) == 42
        return bool(raised)

    wait_until(cut_short, SECONDS, "somebody to be cut short")
    wait_until(lambda: watched.run.reactor.restarts == 1, SECONDS, "another interchange")
    assert watched.executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1


def test_a_fork_while_somebody_reads(
    watch: Callable[..., Watched], others: ThreadPoolExecutor, gate: Path
) -> None:
    watched = watch()
    future = watched.executor.submit(tasks.hold, str(gate))
    serving = watched.serving(others, future)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            future.result(timeout=10)
        except RuntimeError as error:
            status = 0 if "fork" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    gate.touch()
    assert serving.result(SECONDS) > 0
    assert watched.executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1


# -------------------------------------------------------------------------------------------------------- signals

STORM = """
import collections, faulthandler, os, signal, sys, threading, time
from tests.executors import tasks
from throughway import HighThroughputExecutor, SerializationError
from throughway.transport import spin
from throughway.transport.spin import Spin

spin.CROWDED_SECONDS = 60.0
faulthandler.dump_traceback_later(45, exit=True)

class Awake(Spin):
    # Always, and so long that the storm comes by while somebody reads, however slow the machine is.
    def waited(self, began):
        self.due = self.seconds > 0

class Alarm(BaseException):
    pass

if __name__ == "__main__":
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=sys.argv[1])
    assert executor.submit(tasks.add, 1).result() == 1
    shell, reactor = executor._run.shell, executor._run.reactor
    shell.serving.spin = Awake(0.002, 0.001)
    shell.serving.spin.due = True
"""

CTRL_C = (
    STORM
    + """
    armed = threading.Event()
    def press():
        for number in range(300):
            armed.wait()
            armed.clear()
            time.sleep(0.0003 * (number % 10))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    presser = threading.Thread(target=press)
    presser.start()
    hits, futures = 0, []
    while hits < 300:
        try:
            armed.set()
            while True:
                futures.append(executor.submit(tasks.add, 1))
                assert futures[-1].result() == 1
        except KeyboardInterrupt:
            hits += 1
    presser.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print({future.result(timeout=30) for future in futures}, reactor.restarts)
    executor.shutdown()
"""
)

RAISING = (
    STORM
    + """
    kind = {"an exit": SystemExit, "a time limit": TimeoutError, "its own": Alarm}[sys.argv[2]]
    armed = False
    def raising(number, frame):
        global armed
        if armed:
            armed = False
            raise kind("alarm")
    signal.signal(signal.SIGALRM, raising)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0037)
    hits, futures = 0, []
    while hits < 300:
        try:
            armed = True
            while True:
                future = executor.submit(tasks.add, 1)
                futures.append(future)
                future.result()
        except kind:
            hits += 1
        except SerializationError:
            # Pickling cannot tell that it was not the argument that raised.
            futures.remove(future)
    armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print({future.result(timeout=30) for future in futures}, reactor.restarts)
    executor.shutdown()
"""
)

WAITING = (
    STORM
    + """
    handled = []
    def waiting(number, frame):
        if handled and handled[-1] is None:
            return
        handled.append(None)
        handled[-1] = executor.submit(tasks.add, 2, len(handled)).result()
    signal.signal(signal.SIGALRM, waiting)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0037)
    while len(handled) < 300:
        assert executor.submit(tasks.add, 1).result() == 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert handled == [2 + number for number in range(1, len(handled) + 1)]
    print("done", reactor.restarts)
    executor.shutdown()
"""
)

ENDING = (
    STORM
    + """
    def ending(number, frame):
        executor.shutdown()
        print("done", reactor.restarts)
        sys.exit(0)
    signal.signal(signal.SIGTERM, ending)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    while True:
        assert executor.submit(tasks.add, 1).result() == 1
"""
)


def storm(code: str, *arguments: Any) -> str:
    """What such a script prints; it must end by itself, and well."""
    with Script(["-c", code, *map(str, arguments)]) as script:
        status, output, errors = script.ended(55)
    assert status == 0, f"{output}{errors}"
    return output.strip()


def test_ctrl_c_waits_until_somebody_has_read(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pressed: list[int] = []
    read: list[int] = []
    take = watched.shell._wire.take

    def press_and_take(peer: int) -> None:
        if not pressed:
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
                pressed.append(signal.SIGINT)
        take(peer)
        read.append(peer)

    monkeypatch.setattr(watched.shell._wire, "take", press_and_take)

    def interrupted() -> bool:
        pressed.clear()
        read.clear()
        future = watched.executor.submit(tasks.add, 20, 22)
        try:
            future.result(timeout=SECONDS)
        except KeyboardInterrupt:
            assert read, "it came after what was there had been read"
            # That may be the news that it runs, and the result is the thread's to read.
            done = future.done()
            assert future.result(timeout=SECONDS) == 42
            return done
        return False

    wait_until(interrupted, SECONDS, "somebody who reads to be interrupted")
    assert len(pressed) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert watched.executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1
    assert watched.run.reactor.restarts == 0


class Making:
    """In place of the lock of the module `futures`: notes what is called while a thread has it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.times = 0
        self.called: list[str] = []

    def __enter__(self) -> None:
        self.lock.acquire()
        self.times += 1
        # It may come anywhere, and calls what others have registered.
        gc.disable()
        sys.setprofile(self._note)

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        gc.enable()
        self.lock.release()

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is not Making.__exit__.__code__:
            self.called.append(frame.f_code.co_qualname)
        elif event == "c_call" and argument is not sys.setprofile:
            self.called.append(argument.__qualname__)


@pytest.mark.parametrize("way", ["sleep", "condition", "both"])
def test_no_handler_can_come_by_while_a_waiting_thread_has_the_lock(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    # A signal's handler runs where something is called, and might wait for what nobody else could complete then.
    making = Making()
    monkeypatch.setattr(futures, "_making", making)
    future: TaskFuture[Any] = TaskFuture(None, m.Task(1, 1, b""), None, (), 0)  # type: ignore[arg-type]
    if way != "sleep":
        assert not future.running()
    if way != "condition":
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
    assert making.times == (2 if way == "both" else 1)
    assert not making.called


@pytest.mark.slow
def test_ctrl_c_while_reading_loses_nothing(runs: Path) -> None:
    assert storm(CTRL_C, runs) == "{1} 0"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["an exit", "a time limit", "its own"])
def test_a_handler_that_raises_loses_nothing(runs: Path, kind: str) -> None:
    assert storm(RAISING, runs, kind) == "{1} 0"


@pytest.mark.slow
def test_a_handler_may_wait_for_tasks(runs: Path) -> None:
    assert storm(WAITING, runs) == "done 0"


def test_a_handler_may_shut_down(runs: Path) -> None:
    assert storm(ENDING, runs) == "done 0"


# ------------------------------------------------------------------------------------------------ the interchange

PATIENT = """
import sys
from throughway.interchange import shell
from throughway.interchange.__main__ import main
from throughway.transport import spin
spin.CROWDED_SECONDS = 600.0
# Whatever the last wait was, the next one is awake.
spin_class = shell.Spin
shell.Spin = lambda seconds, short: spin_class(float(sys.argv[2]), 600.0)
sys.exit(main(sys.argv[1:2]))
"""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has interchanges wait awake so many seconds whenever they are at rest."""

    def set_patience(seconds: float) -> None:
        monkeypatch.setattr(
            interchange_process,
            "daemon_command",
            lambda module, config: [sys.executable, "-P", "-c", PATIENT, str(config), str(seconds)],
        )

    return set_patience


def cpu_seconds(pid: int) -> float:
    """What this process has computed so far."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) * 1e-9


def at_rest(pid: int) -> Callable[[], bool]:
    """Whether a process has computed next to nothing in five looks in a row, 0.1 s or so in all."""
    seen: list[float] = []

    def look() -> bool:
        seen.append(cpu_seconds(pid))
        return len(seen) > 5 and seen[-1] - seen[-6] < 0.003

    return look


def test_an_idle_executor_sleeps(runs: Path, patient: Callable[[float], None]) -> None:
    patient(0.1)
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        for _ in range(50):
            assert executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1
        run = executor._run
        assert run is not None
        pids = [run.shell.interchange_pid, *(manager.pid for manager in executor.connected_managers())]
        for pid in pids:
            wait_until(at_rest(pid), SECONDS, f"process {pid} to sleep")
        wait_until(at_rest(os.getpid()), SECONDS, "this process to sleep")


@pytest.fixture
def awake(runs: Path, patient: Callable[[float], None]) -> Iterator[Run]:
    """A run whose interchange waits awake, and would do so for ten minutes."""
    patient(600)
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        for _ in range(2):
            assert executor.submit(tasks.add, 1).result(timeout=SECONDS) == 1
        run = executor._run
        assert run is not None
        pid = run.shell.interchange_pid
        before = cpu_seconds(pid)
        wait_until(lambda: cpu_seconds(pid) > before + 0.05, SECONDS, "it to be awake")
        yield run


def test_an_interchange_that_is_awake_hears_of_the_end(awake: Run) -> None:
    process = awake.shell._process
    assert process is not None
    assert process._process is not None
    awake.end()
    assert awake.shell.join(SECONDS)
    assert process._process.returncode == 0, "it was not killed"


def test_an_interchange_that_is_awake_hears_signals(awake: Run) -> None:
    pid = awake.shell.interchange_pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), SECONDS, "it to end")
    wait_until(lambda: awake.reactor.restarts == 1, SECONDS, "another one")
