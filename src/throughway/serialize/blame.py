"""The error path: which part of an object cannot be pickled or unpickled, and what to do about it."""

from __future__ import annotations

import functools
import io
import re
import socket
import types
from collections.abc import Iterable, Iterator
from typing import Any

from throughway.errors import DeserializationError, MissingModule, ResultTooLarge, SerializationError
from throughway.serialize.pickling import describe, dump, importable

MAX_DEPTH = 12
MAX_ATTEMPTS = 2000
"""How many parts are tried before the search for the culprit ends with what it has."""

_Part = tuple[str, Any]

_GENERATORS = (types.GeneratorType, types.AsyncGeneratorType, types.CoroutineType)
_LOCK_NAMES = frozenset({"lock", "RLock", "Condition", "Event", "Semaphore", "_local", "SimpleQueue"})


def unpicklable(parts: Iterable[_Part], of: str, error: BaseException) -> SerializationError:
    """The error for labelled parts of which one raised ``error`` when pickled.

    Args:
        parts: ``("argument 0", value)`` and so on.
        of: What the parts belong to, as it goes on after their label: ``" of 'f'"``.
    """
    try:
        found = find_culprit(parts)
    except Exception as trouble:  # the user's objects may raise anything when they are looked into
        error.add_note(f"the part that is to blame could not be found: {_reason(trouble)}")
        found = None
    label, culprit, reason = found or (next(iter(dict(parts)), "something"), None, error)
    message = f"{label}{of} cannot be pickled: {_reason(reason)}"
    remedy = _remedy(culprit)
    failure = SerializationError(f"{message.rstrip('.')}. {remedy}" if remedy else message)
    failure.__cause__ = reason
    return failure


def too_large(subject: str, size: int, limit: int) -> ResultTooLarge:
    """The error for a payload of ``size`` bytes where ``limit`` are allowed."""
    return ResultTooLarge(
        f"{subject}: {size:,} bytes when pickled, where {limit:,} are allowed. Raise max_payload_bytes, "
        "or write the data to a file and send its path"
    )


def undecodable(subject: str, error: BaseException, *, at_worker: bool) -> DeserializationError:
    """The error for ``subject`` whose unpickling raised ``error`` on this host."""
    host = socket.gethostname()
    failure: DeserializationError
    if isinstance(error, ModuleNotFoundError):
        failure = MissingModule(
            f"{subject}: no module named {error.name!r} can be imported on host {host}. "
            + (_AT_WORKER if at_worker else _AT_HOME),
            name=error.name,
        )
    else:
        failure = DeserializationError(
            f"{subject} cannot be unpickled on host {host}: {_reason(error)}{_hint(error)}"
        )
    failure.__cause__ = error
    return failure


_AT_WORKER = (
    "Install it in the workers' environment, put it beside the script or in a directory of PYTHONPATH or "
    "sys.path, or make it available in worker_init. A module made at run time travels by value after "
    "cloudpickle.register_pickle_by_value(module)"
)
_AT_HOME = "The worker that sent this has it: install it where tasks are submitted, too"


def find_culprit(parts: Iterable[_Part]) -> tuple[str, Any, BaseException] | None:
    """The innermost of the labelled parts that cannot be pickled: its label, itself and the exception."""
    found: tuple[str, Any, BaseException] | None = None
    attempts = 0
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        for label, value in parts:
            if id(value) in seen:
                continue
            attempts += 1
            if attempts > MAX_ATTEMPTS:
                return found
            reason = _attempt(value)
            if reason is not None:
                seen.add(id(value))
                found = label, value, reason
                parts = _children(label, value)
                break
        else:
            break
    return found


def _attempt(value: object) -> BaseException | None:
    try:
        dump(value, [])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def _children(label: str, value: Any) -> Iterator[_Part]:
    """Labelled parts of an object, as far as they are easily had."""
    kind = type(value)
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"{label}[{_short(key)}]", item
            yield f"a key of {label}", key
    elif isinstance(value, BaseException):
        yield f"{label}.args", value.args
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{label}[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in list(value):
            yield f"an element of {label}", item
    elif kind is functools.partial:
        yield f"{label}.func", value.func
        yield f"{label}.args", value.args
        yield f"{label}.keywords", value.keywords
    elif kind is types.MethodType:
        yield f"{label}.__self__", value.__self__
        yield f"{label}.__func__", value.__func__
    elif kind is types.FunctionType:
        yield from function_parts(value, label)
        return
    elif isinstance(value, type):
        if not importable(value):
            for name, item in list(vars(value).items()):
                if name not in {"__dict__", "__weakref__", "_abc_impl"}:
                    yield f"{label}.{name}", getattr(item, "__func__", item)
        return
    try:
        attributes = vars(value)
    except TypeError:
        attributes = {}
    for name, item in list(attributes.items()):
        yield f"{label}.{name}", item
    for slots in [vars(base).get("__slots__", ()) for base in kind.__mro__]:
        for name in [slots] if isinstance(slots, str) else list(slots):
            if name not in {"__dict__", "__weakref__"} and name in dir(value):
                yield f"{label}.{name}", getattr(value, name, None)
    yield f"the class of {label}", kind


def function_parts(function: types.FunctionType, label: str) -> Iterator[_Part]:
    """What a function pickled by value takes with it."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the closure variable {name!r} of {label}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in _names(code):
        if name in function.__globals__:
            yield f"the global variable {name!r} of {label}", function.__globals__[name]
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"the default of {name!r} of {label}", value
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    for name, value in zip(reversed(positional), reversed(defaults), strict=False):
        yield f"the default of {name!r} of {label}", value
    for name, value in function.__dict__.items():
        yield f"{label}.{name}", value
    for name, value in function.__annotations__.items():
        yield f"the annotation of {name!r} of {label}", value


def _names(code: types.CodeType) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
    return names


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__qualname__} whose repr raises {type(error).__qualname__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _reason(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the user's own exception with a broken __str__
        text = ""
    text = text if len(text) <= 2000 else text[:1000] + " ... " + text[-1000:]
    name = type(error).__qualname__
    return f"{name}: {text}" if text else name


def _remedy(culprit: object) -> str:
    kind = type(culprit)
    if isinstance(culprit, _GENERATORS):
        return "It lives in this process only: make a list of what it yields, and send that"
    if isinstance(culprit, (io.IOBase, socket.socket)):
        return "It belongs to its process: send its path or address, and open it in the function"
    if kind.__name__ in _LOCK_NAMES:
        return "It belongs to its process: make it in the function or in an initializer"
    if culprit is None:
        return ""
    name = describe(culprit) if callable(culprit) else kind.__qualname__
    return f"Make it in the function that runs on the worker, or give {name} a __reduce__ method"


def _hint(error: BaseException) -> str:
    reason = _reason(error)
    if isinstance(error, AttributeError) and re.search(r"__(mp_)?main__", reason):
        return ". What a main script defines cannot be found by name: define it in a module of its own"
    if isinstance(error, AttributeError) and re.search("(get|no) attribute", reason):
        return ". The module there is another version than here, or the attribute is made at run time"
    if isinstance(error, TypeError) and "__init__" in reason:
        return ". Its class cannot be made from what was pickled: give it a __reduce__ method"
    return ""
