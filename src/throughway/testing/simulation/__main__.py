"""``python -m throughway.testing.simulation``: run seeds, or one of them with its trace."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

from throughway.testing.simulation.plan import Plan, make_plan
from throughway.testing.simulation.scale import cpu_seconds, recover
from throughway.testing.simulation.shrinking import shrink
from throughway.testing.simulation.world import Outcome, simulate

CHUNK = 50
"""Seeds that one of several processes runs before it says how it went."""

SHOWN = 5
"""Failures that are shown in full."""


def _run_seeds(seeds: range) -> tuple[int, float, list[tuple[int, str, str]]]:
    steps = 0
    seconds = 0.0
    failures = []
    for seed in seeds:
        outcome = simulate(make_plan(seed))
        steps += outcome.steps
        seconds += outcome.seconds
        if outcome.failure is not None:
            failures.append((seed, *outcome.failure))
    return steps, seconds, failures


def _chunks(first: int, last: int) -> Iterator[range]:
    for start in range(first, last, CHUNK):
        yield range(start, min(last, start + CHUNK))


def run_many(first: int, last: int, processes: int) -> list[tuple[int, str, str]]:
    """Run the seeds from ``first`` up to, not including, ``last``; returns seed, kind and text of each failure."""
    began = time.monotonic()
    steps = runs = 0
    simulated = 0.0
    failures: list[tuple[int, str, str]] = []
    with contextlib.ExitStack() as stack:
        run: Callable[..., Iterator[tuple[int, float, list[tuple[int, str, str]]]]] = map
        if processes > 1:
            run = stack.enter_context(ProcessPoolExecutor(processes)).map
        for count, seconds, failed in run(_run_seeds, _chunks(first, last)):
            steps += count
            simulated += seconds
            failures += failed
            for seed, _, text in failed:
                print(f"seed {seed} failed: {text.splitlines()[-1]}", flush=True)
            runs += 1
            if sys.stderr.isatty():
                done = min(last - first, runs * CHUNK)
                sys.stderr.write(f"\r{done} of {last - first} seeds, {len(failures)} failed ")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    elapsed = time.monotonic() - began
    print(
        f"{last - first} seeds from {first} on: {len(failures)} failed; "
        f"{steps:,} events, {simulated / 3600:,.1f} simulated hours, {elapsed:.1f} s"
    )
    return failures


def show(plan: Plan, outcome: Outcome, *, tail: int | None = None) -> None:
    """Print a plan, its trace, and what went wrong."""
    print("plan:", msgspec.json.encode(plan).decode())
    print(*(outcome.trace if tail is None else outcome.trace[-tail:]), sep="\n")
    print("failed:" if outcome.failure else "went well", outcome.failure.text if outcome.failure else "")


def explain(seed: int) -> None:
    """Shrink a failing seed, and show what is left of it."""
    plan = make_plan(seed)
    failure = simulate(plan).failure
    assert failure is not None
    small = shrink(plan, failure.kind)
    print(f"\nseed {seed}, shrunk from {plan.size} to {small.size} parts:")
    show(small, simulate(small, tracing=True), tail=300)


def show_scale(managers: int, tasks: int) -> None:
    """Print what recovery costs with so many managers and tasks."""
    report = recover(managers, tasks, measure=cpu_seconds)
    had = f"{managers:,} managers had {report.assigned:,} tasks and {report.waiting:,} waited"
    each = 1e6 * (report.before + report.restoring + report.after) / max(1, tasks)
    print(f"{had} when the interchange died; {report.notes / 1e6:.1f} MB of notes")
    print(
        f"CPU time until then {report.before:.2f} s, recovery {report.restoring:.2f} s, the rest {report.after:.2f} s: "
        f"{each:.1f} µs for each task, and each ran once"
    )


def _pair(parser: argparse.ArgumentParser, option: str, text: str) -> tuple[int, int]:
    first, _, last = text.rpartition(":")
    try:
        return int(first or 0), int(last)
    except ValueError:
        parser.error(f"{option} {text!r} is no pair of numbers: give A:B, such as 0:1000")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where a seed failed."""
    parser = argparse.ArgumentParser(
        prog="python -m throughway.testing.simulation",
        description="Run the cores of a whole cluster on a fake clock, with faults drawn from seeds.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", metavar="A:B", help="run the seeds from A up to, not including, B")
    what.add_argument("--seed", type=int, help="run this one")
    what.add_argument("--plan", type=Path, help="run the plan in this file (JSON, as it is printed)")
    what.add_argument(
        "--scale",
        metavar="MANAGERS:TASKS",
        help="have an interchange die among so many managers and tasks, without any clock",
    )
    parser.add_argument("--trace", action="store_true", help="print the whole trace (with --seed or --plan)")
    parser.add_argument("--no-shrink", action="store_true", help="only name the seeds that failed")
    parser.add_argument("--processes", type=int, default=1, help="run seeds in so many processes")
    options = parser.parse_args(arguments)
    if options.scale is not None:
        show_scale(*_pair(parser, "--scale", options.scale))
        return 0
    if options.seeds is not None:
        failures = run_many(*_pair(parser, "--seeds", options.seeds), options.processes)
        for kind, count in Counter(kind for _, kind, _ in failures).most_common():
            seeds = [seed for seed, one, _ in failures if one == kind]
            print(f"{count} times: {kind}\n    seeds {' '.join(map(str, seeds[:10]))}")
            print("    " + next(text for _, one, text in failures if one == kind).replace("\n", "\n    "))
        if not options.no_shrink:
            firsts = {kind: seed for seed, kind, _ in reversed(failures)}
            for seed in itertools.islice(firsts.values(), SHOWN):
                explain(seed)
        return 1 if failures else 0
    if options.plan is not None:
        plan = msgspec.json.decode(options.plan.read_bytes(), type=Plan)
    else:
        plan = make_plan(options.seed)
    outcome = simulate(plan, tracing=options.trace)
    show(plan, outcome)
    if outcome.failure is not None and options.seed is not None and not options.no_shrink:
        explain(options.seed)
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    sys.exit(main())
