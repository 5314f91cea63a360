"""Signals at moments at which nothing may be left half done."""

from __future__ import annotations

# Not `signal`, which wraps these functions in enums, at twenty times the cost.
import _signal  # type: ignore[import-not-found]
import math
import os
import threading
import time
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 0.5
"""In what ends by itself within a millisecond, Ctrl-C waits however often it is pressed; after so long, it does not."""

_OTHERS = tuple(sorted(set(map(int, _signal.valid_signals())) - {int(_signal.SIGINT)}))
# By identity: what a user gave need not be hashable, and its comparison is the user's code, too.
_HARMLESS = frozenset(map(id, (int(_signal.SIG_DFL), int(_signal.SIG_IGN), None)))


def exposed() -> bool:
    """Whether a handler of the user's may run in this thread, for whatever signal.

    It may do so at any line, raise there, or wait for just what the thread was about to do, and there is no way to put
    it off as Ctrl-C. To find out costs 3 µs in the main thread, and next to nothing in another.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return False
    interrupt = _signal.getsignal(_signal.SIGINT)
    if interrupt is not _signal.default_int_handler and id(interrupt) not in _HARMLESS:
        return True
    return not _HARMLESS.issuperset(map(id, map(_signal.getsignal, _OTHERS)))


class DeferredInterrupt:
    """Inside the `with` block, or between `begin` and `end`, Ctrl-C waits where it would raise ``KeyboardInterrupt`` in
    this thread; a second one raises at once if it comes after ``patience`` seconds.

    It costs less than a microsecond. Only the interpreter's own handler is replaced: one of the user's may do anything.
    """

    __slots__ = ("_deferring", "_patience", "_pressed")

    def __init__(self, patience: float = 0.0) -> None:
        self._deferring = False
        self._patience = patience
        self._pressed = math.inf
        """when it was pressed first"""

    def begin(self) -> None:
        """From here on it waits."""
        if (
            threading.get_ident() == threading.main_thread().ident
            and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
        ):
            self._deferring = True
            _signal.signal(_signal.SIGINT, self._press)

    def end(self) -> None:
        """Raises the ``KeyboardInterrupt`` that came meanwhile."""
        if self._deferring:
            self._deferring = False
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            if self._pressed < math.inf:
                raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _press(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self._pressed >= self._patience:
            raise KeyboardInterrupt
        self._pressed = min(now, self._pressed)


def _after_fork() -> None:
    """In a child that another thread made: who was to end it is not here, and Ctrl-C would be lost."""
    handler = _signal.getsignal(_signal.SIGINT)
    if isinstance(getattr(handler, "__self__", None), DeferredInterrupt):
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


os.register_at_fork(after_in_child=_after_fork)
