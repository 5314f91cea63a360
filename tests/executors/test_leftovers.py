"""Nothing of a run is left, however it ends: no process, no socket, no runtime folder. Only its logs stay."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.executors.scripts import Script
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.executors import run_folder

SECONDS = 20.0
"""For everything to be gone after the end."""

BUSY = """
import json, os, subprocess, sys, time
from tests.executors import tasks
from throughway import HighThroughputExecutor

def with_child(path):
    # One of them is in a session of its own, which no signal to a group reaches.
    child = subprocess.Popen(["sleep", "600"], start_new_session=path.endswith("second"))
    with open(path + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(path + ".new", path)
    child.wait()

def busy(executor, folder):
    '''Have both workers run a task with a child process, and one wait; tell all that there is.'''
    global futures
    paths = [os.path.join(folder, name) for name in ("first", "second", "third")]
    futures = [executor.submit(with_child, path) for path in paths]
    while not all(os.path.exists(path) for path in paths[:2]):
        time.sleep(0.002)
    pids = [executor._run.shell.interchange_pid]
    pids += [manager.pid for manager in executor.connected_managers()]
    for path in paths[:2]:
        pids += map(int, open(path).read().split())
    for pid in list(pids):
        children = open(f"/proc/{pid}/task/{pid}/children").read()
        pids += map(int, children.split())
    print(json.dumps({
        "pids": sorted({*pids}), "runtime": str(executor._run.folder.runtime), "folder": str(executor.run_folder)
    }), flush=True)
    return futures

def make(runs):
    return HighThroughputExecutor(max_workers_per_node=2, run_dir=runs)

runs, folder = sys.argv[1:]
"""

IN_WITH = """
with make(runs) as executor:
    futures = busy(executor, folder)
    futures[0].result()
"""

WITHOUT = """
executor = make(runs)
futures = busy(executor, folder)
futures[0].result()
"""

KEEPING_ON = """
executor = make(runs)
try:
    busy(executor, folder)
    futures[0].result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
for future in futures:
    executor.kill(future)
print(executor.submit(tasks.add, 20, 22).result(timeout=20), flush=True)
"""

RAISING = """
with make(runs) as executor:
    futures = busy(executor, folder)
    for future in futures:
        executor.kill(future)
    raise LookupError("the script's own")
"""

SUBMITTING = """
with make(runs) as executor:
    busy(executor, folder)
    while True:
        executor.submit(tasks.add, 1)
"""


def check_gone(told: dict[str, Any]) -> None:
    wait_until(
        lambda: not [pid for pid in told["pids"] if alive(pid)],
        SECONDS,
        lambda: f"{[pid for pid in told['pids'] if alive(pid)]} of {told} to be gone",
    )
    wait_until(lambda: not os.path.exists(told["runtime"]), SECONDS, f"{told['runtime']} to be gone")
    folder = Path(told["folder"])
    assert (folder / "interchange.log").stat().st_size > 0
    assert list(folder.glob("block-0/*/worker-0.log"))


@pytest.mark.parametrize(
    ("code", "number", "status"),
    [
        pytest.param(IN_WITH, signal.SIGINT, -signal.SIGINT, id="Ctrl-C inside with"),
        pytest.param(WITHOUT, signal.SIGINT, -signal.SIGINT, id="Ctrl-C without with"),
        pytest.param(SUBMITTING, signal.SIGINT, -signal.SIGINT, id="Ctrl-C while submitting"),
        pytest.param(IN_WITH, signal.SIGTERM, -signal.SIGTERM, id="SIGTERM"),
        pytest.param(WITHOUT, signal.SIGHUP, -signal.SIGHUP, id="SIGHUP"),
        pytest.param(IN_WITH, signal.SIGKILL, -signal.SIGKILL, id="SIGKILL"),
        pytest.param(SUBMITTING, signal.SIGKILL, -signal.SIGKILL, id="SIGKILL while submitting"),
        pytest.param(WITHOUT, signal.SIGQUIT, -signal.SIGQUIT, id="SIGQUIT"),
    ],
)
def test_a_signal_to_the_script(
    runs: Path, tmp_path: Path, code: str, number: signal.Signals, status: int
) -> None:
    with Script(["-c", BUSY + code, runs, tmp_path]) as script:
        told = script.told()
        script.signal(number)
        assert script.ended(30)[0] == status
    check_gone(told)


def test_two_interrupts_in_a_row(runs: Path, tmp_path: Path) -> None:
    with Script(["-c", BUSY + IN_WITH, runs, tmp_path]) as script:
        told = script.told()
        script.signal(signal.SIGINT)
        script.signal(signal.SIGINT)
        assert script.ended(30)[0] == -signal.SIGINT
    check_gone(told)


def test_an_interrupted_wait_leaves_the_executor_usable(runs: Path, tmp_path: Path) -> None:
    with Script(["-c", BUSY + KEEPING_ON, runs, tmp_path]) as script:
        told = script.told()
        script.signal(signal.SIGINT)
        status, output, errors = script.ended()
    assert (status, output.split()) == (0, ["interrupted", "42"]), errors
    check_gone(told)


def test_an_exception_in_the_script(runs: Path, tmp_path: Path) -> None:
    with Script(["-c", BUSY + RAISING, runs, tmp_path]) as script:
        told = script.told()
        status, _, errors = script.ended()
    assert status == 1
    assert errors.rstrip().endswith("LookupError: the script's own")
    check_gone(told)


def test_all_at_once_with_the_interchange(runs: Path, tmp_path: Path) -> None:
    """Where not even the interchange can clean up, managers and workers end, and the next run removes the folder."""
    with Script(["-c", BUSY + IN_WITH, runs, tmp_path]) as script:
        told = script.told()
        title = Path("/proc")
        interchange = next(
            pid
            for pid in told["pids"]
            if b"throughway-interchange" in (title / str(pid) / "cmdline").read_bytes()
        )
        os.kill(interchange, signal.SIGSTOP)
        script.signal(signal.SIGKILL)
        os.kill(interchange, signal.SIGKILL)
        script.ended()
    wait_until(lambda: not [pid for pid in told["pids"] if alive(pid)], SECONDS, f"{told} to be gone")
    with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as executor:
        executor.start()
        assert not os.path.exists(told["runtime"])
        assert os.path.exists(told["folder"])


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(3)",
        "raise ValueError('own')",
        "executor.shutdown(wait=False)",
        "executor.shutdown(wait=False); del executor",
        "del executor",
    ],
)
def test_the_end_of_the_interpreter_waits_for_what_was_submitted(
    runs: Path, tmp_path: Path, ending: str
) -> None:
    code = f"""
import sys
from tests.executors import tasks
from throughway import HighThroughputExecutor
executor = HighThroughputExecutor(max_workers_per_node=2, run_dir=sys.argv[1])
for number in range(500):
    executor.submit(tasks.count_run, sys.argv[2], number)
print(executor._run.folder.runtime, executor._run.shell.interchange_pid, flush=True)
{ending}
"""
    marks = tmp_path / "marks"
    marks.mkdir()
    with Script(["-c", code, runs, marks]) as script:
        runtime, interchange = script.line().split()
        expected = 3 if "SystemExit" in ending else int("raise" in ending)
        assert script.ended()[0] == expected
    assert len(list(marks.iterdir())) == 500
    assert not alive(int(interchange))
    assert not os.path.exists(runtime)


def test_the_end_of_the_interpreter_after_os_exit(runs: Path, tmp_path: Path) -> None:
    with Script(
        ["-c", BUSY + "executor = make(runs)\nbusy(executor, folder)\nos._exit(5)", runs, tmp_path]
    ) as script:
        told = script.told()
        assert script.ended()[0] == 5
    check_gone(told)


def test_an_executor_that_was_dropped(runs: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    run = executor._run
    assert run is not None
    runtime, interchange = run.folder.runtime, run.shell.interchange_pid
    dropped = weakref.ref(executor)
    del executor, run
    gc.collect()
    wait_until(lambda: dropped() is None, SECONDS, "the executor to be gone")
    wait_until(lambda: not alive(interchange), SECONDS, "the interchange to be gone")
    wait_until(lambda: not runtime.exists(), SECONDS, "the runtime folder to be gone")


def test_an_executor_that_was_dropped_finishes_what_it_has(runs: Path, tmp_path: Path) -> None:
    executor = HighThroughputExecutor(max_workers_per_node=1, run_dir=runs)
    gate = tmp_path / "gate"
    future = executor.submit(tasks.hold, str(gate))
    dropped = weakref.ref(executor)
    del executor
    gc.collect()
    gate.touch()
    assert future.result(timeout=20) > 0
    del future
    wait_until(lambda: gc.collect() >= 0 and dropped() is None, SECONDS, "the executor to be gone")


def test_only_threads_of_live_executors_are_there(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        executor.submit(tasks.add, 1).result(timeout=20)
        assert [thread.name for thread in threading.enumerate() if "throughway" in thread.name]
    assert not [thread.name for thread in threading.enumerate() if "throughway" in thread.name]


# -------------------------------------------------------------------------------------------------------- run folders


def test_old_run_folders_are_pruned(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "KEPT_RUNS", 3)
    for number in range(1, 6):
        with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as executor:
            executor.start()
            assert executor.run_folder is not None
            folder = executor.run_folder
        # Names are sorted by the second in them, and these runs are shorter.
        os.rename(folder, folder.with_name(f"{number:08d}-{folder.name}"))
    left = sorted(path.name[:8] for path in runs.iterdir())
    assert left == ["00000003", "00000004", "00000005"]


def test_run_folders_of_live_runs_are_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "KEPT_RUNS", 1)
    with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as first:
        first.start()
        for _ in range(3):
            with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as other:
                other.start()
        assert first.run_folder is not None
        assert first.run_folder.exists()
        assert first.submit(tasks.add, 1).result(timeout=20) == 1


def test_runs_of_other_hosts_are_left_alone(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that many hosts share holds runs whose processes cannot be looked for from here."""
    monkeypatch.setattr(run_folder, "KEPT_RUNS", 1)
    with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as executor:
        executor.start()
        assert executor.run_folder is not None
        record = run_folder.read_record(executor.run_folder)
        assert record is not None
    import msgspec

    elsewhere = runs / "20000101-000000-elsewhere"
    elsewhere.mkdir()
    record = msgspec.structs.replace(record, host="another-host", ended=None, folder=str(elsewhere))
    (elsewhere / "run.json").write_bytes(msgspec.json.encode(record))
    for _ in range(2):
        with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as executor:
            executor.start()
    assert elsewhere.exists()
    assert not record.alive


def test_folders_are_for_the_user_alone(runs: Path) -> None:
    with HighThroughputExecutor(run_dir=runs, max_workers_per_node=1) as executor:
        executor.start()
        run = executor._run
        assert run is not None
        for folder in (run.folder.path, run.folder.runtime):
            assert folder.stat().st_mode & 0o777 == 0o700


# ------------------------------------------------------------------------------------------------------------- forking


def in_child(function: Any) -> int:
    """Run a function in a fork of this process, and return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = function()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_of_the_users_process(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=2, run_dir=runs) as executor:
        gate = tmp_path / "gate"
        waiting = executor.submit(tasks.hold, str(gate))

        def use() -> int:
            try:
                executor.submit(tasks.add, 1)
            except RuntimeError as error:
                said = str(error)
            else:
                return 2
            if "fork" not in said or str(os.getppid()) not in said:
                return 3
            with contextlib.suppress(RuntimeError):
                executor.connected_managers()
                return 4
            if waiting.cancel():
                return 5
            executor.kill(waiting)
            executor.shutdown()
            executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
            return 0

        assert in_child(use) == 0
        assert executor.submit(tasks.add, 20, 22).result(timeout=20) == 42
        gate.touch()
        assert waiting.result(timeout=20) > 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_locks_of_threads_that_it_does_not_have(runs: Path, tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        gate = tmp_path / "gate"
        future = executor.submit(tasks.hold, str(gate))

        def look() -> int:
            signal.alarm(10)
            return 0 if isinstance(future.exception(), RuntimeError) and not future.cancel() else 2

        held = threading.Event()
        forked = threading.Event()

        def hold() -> None:
            with future._condition:
                held.set()
                forked.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        try:
            assert in_child(look) == 0
        finally:
            forked.set()
            holder.join()
        gate.touch()
        assert future.result(timeout=10) > 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_may_have_an_executor_of_its_own(runs: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1

        def use() -> int:
            with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as own:
                return own.submit(tasks.add, 3, 4).result(timeout=20)

        assert in_child(use) == 7
        assert executor.submit(tasks.add, 2).result(timeout=20) == 2


def test_the_exit_of_a_fork_harms_nothing(runs: Path) -> None:
    """Also where the child ends as interpreters do, with all that is registered for the end."""
    code = """
import os, sys
from tests.executors import tasks
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1, run_dir=sys.argv[1]) as executor:
    print(executor.submit(tasks.add, 1).result(timeout=20))
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    print(os.waitpid(pid, 0)[1])
    print(executor.submit(tasks.add, 2).result(timeout=20))
"""
    with Script(["-W", "ignore::DeprecationWarning", "-c", code, runs]) as script:
        status, output, errors = script.ended()
    assert (status, output.split()) == (0, ["1", "0", "2"]), errors
