"""Ctrl-C at moments at which nothing may be left half done."""

from __future__ import annotations

# Not `signal`, which wraps these functions in enums, at twenty times the cost.
import _signal  # type: ignore[import-not-found]
import threading
from types import TracebackType
from typing import Self


class DeferredInterrupt:
    """Inside the `with` block, or between `begin` and `end`, Ctrl-C waits where it would raise ``KeyboardInterrupt`` in
    this thread; a second one raises at once.

    It costs less than a microsecond. Only the interpreter's own handler is replaced: one of the user's may do anything.
    """

    __slots__ = ("_deferring", "_pressed")

    def __init__(self) -> None:
        self._deferring = False
        self._pressed = False

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
            if self._pressed:
                raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _press(self, number: int, frame: object) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
