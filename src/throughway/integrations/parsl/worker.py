"""What runs in workers: the environment that tasks of Parsl expect. Imports nothing of Parsl."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

VARIABLES = {
    "PARSL_WORKER_RANK": "THROUGHWAY_WORKER_RANK",
    "PARSL_WORKER_COUNT": "THROUGHWAY_WORKER_COUNT",
    "PARSL_WORKER_POOL_ID": "THROUGHWAY_MANAGER_ID",
    "PARSL_WORKER_BLOCK_ID": "THROUGHWAY_BLOCK_ID",
}
"""Parsl's name of a variable → Throughway's."""


def prepare(initializer: Callable[..., object] | None, arguments: Sequence[Any]) -> None:
    """The first thing that a worker runs: the variables, then the user's initializer."""
    for name, source in VARIABLES.items():
        os.environ[name] = os.environ[source]
    if initializer is not None:
        initializer(*arguments)


def in_environment(
    variables: Mapping[str, str],
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call ``function`` with environment variables that only it sees."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        return function(*args, **kwargs)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_payload(buffer: bytes, function: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run what ``submit_payload`` was given: by the function of this dotted name, or as Parsl's own workers do."""
    if function is None:
        from parsl.serialize import unpack_apply_message

        called, its_args, its_kwargs = unpack_apply_message(buffer)
        return called(*its_args, **its_kwargs)
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(module), name)(buffer, *args, **kwargs)
