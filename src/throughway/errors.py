"""Every exception that a user of Throughway can see."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor


class ThroughwayError(Exception):
    """The base of all of Throughway's own exceptions."""


class ConfigurationError(ThroughwayError, ValueError):
    """A parameter was given a value that cannot work. The message names it, its value and the remedy."""


class InvalidResourceSpecification(ThroughwayError, ValueError):
    """`executor.options` was given an unknown or ill-typed option."""


class JournalError(ThroughwayError):
    """The journal of an executor cannot be used. The message says why, who holds it, and the remedy."""


class TransportError(ThroughwayError, ConnectionError):
    """A wire could not be set up or was used wrongly."""


class ProtocolError(ThroughwayError):
    """A peer sent something that is not a message of the protocol."""


class SerializationError(ThroughwayError):
    """A function, an argument or a result could not be pickled: the message says which, and why."""


class DeserializationError(ThroughwayError):
    """A function, an argument, a result or an exception could not be unpickled where it arrived."""


class ResultTooLarge(SerializationError):
    """A result or the arguments are larger than the limit for one task (``max_payload_bytes``)."""


class MissingModule(DeserializationError, ModuleNotFoundError):
    """A worker could not import a module that a task needs: names the module, the host and what to do."""


class InitializerFailed(ThroughwayError, BrokenExecutor):
    """The ``initializer`` raised in a worker; no task can run."""


class TaskLost(ThroughwayError):
    """The base of those outcomes in which a task ended without an answer of its own.

    ``host``, ``manager`` (its id), ``worker`` (its rank on the node), ``exit_code``, ``signal`` and ``log`` (a path on
    that host) are set as far as they are known.
    """

    host: str = ""
    manager: str = ""
    worker: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    log: str = ""


class WorkerLost(TaskLost):
    """The worker process died while it ran this task."""


class ManagerLost(TaskLost):
    """The manager that had this task is gone: its node, its block or its connection died."""


class InterchangeLost(TaskLost, BrokenExecutor):
    """The interchange died."""


class WalltimeExceeded(TaskLost, TimeoutError):
    """The task ran longer than its ``walltime`` and was killed."""


class TaskKilled(TaskLost):
    """The task was killed at the user's request."""


class ExecutorFailed(ThroughwayError, BrokenExecutor):
    """The executor gave up: no manager can be had. The message holds what the blocks said as they ended."""


class CommandTimeout(ThroughwayError, TimeoutError):
    """The interchange did not answer a question in time."""
