"""Holds the states of real entities, before and after every step, against the tables of `scheduling.lifecycles`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from throughway.scheduling.lifecycles import Lifecycle


class Watch:
    """Watches all entities of one kind.

    Args:
        lifecycle: what they may do.
        states: gives the state of every entity that there is or was, from the real records.
        observed: gathers the transitions that were seen, over all watches that share it.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        states: Callable[[], Mapping[Any, Any]],
        observed: set[tuple[Any, Any, Any]] | None = None,
    ) -> None:
        self.lifecycle = lifecycle
        self.observed: set[tuple[Any, Any, Any]] = set() if observed is None else observed
        self._states = states
        self._before: dict[Any, Any] = {}
        self.begin()

    def begin(self) -> None:
        """Take the states as they are now, however they came to be so."""
        self._before = dict(self._states())

    def look(self, events: Mapping[Any, Any]) -> None:
        """A step is over in which these events happened to entities, one to each, and nothing to the others."""
        initial = self.lifecycle.initial
        after = dict(self._states())
        assert self._before.keys() <= after.keys(), "no entity is forgotten"
        for entity, state in after.items():
            before = self._before.get(entity, initial)
            event = events.get(entity)
            expected = before if event is None else self.lifecycle.after(before, event)
            what = f"{self.lifecycle.name} {entity}: {before} + {event}"
            assert state is expected, f"{what} → {state}, where the table has {expected}"
            if event in self.lifecycle.table.get(before, {}):
                self.observed.add((before, event, state))
        self._before = after

    def missing(self) -> list[tuple[Any, Any, Any]]:
        """The transitions of the table that were not seen."""
        return sorted(self.lifecycle.transitions() - self.observed, key=str)
