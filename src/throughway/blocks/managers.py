"""Who has registered, from which block and host. Pure."""

from __future__ import annotations

from typing import NamedTuple

from throughway.blocks.hosts import Hosts


class Manager(NamedTuple):
    """A registered manager. ``joined_at`` is on the caller's clock."""

    block: str
    host: str
    workers: int
    joined_at: float


class Managers:
    """The registered managers by their ids, and what became of the others on each host."""

    def __init__(self) -> None:
        self.hosts = Hosts()
        self._known: dict[str, Manager] = {}

    def joined(self, name: str, manager: Manager) -> bool:
        """A manager has registered; False for one that is known, and only back or at another interchange."""
        if name and name in self._known:
            return False
        self._known[name or f"{manager.block}/{len(self._known)}"] = manager
        self.hosts.joined(manager.host)
        return True

    def left(self, name: str, block: str) -> Manager | None:
        """A manager is gone: what was known of it. Without its name it is any one of the block."""
        if not name:
            name = next((known for known, one in self._known.items() if one.block == block), "")
        return self._known.pop(name, None)
