"""How many threads the numerical libraries of a worker may use: what each worker of joblib's executor runs first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Where these libraries look as they are loaded; the same as joblib sets for its own workers."""


def thread_variables(threads: int, environment: Mapping[str, str], *, explicit: bool) -> dict[str, str]:
    """The variables that give a worker so many threads; what ``environment`` says goes first, unless ``explicit``."""
    return {name: str(threads) if explicit else environment.get(name, str(threads)) for name in VARIABLES} | (
        {} if "ENABLE_IPC" in environment else {"ENABLE_IPC": "1"}
    )  # TBB's schedulers then agree on how many


def set_variables(
    variables: dict[str, str], initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    """In a worker, before it has loaded such a library: set them, then run the user's own initializer."""
    os.environ.update(variables)
    if initializer is not None:
        initializer(*initargs)
