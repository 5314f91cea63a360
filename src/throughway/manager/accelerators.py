"""The accelerators of a node (``available_accelerators``): each worker has one of its own, as long as it
lives.

A name is what the vendors' variables take: an index, a UUID, a tile such as ``0.1``, or several of them
joined by commas. A name that is listed twice is shared by two workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from throughway.errors import ConfigurationError

MAX_ACCELERATORS = 1 << 16
"""Accelerators of one node, at most: beyond it the number is mistaken."""

_ACCEPTED = "give a number of accelerators such as 4, or a list of names such as ['0', '1'] or ['0,1', '2,3']"


def accelerator_names(available_accelerators: int | Sequence[str]) -> list[str]:
    """The names of a node's accelerators: ``"0"`` to ``"n-1"`` for a number n, or the names as given.

    Raises:
        ConfigurationError: it is neither, or a name is empty or has blanks in it.
    """
    given: object = available_accelerators  # comes from a user: its annotation proves nothing
    if isinstance(given, int) and not isinstance(given, bool):
        if not 0 <= given <= MAX_ACCELERATORS:
            raise ConfigurationError(
                f"available_accelerators={given} is not from 0 to {MAX_ACCELERATORS}: {_ACCEPTED}"
            )
        return [str(index) for index in range(given)]
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes, bytearray)):
        raise ConfigurationError(
            f"available_accelerators={given!r} is neither a number nor a list: {_ACCEPTED}"
        )
    if len(given) > MAX_ACCELERATORS:
        raise ConfigurationError(
            f"available_accelerators has {len(given)} names, above {MAX_ACCELERATORS}: {_ACCEPTED}"
        )
    for name in given:
        if not isinstance(name, str) or not all(map(_usable, name.split(","))):
            raise ConfigurationError(
                f"available_accelerators has {name!r}, which is not the name of an accelerator: {_ACCEPTED}"
            )
    return list(given)


def accelerator_environment(name: str) -> dict[str, str]:
    """What makes the runtimes of all vendors see just this accelerator: CUDA, ROCm and Intel's Level Zero.

    HIP counts among what ``ROCR_VISIBLE_DEVICES`` leaves, and would read ``CUDA_VISIBLE_DEVICES`` as such an
    index, so that every accelerator but the first would vanish; ``HIP_VISIBLE_DEVICES``, which it reads
    first, says: all.
    """
    return {
        "CUDA_VISIBLE_DEVICES": name,
        "ROCR_VISIBLE_DEVICES": name,
        "HIP_VISIBLE_DEVICES": ",".join(map(str, range(name.count(",") + 1))),
        "ZE_AFFINITY_MASK": name,
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }


class AcceleratorPool:
    """Who has which accelerator. What was given back longest ago is given out first, so that a device has
    time to clean up after a process that died."""

    def __init__(self, names: Sequence[str]) -> None:
        self._free = deque(names)
        self._held: dict[int, str] = {}

    def assign(self, worker: int) -> str:
        """Give a worker an accelerator: the n-th name to the n-th worker, until some are given back.

        Raises:
            ValueError: it has one already, or none is free.
        """
        if worker in self._held:
            raise ValueError(
                f"worker {worker} already has accelerator {self._held[worker]!r}: release it first"
            )
        if not self._free:
            raise ValueError(
                f"no accelerator is free for worker {worker}: {len(self._held)} workers hold them all"
            )
        name = self._held[worker] = self._free.popleft()
        return name

    def release(self, worker: int) -> str:
        """Take a worker's accelerator back, because the worker is dead, and return its name.

        Raises:
            ValueError: it has none.
        """
        if worker not in self._held:
            raise ValueError(f"worker {worker} has no accelerator to release")
        name = self._held.pop(worker)
        self._free.append(name)
        return name

    def held(self) -> dict[int, str]:
        """The name that each worker has, by worker."""
        return dict(self._held)

    def free(self) -> list[str]:
        """The names that nobody has, in the order in which they will be given out."""
        return list(self._free)


def _usable(part: str) -> bool:
    return part != "" and part.isprintable() and not any(character.isspace() for character in part)
