"""What a user may ask for a task: its resource specification."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from throughway.errors import InvalidResourceSpecification

MAX_PRIORITY = 1 << 31
MAX_RETRIES = 1 << 31
MAX_KEY_LENGTH = 1000


class ResourceSpecification(NamedTuple):
    """``priority``: lower is sooner, FIFO within; ``walltime``: seconds, 0 for no limit; ``retries``: how often a
    task that was lost with its worker or manager is run again; ``key``: names it in the journal, None for its
    content."""

    priority: int = 0
    walltime: float = 0
    retries: int = 0
    key: str | None = None

    def changed(self, options: dict[str, Any]) -> ResourceSpecification:
        """This specification with some options set anew.

        Raises:
            InvalidResourceSpecification: an option is unknown or ill-typed; the message names it and what is accepted.
        """
        for name, value in options.items():
            check = _CHECKS.get(name)
            if check is None:
                accepted = ", ".join(sorted(_CHECKS))
                raise InvalidResourceSpecification(
                    f"unknown option {name}={value!r}: accepted are {accepted}"
                )
            complaint = check(value)
            if complaint:
                raise InvalidResourceSpecification(f"{name}={value!r}: {complaint}")
        clean = {name: _DEFAULTS[name] if value is None else value for name, value in options.items()}
        return self._replace(**clean)


def _check_priority(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_PRIORITY:
        return f"an int between -{MAX_PRIORITY} and {MAX_PRIORITY} is accepted; lower runs sooner"
    return ""


def _check_walltime(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return "a positive number of seconds is accepted, or None for no limit"
    return ""


def _check_retries(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        return "an int from 0 is accepted"
    return ""


def _check_key(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEY_LENGTH:
        return (
            f"a str of 1 to {MAX_KEY_LENGTH} characters is accepted, or None: the function and its arguments"
        )
    return ""


_CHECKS = {
    "priority": _check_priority,
    "walltime": _check_walltime,
    "retries": _check_retries,
    "key": _check_key,
}
_DEFAULTS: dict[str, Any] = {"priority": 0, "walltime": 0, "retries": 0, "key": None}
DEFAULT = ResourceSpecification()
