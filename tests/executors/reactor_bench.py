"""A bench for the executor's reactor: events in, and everything that it said looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from throughway.executors.actions import Tell
from throughway.executors.reactor import ExecutorReactor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.serialize.payloads import pack_result


class Entry:
    """A function as the reactor sees it."""

    def __init__(self, number: int) -> None:
        self.function = m.Function(number, f"f{number}", b"payload of a function")


class Future:
    """Stands for a `TaskFuture`, and refuses a second outcome."""

    def __init__(
        self, task: m.Task, retries: int = 0, frames: Sequence[memoryview] = (), function: int = 1
    ) -> None:
        self._task = task
        self._entry = Entry(function)
        self._frames = frames
        self._retries = retries
        self.state = "pending"
        self.value: Any = None
        self.error: BaseException | None = None

    def _set_running(self) -> None:
        self.state = "running"

    def _end(self, state: str) -> None:
        assert not self.done(), "a future has one outcome"
        self.state = state

    def _set_value(self, value: Any) -> None:
        self._end("value")
        self.value = value

    def _set_plainly(self, value: Any) -> bool:
        self._set_value(value)
        return True

    def _set_error(self, error: BaseException) -> None:
        self._end("error")
        self.error = error

    def _set_cancelled(self) -> None:
        self._end("cancelled")

    def done(self) -> bool:
        return self.state in ("value", "error", "cancelled")


class Bench:
    """A reactor, and everything that it said."""

    def __init__(self, **options: float) -> None:
        self.now = 1000.0
        self.forgotten: list[int] = []
        self.broke = 0
        self.reactor = ExecutorReactor(self._take_forgotten, self._break, **options)
        self.futures: dict[int, Future] = {}

    def _take_forgotten(self) -> list[int]:
        taken, self.forgotten = self.forgotten, []
        return taken

    def _break(self) -> None:
        assert not any(future.done() for future in self.futures.values()), "told before any future is"
        self.broke += 1

    def add(self, *numbers: int, retries: int = 0, payload: bytes = b"", function: int = 1) -> None:
        for number in numbers:
            future = Future(m.Task(number, function, payload), retries, function=function)
            self.futures[number] = future
            self.reactor.add(future)

    def submission(self) -> m.Submit:
        found = self.reactor.submission()
        assert found is not None
        return found[0]

    def results(
        self, values: dict[int, Any], *, manager: str = "m1", number: int = 0, waiting: bool = False
    ) -> None:
        """A manager's tasks returned these values; ``number`` counts its messages, 0 for one that is not counted."""
        payloads = [pack_result(value)[0] for value in values.values()]
        outcomes = bytes([m.Outcome.VALUE] * len(values))
        workers = [0] * len(values)
        message = m.Results(manager, 4, list(values), outcomes, workers, {}, 0.0, number, waiting)
        self.say(message, [codec.encode(payloads)])

    def ended(self, number: int, outcome: m.Outcome, payload: bytes) -> None:
        self.say(m.Results("m1", 4, [number], bytes([outcome]), [0]), [codec.encode([payload])])

    def say(self, message: m.ToExecutor, frames: Sequence[bytes] = ()) -> None:
        self.reactor.interchange_said(message, frames, self.now)
        self.reactor.sanity_check()

    def turn(self, seconds: float = 0.0) -> list[m.Message]:
        """Time passes, the reactor takes its turn, and what it says is taken out."""
        self.now += seconds
        self.reactor.turn(self.now)
        self.reactor.sanity_check()
        return self.told()

    def restart(self, assigned: Mapping[str, Sequence[int]] | None = None) -> m.Restore:
        """The interchange dies, having noted these assignments; what the next one is told first."""
        restore = self.reactor.interchange_left(assigned or {}, self.now)
        self.reactor.sanity_check()
        assert restore is not None
        assert codec.decode_from_executor(codec.encode(restore)) == restore
        return restore

    def told(self) -> list[m.Message]:
        return [action.message for action in self.reactor.actions() if isinstance(action, Tell)]
