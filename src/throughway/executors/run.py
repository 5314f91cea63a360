"""One life of an executor, from `start` to its end: the folders, the interchange, the thread and the blocks."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from throughway.blocks.controller import BlockController, ErrorHandler
from throughway.blocks.watchdog import Watchdog
from throughway.errors import ConfigurationError, ExecutorFailed
from throughway.executors.interchange_process import InterchangeProcess, daemon_environment
from throughway.executors.reactor import ExecutorReactor
from throughway.executors.run_folder import RunFolder
from throughway.executors.shell import ExecutorShell
from throughway.manager.sizing import cores_available, memory_available
from throughway.protocol.configuration import InterchangeConfig, ManagerConfig, write_configuration
from throughway.protocol.identifiers import new_run_id
from throughway.providers.interface import Provider
from throughway.transport.arena import Arena
from throughway.transport.unix import listening_socket

if TYPE_CHECKING:
    from throughway.executors.journal import Journal

logger = logging.getLogger("throughway.executor")

LISTEN_SECONDS = 60.0
"""How long an interchange may take until it listens for managers of other machines."""

STOP_SECONDS = 5.0
"""How long managers may take to end, after the interchange told them to, before their jobs are killed."""


class Run:
    """Starts everything, and ends it when told, when nothing is left to do after `ending`, or when it breaks.

    Args:
        interchange: makes the interchange's document; wires, keys and addresses are added here.
        manager: makes the document of managers, with the parent of their folders as folder; block and folder are
            added, and the same. Both are called at once, and not kept.
        command: makes the command that starts a manager with a document for a block.
        heartbeats: seconds of the interchange's silence after which it is asked for a sign of life, and after which it
            is replaced.
        on_batch: called in the run's thread after each batch of outcomes.
        on_broken: called in the run's thread once nothing can run any more.
        controller: makes what keeps the blocks; another one where something else starts them.
        journal: an open journal, or None; it is closed at the end.
        scaling: further arguments of the controller: the strategy and what it needs to know.
        spins: whether threads that wait for a task, and the interchange, may do so awake where there are cores for it.
        guarded: whether a process of its own cancels the run's jobs should this one die.
    """

    def __init__(
        self,
        label: str,
        provider: Provider,
        *,
        run_dir: object,
        forgotten: Callable[[], list[int]],
        interchange: Callable[[Run], InterchangeConfig],
        manager: Callable[[Run], ManagerConfig],
        command: Callable[[Path, str], list[str]],
        block_error_handler: bool | ErrorHandler,
        address: str | None,
        encrypted: bool,
        heartbeats: tuple[float, float],
        on_batch: Callable[[], None],
        on_broken: Callable[[], None],
        controller: Callable[..., BlockController] = BlockController,
        journal: Journal | None = None,
        scaling: Mapping[str, Any] | None = None,
        spins: bool = True,
        guarded: bool = False,
    ) -> None:
        self.id = new_run_id()
        self.ending = False
        self._provider = provider
        self._command = command
        self._on_batch = on_batch
        self._networked = address is not None or not provider.local
        self._addresses = _addresses(address) if self._networked else []
        self._certificates: str | None = None
        self.folder = RunFolder(self.id, label, run_dir)  # type: ignore[arg-type]
        self.reactor = ExecutorReactor(
            forgotten, on_broken, heartbeat_period=heartbeats[0], heartbeat_threshold=heartbeats[1]
        )
        self._journal = journal
        if journal is not None:
            self.reactor.journal = journal
            journal.on_safe = self._on_safe
        several = cores_available() > 1
        # A journal is written by the thread alone.
        serves = spins and several and journal is None
        self.shell = ExecutorShell(self.reactor, on_batch=self._after_batch, on_end=self._end, serves=serves)
        self.arena = None if self._networked else _shared_memory()
        listener: socket.socket | None = None
        try:
            self.controller = controller(
                provider,
                run=str(self.id),
                folder=str(self.folder.path),
                command_for=self._command_for,
                on_failure=self._on_failure,
                label=label,
                block_error_handler=block_error_handler,
                tasks=self.reactor.futures.__len__,
                ask=self._ask,
                record=str(self.folder.path),
                watchdog=self._watchdog() if guarded else None,
                **(scaling or {}),
            )
            self.reactor.observer = self.controller
            listener = listening_socket(self.folder.socket)
            config = interchange(self)
            config.spins = several
            if self._networked:
                config.address = "*" if address is None else _listening_address(address)
                if encrypted:
                    config.certificates = self._certificates = self._make_certificates()
            # Whatever the managers' document refuses is refused here, not in the controller's thread.
            self._manager = manager(self)
            if self.arena is not None:
                config.arena_descriptor, config.arena_key = self.arena.descriptor, self.arena.key
                self._manager.worker = msgspec.structs.replace(
                    self._manager.worker, arena=self.arena.path, arena_key=self.arena.key
                )
            self.shell.start(InterchangeProcess(config, listener, self.folder.path / "interchange.out"))
        except BaseException:
            self.shell.abandon()
            if listener is not None:
                listener.close()
            self._close_arena()
            self.folder.end()
            raise
        self.controller.start()

    def cancel_all(self, *, kill: bool) -> None:
        """Cancel every task that has not started, and ``kill`` those that run."""
        self.shell.request(lambda reactor: reactor.cancel(list(reactor.futures), None, kill=kill))

    def end(self) -> None:
        """End once no task is left."""
        self.ending = True
        # From here on, the thread looks after each result.
        self.shell.serving.stop()
        self.shell.wake()

    def _ask(self, topic: str, subject: str, told: Callable[[bytes | None], None]) -> None:
        """Ask the interchange for the controller, without waiting."""
        self.shell.request(
            lambda reactor: reactor.ask(
                topic, subject, lambda answer: told(None if answer.error else answer.payload)
            )
        )

    def _watchdog(self) -> Watchdog:
        command = [sys.executable, "-P", "-m", "throughway.blocks.watchdog"]
        return Watchdog(str(self.id), str(self.folder.path), command, daemon_environment())

    def _make_certificates(self) -> str:
        # Imported here: it loads ZeroMQ, which one machine alone does not need.
        from throughway.transport.curve import create_certificates

        folder = self.folder.path / "certificates"
        create_certificates(folder)
        return str(folder)

    def _command_for(self, block: str) -> Sequence[str]:
        folder = os.path.join(self._manager.folder, f"block-{block}")
        config = msgspec.structs.replace(self._manager, block=block, folder=folder)
        if self._networked:
            if not self.shell.listening.wait(LISTEN_SECONDS) or self.shell.port is None:
                raise ExecutorFailed(f"the interchange does not listen; its log is in {self.folder.path}")
            config.addresses = self._addresses
            config.port = self.shell.port
            config.certificates = self._certificates
        else:
            config.socket = self.folder.socket
        path = self.folder.path / f"block-{block}.json"
        write_configuration(config, path)
        return self._command(path, block)

    def _on_failure(self, error: ExecutorFailed) -> None:
        self.shell.request(lambda reactor: reactor.fail(error))

    # ---------------------------------------------------------------------------------------------------- in the thread

    def _after_batch(self) -> None:
        self._on_batch()
        if self.arena is not None and not self.reactor.futures:
            self.arena.trim(time.monotonic())
        if self.reactor.broken is not None or (self.ending and not self.reactor.futures):
            self.controller.begin_stop(STOP_SECONDS)
            self.shell.end()

    def _end(self) -> None:
        try:
            left = self.controller.stop(STOP_SECONDS)
            for block in left:
                logger.error("block %s (job %s) did not end: %s", block.id, block.job_id, block.message)
        finally:
            if self._journal is not None:
                self._journal.close()
            self._close_arena()
            self.folder.end()

    def forsake(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self.shell.forsake()
        if self.arena is not None:
            self.arena.forsake()

    def _close_arena(self) -> None:
        if self.arena is not None:
            self.arena.close()

    def _on_safe(self, mark: int) -> None:
        self.shell.request(lambda reactor: reactor.kept(mark, time.monotonic()))


def _listening_address(address: str) -> str:
    """Where to listen so that ``address`` reaches us.

    There alone if it is one of ours, everywhere if it is a name, which may stand for another one elsewhere, or an
    address that something translates into ours.

    Raises:
        ConfigurationError: it is a name that nobody knows.
    """
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"address={address!r} cannot be resolved ({error}): "
            "give an IP address of this machine, or a name that has one"
        ) from error
    numbers = [str(target[0]) for *_, target in found]
    if address == "localhost" or address in numbers:
        for family, kind, protocol, _, target in found:
            with socket.socket(family, kind, protocol) as probe:
                try:
                    probe.bind(target)
                except OSError:
                    continue
                return str(target[0])
    return "::" if all(":" in number for number in numbers) else "*"


def _shared_memory() -> Arena | None:
    """Memory for large arguments; None where the system provides none, and they travel over sockets."""
    memory = memory_available()
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY:
        # It takes its size of what this process and each worker may address, used or not.
        memory = min(memory, addresses)
    try:
        return Arena(memory=memory)
    except OSError as error:
        logger.info("there is no shared memory for large arguments: %s", error)
        return None


def _addresses(address: str | None) -> list[str]:
    if address is not None:
        return [address]
    from throughway.manager.addresses import local_addresses

    return local_addresses()
