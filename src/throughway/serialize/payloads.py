"""Arguments and results to a payload and large frames, and back.

The payload is a pickle (protocol 5) that rides in a batch. Buffers of at least `LARGE_FRAME_BYTES` (numpy
arrays and everything else that offers protocol-5 buffers, and ``bytes`` or ``bytearray`` that are arguments
or results themselves) become frames that are views of the user's own memory: nothing is copied here.

What becomes of the frames of arguments is the executor's affair. Where it shares memory with its workers
(`transport.arena`: all of it on one machine) and that has room for all frames of the task, they are copied
into it within ``submit``: what is changed afterwards does not reach the worker, nor a retry. Elsewhere, and
for a task that has no room, they are sent from where they are, and sent again for a retry. Since nobody can
tell which it was, a large mutable argument must not be changed between ``submit`` and the moment in which
its future is running, or with retries done: the worker might see either state, as with
`concurrent.futures.ProcessPoolExecutor`, which pickles later in a thread of its own. Everything below
`LARGE_FRAME_BYTES` is copied at ``submit``.

Large ``bytes`` are recognised as an argument, as the result, and as an item of a result that is a short
tuple, list or dict; deeper ones travel inside the payload, which costs two copies more.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from throughway.errors import DeserializationError
from throughway.serialize.blame import too_large, undecodable, unpicklable
from throughway.serialize.pickling import LARGE_FRAME_BYTES, PROTOCOL, dump

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_SCANNED_ITEMS = 64
"""Items of a result's outermost tuple, list or dict that are looked at for large bytes."""

_SCALARS = frozenset({int, float, str, bool, type(None), complex})
_FLAT = _SCALARS | {bytes, bytearray}

_dumps = pickle.dumps
_loads = pickle.loads

NO_ARGUMENTS = _dumps((), PROTOCOL)
NONE = _dumps(None, PROTOCOL)
"""The payload of a result that is None."""


class LargeBytes:
    """Stands for ``bytes`` or a ``bytearray`` while it is pickled, and sends its buffer as a frame."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        restore = restore_bytes if type(self.value) is bytes else restore_bytearray
        return restore, (pickle.PickleBuffer(self.value),)


def restore_bytes(buffer: Buffer) -> bytes:
    """What a pickled `LargeBytes` calls where it arrives."""
    return bytes(buffer)


def restore_bytearray(buffer: Buffer) -> bytearray:
    """As `restore_bytes`; a frame that came as a bytearray becomes the value itself."""
    return buffer if type(buffer) is bytearray else bytearray(buffer)


ONE_LARGE = dump((LargeBytes(bytes(LARGE_FRAME_BYTES)),), [])
"""The payload of a call with large ``bytes`` as its only argument: they themselves are the frame."""


def pack_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str = "", max_bytes: int | None = None
) -> tuple[bytes, list[memoryview]]:
    """Pickle a call's arguments: the payload and the large frames (flat, contiguous views of bytes).

    Args:
        name: The function's name, for messages.
        max_bytes: Payload and frames together, at most.

    Raises:
        SerializationError: an argument cannot be pickled; names which, and the part of it.
        ResultTooLarge: the arguments take more than ``max_bytes``.
    """
    # the commonest call comes first, and costs little more than the one pickle
    for arg in args:
        if type(arg) not in _SCALARS:
            break
    else:
        if not kwargs or _SCALARS.issuperset(map(type, kwargs.values())):
            try:
                payload = (
                    _dumps([args, kwargs] if kwargs else args, PROTOCOL) if args or kwargs else NO_ARGUMENTS
                )
            except Exception as error:  # no memory
                raise unpicklable([("the arguments", args)], _of(name), error) from error
            if max_bytes is not None and len(payload) > max_bytes:
                raise too_large(f"the arguments{_of(name)}", len(payload), max_bytes)
            return payload, []
    frames: list[memoryview] = []
    if not kwargs and len(args) == 1 and type(args[0]) is bytes and len(args[0]) >= LARGE_FRAME_BYTES:
        frames.append(memoryview(args[0]))
        if max_bytes is not None:
            _check_size(ONE_LARGE, frames, max_bytes, f"the arguments{_of(name)}")
        return ONE_LARGE, frames
    try:
        if (wrapped := _wrap((*args, *kwargs.values()))) is None:
            payload = dump([args, kwargs] if kwargs else args, frames)
        else:
            named = dict(zip(kwargs, wrapped[len(args) :], strict=True))
            positional = tuple(wrapped[: len(args)])
            payload = dump([positional, named] if kwargs else positional, frames)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        parts = [(f"argument {index}", arg) for index, arg in enumerate(args)]
        parts += [(f"argument {key!r}", arg) for key, arg in kwargs.items()]
        failure = unpicklable(parts, _of(name), error)
        raise failure from failure.__cause__
    if max_bytes is not None:
        _check_size(payload, frames, max_bytes, f"the arguments{_of(name)}")
    return payload, frames


def pack_result(
    value: Any, *, name: str = "", max_bytes: int | None = None
) -> tuple[bytes, list[memoryview]]:
    """Pickle a function's return value; as `pack_call`.

    Raises:
        SerializationError: the value cannot be pickled.
        ResultTooLarge: it takes more than ``max_bytes``.
    """
    if value is None:
        return NONE, []
    frames: list[memoryview] = []
    try:
        scalar = type(value) in _SCALARS
        payload = _dumps(value, PROTOCOL) if scalar else dump(_wrap_result(value), frames)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = unpicklable([("the result", value)], _of(name), error)
        raise failure from failure.__cause__
    if max_bytes is not None:
        _check_size(payload, frames, max_bytes, f"the result{_of(name)}")
    return payload, frames


def unpack_call(
    payload: Buffer, frames: Sequence[Buffer] = (), *, name: str = "", owned: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the named arguments of a call. Frames may become the memory of arrays: do not
    reuse them.

    Args:
        name: The function's name, for messages.
        owned: Each frame is read-only exactly where it was with its sender, and nobody else's.

    Raises:
        MissingModule: an argument needs a module that cannot be imported here.
        DeserializationError: an argument cannot be unpickled.
    """
    if payload == NO_ARGUMENTS:
        return (), {}
    try:
        if frames:
            call = _loads(payload, buffers=frames if owned else _writable(frames))
        else:
            call = _loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = undecodable(f"the arguments{_of(name)}", error, at_worker=True)
        raise failure from error
    if type(call) is tuple:
        return call, {}
    if type(call) is not list or len(call) != 2:
        raise DeserializationError(f"the arguments{_of(name)} arrived as {type(call).__qualname__}")
    return call[0], call[1]


def unpack_result(payload: Buffer, frames: Sequence[Buffer] = (), *, name: str = "") -> Any:
    """A function's return value; as `unpack_call`.

    Raises:
        MissingModule: the value needs a module that cannot be imported here.
        DeserializationError: the value cannot be unpickled.
    """
    if payload == NONE:
        return None
    try:
        return _loads(payload, buffers=_writable(frames)) if frames else _loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = undecodable(f"the result{_of(name)}", error, at_worker=False)
        raise failure from error


_CALLS = re.compile(rb"[\x82-\x84\x93]")
"""The opcodes by which a pickle of protocol 5 gets at something to call: EXT1, EXT2, EXT4, STACK_GLOBAL."""


class _Inert(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} may do anything")


def surely_inert(data: Buffer) -> bool:
    """Whether it can be seen at once that pickles in ``data`` run nobody's code as they are loaded."""
    return _CALLS.search(data) is None


def unpack_inert(payload: Buffer) -> Any:
    """As `unpack_result`, for values of the interpreter's own types, which run nobody's code as they are loaded.

    Raises:
        DeserializationError: the value is another, or cannot be unpickled.
    """
    try:
        if surely_inert(payload):
            return _loads(payload)
        if copyreg._inverted_registry:  # type: ignore[attr-defined]
            # What it knows already is found there without asking.
            raise pickle.UnpicklingError("an extension may do anything")
        return _Inert(io.BytesIO(payload)).load()
    except Exception as error:
        raise DeserializationError(f"the result is not plain: {error}") from error


def _of(name: str) -> str:
    return f" of {name!r}" if name else ""


def _writable(frames: Sequence[Buffer]) -> Iterable[Buffer]:
    """Frames as buffers: read-only ones are copied, or arrays made of them could not be changed."""
    return [bytearray(frame) if memoryview(frame).readonly else frame for frame in frames]


def _check_size(payload: bytes, frames: list[memoryview], limit: int, subject: str) -> None:
    size = len(payload) + sum(frame.nbytes for frame in frames)
    if size > limit:
        raise too_large(subject, size, limit)


def _wrap(values: Sequence[Any]) -> list[Any] | None:
    """The values with large bytes wrapped, or None where there are none.

    A bytearray is wrapped only where no container or object is beside it that might hold the same one: it
    must arrive as one object.
    """
    if _BYTES.isdisjoint(map(type, values)):
        return None
    large = [value for value in values if type(value) in _BYTES and len(value) >= LARGE_FRAME_BYTES]
    if not large:
        return None
    flat = all(type(value) in _FLAT for value in values)
    wrappers = {id(value): LargeBytes(value) for value in large if flat or type(value) is bytes}
    return [wrappers.get(id(value), value) for value in values]


_BYTES = frozenset({bytes, bytearray})


def _wrap_result(value: Any) -> Any:
    kind = type(value)
    if kind in _BYTES:
        return LargeBytes(value) if len(value) >= LARGE_FRAME_BYTES else value
    if kind not in _CONTAINERS or len(value) > MAX_SCANNED_ITEMS:
        return value
    items = list(value.values()) if kind is dict else value
    # a list or dict may contain itself: it can be replaced by another only where it holds nothing but flat
    # values
    if kind is not tuple and not all(type(item) in _FLAT for item in items):
        return value
    wrapped = _wrap(items)
    if wrapped is None:
        return value
    return dict(zip(value, wrapped, strict=True)) if kind is dict else kind(wrapped)


_CONTAINERS = frozenset({tuple, list, dict})
