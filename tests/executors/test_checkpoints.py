"""Scripts with a journal: what is done stays done, whatever ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import throughway
from tests.chaos.conftest import members
from tests.executors import tasks
from tests.processes import ProcessRecord
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.errors import ConfigurationError, InvalidResourceSpecification, JournalError
from throughway.executors import high_throughput

__all__ = ["members"]  # a fixture

SCRIPT = """
import os, sys, time
from throughway import HighThroughputExecutor
FOLDER = {folder!r}
def work(number, seconds):
    descriptor = os.open(f"{{FOLDER}}/ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"%d\\n" % number)
    os.close(descriptor)
    time.sleep(seconds)
    return [number] * 3
if __name__ == "__main__":
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    with HighThroughputExecutor(
        max_workers_per_node=2, journal=f"{{FOLDER}}/a.journal", run_dir=f"{{FOLDER}}/runs"
    ) as executor:
        futures = [executor.submit(work, number, seconds if number >= 20 else 0) for number in range(count)]
        for number, future in enumerate(futures):
            assert future.result() == [number] * 3
            print(number, future.from_journal, flush=True)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "a.journal"


def executor_with(journal: Path) -> HighThroughputExecutor:
    return HighThroughputExecutor(
        max_workers_per_node=2, journal=journal, run_dir=journal.parent / "runs", prefetch_capacity=0
    )


def script(folder: Path, *arguments: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(folder=str(folder)))
    return [sys.executable, str(path), *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(throughway.__file__).parents[1])}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_script_that_starts_again_runs_only_the_rest(
    tmp_path: Path, number: signal.Signals, members: Callable[[], list[ProcessRecord]]
) -> None:
    others = set(members())
    with subprocess.Popen(
        script(tmp_path, "40", "60"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | ENVIRONMENT,
    ) as first:
        assert first.stdout is not None
        told = [first.stdout.readline() for _ in range(20)]
        first.send_signal(number)
        first.wait(30)
    assert told == [f"{index} False\n" for index in range(20)]
    wait_until(lambda: not set(members()) - others, timeout=30, what="the end of the first run")
    before = (tmp_path / "ran").read_text().split()
    second = subprocess.run(
        script(tmp_path, "20", "60"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | ENVIRONMENT,
    )
    assert second.returncode == 0, second.stderr
    assert second.stdout == "".join(f"{index} True\n" for index in range(20))
    assert (tmp_path / "ran").read_text().split() == before
    assert sorted(set(map(int, before)))[:20] == list(range(20))


def test_what_is_done_starts_nothing(journal: Path) -> None:
    """Not even a block: where all is done, nobody waits in a queue for it."""
    with executor_with(journal) as executor:
        assert [executor.submit(abs, -number).result(30) for number in range(5)] == list(range(5))
        assert not executor.submit(abs, -99).from_journal
    with executor_with(journal) as executor:
        futures = [executor.submit(abs, -number) for number in range(5)]
        assert [future.result(0) for future in futures] == list(range(5))
        assert all(future.from_journal and future.done() for future in futures)
        assert executor.run_folder is None
        assert futures[0].cancel() is False
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)


def test_keys_name_tasks(journal: Path) -> None:
    with executor_with(journal) as executor:
        assert executor.options(key="answer").submit(abs, -42).result(30) == 42
        assert list(executor.options(key="row").map(abs, range(-3, 0))) == [3, 2, 1]
        assert list(executor.options(key="chunk").map(abs, range(-4, 0), chunksize=2)) == [4, 3, 2, 1]
    with executor_with(journal) as executor:
        # The key is all that counts.
        assert executor.options(key="answer").submit(max, 1, 2).result(0) == 42
        assert list(executor.options(key="row").map(abs, range(-30, -27))) == [3, 2, 1]
        assert list(executor.options(key="chunk").map(abs, range(-4, 0), chunksize=2)) == [4, 3, 2, 1]
        assert executor.run_folder is None


def test_a_key_that_is_outstanding_is_refused(journal: Path) -> None:
    with executor_with(journal) as executor:
        view = executor.options(key="one")
        first = view.submit(tasks.worker_pid)
        first.result(30)
        assert view.submit(tasks.worker_pid).from_journal
        with pytest.raises(InvalidResourceSpecification, match="key='': a str of 1 to"):
            executor.options(key="")


def test_a_key_needs_a_journal(tmp_path: Path) -> None:
    executor = HighThroughputExecutor(run_dir=tmp_path)
    with pytest.raises(InvalidResourceSpecification, match="keeps none: give it one, as in"):
        executor.options(key="one")
    with pytest.raises(InvalidResourceSpecification, match="keeps none"):
        executor.options(priority=1).options(key="one")


def test_exceptions_run_again(journal: Path) -> None:
    for _ in range(2):
        with executor_with(journal) as executor:
            future = executor.submit(int, "no number")
            with pytest.raises(ValueError, match="invalid literal"):
                future.result(30)
            assert not future.from_journal


def test_large_values_come_back_whole(journal: Path) -> None:
    numpy = pytest.importorskip("numpy")
    with executor_with(journal) as executor:
        executor.submit(numpy.arange, 200_000).result(30)
    with executor_with(journal) as executor:
        future = executor.submit(numpy.arange, 200_000)
        assert future.from_journal
        assert (future.result() == numpy.arange(200_000)).all()


def test_a_journal_in_use_names_its_holder(journal: Path) -> None:
    with executor_with(journal) as executor:
        executor.submit(abs, 1).result(30)
        other = executor_with(journal)
        with pytest.raises(JournalError, match=rf"in use by process {os.getpid()} "):
            other.submit(abs, 1)
        with pytest.raises(JournalError, match="in use by process"):
            other.start()
    # It is free as soon as the one that had it has ended.
    with other:
        assert other.submit(abs, 1).from_journal


@pytest.mark.parametrize(
    ("value", "said"),
    [(3, "give the path of a file"), (".", "this is a folder"), ("/none/x", "no folder /none")],
)
def test_a_journal_that_cannot_be(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        HighThroughputExecutor(journal=value)  # type: ignore[arg-type]


def test_without_a_journal_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys, throughway\nthroughway.HighThroughputExecutor()\n"
        "print([name for name in sys.modules if 'journal' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True, env=ENVIRONMENT
    )
    assert done.stdout == "[]\n"


def test_results_are_acknowledged_once_they_are_on_the_disk(journal: Path) -> None:
    """Otherwise managers would forget what a crash of the machine could still take from the journal."""
    with executor_with(journal) as executor:
        executor.submit(abs, 1).result(30)
        run = executor._run
        kept = executor._journal
        assert run is not None
        assert kept is not None
        wait_until(lambda: not run.reactor._unsafe and kept.safe == kept.mark)


def test_a_forked_child_leaves_the_journal_alone(journal: Path) -> None:
    with executor_with(journal) as executor:
        executor.submit(abs, -1).result(30)
        child = os.fork()
        if not child:
            status = 0 if executor._journal is not None and executor._journal._file is None else 1
            high_throughput._live.clear()
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert executor.submit(abs, -2).result(30) == 2
    with executor_with(journal) as executor:
        assert executor.submit(abs, -2).from_journal
