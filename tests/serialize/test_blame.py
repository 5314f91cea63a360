from __future__ import annotations

import threading
from typing import Any

import pytest

from throughway.errors import MissingModule
from throughway.serialize.blame import MAX_ATTEMPTS, find_culprit, too_large, undecodable, unpicklable


class Slotted:
    __slots__ = ("fine", "lock")

    def __init__(self) -> None:
        self.fine = 1
        self.lock = threading.Lock()


def label_of(value: Any) -> str | None:
    found = find_culprit([("it", value)])
    return found and found[0]


LOCK = threading.Lock()


def test_nothing_is_to_blame_where_all_pickles() -> None:
    assert label_of([1, {"a": 2}]) is None


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (LOCK, "it"),
        ([1, (2, LOCK)], "it[1][1]"),
        ({"a": {"b": LOCK}}, "it['a']['b']"),
        ({LOCK: 1}, "a key of it"),
        ({1, LOCK}, "an element of it"),
        (Slotted(), "it.lock"),
        (ValueError("x", LOCK), "it.args[1]"),
        (type("Local", (), {"lock": LOCK}), "it.lock"),
        (type("Local", (), {"lock": LOCK})(), "the class of it.lock"),
    ],
)
def test_the_innermost_culprit_is_found(value: Any, label: str) -> None:
    assert label_of(value) == label


def test_the_search_is_bounded() -> None:
    assert label_of([*range(MAX_ATTEMPTS * 2), LOCK]) == "it"
    deep: Any = LOCK
    for _ in range(50):
        deep = [deep]
    assert label_of(deep) == "it" + "[0]" * 11


def test_long_keys_are_shortened() -> None:
    label = label_of({"k" * 1000: LOCK})
    assert label is not None
    assert len(label) < 80


def test_the_error_is_kept_where_no_part_is_to_blame() -> None:
    cause = ValueError("once only.")
    failure = unpicklable([("argument 0", 1)], " of 'f'", cause)
    assert str(failure) == "argument 0 of 'f' cannot be pickled: ValueError: once only."
    assert failure.__cause__ is cause


def test_sizes_are_readable() -> None:
    assert "the result: 5,000,000 bytes when pickled, where 1,000 are allowed" in str(
        too_large("the result", 5_000_000, 1000)
    )


def test_a_missing_module_can_be_read_from_the_error() -> None:
    failure = undecodable("it", ModuleNotFoundError("no", name="some.module"), at_worker=True)
    assert isinstance(failure, MissingModule)
    assert failure.name == "some.module"
    assert isinstance(failure, ImportError)
