from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughway.errors import DeserializationError, MissingModule, SerializationError
from throughway.serialize.exceptions import (
    MAX_MESSAGE_BYTES,
    MAX_TRACEBACK_BYTES,
    ExceptionContext,
    ExceptionRecord,
    RemoteTraceback,
    pack_exception,
    unpack_exception,
)
from throughway.serialize.payloads import unpack_call

from . import fresh

CONTEXT = ExceptionContext(task="f", task_id=17, host="nid001", manager="ab12", worker=3)
NOTE = "task 'f' (17) on host nid001, manager ab12, worker 3"


def raised(function: Callable[..., Any], *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def through(exc: BaseException, **limits: int) -> BaseException:
    return unpack_exception(pack_exception(exc, context=CONTEXT, **limits))


def remote(exc: BaseException) -> str:
    assert type(exc.__cause__) is RemoteTraceback
    return str(exc.__cause__)


class Coded(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Holder(Exception):
    def __init__(self, value: object) -> None:
        super().__init__(value)


class Broken(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


@dataclass(frozen=True)
class Frozen(Exception):
    value: int

    def __reduce__(self) -> Any:
        return Frozen, (self.value,)


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name == "__notes__":
            raise ZeroDivisionError
        return super().__getattribute__(name)


class BecomesText(Exception):
    def __reduce__(self) -> Any:
        return str, ("text",)


def divide(x: int) -> float:
    return x / 0


def test_an_exception_arrives_as_itself_with_traceback_and_note() -> None:
    exc = through(raised(divide, 1))
    assert type(exc) is ZeroDivisionError
    assert exc.args == ("division by zero",)
    assert exc.__notes__ == [NOTE]
    text = remote(exc)
    assert NOTE in text
    assert "return x / 0" in text
    assert "in divide" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    printed = "".join(traceback.format_exception(exc))
    assert "return x / 0" in printed
    assert printed.index("return x / 0") < printed.index("direct cause") < printed.rindex(NOTE)


def test_throughways_own_frames_are_left_out() -> None:
    error = raised(unpack_call, b"garbage")
    assert "payloads.py" in "".join(traceback.format_exception(error))

    def outer() -> None:
        unpack_call(b"garbage")

    text = remote(through(raised(outer)))
    assert "in outer" in text


def test_attributes_and_arguments_survive() -> None:
    error = OSError(2, "no such file", "/x")
    error.extra = [1]  # type: ignore[attr-defined]
    exc = through(error)
    assert type(exc) is FileNotFoundError
    assert (exc.errno, exc.filename, exc.extra) == (2, "/x", [1])  # type: ignore[attr-defined]


def test_notes_that_were_there_are_kept() -> None:
    error = ValueError("x")
    error.add_note("first")
    assert through(error).__notes__ == ["first", NOTE]
    assert error.__notes__ == ["first"]


@pytest.mark.parametrize(
    ("context", "note"),
    [
        (ExceptionContext(), "task"),
        (ExceptionContext(task="f", host="h"), "task 'f' on host h"),
        (ExceptionContext(task_id=0, worker=0), "task (0) on worker 0"),
    ],
)
def test_the_note_leaves_out_what_is_not_known(context: ExceptionContext, note: str) -> None:
    assert unpack_exception(pack_exception(ValueError(), context=context)).__notes__ == [note]


def test_the_chain_is_in_the_text_and_in_the_context() -> None:
    def chained() -> None:
        try:
            try:
                divide(1)
            except ZeroDivisionError as error:
                raise KeyError("inner") from error
        except KeyError:
            raise ValueError("outer")  # noqa: B904

    exc = through(raised(chained))
    text = remote(exc)
    assert "direct cause" in text
    assert "During handling" in text
    assert text.index("ZeroDivisionError") < text.index("KeyError: 'inner'") < text.index("ValueError: outer")
    assert repr(exc.__context__) == "KeyError('inner')"
    assert type(exc.__context__.__context__) is ZeroDivisionError  # type: ignore[union-attr]
    printed = "".join(traceback.format_exception(exc))
    assert printed.count("KeyError: 'inner'") == 1, "the chain is printed once, from the text"


def test_a_suppressed_context_stays_out() -> None:
    def suppressed() -> None:
        try:
            divide(1)
        except ZeroDivisionError:
            raise ValueError("outer") from None

    exc = through(raised(suppressed))
    assert exc.__context__ is None
    assert "ZeroDivisionError" not in remote(exc)


def test_a_chain_that_is_a_circle_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    exc = through(one)
    assert repr(exc.__context__) == "ValueError('other')"


def test_a_chain_that_cannot_travel_is_in_the_text() -> None:
    error = ValueError("outer")
    error.__cause__ = Holder(threading.Lock())
    exc = through(error)
    assert type(exc) is ValueError
    assert exc.__context__ is None
    assert "Holder" in remote(exc)


def test_groups_bring_their_members() -> None:
    group = ExceptionGroup("several", [ValueError("a"), raised(divide, 1)])  # type: ignore[type-var]
    exc = through(group)
    assert isinstance(exc, ExceptionGroup)
    assert [type(member) for member in exc.exceptions] == [ValueError, ZeroDivisionError]
    assert "return x / 0" in remote(exc)


def test_a_local_exception_class_goes_by_value() -> None:
    class Local(Exception):
        pass

    exc = through(Local("x"))
    assert type(exc) is Local


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("x")])
def test_base_exceptions_travel_too(error: BaseException) -> None:
    assert type(through(error)) is type(error)


# ------------------------------------------------------------------------------------ what cannot travel


def test_an_exception_that_cannot_be_pickled() -> None:
    exc = through(raised(lambda: fail(Holder({"lock": threading.Lock()}))))
    assert type(exc) is SerializationError
    for part in (
        f"{__name__}.Holder",
        "lock",
        "it.args[0]['lock'] cannot be pickled",
        "cannot pickle '_thread.lock'",
    ):
        assert part in str(exc)
    assert "Holder" in remote(exc)
    assert "in fail" in remote(exc)
    assert exc.__notes__ == [NOTE]


def fail(error: BaseException) -> None:
    raise error


def test_an_exception_that_cannot_be_unpickled() -> None:
    exc = through(raised(fail, Coded(7, "gone")))
    assert type(exc) is DeserializationError
    for part in (f"{__name__}.Coded: 7: gone", "missing 1 required positional argument", "__reduce__", NOTE):
        assert part in str(exc)
    assert "7: gone" in remote(exc)


def test_an_argument_of_a_builtin_exception_is_tried_too() -> None:
    exc = through(ValueError(Coded(1, "x")))
    assert type(exc) is DeserializationError
    assert "ValueError: 1: x" in str(exc)


def test_an_exception_that_pickles_to_something_else() -> None:
    exc = through(BecomesText("x"))
    assert type(exc) is DeserializationError
    assert "makes a str" in str(exc)
    record = msgspec.msgpack.decode(pack_exception(ValueError(), context=CONTEXT), type=ExceptionRecord)
    record.pickled = pickle.dumps("text")
    exc = unpack_exception(msgspec.msgpack.encode(record))
    assert type(exc) is DeserializationError
    assert "makes a str" in str(exc)


def test_an_exception_with_a_broken_str() -> None:
    exc = through(raised(fail, Broken("x")))
    assert type(exc) is Broken
    assert "Broken" in remote(exc)
    exc = through(Broken(threading.Lock()))
    assert type(exc) is SerializationError
    assert f"{__name__}.Broken" in str(exc)


def test_an_exception_that_forbids_attributes() -> None:
    exc = through(Frozen(3))
    assert exc == Frozen(3)
    assert exc.__notes__ == [NOTE]
    assert type(exc.__cause__) is RemoteTraceback


def test_an_exception_whose_attributes_raise() -> None:
    exc = through(NoAttributes("x"))
    assert type(exc) is DeserializationError
    assert "NoAttributes: x" in str(exc)
    assert "NoAttributes: x" in remote(exc)


def test_an_exception_of_a_module_that_is_missing_here(tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Failure(Exception): pass\n")
    source = (
        "import sys, only_there\n"
        "from throughway.serialize.exceptions import *\n"
        "try:\n    try: 1 / 0\n    finally: raise only_there.Failure('why')\n"
        "except Exception as error: record = pack_exception(error, context=ExceptionContext(host='there'))\n"
        "sys.stdout.buffer.write(record)"
    )
    exc = unpack_exception(fresh.run(["-c", source], path=str(tmp_path)))
    assert type(exc) is DeserializationError
    assert "only_there.Failure: why" in str(exc)
    assert "no module named 'only_there'" in str(exc)
    assert "only_there.Failure: why" in remote(exc)
    assert type(exc.__context__) is ZeroDivisionError


def test_an_exception_of_a_script_comes_home_as_itself(tmp_path: Path) -> None:
    source = """
import subprocess, sys
from throughway.serialize.exceptions import unpack_exception
from throughway.serialize.functions import FunctionTable

class Mine(Exception):
    pass

def f():
    raise Mine("told")

worker = '''
import sys
from throughway.serialize.exceptions import ExceptionContext, pack_exception
from throughway.serialize.functions import load_function
function = load_function(sys.stdin.buffer.read())
try:
    function()
except Exception as error:
    sys.stdout.buffer.write(pack_exception(error, context=ExceptionContext()))
'''
payload = FunctionTable().lookup(f).function.payload
record = subprocess.run([sys.executable, "-c", worker], input=payload, capture_output=True, check=True).stdout
try:
    raise unpack_exception(record)
except Mine as error:
    assert 'raise Mine("told")' in str(error.__cause__), error.__cause__
    sys.stdout.write("mine")
"""
    assert fresh.run_script(tmp_path, source) == b"mine"


def test_our_own_errors_travel() -> None:
    error = raised(unpack_call, b"\x80\x05\x8c\x0fno_such_module_\x94\x8c\x01f\x94\x93\x94.")
    exc = through(error)
    assert type(exc) is MissingModule
    assert exc.name == "no_such_module_"
    assert type(exc.__context__) is ModuleNotFoundError


# ------------------------------------------------------------------------------------------------- bounds


def test_a_long_traceback_is_cut_in_its_middle() -> None:
    exc = through(ValueError("a" * 100_000 + "z"))
    assert str(exc) == "a" * 100_000 + "z", "the exception itself is whole"
    text = remote(exc)
    assert len(text) < MAX_TRACEBACK_BYTES + 500
    assert "bytes left out" in text
    assert text.endswith("aaz\n")


def test_a_long_message_is_cut() -> None:
    record = pack_exception(Holder((threading.Lock(), "x" * 1_000_000)), context=CONTEXT)
    assert len(record) < MAX_TRACEBACK_BYTES + 2 * MAX_MESSAGE_BYTES + 2000
    assert type(unpack_exception(record)) is SerializationError


def test_deep_recursion_is_told_briefly() -> None:
    def down(x: int) -> int:
        return down(x + 1) + 1

    exc = through(raised(down, 0))
    assert type(exc) is RecursionError
    assert len(remote(exc)) < 4000


def test_an_exception_beyond_the_limit_travels_as_text() -> None:
    exc = through(raised(fail, ValueError("x" * 5000)), max_bytes=2000)
    assert type(exc) is SerializationError
    assert "where 2,000 are allowed" in str(exc)
    assert "ValueError: xxx" in str(exc)
    assert "in fail" in remote(exc)


def test_text_that_is_not_unicode_travels() -> None:
    exc = through(ValueError("bad \udcff name"))
    assert str(exc) == "bad \udcff name"
    assert "bad \\udcff name" in remote(exc)


@given(st.binary())
def test_garbage_never_raises(data: bytes) -> None:
    exc = unpack_exception(data)
    assert type(exc) is DeserializationError
    assert "malformed record" in str(exc)


@given(st.integers(0, 400), st.integers(0, 255))
def test_damage_never_raises(position: int, value: int) -> None:
    record = bytearray(pack_exception(ValueError("x"), context=CONTEXT))
    record[position % len(record)] = value
    assert isinstance(unpack_exception(bytes(record)), BaseException)
    assert isinstance(unpack_exception(record[: position % len(record)]), DeserializationError)


def test_a_remote_traceback_pickles() -> None:
    again = pickle.loads(pickle.dumps(RemoteTraceback("text")))
    assert str(again) == again.text == "text"
