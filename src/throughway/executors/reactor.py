"""The executor's state machine: it keeps every task until its outcome is in the user's future.

Pure but for the futures themselves, which it completes: no socket, clock, thread or process. Calls to `add` may come
from any thread; everything else comes from the one that owns the executor's wire.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

from throughway import errors
from throughway.executors.actions import Action, Buffer, Log, Notify, Restart, Tell
from throughway.executors.outcomes import RETRIED, exception_of, loss_of
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.serialize.exceptions import unpack_exception
from throughway.serialize.payloads import NONE, surely_inert, unpack_inert, unpack_result

SUBMIT_TASKS = 1024
"""Tasks in one `Submit`, at most."""

SUBMIT_BYTES = 1 << 20
"""Bytes of payload after which a `Submit` takes no further task."""

ACKNOWLEDGE_SECONDS = 1.0
"""How long a manager may wait to hear that its results are here, where no task goes out that could say so."""

ACKNOWLEDGE_BYTES = 1 << 20
"""With more than this in results that were not acknowledged, it is said at once."""

MAX_RESTARTS = 5
"""Interchanges that may be started anew within `RESTART_SECONDS`."""

RESTART_SECONDS = 60.0

DOUBTFUL_TASKS = 10_000
"""The newest tasks, among which are all that threads are submitting at one moment."""

LOST_REMEMBERED = 10_000
"""Lost managers of which the ids are kept, for the next interchange to know."""

_VALUE = int(m.Outcome.VALUE)
_NO_FRAMES: Iterable[Sequence[Buffer]] = repeat(())


class Outstanding(Protocol):
    """What the reactor must know of a future; `futures.TaskFuture` is one."""

    _task: Any
    _entry: Any
    _frames: Any
    _retries: int

    def _set_running(self) -> None: ...
    def _set_value(self, value: Any) -> None: ...
    def _set_plainly(self, value: Any) -> bool: ...
    def _set_error(self, error: BaseException) -> None: ...
    def _set_cancelled(self) -> None: ...
    def done(self) -> bool: ...


class Keeper(Protocol):
    """Who keeps results beyond this process (`journal.Journal`)."""

    @property
    def mark(self) -> int:
        """Up to where results were handed in."""

    @property
    def safe(self) -> int:
        """Up to where they have reached the disk."""

    def results(
        self,
        tasks: Sequence[int],
        outcomes: bytes,
        payloads: Sequence[Buffer],
        counts: Mapping[int, int],
        frames: Sequence[Buffer],
        futures: Mapping[int, Any],
    ) -> None:
        """Keep these results, whose futures are about to be told."""


class Observer(Protocol):
    """Who wants to know what becomes of managers (`blocks.controller.BlockController`)."""

    def manager_joined(self, block: str, manager: str, host: str, workers: int) -> None: ...
    def manager_left(self, block: str, reason: str, lost: bool, manager: str, failed: bool) -> None: ...
    def manager_refused(self, block: str, reason: str) -> None: ...
    def stranded(self) -> None: ...
    def interchange_restarted(self) -> None: ...


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


def _frames_of_each(message: m.Results, frames: Sequence[Buffer]) -> Iterator[Sequence[Buffer]]:
    """The large frames of each result in a message; ``frames`` are its body and then all of those."""
    at = 1
    for index in range(len(message.tasks)):
        count = message.frames.get(index, 0)
        yield frames[at : at + count]
        at += count


class ExecutorReactor:
    """All outstanding tasks of one executor.

    Args:
        forgotten: tells the ids of functions that nothing needs any more, each once.
        on_broken: called once nothing can run any more, before any future is told.
        heartbeat_period: seconds of the interchange's silence after which it is asked for a sign of life.
        heartbeat_threshold: seconds of its silence after which managers give up. Well before, it is taken for hung,
            and replaced: see `patience`.
    """

    def __init__(
        self,
        forgotten: Callable[[], list[int]],
        on_broken: Callable[[], None] = lambda: None,
        *,
        heartbeat_period: float = 30.0,
        heartbeat_threshold: float = 120.0,
    ) -> None:
        self.futures: dict[int, Any] = {}
        """task id → `Outstanding`, from `add` until its outcome"""
        self.outbox: deque[m.Task] = deque()
        """tasks that the interchange has not been given yet"""
        self.observer: Observer | None = None
        self.journal: Keeper | None = None
        self.broken: BaseException | None = None
        self.closed = False
        self.retried = 0
        self.late = 0
        """outcomes that came for tasks which had one already"""
        self._forgotten = forgotten
        self._on_broken = on_broken
        self.restarts = 0
        """interchanges that were started anew"""
        self._period = heartbeat_period
        self.patience = min(heartbeat_threshold, max(2 * heartbeat_period, heartbeat_threshold / 2))
        """seconds of the interchange's silence after which it is taken for hung: its managers, which may not have heard
        of it for a period longer, are still there for the next one"""
        self._sent: set[int] = set()
        self._verdicts: dict[int, tuple[Callable[[bool], None], ...]] = {}
        """tasks that are being cancelled, and who wants to know"""
        self._kills: set[int] = set()
        """those of them that are to be killed if they run"""
        self._answers: dict[int, tuple[m.Ask, Callable[[m.Answer], None]]] = {}
        self._next_request = 0
        self._managers: dict[str, tuple[str, str]] = {}
        """manager id → its host and block"""
        self._holds: set[str] = set()
        self._lost_managers: dict[str, bool] = {}
        """managers that were given up lately, and whether it is known what was lost with them"""
        self._received: dict[str, int] = {}
        """manager id → the number of its last `Results`"""
        self._acknowledgements: deque[tuple[str, int]] = deque()
        """what managers have not been told of that; any thread that submits takes from it"""
        self._unsafe: deque[tuple[int, str, int]] = deque()
        """what the journal does not have on its disk yet: its mark, a manager, and the number of its results"""
        self._acknowledge_at = math.inf
        self._unacknowledged_bytes = 0
        self._restarted_at: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._fruitless = 0
        """interchanges in a row that never said anything"""
        self._doubtful: set[int] = set()
        """tasks that were handed in again, and that a thread may have been putting into the outbox at that moment"""
        self._handed: set[int] = set()
        """those of them that have been taken from the outbox once"""
        self._heard_at = math.inf
        self._asked_for_life = False
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
        for task in tasks:
            known = self._verdicts.get(task, ())
            self._verdicts[task] = known if told is None else (*known, told)
        if kill:
            self._kills.update(tasks)
        self._actions.append(Tell(m.Cancel(tasks, kill)))

    def ask(self, topic: str, subject: str, told: Callable[[m.Answer], None]) -> None:
        """Ask the interchange; ``told`` is called with its answer."""
        if self.closed:
            told(m.Answer(0, b"", "the executor has ended"))
            return
        self._next_request += 1
        question = m.Ask(self._next_request, topic, subject)
        self._answers[question.request] = (question, told)
        if topic == "hold":
            self._holds.add(subject)
        elif topic == "release":
            self._holds.discard(subject)
        self._actions.append(Tell(question))

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
        restarts = self.restarts
        size = 0
        try:
            while size < SUBMIT_BYTES and len(tasks) < SUBMIT_TASKS:
                task = outbox.popleft()
                if restarts and (task.id not in futures or self._is_second(task.id)):
                    continue
                size += len(task.payload)
                if task.function not in sent or task.frames > 0:
                    future = futures.get(task.id)
                    if future is None:
                        continue
                    if task.function not in sent:
                        sent.add(task.function)
                        functions.append(future._entry.function)
                    if task.frames > 0:
                        frames += future._frames
                        size += sum(frame.nbytes for frame in future._frames)
                tasks.append(task)
        except IndexError:
            pass
        forget = self._forgotten()
        if forget:
            # After a restart, managers may still know what the new interchange was never sent.
            forget = [function for function in forget if restarts or function in sent]
            sent.difference_update(forget)
        received = self._unsaid() if self._acknowledgements else {}
        return m.Submit(tasks, functions, forget, received), frames

    def _is_second(self, task: int) -> bool:
        """Whether a task was in the outbox twice, and this is the second of the two."""
        if task in self._doubtful:
            self._doubtful.discard(task)
            self._handed.add(task)
            return False
        return task in self._handed

    def _unsaid(self) -> dict[str, int]:
        """The acknowledgements that are to be sent. May be called from any thread that sends."""
        received: dict[str, int] = {}
        try:
            while True:
                manager, number = self._acknowledgements.popleft()
                received[manager] = number
        except IndexError:
            return received

    def turn(self, now: float) -> None:
        """Do what is due. To be called after everything that was heard has been handed in."""
        if self._acknowledgements:
            if now >= self._acknowledge_at:
                self._unacknowledged_bytes = 0
                self._acknowledge_at = math.inf
                self._actions.append(Tell(m.Acknowledge(self._unsaid())))
        else:
            self._acknowledge_at = math.inf
        silence = now - self._heard_at
        if self._asked_for_life and silence >= self.patience:
            self._heard_at = math.inf
            self._actions.append(Restart(f"it was silent for {silence:.1f} s and is taken for hung"))
        elif silence >= self._period and not self._asked_for_life:
            self._asked_for_life = True
            self._actions.append(Tell(m.Heartbeat()))

    def next_deadline(self) -> float:
        """When `turn` must be called even if nothing is heard; inf for never."""
        wait = self.patience if self._asked_for_life else self._period
        acknowledge_at = self._acknowledge_at if self._acknowledgements else math.inf
        return min(acknowledge_at, self._heard_at + wait)

    def actions(self) -> list[Action]:
        """Every action since the last call, in order."""
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    # ----------------------------------------------------------------------------------------------- from the wire

    def interchange_said(self, message: m.ToExecutor, frames: Sequence[Buffer], now: float) -> None:
        """A message of the interchange; ``frames`` are its payload frames, the header left out."""
        self._heard_at = now
        self._asked_for_life = False
        if self._fruitless and not isinstance(message, m.Listening):
            self._fruitless = 0
        match message:
            case m.Results():
                self._results_came(message, frames, now)
            case m.Started():
                for task in message.tasks:
                    future = self.futures.get(task)
                    if future is not None:
                        future._set_running()
            case m.Verdicts():
                self._judged(message)
            case m.Lost():
                self._lost(message)
                if message.manager in self._lost_managers:
                    self._lost_managers[message.manager] = True
                    self._acknowledgements.append((message.manager, m.GIVEN_UP))
                    self._acknowledge_at = min(self._acknowledge_at, now + ACKNOWLEDGE_SECONDS)
            case m.Answer():
                asked = self._answers.pop(message.request, None)
                if asked is not None:
                    asked[1](message)
            case m.ManagerJoined():
                known = message.manager in self._managers
                self._managers[message.manager] = (message.host, message.block)
                if not known:
                    self._observe(
                        "manager_joined", message.block, message.manager, message.host, message.workers
                    )
            case m.ManagerLeft():
                self._forget_manager(message)
                level = "WARNING" if message.lost else "INFO"
                text = f"manager {message.manager} on {message.host} (block {message.block}) left: {message.reason}"
                self._actions.append(Log(level, text))
                self._observe(
                    "manager_left",
                    message.block,
                    message.reason,
                    message.lost,
                    message.manager,
                    message.failed,
                )
            case m.ManagerRefused():
                text = f"a manager of block {message.block} on {message.host} was refused: {message.reason}"
                self._actions.append(Log("ERROR", text))
                self._observe("manager_refused", message.block, message.reason)
            case m.Broken():
                error = errors.InitializerFailed(f"{message.reason} on a worker of manager {message.manager}")
                error.__cause__ = unpack_exception(message.record)
                self.fail(error)
            case m.Stranded():
                self._observe("stranded")
            case m.Returned():
                self._returned(message.tasks)
            case m.Listening() | m.Heartbeat():
                pass

    def _results_came(self, message: m.Results, frames: Sequence[Buffer], now: float) -> None:
        if not message.number:
            self._results(message, frames)
        elif message.number <= self._received.get(message.manager, 0):
            # It was sent again, and had come before.
            self.late += len(message.tasks)
        else:
            self._results(message, frames)
            self._acknowledge(message, frames, now)

    def take_plain(
        self, message: m.Results, frames: Sequence[Buffer], now: float, *, inert: bool = False
    ) -> bool:
        """Results of functions that returned something small, for which nobody waits but in `result`. False where they
        are not such: then nothing has been done that `interchange_said` would not do.

        For threads of the user's, which an error may cut short anywhere: then it is called again. If ``inert``, it
        also is False where to load a value runs anybody's code.
        """
        if (
            self.journal is not None
            or self._verdicts
            or message.number <= self._received.get(message.manager, 0)
            or message.frames
            or any(message.outcomes)
            or len(set(message.tasks)) < len(message.tasks)
        ):
            return False
        futures = self.futures
        found = []
        unpack = unpack_inert if inert and not all(map(surely_inert, frames)) else unpack_result
        try:
            for task, payload in zip(message.tasks, _payloads(message, frames), strict=True):
                value = None if payload == NONE else unpack(payload)
                found.append((task, futures[task], value))
        except (errors.ProtocolError, errors.DeserializationError, KeyError):
            return False
        for task, future, value in found:
            # In this order, so that a future is here until it is done.
            if not future._set_plainly(value):
                return False
            futures.pop(task, None)
        self._heard_at = now
        self._asked_for_life = False
        self._fruitless = 0
        self._acknowledge(message, frames, now)
        return True

    def _acknowledge(self, message: m.Results, frames: Sequence[Buffer], now: float) -> None:
        """These results are in their futures: their manager may forget them."""
        if self.journal is not None and self.journal.safe < self.journal.mark:
            self._unsafe.append((self.journal.mark, message.manager, message.number))
        else:
            self._acknowledgements.append((message.manager, message.number))
        self._received[message.manager] = message.number
        self._unacknowledged_bytes += sum(map(len, frames))
        if message.waiting or self._unacknowledged_bytes > ACKNOWLEDGE_BYTES:
            self._acknowledge_at = now
        elif self._acknowledge_at == math.inf:
            self._acknowledge_at = now + ACKNOWLEDGE_SECONDS

    def kept(self, mark: int, now: float) -> None:
        """What the journal was given up to this mark is on its disk."""
        while self._unsafe and self._unsafe[0][0] <= mark:
            self._acknowledgements.append(self._unsafe.popleft()[1:])
        self._acknowledge_at = now

    def _forget_manager(self, message: m.ManagerLeft) -> None:
        self._managers.pop(message.manager, None)
        self._received.pop(message.manager, None)
        self._holds.discard(message.manager)
        if message.lost:
            self._lost_managers[message.manager] = False
            while len(self._lost_managers) > LOST_REMEMBERED:
                del self._lost_managers[next(iter(self._lost_managers))]

    def _returned(self, tasks: Sequence[int]) -> None:
        """Tasks that never reached the manager to which a former interchange sent them: they are handed in again."""
        for task in tasks:
            future = self.futures.get(task)
            if future is None:
                continue
            if task in self._verdicts:
                del self.futures[task]
                future._set_cancelled()
                self._tell_verdict(task, True)
            else:
                self._handed.discard(task)
                self.outbox.append(future._task)

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
        if self.journal is not None:
            self.journal.results(
                message.tasks, message.outcomes, payloads, message.frames, frames[1:], futures
            )
        verdicts = self._verdicts
        larges: Iterable[Sequence[Buffer]] = _NO_FRAMES
        if message.frames:
            larges = _frames_of_each(message, frames)
        # This loop is most of what a result costs here.
        for task, outcome, payload, large in zip(
            message.tasks, message.outcomes, payloads, larges, strict=False
        ):
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
        self._handed.discard(future._task.id)
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
        self._kills.discard(task)
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

    # ----------------------------------------------------------------------------------------------------- recovery

    def interchange_left(self, assigned: Mapping[str, Sequence[int]], now: float) -> m.Restore | None:
        """The interchange is dead. Nothing may be taken from the outbox meanwhile.

        Args:
            assigned: which tasks it had sent to which manager, as noted. Tasks that have ended may be among them.
            now: the moment.

        Returns:
            The first message to the next interchange, which is to be started; None where too many died in a row.
        """
        if len(self._restarted_at) == MAX_RESTARTS and now - self._restarted_at[0] < RESTART_SECONDS:
            return None
        if self._fruitless >= MAX_RESTARTS:
            return None
        self._fruitless += 1
        self._restarted_at.append(now)
        self.restarts += 1
        self._sent.clear()
        # The next one may hang before it says anything.
        self._heard_at = now
        self._asked_for_life = False
        futures = self.futures
        self._lose_untold(assigned)
        outbox = {task.id for task in self.outbox.copy()}
        expected: dict[str, m.Expected] = {}
        for manager in {**self._managers, **assigned}:
            if manager in self._lost_managers:
                continue
            host, block = self._managers.get(manager, ("", ""))
            tasks = [task for task in assigned.get(manager, ()) if task in futures and task not in outbox]
            if tasks or manager in self._managers:
                received = self._received.get(manager, 0)
                expected[manager] = m.Expected(manager, host, block, tasks, received, manager in self._holds)
        outbox.update(task for manager in expected.values() for task in manager.tasks)
        again = [futures[task]._task for task in sorted(futures.copy()) if task not in outbox]
        self.outbox.extendleft(reversed(again))
        self._handed.clear()
        self._doubtful = {task.id for task in again[-DOUBTFUL_TASKS:]}
        for kill in (False, True):
            cancelled = [task for task in self._verdicts if (task in self._kills) is kill]
            if cancelled:
                self._actions.append(Tell(m.Cancel(cancelled, kill)))
        self._actions += [Tell(question) for question, _ in self._answers.values()]
        self._observe("interchange_restarted")
        return m.Restore(True, list(expected.values()), list(self._lost_managers))

    def _lose_untold(self, assigned: Mapping[str, Sequence[int]]) -> None:
        """The interchange died between saying that a manager is lost, and what was lost with it: the notes say that."""
        outbox = {task.id for task in self.outbox.copy()}
        for manager, told in self._lost_managers.items():
            if not told:
                tasks = [task for task in assigned.get(manager, ()) if task not in outbox]
                self._lost_managers[manager] = True
                self._lost(m.Lost(manager, "a lost node", "it was given up", "", tasks))

    # ------------------------------------------------------------------------------------------------------ the end

    def fail(self, error: BaseException) -> None:
        """Nothing can run any more: every outstanding future gets ``error``, and so does every later one."""
        if self.broken is None:
            self.broken = error
            self._on_broken()
        self.outbox.clear()
        self.give_up(list(self.futures), error)
        for _, told in list(self._answers.values()):
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
        if not self.restarts:
            # After a restart a task may be there twice, and have ended.
            assert all(task.id in self.futures or self.broken for task in self.outbox)
        assert self._verdicts.keys() <= self.futures.keys()
        assert self._kills <= self._verdicts.keys()
        assert not self._lost_managers.keys() & self._managers.keys()
        assert not self._lost_managers.keys() & self._received.keys(), (
            "nothing comes from those that are lost"
        )
        for manager, number in self._acknowledgements:
            latest = self._received.get(manager, m.GIVEN_UP)
            assert number <= latest, f"{manager} is told {number}, and the last that came was {latest}"
