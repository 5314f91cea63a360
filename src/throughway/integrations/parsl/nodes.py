"""Rows of Parsl's monitoring table ``node``: which managers there are, and what they have."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable
from typing import Any

from parsl.monitoring.message_type import MessageType

from throughway.errors import ThroughwayError
from throughway.protocol.views import ManagerView

logger = logging.getLogger("throughway.parsl")


class NodeReporter:
    """A thread that reports managers whenever some came, went, were held or drain.

    Args:
        run_id: Parsl's id of the workflow's run.
        managers: asks for the managers that are there.
        send: takes a message for Parsl's database.
    """

    def __init__(
        self, run_id: str, managers: Callable[[], list[ManagerView]], send: Callable[[object], object]
    ) -> None:
        self._run_id = run_id
        self._managers = managers
        self._send = send
        self._changed = threading.Event()
        self._ending = False
        self._known: dict[str, ManagerView] = {}
        self._thread = threading.Thread(target=self._run, name="throughway: parsl nodes", daemon=True)
        self._thread.start()

    def change(self) -> None:
        """Something has changed. Does not wait."""
        self._changed.set()

    def stop(self) -> None:
        """Report all managers as gone, and end."""
        self._ending = True
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ending:
                self._report({})
                return
            try:
                views = self._managers()
            except (ThroughwayError, RuntimeError) as error:
                # The executor ends or has broken: its end is reported by `stop`.
                logger.debug("the managers cannot be asked for: %s", error)
            else:
                self._report({view.manager: view for view in views})

    def _report(self, views: dict[str, ManagerView]) -> None:
        now = datetime.datetime.now()  # noqa: DTZ005 - what all of Parsl's tables hold
        for name, view in views.items():
            before = self._known.get(name)
            if before is None or _state(before) != _state(view):
                self._send(node_message(self._run_id, view, now, active=view.active and not view.draining))
        for name, view in self._known.items():
            if name not in views:
                self._send(node_message(self._run_id, view, now, active=False))
        self._known = views


def _state(view: ManagerView) -> tuple[object, ...]:
    return view.active, view.draining, view.worker_count


def node_message(
    run_id: str, view: ManagerView, now: datetime.datetime, *, active: bool
) -> tuple[Any, dict[str, Any]]:
    """A message for Parsl's table ``node``. ``total_memory`` is in bytes."""
    return (
        MessageType.NODE_INFO,
        {
            "run_id": run_id,
            "hostname": view.host,
            "uid": view.manager,
            "block_id": view.block,
            "cpu_count": view.cores,
            "total_memory": view.memory,
            "active": active,
            "worker_count": view.worker_count,
            "python_v": view.python_version,
            "timestamp": now,
            "last_heartbeat": now - datetime.timedelta(seconds=view.silence),
        },
    )
