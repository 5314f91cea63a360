"""The variables that tell a worker its place."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from throughway.manager.accelerators import accelerator_environment
from throughway.manager.affinity import affinity_environment
from throughway.manager.environment import worker_environment


def environment(**given: Any) -> dict[str, str]:
    defaults: dict[str, Any] = {
        "rank": 2,
        "workers": 4,
        "manager_id": "a1b2c3d4e5f6",
        "block": "0",
        "run_id": "deadbeef",
        "affinity": (),
        "accelerator": None,
    }
    return worker_environment(**(defaults | given))


PLACE = {
    "THROUGHWAY_WORKER_RANK": "2",
    "THROUGHWAY_WORKER_COUNT": "4",
    "THROUGHWAY_MANAGER_ID": "a1b2c3d4e5f6",
    "THROUGHWAY_BLOCK_ID": "0",
    "THROUGHWAY_RUN_ID": "deadbeef",
}


def test_its_place_alone() -> None:
    assert environment() == PLACE


def test_pinned_with_an_accelerator() -> None:
    expected = PLACE | affinity_environment((0, 1)) | accelerator_environment("2,3")
    assert environment(affinity=(0, 1), accelerator="2,3") == expected
    assert len(expected) == len(PLACE) + 3 + 5


@pytest.mark.parametrize(("rank", "workers"), [(-1, 4), (4, 4), (0, 0)])
def test_a_rank_must_be_one_of_the_workers(rank: int, workers: int) -> None:
    with pytest.raises(ValueError, match=f"rank={rank} is not one of {workers} workers"):
        environment(rank=rank, workers=workers)


def test_a_process_can_be_started_with_it() -> None:
    added = environment(affinity=(0,), accelerator="1")
    code = "import os, sys; print(*(os.environ[name] for name in sys.argv[1:]), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code, *added],
        env=os.environ | added,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == list(added.values())
