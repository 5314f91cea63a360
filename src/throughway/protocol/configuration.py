"""The documents that daemons are started with: one typed JSON file each, refused as a whole where it does not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from throughway.errors import ConfigurationError


class SelectorConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A manager selector: ``package.module:Class`` and the keyword arguments of its constructor."""

    name: str
    arguments: dict[str, Any] = {}


class InterchangeConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How an interchange is started. Times are in seconds."""

    run: str
    label: str
    folder: str
    """where its log goes"""
    python: str
    """the executor's Python version: managers must have the same minor version"""
    executor_descriptor: int = -1
    """inherited end of the socket pair to the executor"""
    notes_descriptor: int | None = None
    """inherited memory for notes of assignments (`transport.assignments`); None for none"""
    arena_descriptor: int | None = None
    """inherited memory in which the executor puts large arguments (`transport.arena`); None for none"""
    arena_key: int = 0
    local_descriptor: int | None = None
    """inherited listening Unix socket for managers and observers of this machine"""
    address: str | None = None
    """address to listen at for managers of other machines; ``*`` for all; None for none"""
    port: int | None = None
    port_range: tuple[int, int] = (54000, 55000)
    certificates: str | None = None
    """folder with the run's Curve keys; None sends in the clear"""
    heartbeat_period: float = 30.0
    heartbeat_threshold: float = 120.0
    selector: SelectorConfig = SelectorConfig("throughway.interchange.selectors:RandomSelector")
    sys_path: list[str] = []
    spins: bool = True
    """whether it may wait awake (`transport.spin`)"""
    max_message_bytes: int = 1 << 40
    debug: bool = False


class WorkerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a worker needs to know."""

    working_directory: str = ""
    sys_path: list[str] = []
    initializer: bytes = b""
    """serialised function, empty for none"""
    initializer_call: bytes = b""
    """its packed arguments"""
    max_tasks_per_child: int | None = None
    max_payload_bytes: int | None = None
    obituary: list[str] = []
    """command that a zygote starts when its manager is gone and the interchange cannot know; empty for none. What the
    manager gave as the reason is added to it"""
    given: int = -1
    """descriptor of the manager's notes of what it has given to workers, which becomes that command's standard input"""
    arena: str = ""
    """path of the memory in which the executor puts large arguments (`transport.arena`); empty for none"""
    arena_key: int = 0
    debug: bool = False


class ManagerConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How a manager is started. Times are in seconds, ``mem_per_worker`` is in GB (2^30 bytes)."""

    run: str
    block: str
    folder: str
    """where its log and its workers' logs go"""
    socket: str | None = None
    """path of the interchange's Unix socket, for a manager on the same machine"""
    addresses: list[str] = []
    port: int | None = None
    certificates: str | None = None
    address_probe_timeout: float = 30.0
    cores_per_worker: float = 1.0
    mem_per_worker: float | None = None
    max_workers_per_node: int | None = None
    cpu_affinity: str = "none"
    available_accelerators: list[str] = []
    prefetch_capacity: int | None = None
    """tasks to hold beyond one for each worker; None adapts to how long tasks take"""
    heartbeat_period: float = 30.0
    heartbeat_threshold: float = 120.0
    drain_period: float | None = None
    walltime: float | None = None
    """after which the block ends, where its environment does not say when"""
    max_message_bytes: int = 1 << 40
    worker: WorkerConfig = WorkerConfig()
    debug: bool = False


Document = TypeVar("Document", InterchangeConfig, ManagerConfig)


def write_configuration(document: InterchangeConfig | ManagerConfig, path: Path) -> None:
    """Write the document as JSON, readable by this user only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2))


def read_configuration(path: str, kind: type[Document]) -> Document:
    """Read a document of this kind.

    Raises:
        ConfigurationError: it cannot be read or does not fit; the message names the field.
    """
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"the configuration {path} does not fit {kind.__name__}: {error}: "
            "if another version of throughway wrote it, install the same one on both sides"
        ) from error
