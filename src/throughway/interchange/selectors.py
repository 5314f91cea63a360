"""Which of the managers that have room gets the next tasks.

A selector keeps the managers that are offered to it. Those that come with Throughway cost O(1) or O(log managers) a
pick. A user's own is a subclass in an importable module, given as ``manager_selector=``; it is made anew inside the
interchange, from its import path and `arguments`.
"""

from __future__ import annotations

import heapq
import importlib
import random
from abc import ABC, abstractmethod
from typing import Any, Protocol

from throughway.errors import ConfigurationError
from throughway.protocol.configuration import SelectorConfig


class Candidate(Protocol):
    """What a selector may know of a manager."""

    @property
    def id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def block(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def load(self) -> int:
        """Tasks that it has, running and waiting."""

    @property
    def seconds_left(self) -> float:
        """Until it drains by itself; infinite where it does not."""


class ManagerSelector(ABC):
    """Chooses among managers that have room. All methods are called in the interchange's only thread."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that make an equal selector: plain JSON values."""
        return {}

    @abstractmethod
    def __len__(self) -> int:
        """How many managers are offered."""

    @abstractmethod
    def offer(self, manager: Candidate) -> None:
        """This manager has room; or it had, and its load changed."""

    @abstractmethod
    def withdraw(self, manager: Candidate) -> None:
        """This manager has no more room, or is gone. It may not have been offered."""

    @abstractmethod
    def pick(self) -> Candidate:
        """One of the managers on offer. Called only while there is one; it stays on offer."""


class RandomSelector(ManagerSelector):
    """Any manager, each as likely as the others."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._managers: list[Candidate] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._managers)

    def offer(self, manager: Candidate) -> None:
        if manager.id not in self._places:
            self._places[manager.id] = len(self._managers)
            self._managers.append(manager)

    def withdraw(self, manager: Candidate) -> None:
        place = self._places.pop(manager.id, None)
        if place is None:
            return
        last = self._managers.pop()
        if last.id != manager.id:
            self._managers[place] = last
            self._places[last.id] = place

    def pick(self) -> Candidate:
        managers = self._managers
        count = len(managers)
        return managers[0] if count == 1 else managers[int(self._random.random() * count)]


class _RankedSelector(ManagerSelector):
    """The manager of lowest rank. Old ranks stay in the heap until they come up; the heap is bounded."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], str]] = []
        self._managers: dict[str, Candidate] = {}
        self._ranks: dict[str, tuple[float, ...]] = {}

    @abstractmethod
    def rank(self, manager: Candidate) -> tuple[float, ...]:
        """The lowest goes first."""

    def __len__(self) -> int:
        return len(self._managers)

    def offer(self, manager: Candidate) -> None:
        rank = self.rank(manager)
        if self._ranks.get(manager.id) == rank:
            return
        self._managers[manager.id] = manager
        self._ranks[manager.id] = rank
        heapq.heappush(self._heap, (rank, manager.id))
        if len(self._heap) > 4 * len(self._managers) + 64:
            self._heap = [(rank, name) for name, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def withdraw(self, manager: Candidate) -> None:
        if self._managers.pop(manager.id, None) is not None:
            del self._ranks[manager.id]

    def pick(self) -> Candidate:
        while True:
            rank, name = self._heap[0]
            if self._ranks.get(name) == rank:
                return self._managers[name]
            heapq.heappop(self._heap)


class LeastLoadedSelector(_RankedSelector):
    """The manager with the fewest tasks for each of its workers."""

    def rank(self, manager: Candidate) -> tuple[float, ...]:
        return (manager.load / max(1, manager.workers),)


class BlockPackingSelector(_RankedSelector):
    """Managers of the newest block first, the fullest of them first, so that older blocks run empty and can end."""

    def rank(self, manager: Candidate) -> tuple[float, ...]:
        block = int(manager.block) if manager.block.isdecimal() else -1
        return (-block, -manager.load)


def selector_config(selector: ManagerSelector | type[ManagerSelector]) -> SelectorConfig:
    """How the interchange makes a selector like this one.

    Raises:
        ConfigurationError: its class cannot be imported by another process.
    """
    kind = selector if isinstance(selector, type) else type(selector)
    if not issubclass(kind, ManagerSelector):
        raise ConfigurationError(
            f"manager_selector={selector!r} is no ManagerSelector: subclass throughway.ManagerSelector"
        )
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        raise ConfigurationError(
            f"manager_selector={selector!r}: the interchange cannot import {kind.__qualname__} from "
            f"{kind.__module__}: put the class into a module of its own"
        )
    arguments = {} if isinstance(selector, type) else selector.arguments()
    return SelectorConfig(f"{kind.__module__}:{kind.__qualname__}", arguments)


def make_selector(config: SelectorConfig) -> ManagerSelector:
    """The selector that the configuration names.

    Raises:
        ConfigurationError: it cannot be imported or made.
    """
    module, _, name = config.name.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
        selector = target(**config.arguments)
    except Exception as error:
        raise ConfigurationError(
            f"manager_selector {config.name} with arguments {config.arguments} cannot be made in the interchange: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(selector, ManagerSelector):
        raise ConfigurationError(f"manager_selector {config.name} is no ManagerSelector")
    return selector
