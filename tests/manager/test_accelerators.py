"""Accelerators: their names, their variables, and who has which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from throughway.errors import ConfigurationError
from throughway.manager.accelerators import (
    MAX_ACCELERATORS,
    AcceleratorPool,
    accelerator_environment,
    accelerator_names,
)


@pytest.mark.parametrize(
    ("available", "names"),
    [
        (0, []),
        (3, ["0", "1", "2"]),
        ((), []),
        (["0,1", "2,3"], ["0,1", "2,3"]),
        (("GPU-8f2a-11", "0.1"), ["GPU-8f2a-11", "0.1"]),
        (["0", "0"], ["0", "0"]),
    ],
)
def test_names(available: Any, names: list[str]) -> None:
    assert accelerator_names(available) == names


@pytest.mark.parametrize(
    "available",
    [
        *(
            -1,
            MAX_ACCELERATORS + 1,
            True,
            1.5,
            None,
            "0,1",
            b"01",
            {"0", "1"},
            iter(["0"]),
            [0, 1],
            [""],
            ["0,"],
        ),
        *(["0, 1"], ["0\n"], ["0\0"], ["0"] * (MAX_ACCELERATORS + 1)),
    ],
)
def test_what_cannot_be_accelerators_is_refused_with_the_remedy(available: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^available_accelerators.*give a number of accelerators such as"
    ):
        accelerator_names(available)


def test_a_bad_name_is_shown() -> None:
    with pytest.raises(ConfigurationError, match="has 'a b', which"):
        accelerator_names(["0", "a b"])


@pytest.mark.parametrize(
    ("name", "remaining"), [("0", "0"), ("5", "0"), ("2,3", "0,1"), ("4,1,7", "0,1,2"), ("GPU-8f2a", "0")]
)
def test_environment(name: str, remaining: str) -> None:
    assert accelerator_environment(name) == {
        "CUDA_VISIBLE_DEVICES": name,
        "ROCR_VISIBLE_DEVICES": name,
        "HIP_VISIBLE_DEVICES": remaining,
        "ZE_AFFINITY_MASK": name,
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }


def test_workers_get_names_in_order_and_a_replacement_the_one_that_is_free() -> None:
    pool = AcceleratorPool(accelerator_names(3))
    assert [pool.assign(worker) for worker in range(3)] == ["0", "1", "2"]
    assert pool.release(1) == "1"
    assert pool.assign(7) == "1"
    assert pool.held() == {0: "0", 2: "2", 7: "1"}


def test_the_name_that_was_given_back_first_goes_out_first() -> None:
    pool = AcceleratorPool(["a", "b", "c"])
    assert pool.assign(0) == "a"
    pool.release(0)
    assert pool.free() == ["b", "c", "a"]
    assert pool.assign(0) == "b"


class Pool(RuleBasedStateMachine):
    """However workers come and go, no name is lost, doubled, or held by two."""

    @initialize(names=st.lists(st.sampled_from("abcdef"), max_size=8))
    def start(self, names: list[str]) -> None:
        self.names = names
        self.pool = AcceleratorPool(names)
        self.holders: dict[int, str] = {}

    @rule(worker=st.integers(0, 9))
    def assign(self, worker: int) -> None:
        if worker in self.holders:
            with pytest.raises(ValueError, match=f"worker {worker} already has accelerator"):
                self.pool.assign(worker)
        elif len(self.holders) == len(self.names):
            with pytest.raises(ValueError, match=f"no accelerator is free for worker {worker}"):
                self.pool.assign(worker)
        else:
            self.holders[worker] = self.pool.assign(worker)

    @rule(worker=st.integers(0, 9))
    def release(self, worker: int) -> None:
        if worker in self.holders:
            assert self.pool.release(worker) == self.holders.pop(worker)
        else:
            with pytest.raises(ValueError, match=f"worker {worker} has no accelerator"):
                self.pool.release(worker)

    @precondition(lambda self: self.holders)
    @rule()
    def release_all(self) -> None:
        for worker in list(self.holders):
            assert self.pool.release(worker) == self.holders.pop(worker)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.pool.held() == self.holders
        assert sorted([*self.pool.held().values(), *self.pool.free()]) == sorted(self.names)


Pool.TestCase.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
TestPool = Pool.TestCase
