"""Which worker gets which cores."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughway.errors import ConfigurationError
from throughway.manager.affinity import MAX_CORE, affinity_environment, affinity_plan, validate_affinity

cores = st.sets(st.integers(0, 300), min_size=1, max_size=64).map(sorted)
workers = st.integers(1, 80)


@pytest.mark.parametrize(
    ("spec", "number", "available", "plan"),
    [
        ("none", 3, range(8), [(), (), ()]),
        ("block", 2, range(8), [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("block-reverse", 2, range(8), [(4, 5, 6, 7), (0, 1, 2, 3)]),
        ("alternating", 2, range(8), [(0, 2, 4, 6), (1, 3, 5, 7)]),
        ("block", 3, range(8), [(0, 1, 2), (3, 4, 5), (6, 7)]),
        ("block-reverse", 3, range(8), [(6, 7), (3, 4, 5), (0, 1, 2)]),
        ("alternating", 3, range(8), [(0, 3, 6), (1, 4, 7), (2, 5)]),
        ("block", 2, [9, 3, 11, 5], [(3, 5), (9, 11)]),
        ("block", 4, [3, 5], [(3,), (3,), (5,), (5,)]),
        ("alternating", 4, [3, 5], [(3,), (5,), (3,), (5,)]),
        ("block", 1, [7], [(7,)]),
        ("list:0,1:2-3", 2, range(4), [(0, 1), (2, 3)]),
        ("list:0-1,6,4-5:7", 2, range(8), [(0, 1, 6, 4, 5), (7,)]),
        ("list:1,1,0-2", 1, range(4), [(1, 0, 2)]),
        ("list:0-1:1-2", 2, range(4), [(0, 1), (1, 2)]),
        ("list:0:1:2:99", 2, range(4), [(0,), (1,)]),
    ],
)
def test_plans(spec: str, number: int, available: Any, plan: list[tuple[int, ...]]) -> None:
    assert affinity_plan(spec, number, list(available)) == plan


@settings(deadline=None)
@given(spec=st.sampled_from(["block", "block-reverse", "alternating"]), workers=workers, cores=cores)
def test_every_core_is_used_evenly(spec: str, workers: int, cores: list[int]) -> None:
    plan = affinity_plan(spec, workers, cores)
    assert len(plan) == workers
    assert {core for group in plan for core in group} == set(cores)
    sizes = [len(group) for group in plan]
    shares = Counter(core for group in plan for core in group).values()
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert max(shares) - min(shares) <= 1
    assert max(shares) == 1 or len(cores) < workers


@settings(deadline=None)
@given(workers=workers, cores=cores)
def test_blocks_are_consecutive_and_reversed(workers: int, cores: list[int]) -> None:
    plan = affinity_plan("block", workers, cores)
    flat = [core for group in plan for core in group]
    assert flat == sorted(flat)
    assert affinity_plan("block-reverse", workers, cores) == plan[::-1]


@settings(deadline=None)
@given(
    plan=st.lists(st.lists(st.integers(0, 63), min_size=1, max_size=6, unique=True), min_size=1, max_size=8)
)
def test_a_list_gives_back_what_was_written(plan: list[list[int]]) -> None:
    spec = "list:" + ":".join(",".join(map(str, group)) for group in plan)
    validate_affinity(spec)
    assert affinity_plan(spec, len(plan), range(64)) == [tuple(group) for group in plan]


@pytest.mark.parametrize(
    "spec", ["none", "block", "block-reverse", "alternating", "list:0", f"list:0-{MAX_CORE}"]
)
def test_accepted_forms(spec: str) -> None:
    validate_affinity(spec)


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "Block",
            "blocks",
            "list",
            "list:",
            "list:0:",
            "list::0",
            "list:0,,1",
            "list:0,",
            "list:a",
            "list:-1",
        ),
        *(
            "list:1-",
            "list:1-2-3",
            "list: 0",
            "list:0.5",
            "list:٣",
            "list:²",
            "list:3-1",
            f"list:{MAX_CORE + 1}",
        ),
        *("list:0-999999999999", "list:" + "9" * 5000, None, 3, ["block"]),
    ],
)
def test_other_forms_are_refused_with_the_accepted_ones(spec: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate_affinity(spec)
    message = str(caught.value)
    assert message.startswith(f"cpu_affinity={spec!r}")
    for form in ("none", "block", "block-reverse", "alternating", "list:0,1:2-3"):
        assert form in message
    with pytest.raises(ConfigurationError):
        affinity_plan(spec, 1, [0])


@settings(deadline=None)
@given(st.text(alphabet="0123456789-,:list ", max_size=20))
def test_whatever_passes_validation_can_be_planned(text: str) -> None:
    spec = f"list:{text}"
    try:
        validate_affinity(spec)
    except ConfigurationError:
        return
    plan = affinity_plan(spec, text.count(":") + 1, range(MAX_CORE + 1))
    assert all(plan)


def test_too_few_groups_name_both_remedies() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"2 groups of cores for 3 workers: give 3 groups, or set max_workers_per_node=2",
    ):
        affinity_plan("list:0:1", 3, range(8))


def test_cores_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"names cores 6-7, 9, which .* may use cores 0-3, 8$"):
        affinity_plan("list:0:6-9", 2, [0, 1, 2, 3, 8])


def test_impossible_calls() -> None:
    with pytest.raises(ValueError, match="workers=0"):
        affinity_plan("block", 0, [0])
    with pytest.raises(ConfigurationError, match="none are available"):
        affinity_plan("block", 1, [])


def test_environment() -> None:
    assert affinity_environment(()) == {}
    assert affinity_environment((4, 2, 3)) == {
        "OMP_NUM_THREADS": "3",
        "GOMP_CPU_AFFINITY": "4 2 3",
        "KMP_AFFINITY": "explicit,proclist=[4,2,3]",
    }
