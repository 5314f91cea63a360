"""Keys of calls: what makes them differ, and what does not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy
import pytest

import throughway
from tests.executors import tasks
from throughway.executors.journal_keys import ContentKeys, content_digest, labelled
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call

SCRIPT = """
import dataclasses, enum, functools, sys
{above}
FACTOR = {factor}
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Point:
    x: int
    names: set = dataclasses.field(default_factory=set)
    def scaled(self):
        return self.x * FACTOR
def helper(value):
    return value * FACTOR
@functools.lru_cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
def work(point, *rest, **named):
    {doc}return helper(point.scaled()), point.names <= {{"a", "b", "c"}}, fibonacci(3)
if __name__ == "__main__":
    from throughway.executors.journal_keys import ContentKeys
    from throughway.serialize.functions import FunctionTable
    from throughway.serialize.payloads import pack_call
    table, keys = FunctionTable(), ContentKeys()
    for fn, args, kwargs in [
        (work, (Point(1, {{"a", "b", "c", "d"}}), Colour.RED), {{}}),
        (functools.partial(work, Point(2)), (frozenset({{"x", "y", "z"}}),), {{"flag": {{1, 2}}}}),
        (lambda x: helper(x) + 1, (3,), {{}}),
        (fibonacci, (30,), {{}}),
        (Point(1).scaled, (), {{}}),
    ]:
        payload, frames = pack_call(args, kwargs)
        print(keys.key(fn, table.lookup(fn), args, kwargs, payload, frames).hex())
"""


def keys_of(folder: Path, name: str = "script.py", seed: int = 0, **parts: Any) -> list[str]:
    """The keys that a script of its own process makes."""
    script = folder / name
    script.write_text(SCRIPT.format(**({"above": "", "factor": 3, "doc": ""} | parts)))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(throughway.__file__).parents[1]),
            "PYTHONHASHSEED": str(seed),
        },
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(set(found)) == 5
    return found


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return keys_of(tmp_path_factory.mktemp("keys"))


def test_another_process_has_the_same_keys(keys: list[str], tmp_path: Path) -> None:
    """Also where sets come in another order, under another name, and where the code has moved down the file."""
    assert keys_of(tmp_path, "other.py", seed=7, above="# a comment\n\n\n") == keys


def test_what_a_function_uses_makes_another_key(keys: list[str], tmp_path: Path) -> None:
    changed = keys_of(tmp_path, factor=4)
    assert [one == other for one, other in zip(keys, changed, strict=True)] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_other_code_makes_another_key(keys: list[str], tmp_path: Path) -> None:
    changed = keys_of(tmp_path, doc="point.x; ")
    assert changed[:2] != keys[:2]
    assert changed[2:] == keys[2:]


class Calls:
    """The keys of one process after another, as far as calls in one go."""

    def __init__(self) -> None:
        self.table = FunctionTable()
        self.keys = ContentKeys()

    def key(self, fn: Any, *args: Any, **kwargs: Any) -> bytes:
        payload, frames = pack_call(args, kwargs)
        return self.keys.key(fn, self.table.lookup(fn), args, kwargs, payload, frames)


def key(fn: Any, *args: Any, **kwargs: Any) -> bytes:
    return Calls().key(fn, *args, **kwargs)


def test_arguments_make_the_key() -> None:
    assert key(abs, 1) == key(abs, 1)
    different = [
        key(abs, 1),
        key(abs, 2),
        key(abs, 1.0),
        key(abs, True),
        key(abs, "1"),
        key(abs, b"1"),
        key(abs, x=1),
        key(abs),
        key(abs, {1}),
        key(abs, frozenset({1})),
        key(abs, [1]),
        key(abs, (1,)),
        key(max, 1),
    ]
    assert len(set(different)) == len(different)


def test_large_arguments_count_by_their_bytes() -> None:
    one = numpy.arange(100_000)
    other = one.copy()
    assert key(len, one) == key(len, other)
    other[99_999] = 0
    assert key(len, one) != key(len, other)
    assert key(len, bytes(100_000)) != key(len, bytes(100_001))
    # Inside what is pickled for its key alone, too.
    assert content_digest([{1}, one]) == content_digest([{1}, one.copy()])
    assert content_digest([{1}, one]) != content_digest([{1}, other])
    assert content_digest(one[::2]) != content_digest(one[1::2])


def test_equal_calls_are_told_apart_by_their_number() -> None:
    """Calls of a function that draws random numbers must not all get the same result."""
    first, second = Calls(), Calls()
    ones = [first.key(abs, 1) for _ in range(3)]
    assert len(set(ones)) == 3
    assert [second.key(abs, 1) for _ in range(3)] == ones


def test_texts_count_by_what_they_say() -> None:
    made = "TWO".lower()
    assert content_digest(["two", "two"]) == content_digest(["two", made])
    assert content_digest([("two", 2), ("two", 2)]) == content_digest([("two", 2), (made, 2)])
    assert content_digest("a") != content_digest(b"a")


def test_sets_count_by_what_is_in_them() -> None:
    letters = [chr(97 + number) for number in range(26)]
    backwards = letters[::-1]
    assert content_digest(set(letters)) == content_digest(set(backwards))
    assert content_digest(set(letters)) != content_digest(frozenset(letters))
    assert content_digest({("a", frozenset({1, 2}))}) == content_digest({("a", frozenset({2, 1}))})


def test_labels_are_keys_of_their_own() -> None:
    assert labelled("a") == labelled("a") != labelled("b")
    assert labelled("\udcff") != labelled("?")


def test_imported_functions_count_by_their_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of the functions beside them that they use, and of plain constants, included."""
    monkeypatch.syspath_prepend(tmp_path)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode

    def imported(step: int, factor: int, unused: int) -> bytes:
        (tmp_path / "throughway_journal_module.py").write_text(
            textwrap.dedent(f"""
            STEP = {step}
            UNUSED = {unused}
            TABLE = {{}}
            def helper(x):
                return x * {factor}
            def unused():
                return {unused}
            def work(x):
                TABLE.clear()
                return helper(x) + STEP
            """)
        )
        sys.modules.pop("throughway_journal_module", None)
        import throughway_journal_module  # type: ignore[import-not-found]

        return key(throughway_journal_module.work, 1)

    try:
        base = imported(1, 2, 3)
        assert imported(1, 2, 4) == base
        assert len({base, imported(9, 2, 3), imported(1, 9, 3)}) == 3
    finally:
        sys.dont_write_bytecode = before
        sys.modules.pop("throughway_journal_module", None)


def test_a_reloaded_function_is_another() -> None:
    calls = Calls()
    namespace: dict[str, Any] = {"__name__": "tests.executors.tasks"}
    before = calls.key(tasks.plus_one, 1) if hasattr(tasks, "plus_one") else calls.key(tasks.worker_pid)
    exec("def worker_pid():\n    return 'other'", namespace)
    entry = calls.table.lookup(tasks.worker_pid)
    after = ContentKeys().key(namespace["worker_pid"], entry, (), {}, *pack_call((), {}))
    assert after != before


def test_what_cannot_be_compared_is_said() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        content_digest({Stubborn()})


@pytest.mark.parametrize(
    "function", [len, str.upper, "text".upper, dict, functools.partial(max, 1), numpy.sum, Path("x").exists]
)
def test_whatever_can_be_called_has_a_key(function: Any) -> None:
    assert key(function) == key(function)
