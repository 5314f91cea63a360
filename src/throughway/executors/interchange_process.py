"""The interchange's process as its executor sees it: started, started again, and what its end leaves."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from throughway.protocol.configuration import InterchangeConfig, write_configuration
from throughway.transport.assignments import new_notes, read_notes, write_notes

logger = logging.getLogger("throughway.executor")

_REAP_SECONDS = 1.0


class InterchangeProcess:
    """One interchange after the other, on the same listening socket and port, with the same keys.

    Args:
        config: its document, without descriptors, but for that of shared memory, which is not closed here.
        listener: the listening Unix socket for managers of this machine; kept open until `close`, so that they find
            the next interchange where the former one was.
        output: the file that takes what it prints.
    """

    def __init__(self, config: InterchangeConfig, listener: socket.socket, output: Path) -> None:
        self._config = config
        self._listener = listener
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._notes = -1
        self._shared = [] if config.arena_descriptor is None else [config.arena_descriptor]

    @property
    def pid(self) -> int:
        """The process id of the one that was started last."""
        return self._process.pid if self._process is not None else 0

    def start(
        self, port: int | None = None, assigned: Mapping[str, Sequence[int]] = MappingProxyType({})
    ) -> socket.socket:
        """Start one.

        Args:
            port: what its predecessor listened at.
            assigned: what that one had sent to which manager, noted once more: the new one may die before it does so.

        Returns:
            The executor's end of the wire to it.
        """
        self._forget_notes()
        self._notes = new_notes()
        write_notes(self._notes, assigned)
        ours, theirs = socket.socketpair()
        try:
            config = msgspec.structs.replace(
                self._config,
                executor_descriptor=theirs.fileno(),
                local_descriptor=self._listener.fileno(),
                notes_descriptor=self._notes,
                port=port or self._config.port,
            )
            path = Path(config.folder) / "interchange.json"
            write_configuration(config, path)
            with self._output.open("ab") as file:
                self._process = subprocess.Popen(
                    daemon_command("throughway.interchange", path),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    pass_fds=[theirs.fileno(), self._listener.fileno(), self._notes, *self._shared],
                    start_new_session=True,
                    env=daemon_environment(),
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def kill(self) -> None:
        """Kill it, should it be there, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self, timeout: float) -> bool:
        """Wait for its end; whether it came."""
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                return False
        return True

    def obituary(self) -> str:
        """How it ended, for people. One that has closed its wire and lives on is killed."""
        if not self.wait(_REAP_SECONDS):
            self.kill()
        status = self._process.returncode if self._process is not None else None
        text = (
            f"the interchange (process {self.pid}) is gone, exit status {status}; logs: {self._output.parent}"
        )
        try:
            said = self._output.read_text("utf-8", "replace").strip()[-2000:]
        except OSError as error:
            said = f"({error})"
        return text + (f"; it said:\n{said}" if said else "")

    def assignments(self) -> dict[str, list[int]]:
        """Which tasks it had sent to which manager. Only once it is dead."""
        return read_notes(self._notes)

    def close(self) -> None:
        """Give the descriptors back."""
        self._listener.close()
        self._forget_notes()

    def _forget_notes(self) -> None:
        if self._notes >= 0:
            with contextlib.suppress(OSError):
                os.close(self._notes)
            self._notes = -1


def daemon_command(module: str, config: Path) -> list[str]:
    """How a daemon is started on this machine: without the working directory on its import path."""
    return [sys.executable, "-P", "-m", module, str(config)]


def daemon_environment() -> dict[str, str]:
    """The environment of a daemon: it must find this very package, wherever it was imported from."""
    environment = dict(os.environ)
    parent = str(Path(__file__).resolve().parents[2])
    if not parent.endswith(("site-packages", "dist-packages")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, environment.get("PYTHONPATH", ""))))
    return environment
