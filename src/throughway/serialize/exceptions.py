"""Exceptions that a task raised, on their way from the worker to the user's future.

A record is a MessagePack struct: the pickled exception, what can be told about it as text, and where it was
raised. The text is enough where the exception itself cannot travel or cannot be made again on the other
side.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import traceback
from types import TracebackType

import msgspec

from throughway.errors import DeserializationError, SerializationError
from throughway.serialize.blame import undecodable, unpicklable
from throughway.serialize.pickling import dump

MAX_TRACEBACK_BYTES = 65536
"""A longer traceback is cut in its middle."""

MAX_MESSAGE_BYTES = 8192
"""A longer ``str`` or ``repr`` of an exception is cut in its middle, where it stands for the exception."""

MAX_RECORD_BYTES = 16 << 20
"""An exception whose pickle is longer travels as text only."""

MAX_CHAIN = 16
"""Causes and contexts of an exception that travel with it; the text has all of them."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_SCALARS = frozenset({int, float, str, bool, type(None), bytes})


class ExceptionContext(msgspec.Struct, array_like=True, frozen=True):
    """Where an exception was raised."""

    task: str = ""
    """the function's name"""
    task_id: int = -1
    host: str = ""
    manager: str = ""
    worker: int = -1
    log: str = ""
    """the path, on that host, of the file that has what the task printed"""

    def note(self) -> str:
        """``"task 'f' (17) on host nid001, manager ab12, worker 3, log /a/worker-3.log"``, of what is known."""
        name = f" {self.task!r}" if self.task else ""
        number = f" ({self.task_id})" if self.task_id >= 0 else ""
        places = [
            f"host {self.host}" if self.host else "",
            f"manager {self.manager}" if self.manager else "",
            f"worker {self.worker}" if self.worker >= 0 else "",
            f"log {self.log}" if self.log else "",
        ]
        where = ", ".join(place for place in places if place)
        return f"task{name}{number}" + (f" on {where}" if where else "")


class ExceptionRecord(msgspec.Struct, array_like=True):
    """An exception as it travels."""

    context: ExceptionContext
    pickled: bytes
    """empty where it cannot travel, which `reason` then explains"""
    type: str
    """its module's and qualified name"""
    message: str
    """its ``str``, or its ``repr`` where that says more"""
    traceback: str
    chain: bytes = b""
    """pickled list of its cause or context, that one's, and so on; empty where that cannot travel"""
    reason: str = ""
    unpickles: bool = True
    """False where it was pickled but could not be made again from that"""


class RemoteTraceback(Exception):
    """The ``__cause__`` of an exception that came from a worker: its ``str`` is the traceback there, as
    text.

    The text has the exception's own causes and contexts too. As far as they can travel they are also there
    as
    objects: ``__context__`` of the exception is what its ``__cause__`` or ``__context__`` was on the
    worker.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(ExceptionRecord)


def pack_exception(
    exc: BaseException, *, context: ExceptionContext, max_bytes: int = MAX_RECORD_BYTES
) -> bytes:
    """A record of ``exc``. Never fails because of the exception: what cannot travel is told as text.

    Args:
        max_bytes: The longest pickle of the exception, and of its chain.
    """
    pickled, reason, unpickles = _pickle(exc, max_bytes)
    record = ExceptionRecord(
        context=context,
        pickled=pickled,
        type=_type_name(exc),
        message=_message(exc),
        traceback=_format(exc),
        chain=_pickle_chain(exc, max_bytes),
        reason=_cut(reason, MAX_MESSAGE_BYTES),
        unpickles=unpickles,
    )
    return _encode(record)


def unpack_exception(record: bytes | bytearray | memoryview) -> BaseException:
    """The exception of a record, of its own type, its `RemoteTraceback` as its cause, and a note that says
    where.

    Never raises: an exception that could not be pickled arrives as `SerializationError`, one that could not
    be unpickled as `DeserializationError`; both name its type and message.
    """
    try:
        parts = _decoder.decode(record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        failure = DeserializationError(f"a malformed record of an exception, {len(record)} bytes: {error}")
        failure.__cause__ = error
        return failure
    exc = _unpickle(parts)
    try:
        _decorate(exc, parts)
    except Exception as error:  # an attribute hook of the user's that raises
        exc = _substitute(parts, DeserializationError, f"it cannot be given a cause and a note: {error!r}")
        _decorate(exc, parts)
    return exc


def _decorate(exc: BaseException, parts: ExceptionRecord) -> None:
    note = parts.context.note()
    chain = _unpickle_chain(parts.chain)
    if chain is not None and exc.__context__ is None:
        _set(exc, "__context__", chain)
    text = parts.traceback.rstrip("\n")
    _set(exc, "__cause__", RemoteTraceback(f"raised by {note}\n\n{text}\n"))
    notes = getattr(exc, "__notes__", None)
    _set(exc, "__notes__", [*notes, note] if isinstance(notes, list) else [note])


def _pickle(exc: BaseException, max_bytes: int) -> tuple[bytes, str, bool]:
    """The pickled exception, or why there is none; and whether it can be unpickled."""
    try:
        pickled = dump(exc)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return b"", str(unpicklable([("it", exc)], "", error)), True
    if len(pickled) > max_bytes:
        return b"", f"it takes {len(pickled):,} bytes when pickled, where {max_bytes:,} are allowed", True
    if type(exc).__module__ != "builtins" or not all(type(arg) in _SCALARS for arg in exc.args):
        try:
            copy = pickle.loads(pickled)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return b"", str(undecodable("it", error, at_worker=True)), False
        if not isinstance(copy, BaseException):
            return b"", f"its pickle makes a {type(copy).__qualname__}: its __reduce__ is wrong", False
    return pickled, "", True


def _pickle_chain(exc: BaseException, max_bytes: int) -> bytes:
    """The exceptions that the traceback shows before this one, nearest first."""
    chain: list[BaseException] = []
    link = _before(exc)
    while link is not None and len(chain) < MAX_CHAIN and not any(link is known for known in (exc, *chain)):
        chain.append(link)
        link = _before(link)
    if not chain:
        return b""
    try:
        pickled = dump(chain)
        pickle.loads(pickled)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the traceback's text has the chain anyway
        return b""
    return pickled if len(pickled) <= max_bytes else b""


def _before(exc: BaseException) -> BaseException | None:
    if exc.__cause__ is not None:
        return exc.__cause__
    return None if exc.__suppress_context__ else exc.__context__


def _unpickle(parts: ExceptionRecord) -> BaseException:
    if not parts.pickled:
        return _substitute(
            parts, SerializationError if parts.unpickles else DeserializationError, parts.reason
        )
    try:
        exc = pickle.loads(parts.pickled)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = str(undecodable("it", error, at_worker=False))
        return _substitute(parts, DeserializationError, reason)
    if not isinstance(exc, BaseException):
        return _substitute(parts, DeserializationError, f"its pickle makes a {type(exc).__qualname__} here")
    return exc


def _substitute(parts: ExceptionRecord, kind: type[Exception], reason: str) -> Exception:
    """The exception that stands for one that cannot travel."""
    told = f"{parts.type}: {parts.message}" if parts.message else parts.type
    return kind(f"{parts.context.note()} raised {told}\nThe exception itself cannot be sent: {reason}")


def _unpickle_chain(pickled: bytes) -> BaseException | None:
    if not pickled:
        return None
    try:
        chain = pickle.loads(pickled)
        for outer, inner in itertools.pairwise(chain):
            _set(outer, "__context__", inner)
        first: BaseException = chain[0]
    except KeyboardInterrupt:
        raise
    except BaseException:  # it cannot be made here; the traceback's text has it anyway
        return None
    return first


def _set(exc: BaseException, name: str, value: object) -> None:
    """Set an attribute also where the user's class forbids it, as a frozen dataclass does."""
    BaseException.__setattr__(exc, name, value)


def _type_name(exc: BaseException) -> str:
    kind = type(exc)
    module = str(kind.__module__)
    return _cut(
        kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}", MAX_MESSAGE_BYTES
    )


def _message(exc: BaseException) -> str:
    text = ""
    for tell in (str, repr):
        with contextlib.suppress(Exception):  # a broken __str__ or __repr__: the other, or the type, must do
            text = text or tell(exc)
    return _cut(text, MAX_MESSAGE_BYTES)


def _format(exc: BaseException) -> str:
    """The traceback with its chain, without the worker's own frames at its start."""
    try:
        lines = traceback.TracebackException(type(exc), exc, _users(exc.__traceback__), compact=True).format()
        return _cut("".join(lines), MAX_TRACEBACK_BYTES)
    except Exception as error:  # the user's objects may raise anything when they are looked into
        told = f"{_type_name(exc)}: {_message(exc)}"
        return f"{told}\n(no traceback: formatting it raised {type(error).__qualname__})\n"


def _users(start: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not Throughway's own; all of it where there is none."""
    step = start
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        step = step.tb_next
    return start if step is None else step


def _cut(text: str, limit: int) -> str:
    """Text that MessagePack can carry, of about ``limit`` bytes, cut in its middle where it is longer."""
    if len(text) <= limit and text.isascii():
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    half = limit // 2
    head, tail = data[:half].decode("utf-8", "ignore"), data[-half:].decode("utf-8", "ignore")
    return f"{head}\n... {len(data) - limit:,} bytes left out ...\n{tail}"
