"""Throughway runs Python functions on clusters: fast, without losing any, and saying why.

The names below are the public interface; they are loaded when they are first used, because daemons need few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from throughway.errors import (
        ConfigurationError as ConfigurationError,
    )
    from throughway.errors import (
        DeserializationError as DeserializationError,
    )
    from throughway.errors import (
        ExecutorFailed as ExecutorFailed,
    )
    from throughway.errors import (
        InitializerFailed as InitializerFailed,
    )
    from throughway.errors import (
        InterchangeLost as InterchangeLost,
    )
    from throughway.errors import (
        InvalidResourceSpecification as InvalidResourceSpecification,
    )
    from throughway.errors import (
        JournalError as JournalError,
    )
    from throughway.errors import (
        ManagerLost as ManagerLost,
    )
    from throughway.errors import (
        MissingModule as MissingModule,
    )
    from throughway.errors import (
        ResultTooLarge as ResultTooLarge,
    )
    from throughway.errors import (
        SerializationError as SerializationError,
    )
    from throughway.errors import (
        TaskKilled as TaskKilled,
    )
    from throughway.errors import (
        TaskLost as TaskLost,
    )
    from throughway.errors import (
        ThroughwayError as ThroughwayError,
    )
    from throughway.errors import (
        WalltimeExceeded as WalltimeExceeded,
    )
    from throughway.errors import (
        WorkerLost as WorkerLost,
    )
    from throughway.executors.futures import TaskFuture as TaskFuture
    from throughway.executors.high_throughput import HighThroughputExecutor as HighThroughputExecutor
    from throughway.interchange.selectors import (
        BlockPackingSelector as BlockPackingSelector,
    )
    from throughway.interchange.selectors import (
        LeastLoadedSelector as LeastLoadedSelector,
    )
    from throughway.interchange.selectors import (
        ManagerSelector as ManagerSelector,
    )
    from throughway.interchange.selectors import (
        RandomSelector as RandomSelector,
    )

_HOMES = {
    "throughway.errors": (
        "ConfigurationError",
        "DeserializationError",
        "ExecutorFailed",
        "InitializerFailed",
        "InterchangeLost",
        "InvalidResourceSpecification",
        "JournalError",
        "ManagerLost",
        "MissingModule",
        "ResultTooLarge",
        "SerializationError",
        "TaskKilled",
        "TaskLost",
        "ThroughwayError",
        "WalltimeExceeded",
        "WorkerLost",
    ),
    "throughway.executors.futures": ("TaskFuture",),
    "throughway.executors.high_throughput": ("HighThroughputExecutor",),
    "throughway.interchange.selectors": (
        "BlockPackingSelector",
        "LeastLoadedSelector",
        "ManagerSelector",
        "RandomSelector",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - checked by a test against the imports above


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'throughway' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
