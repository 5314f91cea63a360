"""Parsl on Throughway: ``from throughway.integrations.parsl import HighThroughputExecutor``.

The names are loaded when they are first used: workers import a module of this package, and need nothing of it but that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from throughway.errors import ThroughwayError

if TYPE_CHECKING:
    from throughway.integrations.parsl.executor import HighThroughputExecutor as HighThroughputExecutor
    from throughway.integrations.parsl.providers import ThroughwayProvider as ThroughwayProvider
    from throughway.integrations.parsl.radio import StreamRadio as StreamRadio

OLDEST = "2025.8.4"
"""The oldest version of Parsl that is tested."""

_HOMES = {"HighThroughputExecutor": "executor", "StreamRadio": "radio", "ThroughwayProvider": "providers"}

__all__ = ["HighThroughputExecutor", "StreamRadio", "ThroughwayProvider"]


class ParslMissing(ThroughwayError, ImportError):
    """Parsl is not installed, or is too old. The message says what to install."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ImportError as error:
        raise _missing(error) from error
    value = globals()[name] = getattr(module, name)
    return value


def _missing(error: ImportError) -> ParslMissing:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = f"parsl {version('parsl')} is installed, in which something is missing ({error})"
    except PackageNotFoundError:
        found = f"parsl is not installed ({error})"
    return ParslMissing(
        f"throughway.integrations.parsl: {found}: Parsl {OLDEST} or newer is needed: "
        "pip install 'throughway[parsl]'"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
