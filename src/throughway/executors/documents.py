"""The documents that an executor's daemons are started with, from its parameters."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from throughway import errors
from throughway.executors import parameters
from throughway.executors.run import Run
from throughway.protocol.configuration import InterchangeConfig, ManagerConfig, WorkerConfig
from throughway.protocol.version import python_version
from throughway.serialize.payloads import pack_call

if TYPE_CHECKING:
    from throughway.executors.high_throughput import HighThroughputExecutor


def interchange_document(executor: HighThroughputExecutor, run: Run) -> InterchangeConfig:
    """The interchange's: `Run` adds wires, keys and addresses."""
    return InterchangeConfig(
        run=str(run.id),
        label=executor.label,
        folder=str(run.folder.path),
        python=python_version(),
        port=executor.worker_port,
        port_range=executor.worker_port_range,
        heartbeat_period=executor.heartbeat_period,
        heartbeat_threshold=executor.heartbeat_threshold,
        selector=executor._selector,
        sys_path=[os.path.abspath(entry) for entry in sys.path],
        debug=executor.worker_debug,
    )


def manager_document(executor: HighThroughputExecutor, run: Run) -> ManagerConfig:
    """That of all managers: `Run` adds block, folder and how the interchange is reached."""
    return ManagerConfig(
        run=str(run.id),
        block="",
        folder=executor.worker_logdir_root or str(run.folder.path),
        address_probe_timeout=executor.address_probe_timeout,
        cores_per_worker=executor.cores_per_worker,
        mem_per_worker=executor.mem_per_worker,
        max_workers_per_node=executor.max_workers_per_node,
        cpu_affinity=executor.cpu_affinity,
        available_accelerators=executor.available_accelerators,
        prefetch_capacity=executor.prefetch_capacity,
        heartbeat_period=executor.heartbeat_period,
        heartbeat_threshold=executor.heartbeat_threshold,
        drain_period=executor.drain_period,
        walltime=getattr(executor.provider, "walltime", None),
        worker=worker_document(executor),
        debug=executor.worker_debug,
    )


def worker_document(executor: HighThroughputExecutor) -> WorkerConfig:
    """That of workers.

    Raises:
    ConfigurationError: the initializer or its arguments cannot travel.
    """
    function = b""
    call = b""
    if executor._initializer is not None:
        try:
            function = executor._functions.lookup(executor._initializer).function.payload
        except errors.SerializationError as error:
            raise parameters.reject(
                "initializer", executor._initializer, f"it cannot be sent to workers: {error}"
            ) from error
        try:
            call, frames = pack_call(executor._initargs, {}, name="the initializer")
        except errors.SerializationError as error:
            raise parameters.reject("initargs", "...", f"they cannot be sent to workers: {error}") from error
        if frames:
            raise parameters.reject(
                "initargs", "...", "they are too large: have the initializer read them from a file"
            )
    return WorkerConfig(
        working_directory=executor.working_dir or os.getcwd(),
        sys_path=[os.path.abspath(entry) for entry in sys.path],
        initializer=function,
        initializer_call=call,
        max_tasks_per_child=executor.max_tasks_per_child,
        max_payload_bytes=executor.max_payload_bytes,
        debug=executor.worker_debug,
    )


def manager_command(launch_cmd: str, config: Path, block: str) -> list[str]:
    """How a manager is started with a document, for a block."""
    fields = {"python": shlex.quote(sys.executable), "config": shlex.quote(str(config)), "block": block}
    command = launch_cmd.format(**fields)
    if launch_cmd == parameters.LAUNCH_COMMAND:
        return shlex.split(command)
    return ["/bin/sh", "-c", command]
