"""Random faults on real processes under load: every result is right, and nothing runs more often than it may."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.conftest import chosen_seconds
from tests.chaos.load import Load
from tests.chaos.trouble import Trouble
from tests.processes import ProcessRecord
from throughway import HighThroughputExecutor
from throughway.executors import reactor
from throughway.providers import LocalProvider

SECONDS = chosen_seconds(20.0)
SETTLE_SECONDS = 60.0
TURN_SECONDS = 0.01
HEARTBEAT_THRESHOLD = 2.0


class Plan(NamedTuple):
    """What befalls whom."""

    pace: dict[str, float]
    longest_stop: float = 3.0
    """longer than `HEARTBEAT_THRESHOLD`, what is stopped may be given up"""
    losses: bool = True
    """whether tasks may be lost"""


PLANS = {
    "workers": Plan({"worker": 0.15}),
    "managers": Plan({"manager": 1.5, "zygote": 2.0}),
    "interchange": Plan({"interchange": 1.0}, longest_stop=HEARTBEAT_THRESHOLD / 4, losses=False),
    "interchange that hangs": Plan({"interchange": 3.0}, longest_stop=2 * HEARTBEAT_THRESHOLD),
    "everything": Plan({"worker": 0.4, "zygote": 5.0, "manager": 4.0, "interchange": 4.0}),
}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + SETTLE_SECONDS + 60)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_random_faults(
    plan: Plan,
    seed: int,
    members: Callable[[], list[ProcessRecord]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Here it is killed on purpose, more often than any bug would.
    monkeypatch.setattr(reactor, "MAX_RESTARTS", 1000)
    rng = random.Random(seed)
    provider = LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2, nodes_per_block=2)
    with HighThroughputExecutor(
        provider=provider,
        max_workers_per_node=2,
        heartbeat_period=0.5,
        heartbeat_threshold=HEARTBEAT_THRESHOLD,
        block_error_handler=False,
        run_dir=tmp_path / "runs",
    ) as executor:
        load = Load(executor, tmp_path / "marks", random.Random(seed + 1))
        trouble = Trouble(rng, members, pace=plan.pace, longest_stop=plan.longest_stop)
        try:
            deadline = time.monotonic() + SECONDS
            with trouble:
                while time.monotonic() < deadline:
                    load.feed()
                    time.sleep(TURN_SECONDS)
            load.settle(SETTLE_SECONDS)
        except BaseException:
            print("\n".join(trouble.log))
            executor._end(False, cancel_futures=True, kill=True)
            raise
        finally:
            print(f"{load.submitted} tasks: {dict(load.outcomes)}; {dict(trouble.made)}")
    load.check()
    assert trouble.made
    assert load.outcomes["value"] > 100
    if not plan.losses:
        assert load.outcomes.keys() <= {"value", "raised", "cancelled"}, load.outcomes
