"""Blocks that follow the load, on this machine: each is a manager with two workers."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors import tasks
from tests.executors.scripts import Script
from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.blocks import BlockPolicy, View, Wish, windowed_error_handler
from throughway.errors import ConfigurationError, ExecutorFailed, InvalidResourceSpecification, ManagerLost
from throughway.providers import JobState, LocalProvider

Make = Callable[..., HighThroughputExecutor]


@pytest.fixture
def make(runs: Path) -> Iterator[Make]:
    """Makes executors with two workers in each block, and ends them."""
    made: list[HighThroughputExecutor] = []

    def one(*, init: int = 0, least: int = 0, most: int = 3, **parameters: Any) -> HighThroughputExecutor:
        given = {"max_workers_per_node": 2, "run_dir": runs, **parameters}
        provider = given.pop("provider", None) or LocalProvider(
            init_blocks=init, min_blocks=least, max_blocks=most
        )
        executor = HighThroughputExecutor(provider=provider, **given)
        made.append(executor)
        return executor

    yield one
    for executor in made:
        executor.shutdown(cancel_futures=True)


def wait_for(gate: str, started: str = "") -> str:
    if started:
        Path(started).touch()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return os.environ["THROUGHWAY_BLOCK_ID"]


def fill(executor: HighThroughputExecutor, gate: Path) -> Path:
    """Have two blocks up, with a task for each worker until ``gate`` is there: idle, one might go before both are."""
    for _ in range(4):
        executor.submit(wait_for, str(gate))
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "both blocks")
    return gate


def live(executor: HighThroughputExecutor) -> list[str]:
    return [block.id for block in executor.blocks() if not block.state.terminal]


def staying(executor: HighThroughputExecutor) -> list[str]:
    return [block.id for block in executor.blocks() if not block.state.terminal and not block.draining]


def test_the_first_task_starts_the_first_block(make: Make) -> None:
    executor = make()
    executor.start()
    assert executor.blocks() == []
    assert executor.submit(tasks.add, 1, 2).result(timeout=20) == 3
    assert live(executor) == ["0"]


def test_each_of_many_threads_may_be_the_first(make: Make) -> None:
    executor = make()
    assert [
        future.result(timeout=30) for future in [executor.submit(tasks.add, n) for n in range(300)]
    ] == list(range(300))
    assert 1 <= len(live(executor)) <= 3


def test_blocks_for_tasks_and_never_above_max_blocks(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = make(most=2, strategy="htex_auto_scale")
    futures = [executor.submit(wait_for, str(gate)) for _ in range(2)]
    wait_until(lambda: len(executor.connected_managers()) == 1, 20, "one block for two tasks")
    futures += [executor.submit(wait_for, str(gate)) for _ in range(20)]
    wait_until(lambda: len(executor.connected_managers()) == 2, 20, "both blocks")
    gate.touch()
    assert {future.result(timeout=20) for future in futures} <= {"0", "1"}
    assert len(executor.blocks()) == 2


def test_an_idle_block_goes_while_another_works(make: Make, tmp_path: Path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    executor = make(init=2, most=2, strategy="htex_auto_scale", max_idletime=0.5)
    filled = fill(executor, tmp_path / "filled")
    long = executor.submit(wait_for, str(gate), str(started))
    filled.touch()
    wait_until(started.exists, 20, "the long task to run")
    wait_until(lambda: len(live(executor)) == 1, 20, lambda: f"{executor.blocks()}")
    gate.touch()
    assert long.result(timeout=20) in live(executor), "the block with the task stayed"
    wait_until(lambda: live(executor) == [], 20, "the last block to go")
    assert [block.state for block in executor.blocks()] == [JobState.SCALED_IN] * 2
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    assert executor.blocks()[-1].id == "2"


def test_simple_waits_until_nothing_is_left(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = make(init=2, least=1, most=2, strategy="simple", max_idletime=0.3)
    filled = fill(executor, tmp_path / "filled")
    long = executor.submit(wait_for, str(gate))
    filled.touch()
    short = [executor.submit(tasks.add, number) for number in range(10)]
    assert [future.result(timeout=20) for future in short] == list(range(10))
    # Three rounds of what would have sufficed, each with a question, without a block going.
    for _ in range(3):
        before = executor._run.controller._ledger.looked_at  # type: ignore[union-attr]
        assert len(live(executor)) == 2
        executor._run.controller.stranded()  # type: ignore[union-attr]
        wait_until(
            lambda before=before: executor._run.controller._ledger.looked_at > before,  # type: ignore[union-attr]
            20,
            "another look",
        )
    assert len(live(executor)) == 2
    gate.touch()
    assert long.result(timeout=20)
    wait_until(lambda: len(live(executor)) == 1, 20, "all but min_blocks to go")


def test_scale_out_and_in_by_hand(make: Make, tmp_path: Path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    executor = make(init=1, most=3, strategy="none", max_workers_per_node=1)
    assert executor.scale_in(5) == []
    executor.start()
    wait_until(lambda: live(executor) == ["0"], 20, "the first block")
    assert executor.scale_out(2) == ["1", "2"]
    with pytest.raises(ValueError, match="max_blocks=3"):
        executor.scale_out()
    wait_until(lambda: len(executor.connected_managers()) == 3, 20, "three blocks")
    running = executor.submit(wait_for, str(gate), str(started))
    wait_until(started.exists, 20, "the task to run")
    block = next(view.block for view in executor.connected_managers() if view.tasks)
    idle = [name for name in ("0", "1", "2") if name != block]
    assert sorted(executor.scale_in(2)) == idle, "idle blocks go first"
    wait_until(lambda: live(executor) == [block], 20, "the idle ones to be gone")
    assert executor.scale_in([block]) == [block]
    wait_until(lambda: executor.connected_managers()[0].draining, 20, "it to drain")
    assert not running.done()
    gate.touch()
    assert running.result(timeout=20) == block
    wait_until(lambda: live(executor) == [], 20, "all to be gone")
    assert [view.state for view in executor.blocks()] == [JobState.SCALED_IN] * 3
    with pytest.raises(ValueError, match="no live blocks"):
        executor.scale_in(["0"])


def test_only_force_ends_what_runs(make: Make, tmp_path: Path) -> None:
    started = tmp_path / "started"
    executor = make(init=1, most=1, strategy="none", max_workers_per_node=1)
    lost = executor.submit(wait_for, str(tmp_path / "never"), str(started))
    wait_until(started.exists, 20, "the task to run")
    assert executor.scale_in(1, force=True) == ["0"]
    assert isinstance(lost.exception(timeout=20), ManagerLost)
    wait_until(lambda: live(executor) == [], 20, "the block to be gone")
    assert executor.blocks()[0].state is JobState.SCALED_IN


def test_what_a_block_has_not_started_goes_to_another(make: Make, tmp_path: Path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    executor = make(init=1, most=2, strategy="none", max_workers_per_node=1, prefetch_capacity=10)
    long = executor.submit(wait_for, str(gate), str(started))
    wait_until(started.exists, 20, "the task to run")
    behind = [executor.submit(tasks.add, number) for number in range(10)]
    wait_until(lambda: executor.connected_managers()[0].tasks == 11, 20, "all to be there")
    executor.scale_in(["0"])
    executor.scale_out(1)
    assert [future.result(timeout=20) for future in behind] == list(range(10))
    assert not long.done()
    gate.touch()
    assert long.result(timeout=20) == "0"


def test_a_strategy_of_ones_own(make: Make) -> None:
    def always_two(view: View, policy: BlockPolicy, now: float) -> Wish:
        return Wish(start=2 - len(view.active))

    executor = make(strategy=always_two)
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    wait_until(lambda: len(live(executor)) == 2, 20, "two blocks")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strategy": "sometimes"}, "strategy='sometimes'"),
        ({"strategy": "none"}, r"init_blocks=0 and min_blocks=0.*strategy='simple'"),
        ({"max_idletime": 0}, "max_idletime=0"),
        ({"max_idletime": "long"}, "max_idletime='long'"),
    ],
)
def test_what_cannot_work_is_refused(make: Make, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(**parameters)


def test_an_error_handler_by_parsls_name(make: Make) -> None:
    executor = make(
        provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init="echo no such module >&2; exit 7"),
        block_error_handler=functools.partial(windowed_error_handler, threshold=2),
    )
    error = executor.submit(tasks.add, 1).exception(timeout=30)
    assert isinstance(error, ExecutorFailed)
    assert "its block_error_handler found 2 failed blocks" in str(error)
    assert "exit code 7" in str(error)
    assert "no such module" in str(error)


# --------------------------------------------------------------------------------------------------------- walltimes


def test_a_task_for_which_no_block_has_the_time_gets_a_fresh_one(make: Make) -> None:
    executor = make(init=1, most=2, drain_period=12.0, max_workers_per_node=1, strategy="htex_auto_scale")
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    wait_until(
        lambda: (executor.connected_managers()[0].seconds_left or 0) < 9.0, 20, "some of its time to pass"
    )
    future = executor.options(walltime=9.0).submit(wait_for, "/", "")
    assert future.result(timeout=20) == "1"


def test_a_walltime_that_no_block_ever_has_is_refused(make: Make) -> None:
    executor = make(drain_period=30.0)
    with pytest.raises(InvalidResourceSpecification, match=r"walltime=31:.*drain_period=30 s.*30 s or less"):
        executor.options(walltime=31)
    with pytest.raises(InvalidResourceSpecification, match="walltime=31"):
        executor.options(priority=1).options(walltime=31)
    provider = LocalProvider()
    provider.walltime = 400.0
    with pytest.raises(InvalidResourceSpecification, match=r"last for 400 s.*last 100 s.*300 s or less"):
        make(provider=provider).options(walltime=301)
    assert make(provider=provider).options(walltime=300).specification.walltime == 300


def test_the_schedulers_warning_drains_a_manager(make: Make, tmp_path: Path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    executor = make(init=1, most=2, strategy="none", max_workers_per_node=1)
    running = executor.submit(wait_for, str(gate), str(started))
    wait_until(started.exists, 20, "the task to run")
    (manager,) = executor.connected_managers()
    # A batch system may signal every process of a job: those of the manager, its zygote and its workers.
    os.killpg(os.getpgid(manager.pid), signal.SIGUSR1)
    worker = executor.explain(running)
    assert worker.state in ("running", "at a manager", "at a worker")
    wait_until(lambda: executor.connected_managers()[0].draining, 20, "it to drain")
    gate.touch()
    assert running.result(timeout=20) == "0"
    wait_until(lambda: staying(executor) == ["1"], 20, "another block in its place")


# ----------------------------------------------------------------------------------------------------------- orphans

IN_WORKER_INIT = """
import sys, time
from throughway import HighThroughputExecutor
from throughway.providers import LocalProvider
provider = LocalProvider(init_blocks=2, max_blocks=2, worker_init="sleep 600")
executor = HighThroughputExecutor(provider=provider, run_dir=sys.argv[1])
executor.start()
while sum(bool(block.job_id) for block in executor.blocks()) < 2:
    time.sleep(0.01)
import json
print(json.dumps({"jobs": [int(block.job_id) for block in executor.blocks()]}), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_blocks_in_worker_init_end_with_the_process(runs: Path, number: signal.Signals) -> None:
    with Script(["-c", IN_WORKER_INIT, runs]) as script:
        told = script.told()
        script.signal(number)
        assert script.ended(10)[0] == -number
    wait_until(lambda: not any(map(alive, told["jobs"])), 20, "the jobs to be gone")
    (log,) = runs.glob("*/watchdog.log")
    wait_until(lambda: "no job of run" in log.read_text(), 20, log.read_text)


def test_an_orderly_end_leaves_no_watchdog(make: Make) -> None:
    executor = make(provider=LocalProvider(worker_init="true"))
    assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    folder = executor.run_folder
    assert folder is not None
    watchdog = executor._run.controller._watchdog._process  # type: ignore[union-attr]
    assert watchdog is not None
    assert alive(watchdog.pid)
    executor.shutdown()
    assert not alive(watchdog.pid)
    assert not (folder / "watchdog.log").exists()


def test_managers_of_this_machine_alone_need_no_watchdog(make: Make) -> None:
    executor = make()
    executor.start()
    assert executor._run.controller._watchdog is None  # type: ignore[union-attr]
