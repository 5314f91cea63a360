"""When a manager's block ends, as far as the batch system says, and when it has to stop taking work before that."""

from __future__ import annotations

import math
from collections.abc import Mapping

DRAIN_SECONDS = 120.0
"""How long before the end of its block a manager starts to drain, unless a quarter of its time is less."""

BLOCK_END = "THROUGHWAY_BLOCK_END"
"""Set by a provider's script: the moment at which the job is ended, in seconds since the epoch."""

_ENDS = (BLOCK_END, "SLURM_JOB_END_TIME")
"""Variables that hold the moment of the end, the most reliable first."""

_LENGTHS = ("PBS_WALLTIME",)
"""Variables that hold how long the job may take, in seconds: counted from the manager's start, at most too long by the
time that the job took until then, which the margin covers."""


def margin(seconds: float) -> float:
    """Seconds before the end at which a block that lasts for ``seconds`` takes nothing new."""
    return min(DRAIN_SECONDS, seconds / 4)


def usable(walltime: float | None, drain_period: float | None) -> float:
    """The longest walltime in seconds of a task that a fresh block has time for; inf for any."""
    longest = math.inf if walltime is None else walltime - margin(walltime)
    return longest if drain_period is None else min(longest, drain_period)


def seconds_to_end(environment: Mapping[str, str], now: float, walltime: float | None = None) -> float | None:
    """Seconds until the block ends, None where nothing says so.

    Args:
        environment: the job's.
        now: seconds since the epoch.
        walltime: what the provider asked for, in seconds; used where the environment says nothing that makes sense.
    """
    for name in _ENDS:
        end = _number(environment.get(name))
        # An end in the past comes from a clock that is wrong: the job would be gone.
        if end is not None and end > now:
            return end - now
    for name in _LENGTHS:
        length = _number(environment.get(name))
        if length is not None:
            return length
    return walltime


def seconds_to_drain(
    environment: Mapping[str, str],
    now: float,
    *,
    walltime: float | None = None,
    drain_period: float | None = None,
) -> float | None:
    """Seconds after which a manager that starts now has to drain, None for never; arguments as `seconds_to_end`."""
    end = seconds_to_end(environment, now, walltime)
    if end is None:
        return drain_period
    left = end - margin(end)
    return left if drain_period is None else min(left, drain_period)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
