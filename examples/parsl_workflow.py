"""A Parsl workflow on Throughway, and beside it on Parsl's own HighThroughputExecutor.

    pip install 'throughway[parsl]'
    python parsl_workflow.py         # half a minute; --quick for some seconds

One line differs: where HighThroughputExecutor comes from. Providers, launchers and all else of the configuration stay.
"""

import argparse
import os
import sys
import tempfile
import time

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor as ParslExecutor
from parsl.providers import LocalProvider

from throughway.integrations.parsl import HighThroughputExecutor

POINTS = 2_000


@parsl.python_app
def throw(points: int, seed: int) -> int:
    """How many of so many random points in a square are in the circle."""
    import random

    uniform = random.Random(seed).random
    return sum(uniform() ** 2 + uniform() ** 2 < 1 for _ in range(points))


@parsl.python_app
def add(inputs: list[int]) -> int:
    """One group's sum; Parsl waits for what it adds."""
    return sum(inputs)


def estimate(throws: int, group: int = 50) -> float:
    """Pi, from ``throws`` apps whose results are added in groups, and these again."""
    hits = [throw(POINTS, seed) for seed in range(throws)]
    sums = [add(inputs=hits[start : start + group]) for start in range(0, throws, group)]
    return 4 * add(inputs=sums).result() / (POINTS * throws)


def main() -> None:
    """Run the workflow on each executor, and compare what comes out and how long it takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small workflow, for a first look")
    throws = 400 if parser.parse_args().quick else 10_000

    # Parsl's own executor looks for its programs on the path; Throughway's does not.
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    found = {}
    for name, executor in (
        ("Throughway", HighThroughputExecutor(max_workers_per_node=2, provider=LocalProvider())),
        # An address, so that Parsl does not ask the internet for this machine's.
        (
            "Parsl's HTEX",
            ParslExecutor(max_workers_per_node=2, provider=LocalProvider(), address="127.0.0.1"),
        ),
    ):
        with tempfile.TemporaryDirectory() as folder:
            config = Config(
                executors=[executor], run_dir=folder, initialize_logging=False, strategy_period=0.5
            )
            with parsl.load(config):
                began = time.perf_counter()
                estimate(100)
                started = time.perf_counter() - began  # workers are up and have imported Parsl
                began = time.perf_counter()
                found[name] = estimate(throws)
                seconds = time.perf_counter() - began
        print(
            f"{name:>12}: pi is {found[name]:.5f}; {throws:,} apps in {seconds:.2f} seconds, "
            f"{throws / seconds:,.0f} apps/s; the first 100 after {started:.1f} s"
        )
    print("Both found the same:", len(set(found.values())) == 1)


if __name__ == "__main__":
    main()
