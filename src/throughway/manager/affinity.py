"""Which cores each worker is pinned to (``cpu_affinity``).

=======================  ====================================================================================
``none``                 workers are not pinned
``block``                consecutive cores for each worker: on 8 cores, 2 workers get 0-3 and 4-7
``block-reverse``        the same blocks, the last one to worker 0
``alternating``          cores dealt in turn: on 8 cores, 2 workers get 0,2,4,6 and 1,3,5,7
``list:0,1:2-3``         a group of cores for each worker, in order of rank: cores and ranges, with commas
=======================  ====================================================================================

Every core is given out: where cores do not divide evenly, the first blocks are larger by one. Where there are
more workers than cores (``cores_per_worker`` below 1), each worker gets one core and shares it with
others. A list must have a group for each worker; groups beyond the last worker are not used, so one list
serves nodes that run fewer workers. Groups may overlap: those workers share cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from throughway.errors import ConfigurationError

MAX_CORE = (1 << 16) - 1
"""The highest core number that a list may name; Linux knows no such machine."""

_ACCEPTED = (
    "accepted are 'none', 'block', 'block-reverse', 'alternating' and 'list:' with a group of cores for each "
    "worker, as in 'list:0,1:2-3'"
)


def validate_affinity(spec: object) -> None:
    """Refuse a ``cpu_affinity`` that no node could follow.

    Raises:
        ConfigurationError: names the value, what is wrong with it, and the accepted forms.
    """
    if not isinstance(spec, str):
        raise ConfigurationError(f"cpu_affinity={spec!r} is not a string: {_ACCEPTED}")
    if spec.startswith("list:"):
        _groups(spec)
    elif spec not in ("none", "block", "block-reverse", "alternating"):
        raise ConfigurationError(f"cpu_affinity={spec!r} is not known: {_ACCEPTED}")


def affinity_plan(spec: str, workers: int, cores: Sequence[int]) -> list[tuple[int, ...]]:
    """The cores of each worker, by rank; an empty tuple for a worker that is not pinned.

    Args:
        spec: a ``cpu_affinity``.
        workers: how many workers this node runs, at least 1.
        cores: the numbers of the cores that they may use, as `os.sched_getaffinity` gives them.

    Raises: ConfigurationError: the value cannot work, or a list has too few groups or names a core that is
    not there.
    """
    validate_affinity(spec)
    if workers < 1:
        raise ValueError(f"workers={workers}: a node has at least 1")
    if spec == "none":
        return [()] * workers
    ordered = sorted(set(cores))
    if not ordered:
        raise ConfigurationError(
            f"cpu_affinity={spec!r} needs cores to pin to, and none are available: use 'none'"
        )
    if spec.startswith("list:"):
        return _listed(spec, workers, ordered)
    if spec == "alternating":
        return [tuple(ordered[rank::workers]) or (ordered[rank % len(ordered)],) for rank in range(workers)]
    blocks = _blocks(workers, ordered)
    return blocks[::-1] if spec == "block-reverse" else blocks


def affinity_environment(cores: Sequence[int]) -> dict[str, str]:
    """What tells OpenMP runtimes (any, GNU's, Intel's) of the cores of a worker; empty for one that is not
    pinned."""
    if not cores:
        return {}
    return {
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
        "KMP_AFFINITY": f"explicit,proclist=[{','.join(map(str, cores))}]",
    }


def _blocks(workers: int, cores: list[int]) -> list[tuple[int, ...]]:
    if workers > len(cores):
        return [(cores[rank * len(cores) // workers],) for rank in range(workers)]
    size, larger = divmod(len(cores), workers)
    starts = [rank * size + min(rank, larger) for rank in range(workers + 1)]
    return [tuple(cores[start:end]) for start, end in pairwise(starts)]


def _listed(spec: str, workers: int, cores: list[int]) -> list[tuple[int, ...]]:
    groups = _groups(spec)
    if len(groups) < workers:
        raise ConfigurationError(
            f"cpu_affinity={spec!r} has {len(groups)} {'group' if len(groups) == 1 else 'groups'} of cores "
            f"for {workers} workers: give {workers} groups, or set max_workers_per_node={len(groups)}"
        )
    groups = groups[:workers]
    there = set(cores)
    absent = sorted({core for group in groups for core in group} - there)
    if absent:
        raise ConfigurationError(
            f"cpu_affinity={spec!r} names {_named(absent)}, which this node's workers may not use: "
            f"they may use {_named(cores)}"
        )
    return groups


def _groups(spec: str) -> list[tuple[int, ...]]:
    """The groups of a list, each without repetitions and in the order given: OpenMP places its threads in
    that order."""
    groups = []
    for group in spec.removeprefix("list:").split(":"):
        numbers: dict[int, None] = {}
        for part in group.split(","):
            first, dash, last = part.partition("-")
            start = _core(first, part, spec)
            end = _core(last, part, spec) if dash else start
            if end < start:
                raise ConfigurationError(
                    f"cpu_affinity={spec!r}: the range {part!r} runs backwards; {_ACCEPTED}"
                )
            numbers.update(dict.fromkeys(range(start, end + 1)))
        groups.append(tuple(numbers))
    return groups


def _core(text: str, part: str, spec: str) -> int:
    # The length first: int() refuses thousands of digits with an error of its own.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= MAX_CORE):
        raise ConfigurationError(
            f"cpu_affinity={spec!r}: {part!r} is not a core from 0 to {MAX_CORE} or a range of them; "
            f"{_ACCEPTED}"
        )
    return int(text)


def _named(cores: Sequence[int]) -> str:
    """Cores in words, ranges shortened: ``cores 0-3, 8``. They come sorted and without repetitions."""
    ranges: list[list[int]] = []
    for core in cores:
        if ranges and ranges[-1][1] == core - 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{'core' if len(cores) == 1 else 'cores'} {text}"
