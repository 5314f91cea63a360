"""Ctrl-C where it would leave something half done."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.executors.scripts import Script
from throughway import HighThroughputExecutor
from throughway.executors import interchange_process
from throughway.executors.interrupts import DeferredInterrupt


@pytest.fixture(autouse=True)
def default_handler() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press(times: int) -> list[str]:
    """Press Ctrl-C so often, which must interrupt; a line for each that did not at once."""
    seen: list[str] = []

    def several() -> None:
        with DeferredInterrupt():
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
