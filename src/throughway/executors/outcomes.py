"""What becomes of a task's record in the user's future: its value, or the exception to raise."""

from __future__ import annotations

from throughway import errors
from throughway.protocol import codec
from throughway.protocol.messages import Loss, Outcome
from throughway.serialize.exceptions import unpack_exception
from throughway.transport.interface import Buffer

_KINDS: dict[int, type[errors.TaskLost]] = {
    Outcome.WORKER_LOST: errors.WorkerLost,
    Outcome.WALLTIME: errors.WalltimeExceeded,
    Outcome.KILLED: errors.TaskKilled,
    Outcome.MANAGER_LOST: errors.ManagerLost,
}

RETRIED = frozenset((Outcome.WORKER_LOST, Outcome.MANAGER_LOST))
"""Outcomes after which a task with retries left is run again."""


def exception_of(outcome: int, payload: Buffer, name: str, task: int) -> BaseException:
    """The exception for any outcome but a value; ``name`` is the function's."""
    kind = _KINDS.get(outcome)
    if kind is None:
        return unpack_exception(bytes(payload))
    try:
        loss = codec.decode_loss(payload)
    except errors.ProtocolError as error:
        loss = Loss(reason=f"nobody knows how: {error}")
    return loss_of(kind, loss, name, task)


def loss_of(kind: type[errors.TaskLost], loss: Loss, name: str, task: int) -> errors.TaskLost:
    """The exception for a task that ended without an answer of its own."""
    where = f"manager {loss.manager} on {loss.host}"
    if loss.worker >= 0:
        where = f"worker {loss.worker} of {where}"
    text = f"task {task} ({name}) "
    if kind is errors.WorkerLost:
        text += f"was lost: {where} {loss.reason} while it ran it, after {loss.seconds:.3g} s"
    elif kind is errors.WalltimeExceeded:
        text += f"was killed at its walltime, after {loss.seconds:.3g} s, at {where}"
    elif kind is errors.TaskKilled:
        text += f"was killed on request, after {loss.seconds:.3g} s, at {where}"
    else:
        text += f"was lost with {where}: {loss.reason}"
    if loss.log:
        text += f"; log: {loss.log}"
    if loss.stderr and kind is errors.WorkerLost:
        text += "; its log ends:\n" + "\n".join(f"    {line}" for line in loss.stderr.splitlines())
    error = kind(text)
    error.host = loss.host
    error.manager = loss.manager
    error.worker = loss.worker if loss.worker >= 0 else None
    error.exit_code = loss.exit_code
    error.signal = loss.signal
    error.log = loss.log
    return error
