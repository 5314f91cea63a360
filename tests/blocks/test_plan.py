from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from throughway.blocks.plan import Plan, View, plan
from throughway.blocks.policy import BlockPolicy

NEVER = -math.inf
POLICY = BlockPolicy(target=4, max_blocks=6, max_failures=3, spacing=1.0, longest_wait=8.0)


def view(
    live: int = 0, managers: int = 0, failures: int = 0, failed: float = NEVER, started: float = NEVER
) -> View:
    return View(live, managers, failures, failed, started)


def test_the_first_blocks_start_together() -> None:
    assert plan(view(), POLICY, 0.0) == Plan(start=4)


def test_nothing_to_do_with_enough_blocks() -> None:
    assert plan(view(live=4), POLICY, 0.0) == Plan()
    assert plan(view(live=5, failures=2, failed=0.0), POLICY, 0.0) == Plan()


def test_never_more_than_max_blocks() -> None:
    assert plan(view(live=1), POLICY._replace(max_blocks=2), 0.0) == Plan(start=1)
    assert plan(view(live=2), POLICY._replace(max_blocks=2), 0.0) == Plan()


def test_attempts_are_apart() -> None:
    assert plan(view(live=3, started=10.0), POLICY, 10.5) == Plan(wake_at=11.0)
    assert plan(view(live=3, started=10.0), POLICY, 11.0) == Plan(start=1)


def test_the_first_retry_does_not_wait_and_is_alone() -> None:
    assert plan(view(failures=1, failed=20.0, started=10.0), POLICY, 20.0) == Plan(start=1)


def test_further_retries_wait_longer() -> None:
    patient = POLICY._replace(max_failures=None)
    for failures, wait in ((2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0)):
        seen = view(failures=failures, failed=20.0, started=19.0)
        assert plan(seen, patient, 20.0) == Plan(wake_at=20.0 + wait)
        assert plan(seen, patient, 20.0 + wait) == Plan(start=1)


def test_retries_that_are_under_way_also_count() -> None:
    seen = view(live=2, failures=3, failed=20.0, started=21.9)
    assert plan(seen, POLICY._replace(max_failures=None), 22.0) == Plan(wake_at=23.9)


def test_gives_up_after_so_many_failures() -> None:
    assert not plan(view(failures=2, failed=0.0), POLICY, 100.0).give_up
    assert plan(view(failures=3, failed=0.0), POLICY, 100.0) == Plan(give_up=True)
    assert plan(view(failures=9, live=4), POLICY, 100.0) == Plan(give_up=True)


def test_does_not_give_up_while_a_manager_is_there() -> None:
    assert plan(view(live=1, managers=1, failures=3, failed=0.0), POLICY, 100.0) == Plan(start=1)


def test_does_not_give_up_where_it_must_not() -> None:
    assert plan(view(failures=1000, failed=0.0), POLICY._replace(max_failures=None), 100.0) == Plan(start=1)


times = st.one_of(st.just(NEVER), st.floats(0, 1000))


@given(
    live=st.integers(0, 10),
    managers=st.integers(0, 3),
    failures=st.integers(0, 2000),
    failed=times,
    started=times,
    now=st.floats(0, 2000),
    target=st.integers(0, 10),
    cap=st.integers(1, 10),
    limit=st.one_of(st.none(), st.integers(1, 5)),
)
def test_any_plan(
    live: int,
    managers: int,
    failures: int,
    failed: float,
    started: float,
    now: float,
    target: int,
    cap: int,
    limit: int | None,
) -> None:
    policy = BlockPolicy(target, cap, limit, spacing=1.0, longest_wait=8.0)
    done = plan(View(live, managers, failures, failed, started), policy, now)
    assert done.start >= 0
    assert live + done.start <= max(cap, live)
    assert sum((done.start > 0, done.give_up, done.wake_at < math.inf)) <= 1
    assert done.give_up == (limit is not None and failures >= limit and not managers)
    assert done.wake_at > now
    if done.start:
        assert now >= started + 1.0
        assert not failures or (done.start == 1 and now >= failed + policy.wait(failures))
    if done.wake_at < math.inf:
        assert plan(View(live, managers, failures, failed, started), policy, done.wake_at).start
