from __future__ import annotations

import math
import random

import pytest

from tests.blocks.simulation import Cluster, Load, bursts
from throughway.blocks.plan import BlockSight, Strategy, View, Wish
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.strategies import htex_auto_scale, none, simple, strategy_for
from throughway.errors import ConfigurationError
from throughway.providers import JobState

POLICY = BlockPolicy(init_blocks=0, min_blocks=0, max_blocks=10, spacing=5.0, max_failures=None)
SCALING = [simple, htex_auto_scale]
WEEK = 7 * 24 * 3600.0


def busy(count: int, slots: float = 4.0) -> tuple[BlockSight, ...]:
    return tuple(BlockSight(str(number), slots=slots) for number in range(count))


# ------------------------------------------------------------------------------------------------------ scaling out


@pytest.mark.parametrize("strategy", SCALING)
@pytest.mark.parametrize(
    ("blocks", "tasks", "parallelism", "started"),
    [
        (0, 0, 1.0, 0),
        (0, 1, 1.0, 1),
        (0, 1, 0.0, 1),
        (0, 100, 0.0, 1),
        (1, 100, 0.0, 0),
        (0, 9, 1.0, 3),
        (1, 9, 1.0, 2),
        (2, 8, 1.0, 0),
        (2, 16, 0.5, 0),
        (2, 17, 0.5, 1),
        (0, 1000, 1.0, 250),
    ],
)
def test_blocks_for_tasks(
    strategy: Strategy, blocks: int, tasks: int, parallelism: float, started: int
) -> None:
    view = View(busy(blocks), tasks, block_slots=4.0, begun=True)
    assert strategy(view, POLICY._replace(parallelism=parallelism), 0.0).start == started


@pytest.mark.parametrize("strategy", SCALING)
def test_what_leaves_does_not_count_and_what_is_expected_does(strategy: Strategy) -> None:
    leaving = tuple(block._replace(leaving=True) for block in busy(2))
    assert strategy(View(leaving, 1, begun=True), POLICY, 0.0).start == 1
    pending = tuple(block._replace(fresh=True, state=JobState.PENDING, managers=0) for block in busy(2))
    assert strategy(View(pending, 8, block_slots=4.0), POLICY, 0.0).start == 0


@pytest.mark.parametrize("strategy", SCALING)
def test_it_asks_to_be_told_of_just_so_many_tasks_as_need_another_block(strategy: Strategy) -> None:
    policy = POLICY._replace(parallelism=0.5)
    for tasks in (0, 1, 16):
        view = View(busy(2), tasks, block_slots=4.0, begun=True)
        notice_at = strategy(view, policy, 0.0).notice_at
        assert notice_at == 17
    assert strategy(View(busy(2), 17, block_slots=4.0, begun=True), policy, 0.0).start == 1
    assert strategy(View(), POLICY, 0.0).notice_at == 1
    assert strategy(View(busy(1), 5, begun=True), POLICY._replace(parallelism=0.0), 0.0).notice_at == math.inf


@pytest.mark.parametrize("strategy", SCALING)
def test_first_blocks_are_kept_until_one_has_worked(strategy: Strategy) -> None:
    policy = POLICY._replace(init_blocks=3, min_blocks=1)
    assert strategy(View(), policy, 0.0).start == 3
    assert strategy(View(busy(2)), policy, 0.0).start == 1
    assert strategy(View(busy(2), begun=True), policy, 0.0).start == 0
    assert strategy(View(begun=True), policy, 0.0).start == 1


@pytest.mark.parametrize("strategy", SCALING)
def test_a_fresh_block_for_tasks_that_no_other_has_the_time_for(strategy: Strategy) -> None:
    view = View(busy(3), tasks=2, stranded=2, block_slots=4.0, begun=True)
    assert strategy(view, POLICY, 0.0).start == 1
    fresh = view.blocks[0]._replace(fresh=True)
    assert strategy(view._replace(blocks=(fresh, *view.blocks[1:])), POLICY, 0.0).start == 0
    assert strategy(view._replace(tasks=9, stranded=9), POLICY, 0.0).start == 3


def test_none_keeps_its_blocks() -> None:
    assert none(View(kept=3), POLICY, 0.0).start == 3
    assert none(View(busy(3), tasks=1000, kept=3), POLICY, 0.0).start == 0
    assert none(View(busy(5), kept=3), POLICY, 1e9).drain == ()


# ------------------------------------------------------------------------------------------------------- scaling in


def idle(*since: float) -> tuple[BlockSight, ...]:
    return tuple(BlockSight(str(number), slots=4.0, idle_since=moment) for number, moment in enumerate(since))


def test_idle_blocks_go_while_others_work() -> None:
    view = View(idle(math.inf, 100.0, 150.0), tasks=2, begun=True, looked_at=230.0, block_slots=4.0)
    wish = htex_auto_scale(view, POLICY, 230.0)
    assert (wish.drain, wish.wake_at) == (("1",), 270.0)
    assert simple(view, POLICY, 230.0).drain == ()


def test_all_idle_blocks_go_once_nothing_is_left() -> None:
    view = View(idle(100.0, 150.0), begun=True, looked_at=271.0, block_slots=4.0)
    assert simple(view._replace(looked_at=260.0), POLICY, 260.0).drain == ()
    assert simple(view._replace(looked_at=260.0), POLICY, 260.0).wake_at == 270.0
    assert simple(view, POLICY, 271.0).drain == ("0", "1")
    assert htex_auto_scale(view, POLICY, 271.0).drain == ("0", "1")
    assert simple(view, POLICY._replace(min_blocks=1), 271.0).drain == ("0",)


def test_it_looks_before_it_drains() -> None:
    view = View(idle(100.0), begun=True, looked_at=120.0, block_slots=4.0)
    assert htex_auto_scale(view, POLICY, 219.0).wake_at == 220.0
    wish = htex_auto_scale(view, POLICY, 220.0)
    assert (wish.look, wish.drain) == (True, ())
    assert htex_auto_scale(view._replace(looked_at=220.0), POLICY, 220.0).drain == ("0",)


def test_no_block_goes_that_is_needed() -> None:
    view = View(idle(0.0, 0.0, 0.0), tasks=8, begun=True, looked_at=500.0, block_slots=4.0)
    assert htex_auto_scale(view, POLICY, 500.0).drain == ("0",)
    assert htex_auto_scale(view._replace(tasks=9), POLICY, 500.0).drain == ()
    one = view._replace(blocks=idle(0.0), tasks=1)
    assert htex_auto_scale(one, POLICY._replace(parallelism=0.0), 500.0).drain == ()


@pytest.mark.parametrize("strategy", SCALING)
def test_blocks_in_the_queue_go_when_nothing_needs_them(strategy: Strategy) -> None:
    (pending,) = busy(1)
    pending = pending._replace(fresh=True, managers=0, state=JobState.PENDING)
    wish = strategy(View((pending,), looked_at=0.0), POLICY, 10.0)
    assert (wish.unneeded, wish.drain, wish.look, wish.wake_at) == (("0",), (), False, 130.0)
    noted = View((pending._replace(idle_since=10.0),), looked_at=0.0)
    assert strategy(noted, POLICY, 130.0).drain == ("0",)
    assert strategy(noted._replace(tasks=1, block_slots=4.0), POLICY, 130.0).unneeded == ()


# --------------------------------------------------------------------------------------------------------- by name


def test_names() -> None:
    assert strategy_for(None) is none
    assert strategy_for("none") is none
    assert strategy_for("htex_auto_scale") is htex_auto_scale
    own: Strategy = lambda view, policy, now: Wish(start=policy.max_blocks)
    assert strategy_for(own) is own


@pytest.mark.parametrize("value", ["auto", 3, View])
def test_what_is_no_strategy(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"strategy=.*'htex_auto_scale'"):
        strategy_for(value)


# --------------------------------------------------------------------------------------------------- simulated weeks


@pytest.mark.parametrize("strategy", SCALING)
@pytest.mark.parametrize("seed", range(6))
def test_weeks_of_a_user(strategy: Strategy, seed: int) -> None:
    """Never above ``max_blocks``, nothing started that is not needed, nothing drained that is (see `simulation`)."""
    rng = random.Random(seed)
    policy = POLICY._replace(
        max_blocks=rng.randint(1, 12), min_blocks=rng.choice((0, 0, 1)), parallelism=rng.choice((1.0, 0.5))
    )
    cluster = Cluster(
        policy,
        strategy,
        queue_seconds=lambda: rng.choice((2.0, 60.0, 5 * 3600.0)) * rng.random(),
        dies=lambda: rng.random() < 0.1,
    )
    loads = bursts(seed, 2 * WEEK)
    for load in loads:
        cluster.submit(load)
    cluster.run(3 * WEEK)
    assert cluster.done == sum(load.tasks for load in loads)
    assert cluster.most <= policy.max_blocks
    assert len(cluster.ledger.live) <= max(policy.min_blocks, 0), "it ends with what is kept"
    # A block idles for max_idletime before it goes. It may be longer only where it was still needed then.
    late = [seconds for seconds in cluster.idle_seconds if seconds > 2 * policy.max_idletime + 1]
    assert len(late) <= 0.05 * len(cluster.idle_seconds) + len(loads) * (strategy is simple)
    # The controller sleeps for most of the time: a few steps for each event, and one look in max_idletime.
    assert cluster.looks <= 3 * WEEK / policy.max_idletime + len(loads)


@pytest.mark.parametrize("strategy", SCALING)
@pytest.mark.parametrize("tasks", [1, 4, 5, 17, 400])
def test_a_constant_load_comes_to_rest(strategy: Strategy, tasks: int) -> None:
    cluster = Cluster(POLICY, strategy, walltime=math.inf)
    cluster.submit(Load(0.0, tasks, WEEK))
    cluster.run(WEEK / 2)
    assert cluster.drains == []
    assert len(cluster.starts) == min(10, math.ceil(tasks / 4))
    assert max(cluster.starts) <= POLICY.spacing, "a second attempt is needed for nothing"


@pytest.mark.parametrize("strategy", SCALING)
def test_tasks_that_come_one_by_one_do_not_make_it_oscillate(strategy: Strategy) -> None:
    """A task each 50 seconds, less than ``max_idletime``: one block serves them all."""
    cluster = Cluster(POLICY, strategy, walltime=math.inf)
    for number in range(2000):
        cluster.submit(Load(50.0 * number, 1, 10.0))
    cluster.run(WEEK)
    assert (len(cluster.starts), len(cluster.drains), cluster.done) == (1, 1, 2000)
    assert cluster.idle_seconds == [pytest.approx(POLICY.max_idletime, abs=1.0)]


@pytest.mark.parametrize("strategy", SCALING)
def test_the_first_task_starts_a_block_at_once(strategy: Strategy) -> None:
    cluster = Cluster(POLICY, strategy)
    for number in range(50):
        cluster.submit(Load(number * 10_000.0, 1, 1.0))
    cluster.run(WEEK)
    assert len(cluster.starts) == 50
    assert cluster.longest_reaction == 0.0


def test_the_last_long_task_holds_one_block_only() -> None:
    """The long tail: work is packed, so that of ten blocks nine end while one task goes on."""
    cluster = Cluster(POLICY, htex_auto_scale, walltime=math.inf)
    cluster.submit(Load(0.0, 39, 600.0))
    cluster.submit(Load(0.0, 1, 5 * 3600.0))
    cluster.run(2 * 3600.0)
    assert len(cluster.ledger.live) == 1
    assert all(seconds == pytest.approx(POLICY.max_idletime) for seconds in cluster.idle_seconds)


def test_a_partition_that_kills_everything_is_asked_ever_more_seldom() -> None:
    cluster = Cluster(
        POLICY._replace(longest_wait=600.0), htex_auto_scale, queue_seconds=lambda: 1.0, dies=lambda: True
    )
    cluster.submit(Load(0.0, 1000, 60.0))
    cluster.run(24 * 3600.0)
    assert len(cluster.starts) <= 10 + 24 * 3600.0 / 600.0 + 8
