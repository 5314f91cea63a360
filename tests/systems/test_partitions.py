"""A wire between two hosts that is cut at random under load: ZeroMQ with Curve, and nothing lost that need not be."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import throughway
from tests.chaos.conftest import chosen_seconds, seed
from tests.systems.network_namespaces import NetworkNamespaces

__all__ = ["seed"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
SECONDS = chosen_seconds(15.0)
SETTLE_SECONDS = 60.0
THRESHOLD = 3.0

SCRIPT = """
import json, pathlib, random, sys, time
from tests.chaos.load import Load
from tests.systems.test_two_hosts import NamespaceProvider
from throughway import HighThroughputExecutor

namespace, host, folder, seconds, settle, threshold, seed = sys.argv[1:]
folder = pathlib.Path(folder)
executor = HighThroughputExecutor(
    provider=NamespaceProvider(namespace, host), max_workers_per_node=4, cores_per_worker=0.25,
    heartbeat_period=0.5, heartbeat_threshold=float(threshold), run_dir=folder / "runs", block_error_handler=False,
)
with executor:
    executor.submit(abs, 1).result(timeout=40)
    print("ready", flush=True)
    load = Load(executor, folder / "marks", random.Random(int(seed)))
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        load.feed()
        time.sleep(0.01)
    print("over", flush=True)
    load.settle(float(settle))
load.check()
print(json.dumps({"submitted": load.submitted, **load.outcomes}), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + SETTLE_SECONDS + 120)
@pytest.mark.parametrize("kind", ["short", "long"])
def test_partitions_under_load(
    network_namespaces: NetworkNamespaces, tmp_path: Path, kind: str, seed: int
) -> None:
    a, b = network_namespaces.a, network_namespaces.b
    rng = random.Random(seed)
    parents = [str(Path(throughway.__file__).resolve().parents[1]), str(ROOT)]
    words = [b.name, b.host, str(tmp_path), str(SECONDS), str(SETTLE_SECONDS), str(THRESHOLD), str(seed)]
    script = network_namespaces.run_in(
        a,
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(parents)},
        stdout=subprocess.PIPE,
    )
    assert script.stdout is not None
    with script.stdout:
        assert script.stdout.readline() == b"ready\n", "the script did not start; its errors are above"
        deadline = time.monotonic() + SECONDS
        cuts: list[float] = []
        while time.monotonic() < deadline - 2 * THRESHOLD or not cuts:
            # Behind a short one there is time for TCP to send again, which it does ever more rarely.
            time.sleep(rng.uniform(1.0, 2.0) if kind == "short" else rng.uniform(0.1, 1.5))
            # A short one is over well before anybody gives up; after a long one both have.
            cut = rng.uniform(0.05, 0.3) if kind == "short" else rng.uniform(1.2, 2)
            network_namespaces.disconnect(b)
            time.sleep(cut * THRESHOLD)
            network_namespaces.connect(b)
            cuts.append(cut)
        assert script.stdout.readline() == b"over\n", "the script failed; its errors are above"
        line = script.stdout.readline()
    assert script.wait(60) == 0, "the script failed; its errors are above"
    told = json.loads(line)
    print(f"{len(cuts)} cuts: {told}")
    assert told["value"] > 100
    if kind == "short":
        assert told.keys() <= {"submitted", "value", "raised", "cancelled"}, told
