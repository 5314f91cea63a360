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

import msgspec
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
from throughway.protocol.views import BlockLoad, LoadView
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


def test_the_interchange_hears_that_a_job_ended_of_which_it_has_managers() -> None:
    """With the node or the whole job the zygote dies as well, which would tell of its manager's death."""
    rig = Rig(init_blocks=3)
    rig.settle()
    for block in "01":
        rig.controller.manager_joined(block)
    rig.run(60)
    for job in ("j0", "j2"):
        rig.provider.end(job, FAILED, 137, "ended by SIGKILL")
    rig.run(0.25)
    ended = [asked for asked in rig.interchange.asked if asked[0] == "block_ended"]
    assert ended == [("block_ended", "0")], "once, and not of a block that never had managers"
    rig.controller.interchange_restarted()
    rig.run(0.25)
    assert rig.interchange.asked.count(("block_ended", "0")) == 2, "another interchange does not know"
    rig.run(20)
    assert rig.block("0").state is FAILED
    assert rig.interchange.asked.count(("block_ended", "0")) == 2


def test_the_interchange_hears_of_jobs_that_were_killed_on_request() -> None:
    rig = Rig(init_blocks=2)
    rig.settle()
    rig.controller.manager_joined("0")
    rig.controller.scale_in(["0"], force=True)
    rig.run(1)
    rig.provider.end("j0", CANCELLED)
    rig.run(1)
    assert rig.interchange.asked.count(("block_ended", "0")) == 1


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
    rig.controller._submitter.folder = str(tmp_path)
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


def test_a_submission_that_could_only_fail_again_is_not_repeated() -> None:
    rig = Rig()
    rig.provider.refusals = [SubmitFailure("invalid partition 'x'", permanent=True)] * 3
    rig.run(20)
    assert rig.provider.batches == [1]
    assert "the attempt to get a block from the fake provider failed" in str(rig.errors[0])
    rig = Rig(handler=False)
    rig.provider.refusals = [SubmitFailure("invalid partition 'x'", permanent=True)] * 3
    rig.run(20)
    assert rig.errors == []
    assert len(rig.provider.running()) == 1


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


def test_managers_whose_workers_all_die_slowly_before_they_are_ready() -> None:
    rig = Rig()
    for k in range(3):
        rig.settle()
        rig.run(1)
        assert rig.errors == []
        rig.controller.manager_joined(str(k), f"m{k}", "h", 1)
        rig.run(40)
        reason = "5 workers in a row ended before they were ready"
        rig.controller.manager_left(str(k), reason, True, f"m{k}", True)
        rig.provider.end(f"j{k}", FAILED, 1)
        rig.run(5)
    (error,) = rig.errors
    assert str(error).count("5 workers in a row ended before they were ready") == 3
    assert rig.provider.running() == []


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


# ------------------------------------------------------------------------------------------- following the load


def load(block: str, tasks: int, idle: float = 0.0) -> BlockLoad:
    return BlockLoad(block, 1, 4, tasks, idle)


def test_no_block_before_the_first_task_and_one_at_once_then() -> None:
    rig = Rig(strategy="simple", init_blocks=0)
    assert rig.settle() == math.inf
    assert rig.provider.specs == []
    assert rig.notices[-1] == 1
    rig.tasks = 1
    rig.controller.demand()
    rig.settle()
    assert rig.provider.batches == [1]


def test_tasks_that_came_while_it_planned_are_noticed() -> None:
    rig = Rig(strategy="simple", init_blocks=0)
    rig.controller._notice = lambda count: setattr(rig, "tasks", 1)
    rig.settle()
    assert rig.provider.batches == [1]


def test_it_learns_how_many_workers_a_node_has() -> None:
    rig = Rig(strategy="simple", init_blocks=0)
    rig.tasks = 30
    rig.run(0)
    rig.controller._ledger.workers_per_node = 1.0
    assert rig.provider.batches == [10], "of two nodes with one worker each, as far as it can know"
    rig = Rig(strategy="simple", init_blocks=1)
    rig.run(1)
    rig.controller.manager_joined("0", "m0", "h0", 8)
    rig.controller.manager_joined("0", "m1", "h1", 8)
    rig.tasks = 17
    rig.run(1)
    assert rig.provider.batches == [1, 1]
    assert rig.notices[-1] == 33


def test_a_block_that_was_idle_for_long_is_drained_and_then_its_job_cancelled() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=2)
    rig.run(1)
    for block in "01":
        rig.controller.manager_joined(block, f"m{block}", f"h{block}", 4)
    rig.tasks = 1
    rig.interchange.loads = {"0": load("0", 0, 125.0), "1": load("1", 1)}
    rig.run(119)
    assert ("drain_idle_block", "0") not in rig.interchange.asked
    rig.run(2)
    assert ("drain_idle_block", "0") in rig.interchange.asked
    assert rig.block("0").draining
    assert rig.provider.cancels == []
    rig.controller.manager_left("0", "its block is scaled in", False, "m0")
    rig.run(1)
    assert rig.provider.cancels == [(["j0"], False)]
    rig.run(10)
    assert rig.states() == [JobState.SCALED_IN, RUNNING]
    assert rig.interchange.asked.count(("blocks", "")) == 1
    assert rig.errors == []


def test_a_block_that_got_a_task_meanwhile_stays() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=1)
    rig.run(1)
    rig.controller.manager_joined("0", "m0", "h0", 4)
    rig.interchange.loads = {"0": load("0", 0, 125.0)}
    rig.interchange.patient = True
    rig.run(120)
    rig.interchange.reply()
    rig.run(1)
    rig.interchange.loads = {"0": load("0", 1)}
    rig.interchange.reply()
    rig.run(1)
    assert not rig.block("0").draining
    assert rig.provider.cancels == []


def test_an_interchange_that_cannot_answer_changes_nothing() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=1)
    rig.interchange.dead = True
    rig.run(1)
    rig.controller.manager_joined("0", "m0", "h0", 4)
    rig.run(3600)
    assert not rig.block("0").draining
    assert rig.interchange.asked.count(("blocks", "")) <= 3600 / 120 + 1


def test_never_above_max_blocks_while_others_leave() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=2, max_blocks=2)
    rig.provider.obedient = False
    rig.run(1)
    for block in "01":
        rig.controller.manager_joined(block, f"m{block}", f"h{block}", 4)
    rig.interchange.loads = {"0": load("0", 0, 200.0), "1": load("1", 0, 200.0)}
    rig.run(125)
    assert [block.draining for block in rig.controller.blocks()] == [True, True]
    rig.tasks = 1000
    rig.controller.demand()
    for block in "01":
        rig.controller.manager_left(block, "its block is scaled in", False, f"m{block}")
    rig.run(5)
    assert len(rig.provider.running()) == 2
    assert rig.provider.batches == [2]
    rig.provider.end("j0", CANCELLED, 143)
    rig.run(5)
    assert rig.provider.batches == [2, 1]
    assert rig.provider.cancels[0] == (["j0", "j1"], False)


def test_a_job_that_does_not_end_is_cancelled_by_force() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=1)
    rig.provider.obedient = False
    rig.run(1)
    rig.controller.manager_joined("0", "m0", "h0", 4)
    rig.interchange.loads = {"0": load("0", 0, 200.0)}
    rig.run(125)
    rig.controller.manager_left("0", "its block is scaled in", False, "m0")
    rig.run(30)
    assert rig.provider.cancels == [(["j0"], False), (["j0"], True)]
    assert rig.states() == [JobState.SCALED_IN]


def test_tasks_for_which_no_block_has_the_time() -> None:
    rig = Rig(strategy="htex_auto_scale", init_blocks=1)
    rig.run(1)
    assert ("tell_stranded", "") in rig.interchange.asked
    for manager in ("m0", "m1"):
        rig.controller.manager_joined("0", manager, "h0", 4)
    rig.tasks = 2
    rig.run(10)
    rig.interchange.loads = {"0": load("0", 0)}
    rig.interchange.stranded = 2
    rig.controller.stranded()
    rig.run(2)
    assert rig.provider.batches == [1, 1], "a fresh block may have"
    rig.run(1)
    rig.controller.manager_joined("1", "m2", "h1", 4)
    rig.run(600)
    assert rig.provider.batches == [1, 1], "it has not either: others would not help"


def test_a_users_strategy(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[View] = []

    def nine_to_five(view: View, policy: BlockPolicy, now: float) -> Wish:
        seen.append(view)
        return Wish(start=2 - len(view.active), wake_at=now + 3600)

    rig = Rig(strategy=nine_to_five)
    rig.tasks = 7
    rig.run(1)
    assert rig.provider.batches == [2]
    assert seen[-1].tasks == 7
    assert isinstance(seen[-1].blocks[0], BlockSight)

    def broken(view: View, policy: BlockPolicy, now: float) -> Wish:
        raise KeyError("calendar")

    rig = Rig(strategy=broken)
    rig.run(1)
    assert "strategy" in str(rig.errors[0])
    assert "KeyError('calendar')" in str(rig.errors[0])


# ------------------------------------------------------------------------------------------------------- by hand


def test_scale_out() -> None:
    rig = Rig(max_blocks=3)
    rig.settle()
    assert rig.controller.scale_out(2) == ["1", "2"]
    with pytest.raises(ValueError, match=r"3 live, and max_blocks=3"):
        rig.controller.scale_out(1)
    rig.settle()
    assert rig.provider.batches == [1, 2]
    rig.run(3)
    rig.provider.end("j1", FAILED, 1)
    rig.run(3)
    assert rig.provider.batches == [1, 2, 1], "what was added by hand is kept as the others are"
    assert rig.controller.scale_out(0) == []
    with pytest.raises(ValueError, match="no number of blocks"):
        rig.controller.scale_out(-1)
    rig.controller.begin_stop(1)
    with pytest.raises(RuntimeError, match="ends"):
        rig.controller.scale_out(1)


def test_scale_in_by_number_takes_those_first_that_have_not_begun() -> None:
    rig = Rig(init_blocks=4)
    rig.settle()
    for block in "023":
        rig.controller.manager_joined(block, f"m{block}", "h", 2)
    rig.controller.loads(
        msgspec.msgpack.encode(LoadView([load("0", 3), load("2", 0, 5.0), load("3", 0, 9.0)]))
    )
    assert rig.controller.scale_in(2) == ["1", "3"]
    rig.settle()
    assert ("drain_block", "3") in rig.interchange.asked
    rig.run(1)
    assert rig.provider.cancels == [(["j1"], False)]
    rig.controller.manager_left("3", "drained", False, "m3")
    rig.run(6)
    assert rig.states() == [RUNNING, JobState.SCALED_IN, RUNNING, JobState.SCALED_IN]
    assert rig.provider.batches == [4], "they are not replaced"


def test_scale_in_by_id_and_by_force() -> None:
    rig = Rig(init_blocks=2)
    rig.settle()
    for block in "01":
        rig.controller.manager_joined(block, f"m{block}", "h", 2)
    rig.interchange.loads = {"1": load("1", 2)}
    assert rig.controller.scale_in(["1"]) == ["1"]
    rig.run(20)
    assert rig.provider.cancels == [], "tasks are running there"
    assert rig.controller.scale_in(["1"]) == []
    assert rig.controller.scale_in(["1", "1"], force=True) == ["1"]
    rig.run(1)
    assert rig.provider.cancels == [(["j1"], True)]
    rig.controller.manager_left("1", "connection closed", True, "m1")
    rig.run(1)
    assert rig.states() == [RUNNING, JobState.SCALED_IN]
    with pytest.raises(ValueError, match=r"no live blocks \['1', 'x'\].*ids of 0"):
        rig.controller.scale_in(["1", "x"])
    with pytest.raises(TypeError, match="neither a number"):
        rig.controller.scale_in("0")
    with pytest.raises(ValueError, match="no number of blocks"):
        rig.controller.scale_in(-1)


def test_another_interchange_is_told_what_the_former_knew() -> None:
    rig = Rig(init_blocks=2, strategy="simple")
    rig.settle()
    rig.controller.manager_joined("0", "m0", "h", 2)
    rig.controller.scale_in(["0"])
    rig.settle()
    rig.interchange.asked.clear()
    rig.controller.manager_joined("0", "m0", "h", 2)
    rig.controller.interchange_restarted()
    rig.settle()
    assert rig.interchange.asked == [("tell_stranded", ""), ("drain_block", "0")]
    assert rig.block("0").managers == 1, "a manager that is back was not another one"


# -------------------------------------------------------------------------------------------------- bad hosts


def test_a_host_where_managers_keep_dying_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(handler=False, init_blocks=2, local=False)
    rig.settle()
    rig.controller.manager_joined("1", "good", "n1", 4)
    rig.run(60)
    for number in range(3):
        rig.controller.manager_joined("0", f"m{number}", "n0", 4)
        rig.run(20)
        rig.controller.manager_left("0", f"connection ended ({number})", True, f"m{number}")
    with caplog.at_level(logging.WARNING):
        rig.settle()
    assert list(rig.controller.left_out()) == ["n0"]
    assert "3 managers in a row" in rig.controller.left_out()["n0"]
    assert ("refuse_host", "n0") in rig.interchange.asked
    rig.run(600)
    assert rig.provider.specs[-1].exclude == ["n0"]
    rig.interchange.asked.clear()
    rig.controller.interchange_restarted()
    rig.settle()
    assert ("refuse_host", "n0") in rig.interchange.asked


# ------------------------------------------------------------------------------------------------------ the record


def test_the_record_of_the_blocks(tmp_path: Path) -> None:
    rig = Rig(record=str(tmp_path), init_blocks=2, strategy="simple")
    rig.run(1)
    rig.controller.manager_joined("1", "m1", "n1", 4)
    rig.run(1)
    record = read_blocks(tmp_path)
    assert record is not None
    assert (record.provider, record.trouble) == ("fake", "")
    assert "simple, 0 to 10 blocks of 2 nodes" in record.wants
    assert [(block.id, block.job_id, block.state, block.managers) for block in record.blocks] == [
        ("0", "j0", "running", 0),
        ("1", "j1", "running", 1),
    ]
    assert abs(record.blocks[0].submitted - time.time()) < 10
    assert (tmp_path / "blocks.json").stat().st_mode & 0o777 == 0o600
    rig.controller.begin_stop(1)
    rig.run(1)
    record = read_blocks(tmp_path)
    assert record is not None
    assert [block.state for block in record.blocks] == ["cancelled"] * 2


def test_a_record_that_cannot_be_written_or_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(record=str(tmp_path / "gone"))
    rig.run(1)
    assert "the record of the blocks cannot be written" in caplog.text
    assert len(rig.provider.running()) == 1
    assert read_blocks(tmp_path) is None
    (tmp_path / "blocks.json").write_text("{")
    assert read_blocks(tmp_path) is None


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
