from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from throughway.blocks.plan import BlockSight, Plan, View, Wish, plan
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.strategies import STRATEGIES, none

NEVER = -math.inf
POLICY = BlockPolicy(init_blocks=4, min_blocks=0, max_blocks=6, max_failures=3, spacing=1.0, longest_wait=8.0)


def view(
    live: int = 0, managers: int = 0, failures: int = 0, failed: float = NEVER, started: float = NEVER
) -> View:
    blocks = tuple(BlockSight(str(number), managers=0) for number in range(live))
    if managers:
        blocks = (blocks[0]._replace(managers=managers), *blocks[1:])
    return View(blocks, kept=4, failures=failures, failed_at=failed, started_at=started)


def keep(view: View, policy: BlockPolicy, now: float) -> Plan:
    return plan(view, policy, now, none)


def test_the_first_blocks_start_together() -> None:
    assert keep(view(), POLICY, 0.0) == Plan(start=4)


def test_nothing_to_do_with_enough_blocks() -> None:
    assert keep(view(live=4), POLICY, 0.0) == Plan()
    assert keep(view(live=5, failures=2, failed=0.0), POLICY, 0.0) == Plan()


def test_never_more_than_max_blocks() -> None:
    assert keep(view(live=1), POLICY._replace(max_blocks=2), 0.0) == Plan(start=1)
    assert keep(view(live=2), POLICY._replace(max_blocks=2), 0.0) == Plan()


def test_blocks_that_leave_count_for_max_blocks_and_for_nothing_else() -> None:
    seen = view(live=6)
    leaving = tuple(block._replace(leaving=True) for block in seen.blocks[:4])
    assert keep(seen._replace(blocks=leaving), POLICY, 0.0) == Plan(start=2)
    assert keep(seen._replace(blocks=(*leaving, *seen.blocks[4:])), POLICY, 0.0) == Plan()


def test_attempts_are_apart() -> None:
    assert keep(view(live=3, started=10.0), POLICY, 10.5) == Plan(wake_at=11.0)
    assert keep(view(live=3, started=10.0), POLICY, 11.0) == Plan(start=1)


def test_the_first_retry_does_not_wait_and_is_alone() -> None:
    assert keep(view(failures=1, failed=20.0, started=10.0), POLICY, 20.0) == Plan(start=1)


def test_further_retries_wait_longer() -> None:
    patient = POLICY._replace(max_failures=None)
    for failures, wait in ((2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0)):
        seen = view(failures=failures, failed=20.0, started=19.0)
        assert keep(seen, patient, 20.0) == Plan(wake_at=20.0 + wait)
        assert keep(seen, patient, 20.0 + wait) == Plan(start=1)


def test_retries_that_are_under_way_also_count() -> None:
    seen = view(live=2, failures=3, failed=20.0, started=21.9)
    assert keep(seen, POLICY._replace(max_failures=None), 22.0) == Plan(wake_at=23.9)


def test_gives_up_after_so_many_failures() -> None:
    assert not keep(view(failures=2, failed=0.0), POLICY, 100.0).give_up
    assert keep(view(failures=3, failed=0.0), POLICY, 100.0) == Plan(give_up=True)
    assert keep(view(failures=9, live=4), POLICY, 100.0) == Plan(give_up=True)


def test_does_not_give_up_while_a_manager_is_there() -> None:
    assert keep(view(live=1, managers=1, failures=3, failed=0.0), POLICY, 100.0) == Plan(start=1)


def test_does_not_give_up_where_it_must_not() -> None:
    assert keep(view(failures=1000, failed=0.0), POLICY._replace(max_failures=None), 100.0) == Plan(start=1)


def test_a_strategy_has_its_way_only_within_the_limits() -> None:
    greedy = lambda view, policy, now: Wish(
        start=1000, drain=("0", "1", "1", "no such", "2"), wake_at=now - 1, notice_at=0
    )
    policy = POLICY._replace(min_blocks=2)
    todo = plan(view(live=4, started=0.0), policy, 10.0, greedy)
    assert (todo.start, todo.drain) == (2, ("0", "1"))
    assert todo.wake_at > 10.0
    assert todo.notice_at > 0
    assert plan(view(live=6), policy, 10.0, greedy).start == 0


times = st.one_of(st.just(NEVER), st.floats(0, 1000))
sights = st.lists(
    st.builds(
        BlockSight,
        id=st.integers(0, 30).map(str),
        slots=st.floats(0, 64),
        managers=st.integers(0, 3),
        fresh=st.booleans(),
        leaving=st.booleans(),
        idle_since=st.one_of(st.just(math.inf), st.floats(0, 2000)),
    ),
    max_size=10,
    unique_by=lambda block: block.id,
)


@given(
    blocks=sights,
    tasks=st.integers(0, 1_000_000),
    stranded=st.integers(0, 100),
    block_slots=st.floats(1, 128),
    begun=st.booleans(),
    looked=times,
    failures=st.integers(0, 2000),
    failed=times,
    started=times,
    now=st.floats(0, 2000),
    first=st.integers(0, 10),
    least=st.integers(0, 3),
    cap=st.integers(1, 10),
    parallelism=st.floats(0, 1),
    limit=st.one_of(st.none(), st.integers(1, 5)),
    name=st.sampled_from(sorted(STRATEGIES)),
)
def test_any_plan(
    blocks: list[BlockSight],
    tasks: int,
    stranded: int,
    block_slots: float,
    begun: bool,
    looked: float,
    failures: int,
    failed: float,
    started: float,
    now: float,
    first: int,
    least: int,
    cap: int,
    parallelism: float,
    limit: int | None,
    name: str,
) -> None:
    policy = BlockPolicy(
        first, least, cap, parallelism=parallelism, max_failures=limit, spacing=1.0, longest_wait=8.0
    )
    seen = View(
        tuple(blocks),
        tasks,
        min(stranded, tasks),
        block_slots,
        first,
        begun,
        min(looked, now),
        failures,
        failed,
        started,
    )
    done = plan(seen, policy, now, STRATEGIES[name])
    assert done.start >= 0
    assert len(blocks) + done.start <= max(cap, len(blocks))
    assert done.give_up == (limit is not None and failures >= limit and not seen.managers)
    assert done.wake_at > now
    assert done.notice_at > tasks
    active = {block.id: block for block in seen.active}
    assert set(done.drain) <= active.keys()
    assert len(active) - len(done.drain) >= least or not done.drain
    for block in done.drain:
        assert active[block].idle_since + policy.max_idletime <= now, "only what was idle for so long"
    if done.start:
        assert not done.drain
        assert now >= started + 1.0
        assert not failures or (done.start == 1 and now >= failed + policy.wait(failures))
    if done.drain:
        # What is drained is not wanted again at the same load: nothing oscillates.
        rest = tuple(block._replace(leaving=block.leaving or block.id in done.drain) for block in seen.blocks)
        again = plan(seen._replace(blocks=rest), policy._replace(max_blocks=100), now, STRATEGIES[name])
        assert again.start == 0
