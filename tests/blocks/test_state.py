from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from throughway.blocks.failure import QUOTED
from throughway.blocks.plan import plan
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.state import REMEMBERED, Ledger
from throughway.blocks.strategies import STRATEGIES
from throughway.protocol.views import BlockLoad
from throughway.providers.interface import JobId, JobState, JobStatus

POLICY = BlockPolicy(
    init_blocks=2, min_blocks=2, max_blocks=3, spacing=1.0, longest_wait=8.0, short_life=10.0, linger=30.0
)


class Story:
    """A ledger with blocks whose jobs are named after them."""

    def __init__(self, count: int = 1) -> None:
        self.ledger = Ledger(POLICY)
        self.open(count)

    def open(self, count: int = 1, now: float = 0.0) -> None:
        for block in self.ledger.open(count, 1, now):
            self.ledger.submitted(block, JobId(f"j{block.id}"))

    def hear(self, job: str, state: JobState, now: float, code: int | None = None, message: str = "") -> None:
        self.ledger.heard({JobId(job): JobStatus(state, code, message)}, now)
        self.ledger.sanity_check()

    def states(self) -> list[JobState]:
        return [block.state for block in self.ledger.blocks()]

    def block(self, id: str) -> tuple[JobState, float, str]:
        (found,) = (block for block in self.ledger.blocks() if block.id == id)
        return found.state, found.since, found.words()


def test_the_life_of_a_block() -> None:
    story = Story()
    ledger = story.ledger
    assert story.block("0") == (JobState.PENDING, 0.0, "")
    story.hear("j0", JobState.RUNNING, 1.0)
    assert story.block("0") == (JobState.RUNNING, 1.0, "")
    ledger.joined("0", 1, 2.0)
    assert ledger.view().managers == 1
    ledger.left("0", 1, "drained", False, 3.0)
    assert story.block("0") == (JobState.RUNNING, 1.0, "drained")
    story.hear("j0", JobState.COMPLETED, 4.0, 0)
    assert story.block("0") == (JobState.COMPLETED, 4.0, "drained")
    view = ledger.view()
    assert (view.blocks, view.failures, view.started_at) == ((), 0, 0.0)
    assert ledger.job_ids() == []


def test_a_drained_block_is_no_failure_however_short_it_lived() -> None:
    story = Story(2)
    story.hear("j0", JobState.FAILED, 1.0, 1)
    assert story.ledger.failures == 1
    story.ledger.joined("1", 1, 1.0)
    story.ledger.left("1", 1, "drained", False, 1.1)
    story.hear("j1", JobState.COMPLETED, 1.2, 0)
    assert story.ledger.failures == 0


def test_a_job_that_ends_without_a_manager_is_missing_and_failed() -> None:
    story = Story()
    story.hear("j0", JobState.COMPLETED, 1.0, 0)
    state, _, words = story.block("0")
    assert state is JobState.MISSING
    assert "no manager ever registered" in words
    assert story.ledger.failures == 1


def test_the_last_words_are_kept() -> None:
    story = Story()
    story.ledger.turned_away("0", "it runs Python 3.9")
    story.hear("j0", JobState.RUNNING, 0.5)
    story.hear("j0", JobState.FAILED, 1.0, 137, "ended by SIGKILL")
    assert story.block("0") == (JobState.FAILED, 1.0, "it runs Python 3.9; ended by SIGKILL")
    assert story.ledger.blocks()[0].report() == JobStatus(
        JobState.FAILED, 137, "it runs Python 3.9; ended by SIGKILL"
    )


def test_managers_that_die_within_seconds_are_failures() -> None:
    story = Story()
    for attempt in range(3):
        now = 100.0 * attempt
        story.ledger.joined(str(attempt), 1, now)
        story.ledger.left(str(attempt), 1, "connection closed", True, now + 5)
        story.hear(f"j{attempt}", JobState.FAILED, now + 60, 1)
        assert story.ledger.failures == attempt + 1
        story.open(now=now + 61)


def test_managers_that_die_after_a_while_are_none() -> None:
    story = Story()
    story.hear("j0", JobState.FAILED, 1.0, 1)
    story.open()
    story.ledger.joined("1", 1, 2.0)
    story.ledger.left("1", 1, "connection closed", True, 12.0)
    story.hear("j1", JobState.FAILED, 12.0, 1)
    assert story.ledger.failures == 0
    assert not story.ledger.failed


def test_a_block_that_works_forgives_at_its_deadline() -> None:
    story = Story(2)
    story.hear("j0", JobState.FAILED, 1.0, 1)
    story.ledger.joined("1", 1, 2.3)
    assert story.ledger.deadline() == 12.3
    story.ledger.settle(12.2)
    assert story.ledger.failures == 1
    story.ledger.settle(12.3)
    assert story.ledger.failures == 0
    assert story.ledger.deadline() == math.inf


def test_a_block_that_goes_on_working_forgives_once_only() -> None:
    story = Story(2)
    story.ledger.joined("0", 1, 1.0)
    story.hear("j1", JobState.FAILED, 20.0, 1)
    story.ledger.settle(21.0)
    assert story.ledger.failures == 1
    assert story.ledger.deadline() == math.inf
    story.open()
    story.hear("j2", JobState.FAILED, 30.0, 1)
    story.ledger.settle(31.0)
    assert story.ledger.failures == 2
    story.ledger.left("0", 1, "connection closed", True, 40.0)
    story.hear("j0", JobState.FAILED, 40.0, 1)
    assert story.ledger.failures == 0


def three_that_fail_beside_one(since: float) -> Story:
    """Block 0 has had a manager from 1.0 on; three attempts fail, a second after one another."""
    story = Story()
    story.ledger.joined("0", 1, 1.0)
    for attempt in range(1, 4):
        story.open()
        story.hear(f"j{attempt}", JobState.FAILED, since + attempt, 1)
    return story


@pytest.mark.parametrize("ends", ["scaled in", "drained", "lost"])
def test_what_failed_beside_a_block_that_works_is_tried_again_once_it_is_gone(ends: str) -> None:
    """Hours may lie between the two, and nothing may be left to run."""
    story = three_that_fail_beside_one(20.0)
    ledger = story.ledger
    (block,) = ledger.open(1, 1, 30.0)
    ledger.not_submitted(block, "no such account, says a database that is down", 30.0, permanent=True)
    ledger.settle(31.0)
    assert ledger.failures == 4
    assert not plan(ledger.view(31.0), POLICY, 31.0, STRATEGIES["simple"]).give_up
    if ends == "scaled in":
        assert ledger.ask_to_drain("0")
        ledger.drain_answered("0", True, 5000.0)
    ledger.left("0", 1, ends, ends == "lost", 5001.0)
    assert not plan(ledger.view(5001.0), POLICY, 5001.0, STRATEGIES["simple"]).give_up
    story.hear("j0", JobState.COMPLETED, 5002.0, 0)
    assert ledger.failures == 0
    (block,) = ledger.open(1, 1, 5003.0)
    ledger.not_submitted(block, "no such account", 5003.0, permanent=True)
    assert plan(ledger.view(5003.0), POLICY, 5003.0, STRATEGIES["simple"]).give_up


def test_a_block_that_did_not_work_forgives_nothing_when_it_is_gone() -> None:
    story = three_that_fail_beside_one(2.0)
    ledger = story.ledger
    ledger.left("0", 1, "connection closed", True, 9.0)
    assert plan(ledger.view(9.0), POLICY, 9.0, STRATEGIES["simple"]).give_up


def test_managers_without_a_worker_that_gets_ready_are_failures_however_slowly_they_find_out() -> None:
    """Being registered for a while is no sign of work where managers were before, and had no worker."""
    story = Story()
    for attempt, life in enumerate((40.0, 65.0, 30.0)):
        begin = 100.0 * attempt
        story.ledger.joined(str(attempt), 1, begin)
        for second in range(int(life)):
            story.ledger.settle(begin + second)
        assert story.ledger.failures == attempt
        story.ledger.left(str(attempt), 1, "5 workers in a row", True, begin + life, failed=True)
        story.hear(f"j{attempt}", JobState.FAILED, begin + life + 1, 1)
        assert story.ledger.failures == attempt + 1
        story.open(now=begin + life + 2)


def test_a_block_that_lives_far_longer_than_those_without_workers_forgives() -> None:
    story = Story()
    story.ledger.joined("0", 1, 0.0)
    story.ledger.left("0", 1, "5 workers in a row", True, 40.0, failed=True)
    story.hear("j0", JobState.FAILED, 41.0, 1)
    story.open()
    story.ledger.joined("1", 1, 50.0)
    assert story.ledger.deadline() == 130.0
    story.ledger.settle(129.9)
    assert story.ledger.failures == 1
    story.ledger.settle(130.0)
    assert (story.ledger.failures, story.ledger.deadline()) == (0, math.inf)


def test_a_block_that_ends_well_ends_the_doubt_about_registered_managers() -> None:
    story = Story()
    story.ledger.joined("0", 1, 0.0)
    story.ledger.left("0", 1, "5 workers in a row", True, 40.0, failed=True)
    story.hear("j0", JobState.FAILED, 41.0, 1)
    story.open(2)
    story.ledger.joined("1", 1, 50.0)
    story.ledger.joined("2", 1, 55.0)
    story.ledger.left("1", 1, "connection closed", True, 60.0)
    story.hear("j1", JobState.FAILED, 60.0, 1)
    assert story.ledger.failures == 0, "it is not said that it had no worker"
    story.open()
    story.hear("j3", JobState.FAILED, 61.0, 1)
    assert (story.ledger.failures, story.ledger.deadline()) == (1, 65.0)


def test_a_block_of_several_nodes_is_barren_where_all_of_them_are() -> None:
    story = Story(2)
    for block in "01":
        story.ledger.joined(block, 1, 0.0)
        story.ledger.joined(block, 1, 1.0)
        story.ledger.left(block, 1, "5 workers in a row", True, 20.0, failed=True)
    story.ledger.left("0", 1, "connection closed", True, 30.0)
    story.hear("j0", JobState.FAILED, 30.0, 1)
    assert story.ledger.failures == 0
    story.ledger.left("1", 1, "5 workers in a row", True, 30.0, failed=True)
    story.hear("j1", JobState.FAILED, 30.0, 1)
    assert story.ledger.failures == 1


def test_a_job_that_ends_well_without_a_worker_is_a_failure() -> None:
    """Its script may go on after the manager, and end with another status."""
    story = Story()
    story.ledger.joined("0", 1, 0.0)
    story.ledger.left("0", 1, "5 workers in a row", True, 40.0, failed=True)
    story.hear("j0", JobState.COMPLETED, 41.0, 0)
    assert (story.states(), story.ledger.failures) == ([JobState.COMPLETED], 1)


def test_blocks_of_one_attempt_fail_once() -> None:
    story = Story(5)
    for k in range(5):
        story.hear(f"j{k}", JobState.FAILED, 1.0 + k, 1)
    assert (story.ledger.failures, story.ledger.failed_at) == (1, 1.0)
    assert len(story.ledger.failed) == 5
    story.open()
    story.hear("j5", JobState.FAILED, 9.0, 1)
    assert (story.ledger.failures, story.ledger.failed_at) == (2, 9.0)


def test_registration_is_the_truth() -> None:
    """A wrong word of the scheduler does not end a block whose manager is there; words that stay do."""
    story = Story()
    story.ledger.joined("0", 1, 1.0)
    story.hear("j0", JobState.PENDING, 2.0)
    assert story.states() == [JobState.RUNNING]
    story.hear("j0", JobState.COMPLETED, 3.0)
    assert story.states() == [JobState.RUNNING]
    story.hear("j0", JobState.RUNNING, 4.0)
    assert story.ledger.deadline() == math.inf
    story.hear("j0", JobState.FAILED, 5.0, 1)
    story.hear("j0", JobState.FAILED, 6.0, 1)
    assert story.ledger.deadline() == 35.0
    story.ledger.settle(34.0)
    assert story.states() == [JobState.RUNNING]
    story.ledger.settle(35.0)
    assert story.states() == [JobState.FAILED]
    assert story.ledger.failures == 0


def test_the_block_ends_when_its_last_manager_leaves_after_its_job() -> None:
    story = Story()
    story.ledger.joined("0", 1, 1.0)
    story.ledger.joined("0", 1, 1.0)
    story.hear("j0", JobState.COMPLETED, 20.0, 0)
    story.ledger.left("0", 1, "drained", False, 21.0)
    assert story.states() == [JobState.RUNNING]
    story.ledger.left("0", 1, "drained", False, 22.0)
    assert story.states() == [JobState.COMPLETED]


def test_a_manager_that_comes_back() -> None:
    story = Story()
    story.ledger.joined("0", 1, 1.0)
    story.ledger.left("0", 1, "silent", True, 2.0)
    assert (len(story.ledger.view().blocks), story.ledger.view().managers) == (1, 0)
    story.ledger.joined("0", 1, 3.0)
    assert (len(story.ledger.view().blocks), story.ledger.view().managers) == (1, 1)


def test_silence_changes_nothing() -> None:
    story = Story(2)
    story.hear("j0", JobState.RUNNING, 1.0)
    story.hear("j0", JobState.UNKNOWN, 2.0, message="squeue: timed out")
    assert story.block("0") == (JobState.RUNNING, 1.0, "squeue: timed out")
    assert story.block("1") == (JobState.PENDING, 0.0, "")
    story.hear("j0", JobState.HELD, 3.0)
    assert story.block("0") == (JobState.HELD, 3.0, "")


def test_cancelled_blocks_are_no_failures_and_end_at_once() -> None:
    story = Story(2)
    story.ledger.joined("0", 1, 1.0)
    story.ledger.cancelling([JobId("j0"), JobId("j1"), JobId("unknown")])
    story.hear("j0", JobState.FAILED, 2.0, 1)
    story.hear("j1", JobState.COMPLETED, 2.0, 0)
    assert story.states() == [JobState.CANCELLED, JobState.CANCELLED]
    assert story.ledger.failures == 0


def test_a_job_cancelled_by_others_before_any_manager_came_is_a_failure() -> None:
    story = Story()
    story.hear("j0", JobState.CANCELLED, 1.0)
    assert (story.states(), story.ledger.failures) == ([JobState.CANCELLED], 1)


def test_not_submitted() -> None:
    ledger = Ledger(POLICY)
    for block in ledger.open(2, 1, 5.0):
        ledger.not_submitted(block, "sbatch: invalid partition", 6.0)
    ledger.sanity_check()
    assert ledger.failures == 1
    assert [block.report().message for block in ledger.blocks()] == ["sbatch: invalid partition"] * 2


def test_strangers_are_left_alone() -> None:
    story = Story()
    story.hear("j0", JobState.FAILED, 1.0, 1)
    for block in ("0", "99", "mine"):
        story.ledger.joined(block, 1, 2.0)
        story.ledger.left(block, 1, "gone", True, 3.0)
        story.ledger.turned_away(block, "no")
    story.hear("j99", JobState.RUNNING, 4.0)
    assert story.states() == [JobState.FAILED]
    story.ledger.sanity_check()


def test_memory_is_bounded() -> None:
    story = Story(0)
    for k in range(REMEMBERED + 50):
        story.open()
        story.hear(f"j{k}", JobState.FAILED, float(k), 1)
    assert len(story.ledger.blocks()) == REMEMBERED
    assert len(story.ledger.failed) == QUOTED


# --------------------------------------------------------------------------------------------------- what plans see


def test_what_a_block_is_expected_to_run() -> None:
    ledger = Ledger(POLICY._replace(nodes_per_block=3, gather=120.0))
    ledger.workers_per_node = 4.0
    (block,) = ledger.open(1, 3, 0.0)
    ledger.submitted(block, JobId("j0"))
    (sight,) = ledger.view(1.0).blocks
    assert (sight.slots, sight.fresh, ledger.view().block_slots) == (12.0, True, 12.0)
    ledger.joined("0", 8, 10.0)
    (sight,) = ledger.view(10.0).blocks
    assert (sight.slots, sight.fresh, ledger.view().block_slots) == (8 + 2 * 8.0, False, 24.0)
    assert ledger.view(130.0).blocks[0].slots == 8.0, "the others never came"
    ledger.left("0", 8, "drained", False, 140.0)
    assert ledger.view(140.0).blocks[0].slots == 0.0


def test_how_idle_blocks_are() -> None:
    story = Story(3)
    for block in "012":
        story.ledger.joined(block, 2, 1.0)
    loads = [BlockLoad("0", 1, 2, 0, 7.0), BlockLoad("1", 1, 2, 3), BlockLoad("77", 1, 1, 0)]
    story.ledger.looked(loads, 5, 100.0)
    view = story.ledger.view(100.0, 9)
    assert [block.idle_since for block in view.blocks] == [93.0, math.inf, math.inf]
    assert (view.looked_at, view.stranded) == (100.0, 5)
    assert story.ledger.view(100.0, 2).stranded == 2, "no more than there are"
    story.ledger.joined("1", 2, 101.0)
    assert story.ledger.view(101.0, 9).stranded == 0, "the new one may have the time"


def test_since_when_a_fresh_block_is_not_needed() -> None:
    story = Story(2)
    story.ledger.note_unneeded(["1"], 5.0)
    story.ledger.note_unneeded(["1"], 6.0)
    assert [block.idle_since for block in story.ledger.view(6.0).blocks] == [math.inf, 5.0]
    story.ledger.note_unneeded([], 7.0)
    assert story.ledger.view(7.0).blocks[1].idle_since == math.inf


# --------------------------------------------------------------------------------------------------------- scaling in


def test_a_block_is_drained_and_then_cancelled() -> None:
    story = Story()
    ledger = story.ledger
    ledger.joined("0", 2, 1.0)
    assert ledger.ask_to_drain("0")
    assert not ledger.ask_to_drain("0")
    assert ledger.view(2.0).blocks[0].leaving
    ledger.drain_answered("0", True, 2.0)
    assert ledger.to_cancel(3.0) == ([], []), "a manager is still there"
    ledger.left("0", 2, "drained", False, 4.0)
    assert ledger.deadline() <= 4.0
    assert ledger.to_cancel(4.0) == ([JobId("j0")], [])
    assert ledger.to_cancel(5.0) == ([], [])
    story.hear("j0", JobState.FAILED, 6.0, 143)
    assert story.states() == [JobState.SCALED_IN]
    assert (ledger.failures, ledger.deadline()) == (0, math.inf)


def test_a_block_that_turned_out_busy_stays() -> None:
    story = Story()
    story.ledger.joined("0", 2, 1.0)
    story.ledger.ask_to_drain("0")
    story.ledger.drain_answered("0", False, 2.0)
    (block,) = story.ledger.view(2.0).blocks
    assert not block.leaving
    assert block.idle_since == math.inf
    assert story.ledger.view(2.0).looked_at == 2.0


def test_a_job_that_does_not_end_is_cancelled_by_force_again_and_again() -> None:
    story = Story()
    story.ledger.ask_to_drain("0")
    story.ledger.drain_answered("0", True, 2.0)
    assert story.ledger.to_cancel(2.0) == ([JobId("j0")], [])
    moments = []
    for second in range(3, 200):
        polite, forced = story.ledger.to_cancel(float(second))
        assert polite == []
        moments += [second] * len(forced)
    assert moments == [12, 32, 72, 152]


def test_a_block_is_drained_by_force() -> None:
    story = Story()
    story.ledger.joined("0", 2, 1.0)
    story.ledger.ask_to_drain("0")
    story.ledger.drain_answered("0", True, 2.0)
    assert story.ledger.ask_to_drain("0", force=True)
    assert not story.ledger.ask_to_drain("0", force=True)
    assert story.ledger.to_cancel(3.0) == ([], [JobId("j0")])
    story.ledger.left("0", 2, "connection closed", True, 4.0)
    story.hear("j0", JobState.FAILED, 4.0, 137)
    assert (story.states(), story.ledger.failures) == ([JobState.SCALED_IN], 0)


def test_a_block_that_is_not_submitted_yet_is_cancelled_once_it_is() -> None:
    ledger = Ledger(POLICY)
    (block,) = ledger.open(1, 1, 0.0)
    ledger.ask_to_drain("0")
    ledger.drain_answered("0", True, 1.0)
    assert ledger.to_cancel(1.0) == ([], [])
    ledger.submitted(block, JobId("j0"))
    assert ledger.to_cancel(2.0) == ([JobId("j0")], [])


ENDS = (JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED)
WORDS = (JobState.PENDING, JobState.RUNNING, JobState.HELD, JobState.UNKNOWN)


class Weeks(RuleBasedStateMachine):
    """Whatever schedulers and managers do: never too many blocks, and attempts that fail become rare."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(POLICY)
        self.now = 0.0
        self.started_at = -math.inf
        self.condemned: set[JobId] = set()

    @rule(
        seconds=st.sampled_from((0.0, 0.125, 1.0, 5.0, 60.0)),
        accepted=st.booleans(),
        tasks=st.sampled_from((0, 0, 1, 3, 100)),
        name=st.sampled_from(sorted(STRATEGIES)),
        idle=st.booleans(),
    )
    def act(self, seconds: float, accepted: bool, tasks: int, name: str, idle: bool) -> None:
        self.now += seconds
        self.ledger.settle(self.now)
        for job in self.ledger.hung(self.now):
            assert job not in self.condemned, "a job is condemned once"
            self.condemned.add(job)
        self.ledger.to_cancel(self.now)
        todo = plan(self.ledger.view(self.now, tasks), POLICY, self.now, STRATEGIES[name])
        if todo.look:
            loads = [BlockLoad(block, 1, 1, 0 if idle else 1, 500.0) for block in self.ledger.live]
            self.ledger.looked(loads, 0, self.now)
            todo = plan(self.ledger.view(self.now, tasks), POLICY, self.now, STRATEGIES[name])
            assert not todo.look
        self.ledger.note_unneeded(todo.unneeded, self.now)
        for block in todo.drain:
            assert self.ledger.ask_to_drain(block)
            self.ledger.drain_answered(block, accepted, self.now)
        staying = sum(not block.leaving for block in self.ledger.live.values())
        assert staying >= POLICY.min_blocks or not todo.drain
        assert todo.give_up == (self.ledger.failures >= 3 and not self.ledger.view().managers)
        if todo.give_up:
            self.ledger = Ledger(POLICY)
            self.started_at = -math.inf
            self.condemned.clear()
            return
        if not todo.start:
            return
        failures = self.ledger.failures
        assert self.now - self.started_at >= max(POLICY.spacing, POLICY.wait(failures))
        assert todo.start == 1 or not failures
        self.started_at = self.now
        for opened in self.ledger.open(todo.start, 1, self.now):
            if accepted:
                self.ledger.submitted(opened, JobId(f"j{opened.id}"))
            else:
                self.ledger.not_submitted(opened, "refused", self.now)

    @precondition(lambda self: self.ledger.live)
    @rule(data=st.data(), state=st.sampled_from(ENDS + WORDS), code=st.sampled_from((0, 1, None)))
    def scheduler(self, data: st.DataObject, state: JobState, code: int | None) -> None:
        job = data.draw(st.sampled_from(self.ledger.job_ids()))
        self.ledger.heard({job: JobStatus(state, code if state.terminal else None)}, self.now)

    @precondition(lambda self: self.ledger.live)
    @rule(data=st.data(), joins=st.booleans(), lost=st.booleans(), failed=st.booleans())
    def manager(self, data: st.DataObject, joins: bool, lost: bool, failed: bool) -> None:
        block = data.draw(st.sampled_from(sorted(self.ledger.live)))
        if joins:
            self.ledger.joined(block, 1, self.now)
        else:
            self.ledger.left(block, 1, "gone", lost, self.now, failed=lost and failed)

    @invariant()
    def holds(self) -> None:
        self.ledger.sanity_check()
        assert len(self.ledger.live) <= POLICY.max_blocks
        settled = all(
            block.gone_at is None
            and (block.managers or not block.lost or block.leaving or block.job_id is None)
            and not block.scaled_in
            for block in self.ledger.live.values()
        )
        if not self.ledger.failures and settled:
            assert self.ledger.deadline() == math.inf


Weeks.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
TestWeeks = Weeks.TestCase
