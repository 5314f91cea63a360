from __future__ import annotations

import copyreg
import datetime
import json
import pickle
import threading
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughway.errors import DeserializationError, MissingModule, ResultTooLarge, SerializationError
from throughway.serialize.payloads import (
    MAX_SCANNED_ITEMS,
    NONE,
    ONE_LARGE,
    LargeBytes,
    pack_call,
    pack_result,
    surely_inert,
    unpack_call,
    unpack_inert,
    unpack_result,
)
from throughway.serialize.pickling import LARGE_FRAME_BYTES, dump

from . import fresh


def sent(frames: list[memoryview]) -> list[bytearray]:
    """Frames as they arrive: other memory, writable."""
    return [bytearray(frame) for frame in frames]


def through(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    payload, frames = pack_call(args, kwargs)
    return unpack_call(payload, sent(frames))


def back(value: Any) -> Any:
    payload, frames = pack_result(value)
    return unpack_result(payload, sent(frames))


@dataclass
class Point:
    x: int
    data: Any = None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.builds(Point, st.integers(), inner)
        | st.builds(bytearray, st.binary())
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(values).map(tuple), st.dictionaries(st.text(), values))
def test_arguments_round_trip(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert through(*args) == (args, {})
    payload, frames = pack_call(args, kwargs)
    assert unpack_call(payload, sent(frames)) == (args, kwargs)


@settings(max_examples=150, deadline=None)
@given(values)
def test_results_round_trip(value: Any) -> None:
    again = back(value)
    assert again == value
    assert type(again) is type(value)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=6))
def test_arrays_and_bytes_around_the_limit_round_trip(offsets: list[int]) -> None:
    sizes = [LARGE_FRAME_BYTES + offset for offset in offsets]
    args: tuple[Any, ...] = tuple(
        [np.full(size, 7, dtype=np.uint8), bytes(size), bytearray(size)][index % 3]
        for index, size in enumerate(sizes)
    )
    payload, frames = pack_call(args, {})
    assert all(frame.nbytes >= LARGE_FRAME_BYTES for frame in frames)
    again, _ = unpack_call(payload, sent(frames))
    assert [type(value) for value in again] == [type(value) for value in args]
    assert all(bytes(one) == bytes(other) for one, other in zip(again, args, strict=True))


def test_scalars_do_not_need_frames() -> None:
    payload, frames = pack_call((1, "a", None, 2.5, True), {})
    assert frames == []
    assert len(payload) < 60
    assert unpack_call(payload) == ((1, "a", None, 2.5, True), {})


def test_none_is_a_constant() -> None:
    assert pack_result(None) == (NONE, [])
    assert unpack_result(bytes(bytearray(NONE))) is None
    assert unpack_result(memoryview(NONE)) is None


def test_a_large_array_is_a_view_of_the_users_memory() -> None:
    array = np.arange(100_000, dtype=np.float64).reshape(100, 1000)
    payload, frames = pack_call((array, 1), {})
    assert len(payload) < 1000
    (frame,) = frames
    assert (frame.nbytes, frame.format, frame.ndim, frame.contiguous) == (array.nbytes, "B", 1, True)
    assert np.shares_memory(np.frombuffer(frame, dtype=np.float64), array)
    (again, one), _ = unpack_call(payload, sent(frames))
    assert one == 1
    assert (again == array).all()


def test_fortran_order_travels_as_a_frame_and_strided_arrays_in_band() -> None:
    fortran = np.asfortranarray(np.arange(90_000).reshape(300, 300))
    strided = np.arange(200_000)[::2]
    payload, frames = pack_call((fortran, strided), {})
    assert len(frames) == 1
    (one, other), _ = unpack_call(payload, sent(frames))
    assert (one == fortran).all()
    assert one.flags.f_contiguous
    assert (other == strided).all()


@pytest.mark.parametrize("size", [10, LARGE_FRAME_BYTES, LARGE_FRAME_BYTES * 3])
@pytest.mark.parametrize("frame_type", [bytes, bytearray, memoryview])
def test_arrays_arrive_writable(size: int, frame_type: Any) -> None:
    payload, frames = pack_result(np.zeros(size, dtype=np.uint8))
    array = unpack_result(payload, [frame_type(bytes(frame)) for frame in frames])
    array[0] = 9
    assert array[0] == 9


def test_an_array_uses_the_frame_it_arrived_in() -> None:
    payload, frames = pack_result(np.zeros(LARGE_FRAME_BYTES, dtype=np.uint8))
    arrived = sent(frames)
    array = unpack_result(payload, arrived)
    assert np.shares_memory(array, np.frombuffer(arrived[0], dtype=np.uint8))


def test_a_read_only_array_stays_read_only() -> None:
    array = np.zeros(LARGE_FRAME_BYTES, dtype=np.uint8)
    array.setflags(write=False)
    assert not back(array).flags.writeable


def test_large_bytes_are_not_copied() -> None:
    data = bytes(1 << 20)
    payload, frames = pack_call((data,), {"more": data})
    assert len(frames) == 1, "the same bytes twice travel once"
    assert frames[0].obj is data
    assert len(payload) < 300
    assert unpack_call(payload, sent(frames)) == ((data,), {"more": data})


class Marked(bytes):
    """Bytes that are more than bytes."""

    mark = "kept"


@pytest.mark.parametrize("size", [LARGE_FRAME_BYTES, LARGE_FRAME_BYTES + 1, 1 << 20])
def test_large_bytes_as_the_only_argument_cost_no_pickling(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    payload, frames = pack_call((data,), {})
    assert payload is ONE_LARGE
    assert (len(frames), frames[0].obj, frames[0].readonly) == (1, data, True)
    general: list[memoryview] = []
    assert dump((LargeBytes(data),), general) == payload, "as if it had been pickled"
    assert general == frames
    assert unpack_call(payload, sent(frames)) == ((data,), {})
    arrived = [bytes(frames[0])]
    (again,), named = unpack_call(payload, arrived, owned=True)
    assert again is arrived[0], "what is owned is not copied"
    assert named == {}


@pytest.mark.parametrize(
    "call",
    [
        ((bytes(LARGE_FRAME_BYTES - 1),), {}),
        ((bytearray(LARGE_FRAME_BYTES),), {}),
        ((Marked(bytes(LARGE_FRAME_BYTES)),), {}),
        ((), {"data": bytes(LARGE_FRAME_BYTES)}),
        ((bytes(LARGE_FRAME_BYTES),), {"more": 1}),
        ((bytes(LARGE_FRAME_BYTES), 1), {}),
        (([bytes(LARGE_FRAME_BYTES)],), {}),
    ],
    ids=["small", "bytearray", "subclass", "named", "with named", "two", "inside"],
)
def test_what_is_not_only_large_bytes_is_pickled(call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    payload, frames = pack_call(*call)
    assert payload != ONE_LARGE
    args, named = unpack_call(payload, sent(frames))
    assert (args, named) == call
    assert [type(arg) for arg in args] == [type(arg) for arg in call[0]]


def test_the_limit_of_large_bytes_as_the_only_argument() -> None:
    data = bytes(LARGE_FRAME_BYTES)
    limit = len(ONE_LARGE) + len(data)
    assert pack_call((data,), {}, max_bytes=limit) == (ONE_LARGE, [memoryview(data)])
    with pytest.raises(ResultTooLarge, match=rf"the arguments of 'f': {limit:,} bytes.*max_payload_bytes"):
        pack_call((data,), {}, name="f", max_bytes=limit - 1)


def test_owned_frames_are_used_as_they_are() -> None:
    fixed = np.arange(LARGE_FRAME_BYTES, dtype=np.uint8)
    fixed.setflags(write=False)
    loose, text, growing = fixed.copy(), bytes(LARGE_FRAME_BYTES), bytearray(LARGE_FRAME_BYTES)
    payload, frames = pack_call((fixed, loose), {"text": text})
    arrived = [bytes(frame) if frame.readonly else bytearray(frame) for frame in frames]
    assert [type(frame) for frame in arrived] == [bytes, bytearray, bytes]
    (one, other), named = unpack_call(payload, arrived, owned=True)
    assert np.shares_memory(one, np.frombuffer(arrived[0], dtype=np.uint8)), "not copied"
    assert np.shares_memory(other, np.frombuffer(arrived[1], dtype=np.uint8)), "not copied"
    assert named["text"] is arrived[2]
    assert (one.flags.writeable, other.flags.writeable) == (False, True)
    assert (one == fixed).all()
    payload, frames = pack_call((growing,), {})
    owned = [bytearray(frames[0])]
    (again,), _ = unpack_call(payload, owned, owned=True)
    assert again is owned[0]


def test_a_large_bytearray_becomes_the_frame_it_arrived_in() -> None:
    data = bytearray(LARGE_FRAME_BYTES)
    payload, frames = pack_result(data)
    assert frames[0].obj is data
    arrived = sent(frames)
    assert unpack_result(payload, arrived) is arrived[0]
    assert type(unpack_result(payload, [bytes(arrived[0])])) is bytearray


def test_a_bytearray_that_is_passed_twice_arrives_as_one_object() -> None:
    data = bytearray(LARGE_FRAME_BYTES)
    (one, other), named = through(data, data, third=data)
    assert one is other is named["third"]
    (one, holder), _ = through(data, [data])
    assert one is holder[0]


@pytest.mark.parametrize(
    "result",
    [
        (bytes(LARGE_FRAME_BYTES), 1),
        [b"small", bytes(LARGE_FRAME_BYTES)],
        {"body": bytes(LARGE_FRAME_BYTES), "status": 200},
    ],
)
def test_large_bytes_inside_a_result_travel_as_frames(result: Any) -> None:
    payload, frames = pack_result(result)
    assert len(frames) == 1
    assert len(payload) < 300
    assert back(result) == result


def test_a_list_that_contains_itself_survives() -> None:
    loop: list[Any] = [bytes(LARGE_FRAME_BYTES)]
    loop.append(loop)
    again = back(loop)
    assert again[1] is again
    assert again[0] == loop[0]


def test_long_containers_are_not_scanned() -> None:
    result = [bytes(LARGE_FRAME_BYTES)] + [0] * MAX_SCANNED_ITEMS
    assert pack_result(result)[1] == []
    assert back(result) == result


def test_large_bytes_is_a_stand_in_for_either_type() -> None:
    assert pickle.loads(pickle.dumps(LargeBytes(b"ab"), 5)) == b"ab"
    assert pickle.loads(pickle.dumps(LargeBytes(bytearray(b"ab")), 5)) == bytearray(b"ab")


# ------------------------------------------------------------------------------------- what goes by value


MAIN = """
import sys, functools, pickle, typing, enum
from dataclasses import dataclass
from throughway.serialize.payloads import pack_call

FACTOR = 3

class Plain:
    def __init__(self, x): self.x = x
    def scaled(self): return self.x * FACTOR

@dataclass
class Data:
    x: int

class Colour(enum.Enum):
    RED = 1

@functools.lru_cache(maxsize=None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

UserId = typing.NewType("UserId", int)

def helper(x): return x + FACTOR

payload, frames = pack_call(
    (Plain(2), Data(4), Colour.RED, fib, helper, lambda x: helper(x), Plain, UserId),
    {"deep": [{"p": Plain(5)}]},
)
assert not frames
sys.stdout.buffer.write(payload)
"""

ARRIVED = """
import json, sys
from throughway.serialize.payloads import unpack_call
args, kwargs = unpack_call(sys.stdin.buffer.read())
plain, data, red, fib, helper, function, Plain, UserId = args
json.dump([
    plain.scaled(), data.x, red.name, red is type(red).RED, fib(30), fib.cache_info().currsize, helper(1),
    function(2), Plain(7).scaled(), UserId(3), kwargs["deep"][0]["p"].scaled(), isinstance(plain, Plain),
], sys.stdout)
"""


def test_what_the_main_script_defines_arrives_in_another_process(tmp_path: Path) -> None:
    payload = fresh.run_script(tmp_path, MAIN)
    told = json.loads(fresh.run(["-c", ARRIVED], payload))
    assert told == [6, 4, "RED", True, 832040, 31, 4, 5, 21, 3, 15, True]


ROUND = """
import subprocess, sys
from throughway.serialize.payloads import pack_call, unpack_result

COUNT = 1
class Counter:
    def __init__(self, x): self.x = x
    def read(self): return self.x + COUNT

payload, _ = pack_call((Counter(5),), {})
worker = '''
import sys
from throughway.serialize.payloads import unpack_call, pack_result
args, _ = unpack_call(sys.stdin.buffer.read())
args[0].x += 1
sys.stdout.buffer.write(pack_result(args[0])[0])
'''
done = subprocess.run([sys.executable, "-c", worker], input=payload, capture_output=True, check=True)
read = Counter.read
again = unpack_result(done.stdout)
COUNT = 100
assert type(again) is Counter
assert Counter.read is read
assert again.read() == 106, again.read()
sys.stdout.write("same")
"""


def test_a_class_that_comes_home_stays_as_it_is(tmp_path: Path) -> None:
    assert fresh.run_script(tmp_path, ROUND) == b"same"


UPDATE = """
import subprocess, sys
from throughway.serialize.payloads import pack_call

class Setting:
    value = 1

first, _ = pack_call((Setting,), {})
Setting.value = 2
second, _ = pack_call((Setting,), {})
worker = '''
import pickle, sys
from throughway.serialize.payloads import unpack_call
first, second = pickle.loads(sys.stdin.buffer.read())
(one,), _ = unpack_call(first)
before = one.value
(other,), _ = unpack_call(second)
print(before, one is other, one.value)
'''
import pickle
print(subprocess.run(
    [sys.executable, "-c", worker], input=pickle.dumps((first, second)), capture_output=True, check=True
).stdout.decode())
"""


def test_a_class_that_changed_is_changed_where_it_arrives_again(tmp_path: Path) -> None:
    assert fresh.run_script(tmp_path, UPDATE).split() == [b"1", b"True", b"2"]


def test_local_classes_and_lambdas_go_by_value() -> None:
    class Local:
        def double(self, x: int) -> int:
            return 2 * x

    (instance, function), _ = through(Local(), lambda x: x + 1)
    assert instance.double(4) == 8
    assert function(1) == 2


def test_importable_instances_go_by_reference() -> None:
    payload, _ = pack_call((Point(1),), {})
    assert len(payload) < 120
    assert through(Point(1)) == ((Point(1),), {})


def test_text_that_mentions_the_main_script_is_only_text() -> None:
    assert through(["__main__", "__mp_main__"]) == ((["__main__", "__mp_main__"],), {})


def test_a_new_type_of_an_importable_module_goes_by_reference() -> None:
    assert back([Identifier])[0] is Identifier


Identifier = typing.NewType("Identifier", int)


# ------------------------------------------------------------------------------------------------- errors


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def fail(error_type: type[BaseException], *args: Any) -> Any:
    raise error_type(*args)


class FailsToLoad:
    def __init__(self, error_type: type[BaseException], *args: Any) -> None:
        self.told = (error_type, *args)

    def __reduce__(self) -> Any:
        return fail, self.told


def test_the_error_names_the_argument_and_the_path_inside_it() -> None:
    with pytest.raises(
        SerializationError, match=r"argument 1\['lock'\]\[0\] of 'f' cannot.*_thread.lock"
    ) as info:
        pack_call((1, {"a": 2, "lock": [threading.Lock()]}), {}, name="f")
    assert isinstance(info.value.__cause__, TypeError)


def test_the_error_names_a_named_argument_and_an_attribute() -> None:
    with pytest.raises(SerializationError, match=r"argument 'handle'\.data\[1\] of 'f'"):
        pack_call((), {"ok": 1, "handle": Point(1, [0, threading.Lock()])}, name="f")


def test_the_error_names_a_closure_variable() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"closure variable 'lock' of argument 0"):
        pack_call((lambda: lock,), {})


def test_a_generator_is_refused_with_the_remedy() -> None:
    with pytest.raises(SerializationError, match=r"the result of 'f' cannot be pickled.*make a list"):
        pack_result((x for x in range(3)), name="f")
    with pytest.raises(SerializationError, match=r"the result\[1\] of 'f'"):
        pack_result([1, (x for x in range(3))], name="f")


def test_an_open_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file, pytest.raises(SerializationError, match="send its path"):
        pack_call((file,), {})


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError("deep"), SystemExit(3)])
def test_whatever_reduce_raises_is_wrapped(error: BaseException) -> None:
    for pack in (lambda: pack_call((Refuses(error),), {}), lambda: pack_result(Refuses(error))):
        with pytest.raises(SerializationError, match=type(error).__name__) as info:
            pack()
        assert info.value.__cause__ is error


def test_a_keyboard_interrupt_is_not_wrapped() -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_call((Refuses(KeyboardInterrupt()),), {})
    with pytest.raises(KeyboardInterrupt):
        unpack_call(pack_call((FailsToLoad(KeyboardInterrupt),), {})[0])


def test_too_deep_structures_are_an_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError):
        pack_result(deep)


def test_a_culprit_that_breaks_while_it_is_looked_for_does_not_hide_the_error() -> None:
    class Nasty(dict[str, int]):
        def items(self) -> Any:
            raise ZeroDivisionError

        def __reduce__(self) -> Any:
            raise ValueError("no")

    with pytest.raises(SerializationError, match=r"argument 0 cannot be pickled: ValueError: no"):
        pack_call((Nasty(),), {})


def test_a_missing_module_is_named_with_the_host_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Thing: pass\n")
    source = "import sys, only_there; from throughway.serialize.payloads import pack_call\n"
    source += "sys.stdout.buffer.write(pack_call((only_there.Thing(),), {})[0])"
    payload = fresh.run(["-c", source], path=str(tmp_path))
    with pytest.raises(MissingModule) as info:
        unpack_call(payload, name="f")
    assert info.value.name == "only_there"
    assert isinstance(info.value.__cause__, ModuleNotFoundError)
    for part in ("'only_there'", "'f'", "host ", "PYTHONPATH", "worker_init"):
        assert part in str(info.value)
    with pytest.raises(MissingModule, match="where tasks are submitted"):
        unpack_result(payload)


def test_a_missing_attribute_is_a_deserialization_error() -> None:
    payload = pickle.dumps((Point,), 5).replace(b"Point", b"Joint")
    with pytest.raises(DeserializationError, match=r"Joint.*another version") as info:
        unpack_call(payload)
    assert not isinstance(info.value, MissingModule)
    frameless = b"\x80\x05\x8c\x08__main__\x94\x8c\x05Ghost\x94\x93\x94\x85\x94."
    with pytest.raises(DeserializationError, match=r"Ghost.*a module of its own"):
        unpack_call(frameless)


@pytest.mark.parametrize("error", [ValueError, MemoryError, RecursionError, SystemExit, ImportError])
def test_whatever_unpickling_raises_is_wrapped(error: type[BaseException]) -> None:
    payload, _ = pack_call((FailsToLoad(error, "text"),), {})
    for unpack in (unpack_call, unpack_result):
        with pytest.raises(DeserializationError, match=f"{error.__name__}: text") as info:
            unpack(payload)
        assert type(info.value.__cause__) is error
        assert not isinstance(info.value, MissingModule)


@pytest.mark.parametrize("payload", [b"", b"\x80", b"garbage", pickle.dumps({"not": "a call"})])
def test_garbage_is_a_deserialization_error(payload: bytes) -> None:
    with pytest.raises(DeserializationError):
        unpack_call(payload, name="f")


def test_a_missing_frame_is_a_deserialization_error() -> None:
    payload, _ = pack_result(np.zeros(LARGE_FRAME_BYTES))
    with pytest.raises(DeserializationError):
        unpack_result(payload)


def test_the_size_limit_counts_payload_and_frames() -> None:
    data = bytes(LARGE_FRAME_BYTES)
    assert pack_call((data,), {}, max_bytes=LARGE_FRAME_BYTES + 500)[1]
    with pytest.raises(
        ResultTooLarge, match=r"the arguments of 'f': 16,\d+ bytes.*16,384.*max_payload_bytes"
    ):
        pack_call((data,), {}, name="f", max_bytes=LARGE_FRAME_BYTES)
    with pytest.raises(ResultTooLarge, match=r"the result of 'f'.*max_payload_bytes"):
        pack_result(np.zeros(LARGE_FRAME_BYTES), name="f", max_bytes=1000)
    with pytest.raises(ResultTooLarge, match=r"the arguments of 'f'"):
        pack_call(("x" * 200,), {}, name="f", max_bytes=100)
    with pytest.raises(ResultTooLarge, match=r"the result"):
        pack_result("x" * 200, max_bytes=100)


def test_the_package_needs_neither_zmq_nor_psutil() -> None:
    source = (
        "import sys; import throughway.serialize.payloads, throughway.serialize.functions, "
        "throughway.serialize.exceptions; print([m for m in ('zmq', 'psutil', 'numpy') if m in sys.modules])"
    )
    assert fresh.run(["-c", source]).strip() == b"[]"


def test_the_main_module_of_a_spawned_process_goes_by_value(tmp_path: Path) -> None:
    source = """
import multiprocessing, sys
from throughway.serialize.payloads import pack_call

class Thing:
    value = 7

def child(queue):
    assert Thing.__module__ == "__mp_main__"
    queue.put(pack_call((Thing(),), {})[0])

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    sys.stdout.buffer.write(queue.get())
    process.join()
"""
    payload = fresh.run_script(tmp_path, source)
    assert unpack_call(payload)[0][0].value == 7


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(1 << 70),
        0.1,
        "\u201cquoted\u201d \U0001f600",
        b"\x82\x83\x84\x93",
        [1, (2.0, {"a": {3}})],
        frozenset("ab"),
    ],
)
def test_plain_values_are_loaded_without_calling_anything(value: object) -> None:
    payload, _ = pack_result(value)
    assert unpack_inert(payload) == value
    assert type(unpack_inert(payload)) is type(value)


@pytest.mark.parametrize(
    "value", [1j, range(3), ValueError("x"), len, int, [Path("/")], {"a": datetime.date(2026, 1, 1)}]
)
def test_values_that_call_something_as_they_are_loaded_are_not_inert(value: object) -> None:
    payload, _ = pack_result(value)
    assert not surely_inert(payload)
    with pytest.raises(DeserializationError, match=r"the result is not plain: .* may do anything"):
        unpack_inert(payload)
    assert repr(unpack_result(payload)) == repr(value)


def test_codes_of_the_extension_registry_are_not_inert() -> None:
    for number in (240, 60_000, 1 << 20):
        copyreg.add_extension(__name__, "by_extension", number)
        try:
            payload = pickle.dumps(by_extension, 5)
            assert not surely_inert(payload)
            for _ in range(2):
                with pytest.raises(DeserializationError, match="is not plain"):
                    unpack_inert(payload)
                assert pickle.loads(payload) is by_extension  # and from now on it is known
        finally:
            copyreg.remove_extension(__name__, "by_extension", number)


def by_extension() -> None:
    """Pickled by its code where it has one."""
