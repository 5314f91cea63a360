"""The executor's state machine: it keeps every task until its outcome is in the user's future.

Pure but for the futures themselves, which it completes: no socket, clock, thread or process. Calls to `add` may come
from any thread; everything else comes from the one that owns the executor's wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from throughway import errors
from throughway.executors.actions import Action, Buffer, Log, Notify, Tell
from throughway.executors.outcomes import RETRIED, exception_of, loss_of
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.serialize.exceptions import unpack_exception
from throughway.serialize.payloads import NONE, unpack_result

SUBMIT_TASKS = 1024
"""Tasks in one `Submit`, at most."""

SUBMIT_BYTES = 1 << 20
"""Bytes of payload after which a `Submit` takes no further task."""

_VALUE = int(m.Outcome.VALUE)


class Outstanding(Protocol):
    """What the reactor must know of a future; `futures.TaskFuture` is one."""

    _task: Any
    _entry: Any
    _frames: Sequence[Any]
    _retries: int

    def _set_running(self) -> None: ...
    def _set_value(self, value: Any) -> None: ...
    def _set_error(self, error: BaseException) -> None: ...
    def _set_cancelled(self) -> None: ...
    def done(self) -> bool: ...


class Observer(Protocol):
    """Who wants to know what becomes of managers (`blocks.controller.BlockController`)."""

    def manager_joined(self, block: str) -> None: ...
    def manager_left(self, block: str, reason: str, lost: bool) -> None: ...
    def manager_refused(self, block: str, reason: str) -> None: ...


def _payloads(message: m.Results, frames: Sequence[Buffer]) -> list[bytes]:
    """The payloads of a result message, one for each task.

    Raises:
        ProtocolError: the parts of the message do not fit together.
    """
    if not frames:
        raise errors.ProtocolError("there is no body")
    payloads = codec.decode_result_body(frames[0])
    if not len(message.tasks) == len(message.outcomes) == len(payloads):
        counts = f"{len(message.tasks)} tasks, {len(message.outcomes)} outcomes and {len(payloads)} payloads"
        raise errors.ProtocolError(f"there are {counts}")
    if sum(message.frames.values()) != len(frames) - 1:
        raise errors.ProtocolError(
            f"{sum(message.frames.values())} frames are announced, {len(frames) - 1} are there"
        )
    return payloads


class ExecutorReactor:
    """All outstanding tasks of one executor.

    Args:
        forgotten: tells the ids of functions that nothing needs any more, each once.
        on_broken: called once nothing can run any more, before any future is told.
    """

    def __init__(
        self, forgotten: Callable[[], list[int]], on_broken: Callable[[], None] = lambda: None
    ) -> None:
        self.futures: dict[int, Any] = {}
        """task id → `Outstanding`, from `add` until its outcome"""
        self.outbox: deque[m.Task] = deque()
        """tasks that the interchange has not been given yet"""
        self.observer: Observer | None = None
        self.broken: BaseException | None = None
        self.closed = False
        self.retried = 0
        self.late = 0
        """outcomes that came for tasks which had one already"""
        self._forgotten = forgotten
        self._on_broken = on_broken
        self._sent: set[int] = set()
        self._verdicts: dict[int, list[Callable[[bool], None]]] = {}
        self._answers: dict[int, Callable[[m.Answer], None]] = {}
        self._next_request = 0
        self._actions: list[Action] = []

    # ------------------------------------------------------------------------------------------------- from users

    def add(self, future: Outstanding) -> None:
        """A new task. May be called from any thread."""
        task = future._task
        self.futures[task.id] = future
        self.outbox.append(task)

    def cancel(
        self, tasks: Sequence[int], told: Callable[[bool], None] | None, *, kill: bool = False
    ) -> None:
        """Ask that these tasks never start; ``told`` is called with the verdict on the only one, once."""
        tasks = [task for task in tasks if task in self.futures]
        if not tasks:
            if told is not None:
                told(False)
            return
        if told is not None:
            self._verdicts.setdefault(tasks[0], []).append(told)
        self._actions.append(Tell(m.Cancel(tasks, kill)))

    def ask(self, topic: str, subject: str, told: Callable[[m.Answer], None]) -> None:
        """Ask the interchange; ``told`` is called with its answer."""
        if self.closed:
            told(m.Answer(0, b"", "the executor has ended"))
            return
        self._next_request += 1
        self._answers[self._next_request] = told
        self._actions.append(Tell(m.Ask(self._next_request, topic, subject)))

    # -------------------------------------------------------------------------------------------------- what to send

    def submission(self) -> tuple[m.Submit, list[Buffer]] | None:
        """The next batch of the outbox with its frames, None where it is empty. To be sent at once and in order."""
        outbox = self.outbox
        if not outbox:
            return None
        tasks: list[m.Task] = []
        functions: list[m.Function] = []
        frames: list[Buffer] = []
        sent = self._sent
        futures = self.futures
        size = 0
        try:
            while size < SUBMIT_BYTES and len(tasks) < SUBMIT_TASKS:
                task = outbox.popleft()
                size += len(task.payload)
                if task.function not in sent or task.frames:
                    future = futures.get(task.id)
                    if future is None:
                        continue
                    if task.function not in sent:
                        sent.add(task.function)
                        functions.append(future._entry.function)
                    if task.frames:
                        frames += future._frames
                        size += sum(frame.nbytes for frame in future._frames)
                tasks.append(task)
        except IndexError:
            pass
        forget = self._forgotten()
        if forget:
            forget = [function for function in forget if function in sent]
            sent.difference_update(forget)
        return m.Submit(tasks, functions, forget), frames

    def actions(self) -> list[Action]:
        """Every action since the last call, in order."""
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    # ----------------------------------------------------------------------------------------------- from the wire

    def interchange_said(self, message: m.ToExecutor, frames: Sequence[Buffer]) -> None:
        """A message of the interchange; ``frames`` are its payload frames, the header left out."""
        match message:
            case m.Results():
                self._results(message, frames)
            case m.Started():
                for task in message.tasks:
                    future = self.futures.get(task)
                    if future is not None:
                        future._set_running()
            case m.Verdicts():
                self._judged(message)
            case m.Lost():
                self._lost(message)
            case m.Answer():
                told = self._answers.pop(message.request, None)
                if told is not None:
                    told(message)
            case m.ManagerJoined():
                self._observe("manager_joined", message.block)
            case m.ManagerLeft():
                level = "WARNING" if message.lost else "INFO"
                text = f"manager {message.manager} on {message.host} (block {message.block}) left: {message.reason}"
                self._actions.append(Log(level, text))
                self._observe("manager_left", message.block, message.reason, message.lost)
            case m.ManagerRefused():
                text = f"a manager of block {message.block} on {message.host} was refused: {message.reason}"
                self._actions.append(Log("ERROR", text))
                self._observe("manager_refused", message.block, message.reason)
            case m.Broken():
                error = errors.InitializerFailed(f"{message.reason} on a worker of manager {message.manager}")
                error.__cause__ = unpack_exception(message.record)
                self.fail(error)
            case m.Listening():
                pass

    def _observe(self, event: str, *arguments: Any) -> None:
        if self.observer is not None:
            self._actions.append(Notify(getattr(self.observer, event), arguments))

    def _results(self, message: m.Results, frames: Sequence[Buffer]) -> None:
        try:
            payloads = _payloads(message, frames)
        except errors.ProtocolError as error:
            self._contradicted(message, error)
            return
        futures = self.futures
        at = 1
        large: Sequence[Buffer] = ()
        verdicts = self._verdicts
        counts = message.frames
        for index, (task, outcome, payload) in enumerate(
            zip(message.tasks, message.outcomes, payloads, strict=True)
        ):
            if counts:
                count = counts.get(index, 0)
                large = frames[at : at + count] if count else ()
                at += count
            future = futures.pop(task, None)
            if future is None:
                self.late += 1
                continue
            if outcome == _VALUE:
                if payload == NONE:
                    future._set_value(None)
                else:
                    try:
                        value = unpack_result(payload, large)
                    except errors.DeserializationError as error:
                        future._set_error(error)
                    else:
                        future._set_value(value)
            elif outcome in RETRIED and self._retry(future):
                continue
            else:
                name = future._entry.function.name
                future._set_error(exception_of(outcome, payload, name, task))
            if verdicts and task in verdicts:
                self._tell_verdict(task, False)

    def _contradicted(self, message: m.Results, error: errors.ProtocolError) -> None:
        """A manager sent results that make no sense: the tasks that it names are settled there, so they end here."""
        self._actions.append(
            Log("ERROR", f"manager {message.manager} sent results that make no sense: {error}")
        )
        for task in message.tasks:
            future = self.futures.get(task)
            if future is not None:
                loss = m.Loss(manager=message.manager, reason=f"it sent results that make no sense: {error}")
                lost = loss_of(errors.ManagerLost, loss, future._entry.function.name, task)
                lost.__cause__ = error
                self.give_up([task], lost)

    def _retry(self, future: Outstanding) -> bool:
        if future._retries <= 0 or future._task.id in self._verdicts:
            # What somebody wants cancelled is not run again.
            return False
        future._retries -= 1
        self.retried += 1
        self.futures[future._task.id] = future
        self.outbox.append(future._task)
        return True

    def _judged(self, message: m.Verdicts) -> None:
        for task in message.cancelled:
            future = self.futures.pop(task, None)
            if future is not None:
                future._set_cancelled()
            self._tell_verdict(task, True)
        for task in message.refused:
            self._tell_verdict(task, False)

    def _tell_verdict(self, task: int, cancelled: bool) -> None:
        for told in self._verdicts.pop(task, ()):
            told(cancelled)

    def _lost(self, message: m.Lost) -> None:
        for task in message.tasks:
            future = self.futures.pop(task, None)
            if future is None or self._retry(future):
                continue
            loss = m.Loss(host=message.host, manager=message.manager, reason=message.reason, log=message.log)
            future._set_error(loss_of(errors.ManagerLost, loss, future._entry.function.name, task))
            self._tell_verdict(task, False)

    # ------------------------------------------------------------------------------------------------------ the end

    def fail(self, error: BaseException) -> None:
        """Nothing can run any more: every outstanding future gets ``error``, and so does every later one."""
        if self.broken is None:
            self.broken = error
            self._on_broken()
        self.outbox.clear()
        self.give_up(list(self.futures), error)
        for told in list(self._answers.values()):
            told(m.Answer(0, b"", str(error)))
        self._answers.clear()

    def close(self) -> None:
        """The wire is gone: what is still outstanding fails, and nothing more is asked."""
        self.closed = True
        self.fail(self.broken or errors.ExecutorFailed("the executor was shut down"))

    def give_up(self, tasks: Iterable[int], error: BaseException) -> None:
        """End these tasks with ``error``."""
        for task in tasks:
            future = self.futures.pop(task, None)
            if future is not None:
                future._set_error(error)
                self._tell_verdict(task, False)
        for task in list(self._verdicts):
            if task not in self.futures:
                self._tell_verdict(task, False)

    def sanity_check(self) -> None:
        """What is indexed is outstanding. For tests and simulations."""
        for task, future in self.futures.items():
            assert future._task is not None and future._task.id == task
            assert not future.done(), f"task {task} is done and still outstanding"
        assert all(task.id in self.futures or self.broken for task in self.outbox)
        assert self._verdicts.keys() <= self.futures.keys()
