"""Ctrl-C where it would leave something half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.executors.scripts import Script
from throughway import HighThroughputExecutor
from throughway.executors import interchange_process
from throughway.executors.interrupts import DeferredInterrupt, exposed


@pytest.fixture(autouse=True)
def default_handler() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press(times: int, interrupt: DeferredInterrupt | None = None) -> list[str]:
    """Press Ctrl-C so often, which must interrupt; a line for each that did not at once."""
    seen: list[str] = []

    def several() -> None:
        with interrupt or DeferredInterrupt():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
                seen.append("pressed")

    with pytest.raises(KeyboardInterrupt):
        several()
    return seen


def test_it_waits_for_the_end() -> None:
    seen = press(1)
    assert seen == ["pressed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_does_not() -> None:
    seen = press(3)
    assert seen == ["pressed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_those_of_one_moment_are_one_where_it_is_patient() -> None:
    # What is patient ends by itself, and must not be left in the middle.
    assert press(3, DeferredInterrupt(60.0)) == ["pressed"] * 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("throughway.executors.interrupts.time.monotonic", lambda: now[0])
    interrupt = DeferredInterrupt(0.5)
    interrupt._press(signal.SIGINT, None)
    now[0] += 0.4
    interrupt._press(signal.SIGINT, None)
    now[0] += 0.2
    with pytest.raises(KeyboardInterrupt):
        interrupt._press(signal.SIGINT, None)


def test_a_child_of_another_thread_has_nothing_put_off() -> None:
    status: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            # Nothing of pytest's may run here.
            os._exit(0 if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 1)
        status.append(os.waitpid(child, 0)[1])

    with DeferredInterrupt():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert status == [0]


def nothing(number: int, frame: object) -> None:
    """A handler of the user's."""


class Unhashable:
    """Another, which no set takes."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, number: int, frame: object) -> None:
        pass


@pytest.fixture
def no_handlers() -> Iterator[None]:
    """No signal has a handler in Python but SIGINT, as in a user's program that sets none."""
    former = {}
    for number in signal.valid_signals():
        if callable(handler := signal.getsignal(number)) and number != signal.SIGINT:
            former[number] = signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("no_handlers")
@pytest.mark.parametrize(
    ("number", "handler", "found"),
    [
        (signal.SIGTERM, nothing, True),
        (signal.SIGALRM, nothing, True),
        (signal.SIGRTMAX, nothing, True),
        (signal.SIGUSR1, Unhashable(), True),
        (signal.SIGINT, nothing, True),
        # This one is put off at SIGINT alone.
        (signal.SIGTERM, signal.default_int_handler, True),
        (signal.SIGTERM, signal.SIG_IGN, False),
        (signal.SIGTERM, signal.SIG_DFL, False),
        (signal.SIGINT, signal.SIG_IGN, False),
        (signal.SIGINT, signal.SIG_DFL, False),
        (signal.SIGINT, signal.default_int_handler, False),
    ],
)
def test_who_has_handlers_of_the_users_is_exposed(number: signal.Signals, handler: Any, found: bool) -> None:
    assert not exposed()
    former = signal.signal(number, handler)
    try:
        assert exposed() is found
        # Handlers run in the main thread alone.
        with ThreadPoolExecutor() as pool:
            assert pool.submit(exposed).result() is False
    finally:
        signal.signal(number, former)


def test_without_one_nothing_happens() -> None:
    with DeferredInterrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_stays() -> None:
    calls: list[int] = []
    former = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with DeferredInterrupt():
            signal.raise_signal(signal.SIGINT)
            assert calls == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, former)


def test_other_threads_leave_it_alone() -> None:
    seen: list[Any] = []

    def look() -> None:
        with DeferredInterrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_an_interrupted_start_is_a_start(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from throughway.protocol.configuration import write_configuration

    def interrupted(document: Any, path: Path) -> None:
        if threading.current_thread() is threading.main_thread():
            os.kill(os.getpid(), signal.SIGINT)
        write_configuration(document, path)

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(interchange_process, "write_configuration", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(tasks.add, 1)
        assert executor.run_folder is not None
        assert executor.submit(tasks.add, 20, 22).result(timeout=20) == 42
        assert len(list(runs.iterdir())) == 1


INTERRUPTED = """
import os, sys, threading, time
from concurrent.futures import wait
from tests.executors import tasks
from throughway import HighThroughputExecutor

def interrupt(delay):
    time.sleep(delay)
    os.kill(os.getpid(), 2)

with HighThroughputExecutor(max_workers_per_node=1, run_dir=sys.argv[1]) as executor:
    futures = [executor.submit(tasks.add, 1)]
    for number in range(200):
        thread = threading.Thread(target=interrupt, args=(0.0001 * (number % 20),))
        try:
            thread.start()
            while True:
                futures.append(executor.submit(tasks.add, 1))
        except KeyboardInterrupt:
            pass
        thread.join()
    done, left = wait(futures, timeout=30)
    print(len(left), {future.result() for future in done})
"""


def test_interrupts_while_submitting_lose_nothing(runs: Path) -> None:
    with Script(["-c", INTERRUPTED, runs]) as script:
        status, output, errors = script.ended(50)
    assert (status, output.strip()) == (0, "0 {1}"), errors
