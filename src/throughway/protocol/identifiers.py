"""Identifiers: who is meant by a message.

Tasks and functions are counted by the executor that owns them (`int`, unique within a run). A manager names itself
with a fresh random id at each start, so that a new incarnation is never mistaken for an old one.
"""

from __future__ import annotations

import os
from typing import NewType

ManagerId = NewType("ManagerId", str)
RunId = NewType("RunId", str)


def new_manager_id() -> ManagerId:
    """A fresh 12-digit hexadecimal id (48 random bits) for one incarnation of a manager."""
    return ManagerId(os.urandom(6).hex())


def new_run_id() -> RunId:
    """A fresh 8-digit hexadecimal id (32 random bits) for one life of an executor."""
    return RunId(os.urandom(4).hex())
