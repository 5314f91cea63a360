"""A failing plan made smaller: whatever can go while it still fails in the same way goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from throughway.testing.simulation.plan import Plan
from throughway.testing.simulation.world import Failure, simulate

MAX_TRIALS = 3000

Run = Callable[[Plan], Failure | None]


def failure_of(plan: Plan) -> Failure | None:
    """What goes wrong with this plan."""
    return simulate(plan).failure


def _without(plan: Plan) -> Iterator[Plan]:
    """The plan without some of its parts: large pieces first, then one by one."""
    for field in ("jobs", "faults", "requests", "sites"):
        parts: list[Any] = getattr(plan, field)
        size = len(parts)
        while size:
            for start in range(0, len(parts), size):
                rest = parts[:start] + parts[start + size :]
                if field not in {"jobs", "sites"} or rest:
                    yield msgspec.structs.replace(plan, **{field: rest})
            size //= 2


_PLAIN: dict[str, list[tuple[str, Any]]] = {
    "sites": [("prefetch", None), ("max_tasks", None), ("drain_period", None), ("workers", 1), ("at", 0.0)],
    "jobs": [
        ("frames", 0),
        ("priority", 0),
        ("walltime", 0.0),
        ("retries", 0),
        ("does", "value"),
        ("function", 1),
    ],
    "faults": [("actions", None), ("pick", 0)],
}


def _plainer(plan: Plan) -> Iterator[Plan]:
    """The plan with one of its parts made plainer."""
    for field, settings in _PLAIN.items():
        parts: list[Any] = getattr(plan, field)
        for index, part in enumerate(parts):
            for name, value in settings:
                if getattr(part, name) != value:
                    changed = msgspec.structs.replace(part, **{name: value})
                    yield msgspec.structs.replace(
                        plan, **{field: [*parts[:index], changed, *parts[index + 1 :]]}
                    )
    if plan.tight:
        yield msgspec.structs.replace(plan, tight=False)
    if plan.end != "shutdown":
        yield msgspec.structs.replace(plan, end="shutdown")


def shrink(plan: Plan, kind: str, run: Run = failure_of) -> Plan:
    """The smallest plan that was found to fail in this way."""
    trials = 0
    progress = True
    while progress and trials < MAX_TRIALS:
        progress = False
        for candidates in (_without, _plainer):
            again = True
            while again and trials < MAX_TRIALS:
                again = False
                for candidate in candidates(plan):
                    trials += 1
                    failure = run(candidate)
                    if failure is not None and failure.kind == kind:
                        plan = candidate
                        progress = again = True
                        break
                    if trials >= MAX_TRIALS:
                        break
    return plan
