from __future__ import annotations

import pytest

from throughway.blocks.policy import BlockPolicy, policy_for
from throughway.errors import ConfigurationError

from .fakes import FakeProvider


def test_waits_double_up_to_a_limit() -> None:
    policy = BlockPolicy(1, 1, 1, spacing=0.5, longest_wait=3.0)
    assert [policy.wait(failures) for failures in range(7)] == [0, 0, 0.5, 1, 2, 3, 3]
    assert policy.wait(10**9) == 3.0


def test_policy_of_a_provider() -> None:
    provider = FakeProvider(init_blocks=2, max_blocks=5)
    provider.min_blocks = 3
    policy = policy_for(provider)
    assert (policy.first, policy.max_blocks, policy.max_failures) == (3, 5, 3)
    assert policy_for(provider, gives_up=False).max_failures is None


def test_a_scheduler_is_asked_less_often_than_this_machine() -> None:
    near, far = policy_for(FakeProvider()), policy_for(FakeProvider(local=False))
    assert far.spacing > near.spacing
    assert far.longest_wait > near.longest_wait
    assert far.linger > 2 * 60


def test_no_block_at_all_is_refused_unless_tasks_start_some() -> None:
    with pytest.raises(
        ConfigurationError, match=r"init_blocks=0 and min_blocks=0.*strategy='simple'.*init_blocks=1"
    ):
        policy_for(FakeProvider(init_blocks=0))
    assert policy_for(FakeProvider(init_blocks=0), follows=True).first == 0


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "1", True, None])
def test_parallelism_is_a_share(value: object) -> None:
    provider = FakeProvider()
    provider.parallelism = value  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="parallelism="):
        policy_for(provider)
