"""A selector whose wait calls what is ready, with as little between the kernel and the callee as Python allows.

The standard library's selectors build a key and a tuple for each event; on the way of a single task through three
processes that is paid for six times.
"""

from __future__ import annotations

import select
import selectors
from collections.abc import Mapping
from math import ceil
from typing import Any

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_MAX_EVENTS = 256


class Poller(selectors.BaseSelector):
    """Descriptors by epoll. ``data`` must be a `transport.interface.Ready`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._ready: dict[int, Any] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor for ``EVENT_READ`` and ``EVENT_WRITE``; ``data`` is called with what it is ready for."""
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if descriptor in self._keys:
            raise KeyError(f"descriptor {descriptor} is registered already")
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._epoll.register(descriptor, _mask(events))
        self._keys[descriptor] = key
        self._ready[descriptor] = data
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch a descriptor no more. It must still be open."""
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys.pop(descriptor)
        del self._ready[descriptor]
        self._epoll.unregister(descriptor)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change what a descriptor is watched for."""
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        old = self._keys[descriptor]
        if old.events != events:
            self._epoll.modify(descriptor, _mask(events))
        key = self._keys[descriptor] = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._ready[descriptor] = data
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the standard library's selectors."""
        return [
            (self._keys[descriptor], _events(mask))
            for descriptor, mask in self._epoll.poll(_ceil(timeout), _MAX_EVENTS)
            if descriptor in self._keys
        ]

    def wait(self, timeout: float | None) -> None:
        """Wait until a descriptor is ready, or ``timeout`` seconds, and call the data of each that is."""
        self.call(self.poll(timeout))

    def ready(self) -> bool:
        """Whether a descriptor is ready now."""
        return bool(self._epoll.poll(0, 1))

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait as `wait` does, and call nothing yet: what is ready, for `call`."""
        return self._epoll.poll(_ceil(timeout), _MAX_EVENTS)

    def call(self, found: list[tuple[int, int]]) -> None:
        """Call the data of each of these that is still watched."""
        ready = self._ready
        for descriptor, mask in found:
            call = ready.get(descriptor)
            if call is not None:
                call(1 if mask == _IN else _events(mask))

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is registered, by descriptor."""
        return self._keys

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
        self._keys.clear()
        self._ready.clear()


def _ceil(timeout: float | None) -> float | None:
    """Seconds in whole milliseconds, as epoll has them, and never too early: that would be a busy wait."""
    return None if timeout is None else ceil(timeout * 1000) * 0.001


def _mask(events: int) -> int:
    return (_IN if events & selectors.EVENT_READ else 0) | (_OUT if events & selectors.EVENT_WRITE else 0)


def _events(mask: int) -> int:
    # A hang-up or an error is readable and writable: the read or the write says what it is.
    read = selectors.EVENT_READ if mask & ~_OUT else 0
    write = selectors.EVENT_WRITE if mask & ~_IN else 0
    return read | write
