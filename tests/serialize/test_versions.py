from __future__ import annotations

import functools
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from throughway.serialize.versions import Version, global_names

from . import sample_module


def names(source: str) -> tuple[str, ...]:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return global_names(space["f"].__code__)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): return a.b.c", ("a",)),
        ("def f(x): return x", ()),
        ("def f():\n  global g\n  g = 1", ("g",)),
        ("def f():\n  global g\n  del g", ("g",)),
        ("def f(): return [u for u in v] + [lambda: w]", ("v", "w")),
        ("def f(): return a, a, b", ("a", "b")),
        ("def f():\n  def g(): return deep\n  return g", ("deep",)),
    ],
)
def test_global_names(source: str, expected: tuple[str, ...]) -> None:
    assert names(source) == expected


def version_of(value: Any) -> Version:
    return Version(lambda: value)


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        (1, ("a", frozenset({2}))),
        re.compile("a"),
        Decimal(1),
        Path("/x"),
        len,
        sample_module,
        sample_module.plain,
        sample_module.Instance,
        functools.partial(sample_module.plain, 1),
    ],
)
def test_identity_is_enough_for_what_cannot_change(value: Any) -> None:
    version = version_of(value)
    assert version.mutable == []
    assert version.state is None
    assert version.certain


@pytest.mark.parametrize(
    "value", [[1], {}, (1, []), sample_module.Instance(1), sample_module.Instance(1).method]
)
def test_what_can_change_is_compared_by_its_pickle(value: Any) -> None:
    version = version_of(value)
    assert version.state is not None
    assert not version.reusable


def test_a_large_state_can_be_ignored() -> None:
    items = [1]
    function = (lambda value: lambda: value)(items)
    version = Version(function)
    items.append(2)
    assert not version.holds(function)
    version.ignore_state()
    assert version.holds(function)


def test_it_fits_a_function_made_anew_of_the_same_code() -> None:
    def make(value: Any) -> Any:
        return lambda: value

    version = Version(make(1))
    assert version.reusable
    assert version.fits(make(1))
    assert not version.fits(make(2))
    assert not version.fits(make(True))
    marked = make(1)
    marked.note = 1
    assert not version.fits(marked)
    renamed = make(1)
    renamed.__name__ = "renamed"
    assert not version.fits(renamed)


def test_a_variable_that_loses_its_value_makes_it_stale() -> None:
    def make() -> Any:
        value = 1

        def get() -> int:
            return value

        def drop() -> None:
            nonlocal value
            del value

        return get, drop

    get, drop = make()
    version = Version(get)
    assert version.holds(get)
    drop()
    assert not version.holds(get)
