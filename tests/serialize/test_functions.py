from __future__ import annotations

import functools
import gc
import json
import math
import operator
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughway.errors import DeserializationError, MissingModule, ResultTooLarge, SerializationError
from throughway.serialize import functions
from throughway.serialize.functions import (
    MAX_CHECKED_BYTES,
    MAX_KEPT_BYTES,
    MAX_RECORDS,
    Entry,
    FunctionTable,
    load_function,
)

from . import fresh, sample_module


@pytest.fixture
def table() -> FunctionTable:
    return FunctionTable()


def main(source: str, **names: Any) -> dict[str, Any]:
    """The namespace of a main script of this source."""
    space = {"__name__": "__main__", "__builtins__": __builtins__, **names}
    exec(compile(source, "script.py", "exec"), space)
    return space


def call(entry: Entry, *args: Any) -> Any:
    return load_function(entry.function.payload, name=entry.function.name)(*args)


# ------------------------------------------------------------------------------------------- by reference


@pytest.mark.parametrize(
    "fn",
    [
        len,
        operator.add,
        math.sqrt,
        np.add,
        sample_module.plain,
        int,
        json.JSONEncoder,
        sample_module.Instance,
    ],
)
def test_what_is_importable_goes_by_reference_and_is_cached(
    table: FunctionTable, fn: Callable[..., Any]
) -> None:
    entry = table.lookup(fn)
    assert entry.function.id == 1
    assert len(entry.function.payload) < 100
    assert load_function(entry.function.payload) is fn
    assert table.lookup(fn) is entry


def test_names_are_qualified_names(table: FunctionTable) -> None:
    def inner() -> None: ...

    assert table.lookup(sample_module.Instance.method).function.name == "Instance.method"
    assert table.lookup(inner).function.name == "test_names_are_qualified_names.<locals>.inner"
    assert table.lookup(functools.partial(functools.partial(math.hypot, 3), 4)).function.name == "hypot"
    assert table.lookup(sample_module.Instance(1)).function.name == "Instance"


def test_ids_are_counted_from_one(table: FunctionTable) -> None:
    entries = [table.lookup(fn) for fn in (len, abs, len, math.sqrt)]
    assert [entry.function.id for entry in entries] == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (functools.partial(sample_module.plain, 1), (), 6),
        (functools.partial(int, base=2), ("101",), 5),
        (sample_module.Instance(3).method, (4,), 12),
        (sample_module.Instance(3), (4,), 7),
        (sample_module.Instance.make, (4,), 8),
        (sample_module.Instance.__dict__["static"], (4,), -4),
        (sample_module.Instance.static, (4,), -4),
        (str.upper, ("a",), "A"),
        ([1, 1, 2].count, (1,), 2),
        (dict.fromkeys, ("ab",), {"a": None, "b": None}),
        (operator.itemgetter(1), ("ab",), "b"),
        (lambda x: x + 1, (1,), 2),
        (sample_module.original, (4,), (8, "traced")),
        (sample_module.hidden, (4,), 8),
        (functools.partial(lambda x, y: x - y, y=1), (5,), 4),
        (functools.lru_cache(lambda x: x * 3), (5,), 15),
    ],
)
def test_everything_callable_works(table: FunctionTable, fn: Any, args: Any, expected: Any) -> None:
    entry = table.lookup(fn)
    assert call(entry, *args) == expected
    assert table.lookup(fn) is entry


def test_what_is_not_callable_is_a_type_error(table: FunctionTable) -> None:
    with pytest.raises(TypeError, match="3 of type int is not callable"):
        table.lookup(3)  # type: ignore[arg-type]


def test_a_function_behind_a_decorator_goes_by_value(table: FunctionTable) -> None:
    assert len(table.lookup(sample_module.plain).function.payload) < 100
    assert len(table.lookup(sample_module.hidden).function.payload) > 200


def test_a_module_that_is_registered_goes_by_value() -> None:
    module = types.ModuleType("made_at_run_time")
    exec("def f(x): return x + 1\nclass C:\n  def __call__(self, x): return x + 2", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        assert len(FunctionTable().lookup(module.f).function.payload) < 100
        cloudpickle.register_pickle_by_value(module)
        try:
            entries = [FunctionTable().lookup(module.f), FunctionTable().lookup(module.C())]
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules[module.__name__]
    assert [call(entry, 1) for entry in entries] == [2, 3]


# ---------------------------------------------------------------------------------------------- versions


def changed(table: FunctionTable, fn: Any, change: Callable[[], object]) -> tuple[Entry, Entry]:
    """The entries before and after a change; it is found again as long as nothing changes."""
    before = table.lookup(fn)
    assert table.lookup(fn) is before
    change()
    after = table.lookup(fn)
    assert table.lookup(fn) is after
    return before, after


@pytest.mark.parametrize(("first", "second"), [(1, 2), (1, True), (1, 1.0), ("a", "b"), (None, 0)])
def test_rebinding_a_global_makes_a_new_version(table: FunctionTable, first: Any, second: Any) -> None:
    space = main("def f(): return G", G=first)
    before, after = changed(table, space["f"], lambda: space.update(G=second))
    assert (before.function.id, after.function.id) == (1, 2)
    for entry, value in ((before, first), (after, second)):
        assert call(entry) == value
        assert type(call(entry)) is type(value)
    space["G"] = first
    assert table.lookup(space["f"]) is before, "the same content has the same id"


def test_rebinding_what_helpers_use_makes_a_new_version(table: FunctionTable) -> None:
    space = main("def g(): return G\ndef h(): return [g() for _ in 'a']\nf = lambda: h()", G=1)
    before, after = changed(table, space["f"], lambda: space.update(G=2))
    assert (call(before), call(after)) == ([1], [2])
    before, after = changed(table, space["f"], lambda: space.update(g=lambda: 7))
    assert (call(before), call(after)) == ([2], [7])


def test_a_global_that_appears_or_goes_makes_a_new_version(table: FunctionTable) -> None:
    space = main("def f(): return len('abc')")
    before, after = changed(table, space["f"], lambda: space.update(len=lambda text: 99))
    assert (call(before), call(after)) == (3, 99)
    _, third = changed(table, space["f"], lambda: space.pop("len"))
    assert third is before


def test_globals_of_nested_code_count(table: FunctionTable) -> None:
    space = main("def f():\n  def inner():\n    return (lambda: G)()\n  return inner()", G=1)
    before, after = changed(table, space["f"], lambda: space.update(G=2))
    assert (call(before), call(after)) == (1, 2)


def test_rebinding_a_closure_variable_makes_a_new_version(table: FunctionTable) -> None:
    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        value = 1

        def get() -> int:
            return value

        def put(other: int) -> None:
            nonlocal value
            value = other

        return get, put

    get, put = make()
    before, after = changed(table, get, lambda: put(2))
    assert (call(before), call(after)) == (1, 2)
    before, after = changed(table, lambda: get() + 1, lambda: put(3))
    assert (call(before), call(after)) == (3, 4)


def test_a_closure_variable_that_is_not_bound_yet_is_seen_when_it_is(table: FunctionTable) -> None:
    def make() -> tuple[Callable[[], int], Callable[[], None]]:
        def get() -> int:
            return value

        def put() -> None:
            nonlocal value
            value = 5

        if False:
            value = 0
        return get, put

    get, put = make()
    before, after = changed(table, get, put)
    with pytest.raises(NameError):
        call(before)
    assert call(after) == 5


@pytest.mark.parametrize(
    "change",
    [
        "f.__defaults__ = (2,)",
        "f.__kwdefaults__ = {'b': 2}",
        "f.__kwdefaults__['b'] = 2",
        "f.__code__ = g.__code__",
    ],
)
@pytest.mark.parametrize("caller", ["f", "indirect"])
def test_changing_defaults_or_code_makes_a_new_version(
    table: FunctionTable, change: str, caller: str
) -> None:
    space = main(
        "def f(a=1, *, b=1): return a, b\ndef g(a=1, *, b=1): return b, a, 0\ndef indirect(): return f()"
    )
    before, after = changed(table, space[caller], lambda: exec(change, space))
    assert call(before) == (1, 1)
    assert call(after) == space["f"]() != (1, 1)


@pytest.mark.parametrize("caller", ["f", "indirect"])
def test_changing_function_attributes_makes_a_new_version(table: FunctionTable, caller: str) -> None:
    space = main("def f(): return f.note\nf.note = 1\ndef indirect(): return f()")
    before, after = changed(table, space[caller], lambda: setattr(space["f"], "note", 2))
    assert (call(before), call(after)) == (1, 2)
    before, after = changed(table, space[caller], lambda: setattr(space["f"], "other", 2))
    assert before is not after


def test_a_first_attribute_makes_a_new_version(table: FunctionTable) -> None:
    space = main("def f(): return getattr(f, 'note', 0)")
    before, after = changed(table, space["f"], lambda: setattr(space["f"], "note", 2))
    assert (call(before), call(after)) == (0, 2)


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1], "G.append(2)"),
        ({"a": [1]}, "G['a'].append(2)"),
        ({1}, "G.add(2)"),
        (bytearray(b"a"), "G.append(2)"),
        (np.zeros(3), "G[0] = 1"),
        (([1], 2), "G[0].append(2)"),
        (sample_module.Instance(1), "G.value = 2"),
    ],
)
@pytest.mark.parametrize(
    "source", ["def f(): return G", "def f(x=G): return x", "f = (lambda g: lambda: g)(G)"]
)
def test_changes_in_place_make_a_new_version(
    table: FunctionTable, value: Any, change: str, source: str
) -> None:
    value = pickle.loads(pickle.dumps(value))
    space = main(source, G=value)
    told = pickle.dumps(value)
    before, after = changed(table, space["f"], lambda: exec(change, space))
    assert pickle.dumps(call(before)) == told
    assert pickle.dumps(call(after)) == pickle.dumps(value) != told


STEPS = [
    "G = 1",
    "G = 1.0",
    "G = 'text'",
    "H = lambda: G",
    "H = lambda: [G, LIST]",
    "def H(x=[1]): return x, LIST",
    "H.__defaults__ = (3,)",
    "LIST.append(len(LIST))",
    "LIST = [0]",
    "C.value = G",
    "C.method = lambda self: LIST",
    "class C:\n  def method(self): return H()",
    "PART = functools.partial(H)",
    "PART = functools.partial(lambda *args: args, LIST)",
    "put(G)",
    "put(LIST)",
    "f.note = LIST",
    "f.note = 1",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_what_is_sent_is_always_what_is_there(steps: list[str]) -> None:
    table = FunctionTable()
    space = main(
        "import functools\nG = 0\nLIST = []\ndef H(): return 0\nPART = functools.partial(H)\n"
        "class C:\n  value = 2\n  def method(self): return self.value\n"
        "def make():\n  cell = 0\n  def put(value):\n    nonlocal cell\n    cell = value\n"
        "  def f(): return G, H(), LIST, C().method(), PART(), cell, getattr(f, 'note', None)\n"
        "  return f, put\nf, put = make()"
    )
    for step in ["", *steps]:
        exec(step, space)
        expected = repr(space["f"]())
        entry = table.lookup(space["f"])
        assert repr(call(entry)) == expected
        assert table.lookup(space["f"]) is entry


def test_functions_inside_mutable_data_count_too(table: FunctionTable) -> None:
    space = main("def g(): return X\nHANDLERS = {'g': g}\ndef f(): return HANDLERS['g']()", X=1)
    before, after = changed(table, space["f"], lambda: space.update(X=2))
    assert (call(before), call(after)) == (1, 2)


def test_changes_inside_large_data_are_not_looked_for(table: FunctionTable) -> None:
    space = main("def f(): return G[0]", G=np.zeros(MAX_CHECKED_BYTES))
    before = table.lookup(space["f"])
    space["G"][0] = 1
    assert table.lookup(space["f"]) is before
    space["G"] = np.ones(MAX_CHECKED_BYTES)
    after = table.lookup(space["f"])
    assert (call(before), call(after)) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [
        "C.value = 2",
        "C.read = lambda self: 9",
        "C.__init__ = lambda self: setattr(self, 'value', 2)",
        "G = 2",
        "Base.value = 2; del C.value",
        "C.items.append(2)",
    ],
)
def test_changing_a_class_of_the_script_makes_a_new_version(table: FunctionTable, change: str) -> None:
    space = main(
        "G = 1\nclass Base: pass\nclass C(Base):\n  value = 1\n  items = [1]\n"
        "  def read(self): return self.value * G + len(self.items)\n"
        "def f(): return C().read()"
    )
    before, after = changed(table, space["f"], lambda: exec(change, space))
    assert before is not after
    assert space["f"]() != 2


def test_using_a_class_of_the_script_leaves_the_version_alone(table: FunctionTable) -> None:
    space = main(
        "import enum, abc\nfrom dataclasses import dataclass, field\n"
        "class Mode(enum.Enum):\n  A = 1\n"
        "@dataclass\nclass D:\n  x: int = 1\n  y: list = field(default_factory=list)\n"
        "class Abstract(abc.ABC):\n  @abc.abstractmethod\n  def m(self): ...\n"
        "class Real(Abstract):\n  def m(self): return 1\n"
        "class P:\n  __slots__ = ('a',)\n  @property\n  def p(self): return 1\n"
        "  @classmethod\n  def c(cls): return 2\n"
        "MODE = Mode.A\ndef f(): return D().x, MODE.name, Real().m(), P().p, P.c()"
    )
    entry = table.lookup(space["f"])
    space["f"]()
    isinstance(space["Real"](), space["Abstract"])
    assert table.lookup(space["f"]) is entry
    assert call(entry) == (1, "A", 1, 1, 2)
    assert table.lookup(space["f"]) is entry


def test_a_class_of_the_script_is_a_function_too(table: FunctionTable) -> None:
    space = main("class C:\n  value = 1\n  def __init__(self, x): self.x = x + self.value")
    before, after = changed(table, space["C"], lambda: setattr(space["C"], "value", 2))
    assert (before.function.id, after.function.id) == (1, 2)


def test_changes_inside_a_partial_are_seen(table: FunctionTable) -> None:
    space = main("def f(*args, **named): return G, args, named", G=1)
    items = [1]
    partial = functools.partial(space["f"], items, key=1)
    before, after = changed(table, partial, lambda: space.update(G=2))
    assert (call(before), call(after)) == ((1, ([1],), {"key": 1}), (2, ([1],), {"key": 1}))
    _, after = changed(table, partial, lambda: items.append(2))
    assert call(after) == (2, ([1, 2],), {"key": 1})
    _, after = changed(table, partial, lambda: partial.keywords.update(key=5))
    assert call(after) == (2, ([1, 2],), {"key": 5})


def test_bound_methods_are_never_stale_and_do_not_fill_the_cache(table: FunctionTable) -> None:
    instance = sample_module.Instance(1)
    before = table.lookup(instance.method)
    assert all(table.lookup(instance.method) is before for _ in range(20))
    instance.value = 5
    after = table.lookup(instance.method)
    assert (call(before, 2), call(after, 2)) == (2, 10)
    assert table._records == {}
    assert len(table) == 2


def test_callable_objects_are_never_stale(table: FunctionTable) -> None:
    instance = sample_module.Instance(1)
    before = table.lookup(instance)
    instance.value = 5
    assert (call(before, 2), call(table.lookup(instance), 2)) == (3, 7)


def test_recursion_is_no_obstacle(table: FunctionTable) -> None:
    space = main("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)")
    entry = table.lookup(space["even"])
    assert call(entry, 10) is True
    assert table.lookup(space["even"]) is entry

    def local(n: int) -> int:
        return 1 if n == 0 else n * local(n - 1)

    assert call(table.lookup(local), 5) == 120


def test_a_cached_function_of_the_script_goes_by_value(table: FunctionTable) -> None:
    space = main(
        "import functools\n@functools.lru_cache(maxsize=8)\n"
        "def f(n): return n if n < 2 else f(n-1) + f(n-2) + G",
        G=0,
    )
    before = table.lookup(space["f"])
    loaded: Any = load_function(before.function.payload)
    assert loaded(20) == 6765
    assert loaded.cache_parameters() == {"maxsize": 8, "typed": False}
    space["G"] = 1
    assert table.lookup(space["f"]) is not before


# ------------------------------------------------------------------------------------ identity and memory


def test_a_lambda_made_anew_keeps_its_id(table: FunctionTable) -> None:
    entries = {table.lookup(lambda x: x + 1).function.id for _ in range(10)}
    assert entries == {1}


def test_lambdas_made_anew_differ_where_they_capture_other_values(table: FunctionTable) -> None:
    def make(value: Any, default: Any = 0) -> Callable[[], Any]:
        return lambda d=default: (value, d)

    cases = [(1,), (1, 2), (True,), (1.0,), ([1],), (["a"],), (1, [1])]
    entries = [table.lookup(make(*case)) for case in cases]
    assert len({entry.function.id for entry in entries}) == len(cases)
    results = [call(entry) for entry in entries]
    assert results == [make(*case)() for case in cases]
    assert [type(result[0]) for result in results] == [type(case[0]) for case in cases]
    assert [table.lookup(make(*case)) for case in cases] == entries


def test_one_code_in_two_namespaces_is_two_functions(table: FunctionTable) -> None:
    code = compile("def f(): return G", "script.py", "exec")
    spaces = [{"__name__": "__main__", "G": value} for value in (1, 2)]
    for space in spaces:
        exec(code, space)
    assert [call(table.lookup(space["f"])) for space in spaces] == [1, 2]  # type: ignore[arg-type]


def test_a_renamed_copy_is_not_taken_for_the_original(table: FunctionTable) -> None:
    space = main("def f(): return 1")
    copy = types.FunctionType(space["f"].__code__, space, "other")
    copy.__qualname__ = "other"
    first, second = table.lookup(space["f"]), table.lookup(copy)
    assert (first.function.name, second.function.name) == ("f", "other")
    assert load_function(second.function.payload).__qualname__ == "other"


def test_an_entry_is_forgotten_when_neither_a_task_nor_the_cache_has_it(table: FunctionTable) -> None:
    fn = eval("lambda: 1")
    entry = table.lookup(fn)
    number = entry.function.id
    flush(table)
    assert number not in table.forgotten(), "the function lives, and with it its record"
    del fn
    flush(table)
    assert number not in table.forgotten(), "a task has it"
    del entry
    assert table.forgotten() == [number]
    assert table.forgotten() == []


def flush(table: FunctionTable) -> None:
    """Drop what the table keeps although nothing uses it."""
    table._kept.clear()
    table._kept_bytes = 0
    table._by_code.clear()


def test_a_forgotten_function_gets_a_new_id(table: FunctionTable) -> None:
    first = table.lookup(eval("lambda: 1")).function.id
    flush(table)
    assert table.forgotten() == [first]
    assert table.lookup(eval("lambda: 1")).function.id == first + 1


def test_a_function_and_what_it_captures_are_not_kept_alive(table: FunctionTable) -> None:
    class Token:
        def __reduce__(self) -> Any:
            return int, (1,)

    token = Token()
    gone = weakref.ref(token)
    fn = (lambda value: lambda: value)(token)
    table.lookup(fn)
    assert len(table._records) == 1
    del fn, token
    gc.collect()
    assert gone() is None
    assert table._records == {}


def test_a_million_lambdas_do_not_leak(table: FunctionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_RECORDS", 50)
    kept = []
    for number in range(400):
        fn = (lambda value: lambda: value)(number)
        kept.append(fn)
        table.lookup(fn)
    assert max(len(table._records), len(table._by_code), len(table._kept)) <= 50
    told = table.forgotten()
    assert len(told) == len(set(told)) >= 400 - 50 - 50
    assert len(table) <= 100
    assert call(table.lookup(kept[0])) == 0, "dropped from the cache, found again"
    assert MAX_RECORDS == 4096


def test_what_is_kept_is_bounded_in_bytes(table: FunctionTable) -> None:
    for number in range(MAX_KEPT_BYTES // 60_000 + 20):
        table.lookup((lambda value: lambda: value)(bytes([number % 256]) * 60_000 + str(number).encode()))
    table._by_code.clear()
    assert (
        sum(len(entry.function.payload) for entry in table._kept.values())
        == table._kept_bytes
        <= MAX_KEPT_BYTES
    )


def test_large_payloads_are_not_kept_without_a_user(table: FunctionTable) -> None:
    table.lookup((lambda value: lambda: value)(bytes(MAX_CHECKED_BYTES * 2)))
    assert len(table) == 0
    assert table.forgotten() == [1]


def test_hot_functions_stay_while_others_pass(table: FunctionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_RECORDS", 20)
    hot = eval("lambda: 'hot'")
    entry = table.lookup(hot)
    passing = [eval(f"lambda: {number}") for number in range(200)]
    for fn in passing:
        table.lookup(fn)
        assert table.lookup(hot) is entry
        assert id(hot) in table._records


def test_many_threads_agree(table: FunctionTable) -> None:
    space = main("def f(): return G", G=0)
    shared = [space["f"], len, lambda: 1, functools.partial(space["f"])]
    barrier = threading.Barrier(8)

    def work(_: int) -> list[int]:
        barrier.wait()
        ids = [table.lookup(fn).function.id for _ in range(200) for fn in shared]
        for number in range(50):
            table.lookup(lambda value=number: value)
        return sorted(set(ids))

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, range(8)))
    assert all(ids == seen[0] for ids in seen)
    assert len(seen[0]) == len(shared)


def test_a_lookup_during_pickling_does_not_deadlock(table: FunctionTable) -> None:
    class Nested:
        def __call__(self) -> int:
            return 1

        def __reduce__(self) -> Any:
            found.append(table.lookup(len))
            return operator.itemgetter, (1,)

    found: list[Entry] = []
    assert call(table.lookup(Nested()), "ab") == "b"
    assert found[0] is table.lookup(len)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("source", "blamed"),
    [
        ("def f(): return G", "the global variable 'G' of the function 'f'"),
        (
            "f = (lambda lock: lambda: lock)(G)",
            "the closure variable 'lock' of the function '<lambda>.<locals>.<lambda>'",
        ),
        ("def f(a, b=G): return b", "the default of 'b' of the function 'f'"),
        ("def f(*, c=G): return c", "the default of 'c' of the function 'f'"),
        ("def f(): pass\nf.lock = G", "the function 'f'.lock"),
        ("def g(): return G\ndef f(): return g()", "the global variable 'G' of the global variable 'g'"),
        ("D = {'a': [0, G]}\ndef f(): return D", "the global variable 'D' of the function 'f'['a'][1]"),
    ],
)
def test_the_error_names_the_variable_that_is_to_blame(
    table: FunctionTable, source: str, blamed: str
) -> None:
    space = main(source, G=threading.Lock())
    with pytest.raises(SerializationError) as info:
        table.lookup(space["f"])
    assert blamed in str(info.value)
    assert "_thread.lock" in str(info.value)
    assert isinstance(info.value.__cause__, TypeError)


def test_a_function_that_no_longer_pickles_is_an_error(table: FunctionTable) -> None:
    space = main("def f(): return G", G=[])
    table.lookup(space["f"])
    space["G"].append(threading.Lock())
    with pytest.raises(SerializationError, match="global variable 'G'"):
        table.lookup(space["f"])


def test_a_bound_method_of_what_cannot_travel_is_an_error(table: FunctionTable) -> None:
    instance = sample_module.Instance(threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(SerializationError, match=r"Instance.method'.__self__.value cannot be pickled"):
        table.lookup(instance.method)


def test_the_size_limit_of_a_function() -> None:
    table = FunctionTable(max_bytes=10_000)
    table.lookup(lambda: 1)
    data = bytes(20_000)
    with pytest.raises(
        ResultTooLarge, match=r"<lambda>' with what it captures: 20,\d+ bytes.*max_payload_bytes"
    ):
        table.lookup(lambda: data)


def test_a_missing_module_names_function_module_and_remedy() -> None:
    payload = b"\x80\x05\x8c\x0fno_such_module_\x94\x8c\x01f\x94\x93\x94."
    with pytest.raises(
        MissingModule, match=r"the function 'f': no module named 'no_such_module_'.*host.*worker_init"
    ):
        load_function(payload, name="f")


def test_other_failures_to_load() -> None:
    with pytest.raises(DeserializationError, match=r"the function 'f' cannot be unpickled on host"):
        load_function(b"garbage", name="f")
    with pytest.raises(DeserializationError, match="no_such_function"):
        load_function(b"\x80\x05\x8c\x04math\x94\x8c\x10no_such_function\x94\x93\x94.")
    with pytest.raises(DeserializationError, match="arrived as int, which is not callable"):
        load_function(pickle.dumps(3))


# -------------------------------------------------------------------------------------- another process


SCRIPT = """
import functools, pickle, sys, math
from throughway.serialize.functions import FunctionTable

FACTOR = 3
CONFIG = {"offset": 10}

class Shape:
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2 * FACTOR

def helper(x): return x * FACTOR
def uses_all(x): return helper(x) + CONFIG["offset"] + math.floor(1.5)
def uses_class(x): return Shape(x).area()
def annotated(x: Shape, *, y: "int" = 1) -> Shape: return x + y
@functools.lru_cache
def cached(x): return x + FACTOR
@functools.wraps(helper)
def wrapped(x): return helper(x) + 1
def recursive(n): return 1 if n == 0 else n * recursive(n - 1)

table = FunctionTable()
cases = [
    (uses_all, 2), (uses_class, 2), (annotated, 1), (cached, 4), (wrapped, 1), (recursive, 5),
    (lambda x: x + FACTOR, 1), (functools.partial(pow, 2), 3), (functools.partial(helper), 3),
    (Shape(2).area, None), (lambda x: Shape(x).area(), 3), (len, "abc"),
]
told = []
for fn, argument in cases:
    entry = table.lookup(fn)
    told.append((entry.function.payload, argument))
FACTOR = 4
told.append((table.lookup(uses_all).function.payload, 2))
CONFIG["offset"] = 20
told.append((table.lookup(uses_all).function.payload, 2))
sys.stdout.buffer.write(pickle.dumps(told))
"""

WORKER = """
import json, pickle, sys
from throughway.serialize.functions import load_function
results = []
for payload, argument in pickle.loads(sys.stdin.buffer.read()):
    fn = load_function(payload)
    results.append(fn() if argument is None else fn(argument))
json.dump(results, sys.stdout)
"""


def test_functions_of_a_script_run_in_another_process(tmp_path: Path) -> None:
    payloads = fresh.run_script(tmp_path, SCRIPT)
    results = json.loads(fresh.run(["-c", WORKER], payloads))
    assert results == [17, 12, 2, 7, 4, 120, 4, 8, 9, 12, 27, 3, 19, 29]


def test_a_module_beside_the_script_is_named_where_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def f(x): return x\n")
    source = "import sys, beside\nfrom throughway.serialize.functions import FunctionTable\n"
    source += "sys.stdout.buffer.write(FunctionTable().lookup(lambda x: beside.f(x)).function.payload)"
    payload = fresh.run_script(tmp_path, source)
    with pytest.raises(MissingModule) as info:
        load_function(payload, name="<lambda>")
    assert info.value.name == "beside"
