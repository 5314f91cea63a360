"""The protocol's version and the rule by which two processes decide whether they can talk.

Rule: a change that adds a trailing field with a default to a message keeps `PROTOCOL_VERSION`, and so does one that
only reaches those who asked for it in their hello; any other change to `messages` raises it. Processes of different
versions refuse one another in the hello, with the reason, and never later.
"""

from __future__ import annotations

import sys

PROTOCOL_VERSION = 2


def python_version() -> str:
    """The running interpreter's version, such as ``"3.11.7"``."""
    return ".".join(map(str, sys.version_info[:3]))


def minor_version(version: str) -> str:
    """``"3.11.7"`` → ``"3.11"``: functions pickled by value are bytecode, which only the same minor version can run."""
    return ".".join(version.split(".")[:2])


def refusal(protocol: int, python: str, *, expected_python: str, host: str) -> str | None:
    """Why a manager that announces ``protocol`` and ``python`` cannot take part, or None where it can."""
    if protocol != PROTOCOL_VERSION:
        return (
            f"the manager on {host} speaks protocol {protocol}, this interchange {PROTOCOL_VERSION}: "
            "install the same version of throughway on both"
        )
    if minor_version(python) != minor_version(expected_python):
        return (
            f"the manager on {host} runs Python {python}, the executor {expected_python}: functions cannot travel "
            f"between minor versions; start the manager with Python {minor_version(expected_python)} (see worker_init)"
        )
    return None


def implementation() -> str:
    """Name and version of the interpreter, for reports: ``"CPython 3.11.7"``."""
    return f"{sys.implementation.name} {python_version()}"
