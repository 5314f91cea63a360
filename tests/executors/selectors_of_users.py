"""A manager selector as a user would write it, in a module that the interchange can import."""

from __future__ import annotations

from typing import Any

from throughway import ManagerSelector
from throughway.interchange.selectors import Candidate


class FixedBlockSelector(ManagerSelector):
    """Only ever the manager of one block, as long as that has room; the others when nothing else is left."""

    def __init__(self, block: str) -> None:
        self._block = block
        self._managers: dict[str, Candidate] = {}

    def arguments(self) -> dict[str, Any]:
        return {"block": self._block}

    def __len__(self) -> int:
        return len(self._managers)

    def offer(self, manager: Candidate) -> None:
        self._managers[manager.id] = manager

    def withdraw(self, manager: Candidate) -> None:
        self._managers.pop(manager.id, None)

    def pick(self) -> Candidate:
        return min(self._managers.values(), key=lambda manager: (manager.block != self._block, manager.id))


class BrokenSelector(FixedBlockSelector):
    """Cannot be made in the interchange: its arguments are not those of its constructor."""

    def arguments(self) -> dict[str, Any]:
        return {"colour": "blue"}
