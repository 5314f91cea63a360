"""Exceptions that are both Throughway's and Parsl's, so that what users of Parsl catch is caught."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from parsl.app import errors as app
from parsl.errors import ConfigurationError as ParslConfigurationError
from parsl.executors import errors as executors
from parsl.executors.high_throughput import errors as htex
from parsl.serialize import errors as serialize

from throughway import errors
from throughway.executors.futures import TaskFuture

Result = TypeVar("Result")


class _Plain:
    """Part of exceptions. The message is what `str` says, where Parsl's classes would put their own together."""

    def __str__(self) -> str:
        return BaseException.__str__(self)  # type: ignore[arg-type]


class ConfigurationError(_Plain, errors.ConfigurationError, ParslConfigurationError):
    """A parameter was given a value that cannot work."""

    def __init__(self, message: str = "") -> None:
        Exception.__init__(self, message)


class InvalidResourceSpecification(
    _Plain, errors.InvalidResourceSpecification, executors.InvalidResourceSpecification
):
    """A resource specification has a key that is not known, or a value that cannot work."""

    def __init__(self, message: str = "", invalid_keys: frozenset[str] = frozenset()) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.invalid_keys = set(invalid_keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, frozenset(self.invalid_keys))


class _Adapted(_Plain):
    """Made from one of Throughway's, with everything that it holds."""

    def __init__(self, message: str = "") -> None:
        BaseException.__init__(self, message)  # type: ignore[arg-type]

    def attributes(self) -> dict[str, Any]:
        """What Parsl's class has beside the message."""
        return {"reason": str(self)}


class SerializationError(_Adapted, errors.SerializationError, serialize.SerializationError):
    """A function, an argument or a result could not be pickled."""

    def attributes(self) -> dict[str, Any]:
        return {"fname": "", "troubleshooting": ""}


class ResultTooLarge(_Adapted, errors.ResultTooLarge, serialize.SerializationError):
    """A result or the arguments are larger than ``max_payload_bytes``."""

    def attributes(self) -> dict[str, Any]:
        return {"fname": "", "troubleshooting": ""}


class DeserializationError(_Adapted, errors.DeserializationError, serialize.DeserializationError):
    """A function, an argument, a result or an exception could not be unpickled where it arrived."""


class MissingModule(_Adapted, errors.MissingModule, serialize.DeserializationError):
    """A worker could not import a module that a task needs."""


class WorkerLost(_Adapted, errors.WorkerLost, htex.WorkerLost):
    """The worker process died while it ran this task."""

    def attributes(self) -> dict[str, Any]:
        return {"worker_id": self.worker, "hostname": self.host}


class ManagerLost(_Adapted, errors.ManagerLost, htex.ManagerLost):
    """The manager that had this task is gone."""

    def attributes(self) -> dict[str, Any]:
        return {"manager_id": self.manager.encode(), "hostname": self.host, "tstamp": time.time()}


class WalltimeExceeded(_Adapted, errors.WalltimeExceeded, app.AppTimeout):
    """The task ran longer than the ``walltime`` of its resource specification and was killed."""


class _BadState(_Adapted):
    executor: Any = None


class ExecutorFailed(_BadState, errors.ExecutorFailed, executors.BadStateException):
    """The executor gave up, or was shut down."""


class InterchangeLost(_BadState, errors.InterchangeLost, executors.BadStateException):
    """The interchange died."""


class InitializerFailed(_BadState, errors.InitializerFailed, executors.BadStateException):
    """The ``initializer`` raised in a worker; no task can run."""


_ADAPTED: dict[type[BaseException], type[_Adapted]] = {
    errors.SerializationError: SerializationError,
    errors.ResultTooLarge: ResultTooLarge,
    errors.DeserializationError: DeserializationError,
    errors.MissingModule: MissingModule,
    errors.WorkerLost: WorkerLost,
    errors.ManagerLost: ManagerLost,
    errors.WalltimeExceeded: WalltimeExceeded,
    errors.ExecutorFailed: ExecutorFailed,
    errors.InterchangeLost: InterchangeLost,
    errors.InitializerFailed: InitializerFailed,
}


def adapted(error: BaseException) -> BaseException:
    """One of Throughway's exceptions as one that is Parsl's as well; any other as it is."""
    kind = _ADAPTED.get(type(error))
    if kind is None:
        return error
    found: Any = kind(*error.args[:1])
    found.args = error.args
    found.__dict__.update(error.__dict__)
    for name, value in found.attributes().items():
        found.__dict__.setdefault(name, value)
    found.__cause__ = error.__cause__
    found.__context__ = error.__context__
    found.__suppress_context__ = error.__suppress_context__
    return found.with_traceback(error.__traceback__)


class ParslFuture(TaskFuture[Result]):
    """The future of a task, as Parsl's data flow kernel expects it."""

    __slots__ = ()

    @property
    def parsl_executor_task_id(self) -> int:
        """The task's number within its executor, by which Parsl's log names it."""
        return self.task_id

    def _set_error(self, error: BaseException) -> None:
        super()._set_error(adapted(error))
