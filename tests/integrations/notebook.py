"""A notebook on a real kernel, of which a test runs cells as a user does."""

from __future__ import annotations

import os
import queue
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

SECONDS = 40.0


class Cell:
    """What one executed cell has said."""

    def __init__(self) -> None:
        self.text = ""
        self.shown: dict[str, dict[str, str]] = {}
        """what is displayed at the end, by display id or number"""
        self.updates = 0
        self.error = ""

    def take(self, message: dict[str, Any]) -> bool:
        """Take in one message; whether it was the last."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            self.text += content["text"]
        elif kind in ("execute_result", "display_data", "update_display_data"):
            identity = content.get("transient", {}).get("display_id", str(len(self.shown)))
            self.shown[identity] = content["data"]
            self.updates += kind == "update_display_data"
            if kind == "execute_result":
                self.text += content["data"]["text/plain"]
        elif kind == "error":
            self.error = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
        return bool(kind == "status" and content["execution_state"] == "idle")


class Notebook:
    """Runs cells one after the other."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client

    def run(self, code: str, while_it_runs: Callable[[], None] | None = None) -> Cell:
        """Execute a cell to its end. ``while_it_runs`` is called once it has printed something."""
        cell = Cell()
        sent = self._client.execute(
            code, stop_on_error=False
        )  # else the kernel drops what comes soon after an error
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no end of the cell after {SECONDS:g} s: {cell.text}\n{code}") from None
            if message["parent_header"].get("msg_id") != sent:
                continue
            if cell.take(message):
                return cell
            if cell.text and while_it_runs is not None:
                while_it_runs()
                while_it_runs = None

    def interrupt(self) -> None:
        """What the stop button does."""
        self._manager.interrupt_kernel()


@contextmanager
def notebook() -> Iterator[Notebook]:
    """A kernel of this Python, and its end."""
    manager = KernelManager(kernel_name="python3")
    # This very interpreter, whichever kernels the user has installed.
    manager.kernel_cmd = [
        sys.executable,
        "-Xfrozen_modules=off",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    manager.start_kernel(env={**os.environ, "PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=SECONDS)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
