"""Throughway's block controller where Parsl's strategy starts and ends the blocks: it starts none itself.

Which block belongs to which job, when there are to be more and when fewer, is Parsl's affair; this one only makes the
commands, hears which managers come and go, and carries word of a failure into the run.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from throughway.blocks.controller import BlockController
from throughway.blocks.state import BlockView
from throughway.errors import ExecutorFailed
from throughway.processes import process_started
from throughway.protocol.views import ManagerView
from throughway.providers.interface import JobState

logger = logging.getLogger("throughway.parsl")


class ParslBlocks(BlockController):
    """Knows the blocks of Parsl.

    Args:
        provider: a `ParslProvider`. Where its managers run on this machine, `wait` waits for their end.
        on_change: called in the run's thread after a manager came or went; must not wait.
        statuses: gives the state of each block, as Parsl has it.
        settings: what a run gives its controller.
    """

    def __init__(
        self,
        provider: Any,
        *,
        command_for: Callable[[str], Sequence[str]],
        on_failure: Callable[[ExecutorFailed], object],
        on_change: Callable[[], object],
        statuses: Callable[[], dict[str, Any]],
        **settings: Any,
    ) -> None:
        super().__init__(
            provider,
            run=settings["run"],
            folder=settings["folder"],
            label=settings["label"],
            command_for=command_for,
            on_failure=on_failure,
        )
        self._command = command_for
        self._ask_interchange = settings.get("ask") if provider.local else None
        self._on_change = on_change
        self._statuses = statuses
        self._mutex = threading.Lock()
        self._connected: dict[str, int] = {}
        """block → its managers that are there; in the order of their first registration"""
        self._said: dict[str, str] = {}
        self._since: dict[str, tuple[str, float]] = {}
        """block → its state, and when it was first seen in it"""
        self._processes: dict[int, int] = {}
        """managers on this machine: process id → when it started"""

    # ------------------------------------------------------------------------------------------------ for Parsl

    def command(self, block: str) -> str:
        """Shell text that starts a manager of this block."""
        return shlex.join(self._command(block))

    def connected(self) -> list[str]:
        """All blocks from which a manager has ever registered, in the order in which they did."""
        with self._mutex:
            return list(self._connected)

    def wait(self, seconds: float) -> None:
        """Wait until the managers on this machine are gone, which were told to end."""
        deadline = time.monotonic() + seconds
        pause = 0.002
        with self._mutex:
            left = dict(self._processes)
        while left and time.monotonic() < deadline:
            left = {pid: started for pid, started in left.items() if process_started(pid) == started}
            if left:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        if left:
            logger.warning("managers that were told to end are still there: processes %s", sorted(left))

    # --------------------------------------------------------------------------------------------- for the run

    def start(self) -> None:
        """Nothing: Parsl's strategy starts the first blocks."""

    def manager_joined(self, block: str, *about: Any, **more: Any) -> None:
        """A manager has registered."""
        with self._mutex:
            self._connected[block] = self._connected.get(block, 0) + 1
            self._said.pop(block, None)
        if self._ask_interchange is not None:
            self._ask_interchange("managers", "", self._note_processes)
        self._on_change()

    def _note_processes(self, payload: bytes | None) -> None:
        if payload is not None:
            pids = [view.pid for view in msgspec.msgpack.decode(payload, type=list[ManagerView])]
            with self._mutex:
                self._processes |= {
                    pid: started for pid in pids if (started := process_started(pid)) is not None
                }

    def manager_left(self, block: str, reason: str, lost: bool, *about: Any, **more: Any) -> None:
        """A manager that had registered is gone."""
        with self._mutex:
            self._connected[block] = max(0, self._connected.get(block, 0) - 1)
            self._said[block] = reason
        self._on_change()

    def manager_refused(self, block: str, reason: str) -> None:
        """The interchange has turned a manager away."""
        with self._mutex:
            self._said[block] = reason

    def said(self, block: str) -> str:
        """Why the last manager of this block left or was refused; empty where nothing was said."""
        with self._mutex:
            return self._said.get(block, "")

    def blocks(self) -> list[BlockView]:
        """The blocks as Parsl last heard of them, with what was said of their managers."""
        views = []
        statuses = self._statuses()
        with self._mutex:
            for block, status in statuses.items():
                name = status.state.name
                since = self._since.get(block)
                if since is None or since[0] != name:
                    since = self._since[block] = (name, time.time())
                said = (status.message or "", self._said.get(block, ""))
                views.append(
                    BlockView(
                        id=block,
                        job_id="",
                        state=JobState[name],
                        since=since[1],
                        nodes=0,
                        managers=self._connected.get(block, 0),
                        message="; ".join(text for text in said if text),
                    )
                )
        return views
