from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from throughway.blocks.controller import (
    KILL_TIMEOUT,
    STOP_TIMEOUT_ELSEWHERE,
    BlockController,
    ErrorHandler,
    ExecutorView,
)
from throughway.blocks.plan import BlockSight, Strategy, View, Wish
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.record import read_blocks
from throughway.blocks.state import BlockView
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.providers import JobState, JobStatus, LocalProvider, SubmitFailure

from .fakes import FakeClock, FakeInterchange, FakeProvider

pytestmark = pytest.mark.timeout(60)

RUNNING, COMPLETED, FAILED = JobState.RUNNING, JobState.COMPLETED, JobState.FAILED
CANCELLED, MISSING = JobState.CANCELLED, JobState.MISSING


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    threads = threading.enumerate()
    files = sorted(os.listdir("/proc/self/fd"))
    yield
    assert threading.enumerate() == threads
    assert sorted(os.listdir("/proc/self/fd")) == files


class Rig:
    """A controller that is stepped by hand, on a fake clock, with a fake provider."""

    def __init__(
        self,
        handler: bool | ErrorHandler = True,
        strategy: str | Strategy = "none",
        record: str | None = None,
        **parameters: object,
    ) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider(**parameters)  # type: ignore[arg-type]
        self.errors: list[ExecutorFailed] = []
        self.commands: Callable[[str], list[str]] = lambda block: ["manager", block]
        self.interchange = FakeInterchange()
        self.tasks = 0
        self.notices: list[float] = []
        self.controller = BlockController(
            self.provider,
            run="ab12",
            folder="/nowhere/run",
            command_for=self.command_for,
            on_failure=self.errors.append,
            label="htex",
            block_error_handler=handler,
            environment={"KEY": "value"},
            strategy=strategy,
            max_idletime=120.0,
            tasks=lambda: self.tasks,
            ask=self.interchange.ask,
            notice=self.notices.append,
            record=record,
            clock=self.clock,
        )

    def command_for(self, block: str) -> list[str]:
        return self.commands(block)

    def settle(self) -> float | None:
        """Step as long as something is due now."""
        for _ in range(100):
            due = self.controller.step()
            if due is None or due > self.clock.now:
                return due
        raise AssertionError("the controller does not come to rest")

    def run(self, seconds: float) -> None:
        """Let time pass, with a step wherever one is due."""
        end = self.clock.now + seconds
        while (due := self.settle()) is not None and due <= end:
            self.clock.now = due
        self.clock.now = max(end, self.clock.now)

    def states(self) -> list[JobState]:
        return [block.state for block in self.controller.blocks()]

    def block(self, id: str) -> BlockView:
        (found,) = (block for block in self.controller.blocks() if block.id == id)
        return found


# ------------------------------------------------------------------------------------------ keeping blocks


def test_starts_the_first_blocks_in_one_submission() -> None:
    rig = Rig(init_blocks=3)
    rig.settle()
    assert rig.provider.batches == [3]
    spec = rig.provider.specs[1]
    assert (spec.name, spec.command, spec.nodes) == ("throughway-ab12-1", ["manager", "1"], 2)
    assert (spec.folder, spec.environment) == ("/nowhere/run", {"KEY": "value"})
    assert [block.job_id for block in rig.controller.blocks()] == ["j0", "j1", "j2"]
    rig.run(100)
    assert rig.provider.batches == [3]
    assert rig.errors == []


def test_views() -> None:
    rig = Rig()
    rig.settle()
    rig.run(0.3)
    rig.controller.manager_joined("0")
    rig.controller.manager_joined("0")
    block = rig.block("0")
    assert (block.job_id, block.state, block.message) == ("j0", RUNNING, "")
    assert (block.nodes, block.managers) == (2, 2)
    assert abs(block.since - (time.time() - 0.05)) < 5
    rig.controller.manager_left("0", "drained", False)
    assert (rig.block("0").managers, rig.block("0").message) == (1, "drained")
    rig.controller.manager_refused("0", "wrong version")
    assert rig.block("0").message == "wrong version"


def test_status_is_asked_for_only_so_often() -> None:
    rig = Rig(local=False)
    rig.settle()
    for _ in range(50):
        rig.controller.manager_joined("0")
        rig.controller.manager_left("0", "drained", False)
        rig.settle()
    assert rig.provider.polls == 0
    rig.run(600)
    assert rig.provider.polls == 10


def test_nothing_is_due_without_blocks_that_live() -> None:
    rig = Rig(handler=False)
    rig.provider.refusals = [SubmitFailure("no")] * 3
    due = rig.settle()
    assert due is not None
    assert rig.clock.now < due < math.inf
    assert rig.provider.polls == 0


def test_a_drained_block_is_replaced() -> None:
    rig = Rig()
    for k in range(20):
        rig.run(1)
        rig.controller.manager_joined(str(k))
        rig.controller.manager_left(str(k), "drained", False)
        rig.provider.end(f"j{k}", COMPLETED, 0)
        rig.run(1)
    assert rig.states() == [COMPLETED] * 20 + [RUNNING]
    assert rig.errors == []


def test_a_block_whose_managers_are_lost_and_whose_job_goes_on_is_killed_and_replaced() -> None:
    rig = Rig()
    rig.settle()
    rig.controller.manager_joined("0")
    rig.run(60)
    rig.controller.manager_left("0", "silent for 120 s", True)
    rig.run(9)
    assert rig.provider.cancels == []
    rig.run(2)
    assert rig.provider.cancels == [(["j0"], True)]
    rig.run(60)
    assert rig.states() == [CANCELLED, RUNNING]
    assert rig.block("0").message.startswith(
        "silent for 120 s; its job did not end by itself and was cancelled"
    )
    assert len(rig.provider.cancels) == 1
    assert rig.errors == []


def test_a_block_that_worked_and_dies_is_replaced_at_once() -> None:
    rig = Rig()
    rig.settle()
    rig.controller.manager_joined("0")
    rig.run(60)
    rig.provider.end("j0", FAILED, 137, "ended by SIGKILL")
    rig.controller.manager_left("0", "connection closed", True)
    rig.run(0.25)
    assert rig.states() == [FAILED, JobState.PENDING]
    assert rig.block("0").message == "connection closed; ended by SIGKILL"


def test_never_more_than_max_blocks_and_one_retry_at_a_time() -> None:
    rig = Rig(handler=False, init_blocks=4, max_blocks=4)
    rig.settle()
    for job in rig.provider.running():
        rig.provider.end(job, FAILED, 1)
    rig.run(60)
    assert len(rig.provider.running()) == 4
    assert rig.provider.batches == [4, 1, 1, 1, 1]


# ------------------------------------------------------------------------------------------------- giving up


def test_gives_up_with_what_the_blocks_said(tmp_path: Path) -> None:
    rig = Rig()
    rig.controller._folder = str(tmp_path)
    for k in range(3):
        rig.settle()
        Path(rig.provider.specs[k].stderr).write_text("ModuleNotFoundError: No module named throughway\n")
        Path(rig.provider.specs[k].stdout).write_text(f"output of block {k}\n")
        rig.provider.end(f"j{k}", FAILED, k + 1)
        rig.run(5)
    (error,) = rig.errors
    text = str(error)
    for k in range(3):
        assert f"block {k}: job j{k}, failed, exit code {k + 1}" in text
        assert f"output of block {k}" in text
        assert rig.provider.specs[k].stderr in text
    assert text.count("No module named throughway") == 3
    assert "Remedy: install throughway" in text
    assert rig.controller.step() is None
    rig.run(1000)
    assert (len(rig.errors), len(rig.provider.specs)) == (1, 3)


def test_backs_off_between_failures() -> None:
    rig = Rig(handler=False)
    starts = []
    for k in range(8):
        while len(rig.provider.specs) <= k:
            rig.run(0.05)
        starts.append(rig.clock.now)
        rig.provider.end(f"j{k}", FAILED, 1)
    gaps = [later - sooner for sooner, later in itertools.pairwise(starts)]
    assert gaps[0] >= 0.45
    for gap, least in zip(gaps[1:], (0.5, 1, 2, 4, 8, 16), strict=True):
        assert least <= gap <= least + 0.6
    assert rig.errors == []


def test_submissions_that_fail_count_the_same_way() -> None:
    rig = Rig(init_blocks=5)
    rig.provider.refusals = [SubmitFailure("sbatch: error: invalid partition 'x'")] * 20
    rig.run(20)
    assert rig.provider.batches == [5, 1, 1]
    assert str(rig.errors[0]).count("no job, failed: sbatch: error: invalid partition 'x'") == 7


def test_a_provider_that_raises_counts_the_same_way() -> None:
    rig = Rig()
    rig.provider.outage = OSError("sbatch is not on PATH")
    rig.run(20)
    assert "the fake provider could not submit it: sbatch is not on PATH" in str(rig.errors[0])
    assert rig.states() == [FAILED] * 3


def test_a_command_that_cannot_be_made_counts_the_same_way() -> None:
    rig = Rig()

    def broken(block: str) -> list[str]:
        raise OSError(f"no space left for the configuration of block {block}")

    rig.commands = broken
    rig.run(20)
    assert "no space left for the configuration of block 2" in str(rig.errors[0])
    assert rig.provider.specs == []


def test_a_provider_that_cannot_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(init_blocks=2)
    submit = rig.provider.submit
    monkeypatch.setattr(rig.provider, "submit", lambda specs: submit([*specs, specs[0]]))
    rig.run(20)
    assert "it answered 3 times for 2 jobs" in str(rig.errors[0])
    assert rig.provider.running() == []


def test_the_other_blocks_are_cancelled() -> None:
    rig = Rig(init_blocks=2)
    rig.settle()
    rig.provider.say("j1", JobState.PENDING)
    for job in ("j0", "j2", "j3"):
        rig.provider.end(job, FAILED, 1)
        rig.run(2)
    assert len(rig.errors) == 1
    assert rig.provider.running() == []
    assert rig.states() == [FAILED, CANCELLED, FAILED, FAILED]


def test_goes_on_while_another_block_works() -> None:
    rig = Rig(init_blocks=2)
    rig.settle()
    rig.controller.manager_joined("1")
    rig.run(60)
    started = rig.clock.now
    for k in (0, *range(2, 12)):
        while f"j{k}" not in rig.provider.jobs:
            rig.run(0.5)
        rig.provider.end(f"j{k}", FAILED, 1)
    assert rig.errors == []
    assert "j1" in rig.provider.running()
    assert rig.clock.now - started > 0.5 + 1 + 2 + 4 + 8 + 16 + 32 + 60


def test_managers_that_die_within_seconds_over_and_over() -> None:
    rig = Rig()
    for k in range(3):
        rig.settle()
        rig.controller.manager_joined(str(k))
        rig.run(2)
        rig.controller.manager_left(str(k), "connection closed", True)
        rig.provider.end(f"j{k}", FAILED, 1)
        rig.run(5)
    assert "connection closed" in str(rig.errors[0])


def test_jobs_that_end_well_without_any_manager() -> None:
    rig = Rig()
    for k in range(3):
        rig.settle()
        rig.controller.manager_refused(str(k), "its Python is 3.9")
        rig.provider.end(f"j{k}", COMPLETED, 0)
        rig.run(5)
    assert rig.states() == [MISSING] * 3
    assert "missing, exit code 0: its Python is 3.9" in str(rig.errors[0])


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def broken(error: ExecutorFailed) -> None:
        raise ValueError("the callback is broken")

    rig.controller._on_failure = broken
    rig.provider.refusals = [SubmitFailure("no")] * 9
    rig.run(20)
    assert "could not be told" in caplog.text
    assert rig.controller.step() is None


# ------------------------------------------------------------------------------------- the user's own handler


def test_the_users_handler_decides_alone() -> None:
    calls: list[dict[str, JobStatus]] = []

    def handler(executor: ExecutorView, statuses: dict[str, JobStatus]) -> None:
        calls.append(statuses)
        assert executor.label == "htex"
        assert [block.id for block in executor.blocks()] == list(statuses)
        if sum(status.state is FAILED for status in statuses.values()) == 5:
            executor.set_bad_state_and_fail_all(ValueError("five are enough"))

    rig = Rig(handler)
    for k in range(5):
        while len(rig.provider.specs) <= k:
            rig.run(0.5)
        assert rig.errors == []
        rig.provider.end(f"j{k}", FAILED, 7)
    rig.run(1)
    (error,) = rig.errors
    assert str(error) == "five are enough"
    assert isinstance(error.__cause__, ValueError)
    assert calls[-1]["4"].exit_code == 7
    assert rig.controller.step() is None


def test_the_users_handler_is_called_only_where_something_changed() -> None:
    calls: list[int] = []
    rig = Rig(lambda executor, statuses: calls.append(len(statuses)))
    rig.run(10)
    seen = len(calls)
    rig.run(100)
    assert len(calls) == seen


def test_a_handler_that_raises_fails_the_executor() -> None:
    def handler(executor: ExecutorView, statuses: dict[str, JobStatus]) -> None:
        raise KeyError("nothing")

    rig = Rig(handler)
    rig.run(1)
    assert "block_error_handler" in str(rig.errors[0])
    assert "KeyError('nothing')" in str(rig.errors[0])
    assert rig.provider.running() == []


@pytest.mark.parametrize("handler", [None, "simple", 1])
def test_what_is_no_handler_is_refused(handler: object) -> None:
    with pytest.raises(ConfigurationError, match="block_error_handler="):
        Rig(handler)  # type: ignore[arg-type]


def test_no_blocks_at_all_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="init_blocks=0"):
        Rig(init_blocks=0)


# --------------------------------------------------------------------------------------------- an outage


def test_a_scheduler_that_does_not_answer_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(local=False)
    rig.settle()
    rig.provider.outage = TimeoutError("squeue did not answer in 10 s")
    with caplog.at_level(logging.WARNING):
        rig.run(3600)
    assert rig.states() == [JobState.PENDING]
    assert rig.block("0").message == "the fake provider gives no status: squeue did not answer in 10 s"
    assert rig.provider.polls < 15
    assert caplog.text.count("gives no status") == 1
    rig.provider.outage = None
    rig.run(601)
    assert (rig.states(), rig.block("0").message) == ([RUNNING], "")
    assert rig.errors == []


# --------------------------------------------------------------------------------------------------- ending


def test_stop_cancels_everything_in_one_call() -> None:
    rig = Rig(init_blocks=4)
    rig.settle()
    rig.controller.manager_joined("2")
    rig.controller.begin_stop(10)
    rig.run(1)
    assert rig.provider.cancels == [(["j0", "j1", "j2", "j3"], False)]
    assert rig.states() == [CANCELLED] * 4
    assert rig.controller.step() is None
    assert rig.controller.stop() == []
    assert rig.errors == []


def test_stop_kills_at_its_timeout() -> None:
    rig = Rig(init_blocks=2)
    rig.settle()
    rig.provider.obedient = False
    rig.controller.begin_stop(10)
    rig.run(9.9)
    assert rig.provider.cancels == [(["j0", "j1"], False)]
    rig.run(0.2)
    assert rig.provider.cancels[1:] == [(["j0", "j1"], True)]
    assert rig.controller.step() is None


def test_stop_ends_also_where_the_scheduler_does_not_answer() -> None:
    rig = Rig(local=False)
    rig.settle()
    rig.provider.outage = TimeoutError("scancel did not answer")
    started = rig.clock.now
    rig.controller.begin_stop(10)
    while rig.settle() is not None:
        due = rig.controller.step()
        if due is None:
            break
        rig.clock.now = due
    assert rig.clock.now - started == pytest.approx(STOP_TIMEOUT_ELSEWHERE + KILL_TIMEOUT[False])
    assert 3 <= len(rig.provider.cancels) <= 20
    assert [block.job_id for block in rig.controller.stop()] == ["j0"]


def test_no_block_starts_once_it_stops() -> None:
    rig = Rig()
    rig.settle()
    rig.provider.obedient = False
    rig.controller.begin_stop(10)
    rig.run(1)
    rig.provider.end("j0", FAILED, 1)
    rig.run(100)
    assert rig.provider.batches == [1]


def test_stop_without_a_start() -> None:
    rig = Rig()
    assert rig.controller.stop() == []
    assert rig.provider.specs == []
    with pytest.raises(RuntimeError, match="started or stopped before"):
        rig.controller.start()


# ---------------------------------------------------------------------------------------- with its own thread


class Signal:
    """Something that another thread does."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.values: list[object] = []

    def __call__(self, value: object) -> None:
        self.values.append(value)
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(30)


def test_the_thread_works_and_ends() -> None:
    provider = FakeProvider(init_blocks=3)
    asked = Signal()

    def command_for(block: str) -> list[str]:
        if block == "2":
            asked(block)
        return ["manager"]

    controller = BlockController(
        provider, run="r", folder="/nowhere", command_for=command_for, on_failure=asked
    )
    controller.start()
    with pytest.raises(RuntimeError):
        controller.start()
    asked.wait()
    threads = [
        threading.Thread(target=reaction, args=arguments)
        for _ in range(10)
        for reaction, arguments in (
            (controller.manager_joined, ("1",)),
            (controller.manager_left, ("0", "gone", True)),
            (controller.blocks, ()),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert next(block.managers for block in controller.blocks() if block.id == "1") == 10
    assert controller.stop(5) == []
    assert provider.running() == []
    assert asked.values == ["2"]


def test_stop_may_be_called_from_the_callback() -> None:
    provider = FakeProvider()
    provider.refusals = [SubmitFailure("no")] * 3
    failed = Signal()

    def on_failure(error: ExecutorFailed) -> None:
        controller.stop(1)
        failed(error)

    controller = BlockController(
        provider, run="r", folder="/nowhere", command_for=lambda block: ["x"], on_failure=on_failure
    )
    controller.start()
    failed.wait()
    assert controller.stop(5) == []


def test_a_fault_of_the_controller_is_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider()
    failed = Signal()
    controller = BlockController(
        provider, run="r", folder="/nowhere", command_for=lambda block: ["x"], on_failure=failed
    )
    monkeypatch.setattr(controller._ledger, "settle", lambda now: 1 / 0)
    controller.start()
    failed.wait()
    assert "ZeroDivisionError" in str(failed.values[0])
    assert controller.stop(5) == []


# -------------------------------------------------------------------------------------- with real processes


def test_local_blocks_from_start_to_stop(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    errors: list[ExecutorFailed] = []
    controller = BlockController(
        LocalProvider(init_blocks=2, max_blocks=2),
        run="r",
        folder=str(tmp_path / "blocks"),
        command_for=lambda block: ["bash", "-c", f"echo {block} $$ >{ready}; exec sleep 1000"],
        on_failure=errors.append,
    )
    controller.start()
    try:
        with open(os.open(ready, os.O_RDWR), "rb", buffering=0) as file:
            pids: dict[str, int] = {}

            def read(count: int) -> None:
                text = b""
                while text.count(b"\n") < count:
                    text += file.read(4096)
                for line in text.decode().splitlines():
                    block, pid = line.split()
                    pids[block] = int(pid)

            read(2)
            assert sorted(pids) == ["0", "1"]
            os.kill(pids["0"], signal.SIGKILL)
            read(1)
        assert sorted(pids) == ["0", "1", "2"]
        first = controller.blocks()[0]
        assert (first.state, first.message, first.job_id) == (FAILED, "ended by SIGKILL", str(pids["0"]))
    finally:
        assert controller.stop(10) == []
    assert errors == []
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_local_blocks_that_cannot_start(tmp_path: Path) -> None:
    failed = Signal()
    controller = BlockController(
        LocalProvider(),
        run="r",
        folder=str(tmp_path),
        command_for=lambda block: [sys.executable, "-c", "import throughway_is_not_here"],
        on_failure=failed,
        label="mine",
    )
    controller.start()
    failed.wait()
    text = str(failed.values[0])
    assert text.startswith("executor 'mine' gave up: 3 attempts in a row")
    assert text.count("No module named 'throughway_is_not_here'") == 3
    assert text.count("exit code 1") == 3
    assert controller.stop(10) == []
