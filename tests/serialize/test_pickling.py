from __future__ import annotations

import functools
import pickle
import types
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest

from throughway.serialize.pickling import LARGE_FRAME_BYTES, by_value, describe, dump, importable, refers

from . import sample_module


class Holder:
    class Inner:
        pass

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


def test_importable() -> None:
    assert importable(sample_module.plain)
    assert importable(Holder.Inner)
    assert importable(int)
    assert not importable(sample_module.hidden), "another object has its name"
    assert not importable(lambda: 1)
    assert not importable(type("Local", (), {}))
    assert not importable(Holder()), "an attribute hook that raises"
    made = types.FunctionType((lambda: 1).__code__, {"__name__": "__main__"}, "made")
    assert not importable(made)
    made.__module__ = "no_such_module"
    assert not importable(made)


def test_by_value_counts_parents() -> None:
    assert not by_value("concurrent.futures")
    import concurrent

    cloudpickle.register_pickle_by_value(concurrent)
    try:
        assert by_value("concurrent.futures.thread")
        assert by_value("concurrent")
        assert not by_value("concurrency")
    finally:
        cloudpickle.unregister_pickle_by_value(concurrent)


def test_a_registered_module_goes_by_value_as_an_argument_too() -> None:
    assert len(dump([sample_module.plain])) < 100
    cloudpickle.register_pickle_by_value(sample_module)
    try:
        assert len(dump([sample_module.plain])) > 200
    finally:
        cloudpickle.unregister_pickle_by_value(sample_module)


def test_buffers_stay_in_band_without_a_list() -> None:
    assert len(dump(np.zeros(LARGE_FRAME_BYTES, dtype=np.uint8))) > LARGE_FRAME_BYTES


def test_frames_are_not_doubled_where_the_pickle_is_made_twice() -> None:
    array = np.zeros(LARGE_FRAME_BYTES, dtype=np.uint8)
    frames: list[memoryview] = []
    payload = dump([array, lambda: 1], frames)
    assert len(frames) == 1
    again, function = pickle.loads(payload, buffers=frames)
    assert (again == array).all()
    assert function() == 1


@pytest.mark.parametrize(
    ("value", "expected"), [(len, True), (sample_module.plain, True), (np.add, True), (str.upper, False)]
)
def test_refers(value: Any, expected: bool) -> None:
    assert refers(pickle.dumps(value, 5)) is expected


def test_describe() -> None:
    assert describe(functools.partial(sample_module.plain)) == "plain"
    assert describe(Holder.Inner) == "Holder.Inner"
    assert describe(Holder()) == "Holder"
    assert describe(sample_module.Instance(1).method) == "Instance.method"
