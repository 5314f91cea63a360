"""Who reads the wire to the interchange: the executor's thread, or one of the user's that is at hand.

Who waits for one of a few tasks reads until it is done (`Serving.serve`), and awake: so the result of a lone task does
not have to wake the executor's thread, which would wake the one who waits.

Who submits many tasks, one after the other, reads what has come each time that he sends (`Serving.read_along`).
The executor's thread would want the interpreter for each of its system calls, and has to wait 5 ms for that while
another thread computes (`sys.setswitchinterval`): results came 20 ms late, and so did the memory of the tasks'
arguments.

All but plain results is left to the executor's thread: errors, callbacks, and whatever else the interchange has to say;
and, by those who submit, also values that run code of their own as they are unpickled.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from throughway.errors import ProtocolError
from throughway.executors.futures import UNDONE, TaskFuture
from throughway.executors.interrupts import PATIENCE_SECONDS, DeferredInterrupt, exposed
from throughway.executors.reactor import ExecutorReactor
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.transport.interface import Arrival, Event
from throughway.transport.spin import Spin
from throughway.transport.unix import UnixWire

FEW_TASKS = 4
"""With no more tasks outstanding than this there is nothing to send together, and who waits for one reads."""

SERVE_SECONDS = 0.0005
"""How long somebody who waits for a task reads the wire, at most."""

PROMPT_SECONDS = 0.001
"""After waits that were shorter, the next one may be so short that it is worth it."""

LEND_SECONDS = 0.004
"""Who submits is given the wire for so long, and again each time that he reads."""

ALOOF_SECONDS = 0.01
"""Where that was to no avail, he is not given it again for so long."""


STACK_FRAMES = 32
"""What is needed of the stack to read or to send, and to put all in order afterwards."""


def need_stack(frames: int = STACK_FRAMES) -> None:
    """Raise RecursionError now rather than in the middle, where there would be no stack even to tidy up."""
    if frames:
        need_stack(frames - 1)


class Serving:
    """Which thread reads. The executor's has `lock`, except while it waits; whoever else gets it then may read.

    Args:
        reactor: takes the results.
        wire: what is read, until `attach` names another.
        writing: held by who writes to the wire, or changes what the thread waits for.
        busy: whether the thread is about to do something.
        wake: makes the thread look at what is there, and at the time.
        cut_short: called where somebody may have taken in a message by half.
        serves: whether others may read at all.
    """

    def __init__(
        self,
        reactor: ExecutorReactor,
        wire: UnixWire,
        writing: AbstractContextManager[object],
        *,
        busy: Callable[[], bool],
        wake: Callable[[], None],
        cut_short: Callable[[], None],
        serves: bool,
    ) -> None:
        self._reactor = reactor
        self._writing = writing
        self._busy = busy
        self._wake = wake
        self._cut_short = cut_short
        self.lock = threading.RLock()
        """an RLock, since that knows whether this thread has it, whatever came in between"""
        self.deferred: deque[Event] = deque()
        """what is left to the thread, in order, and comes before what it reads itself"""
        self.waits_until = math.inf
        """until when the thread waits, at most"""
        self.lent_until = math.inf
        """until when the wire is lent to those who submit, and the thread does not read; inf where it is not lent"""
        self.spin = Spin(SERVE_SECONDS if serves else 0.0, PROMPT_SECONDS)
        """told by those who wait how long it took"""
        self.probe = select.poll()
        """tells whether there is something to read"""
        self._wire = wire
        self._reading = False
        self._aloof_until = -math.inf

    def attach(self, wire: UnixWire, sock: socket.socket) -> None:
        """From now on it is this wire, over this socket."""
        self.probe = select.poll()
        self.probe.register(sock, select.POLLIN)
        self._wire = wire
        self.lent_until = math.inf

    # ------------------------------------------------------------------------------------------ for those who wait

    def serve(self, future: TaskFuture[Any]) -> None:
        """Read in place of the thread until ``future`` is done, for `SERVE_SECONDS` at most.

        Does nothing where that is not worth it or not possible now.
        """
        lock = self.lock
        if (
            not self.spin.due
            # To compete with the thread could keep it waiting for long.
            or self._busy()
            or len(self._reactor.futures) > FEW_TASKS
            or lock._is_owned()  # type: ignore[attr-defined]
            or exposed()
        ):
            return
        need_stack()
        interrupt = DeferredInterrupt(PATIENCE_SECONDS)
        try:
            interrupt.begin()
            if lock.acquire(blocking=False):
                self._serve(future)
        finally:
            # Want of memory or of stack may have ended it at any of these lines.
            if lock._is_owned():  # type: ignore[attr-defined]
                self._leave(lends=False)
            interrupt.end()

    def _serve(self, future: TaskFuture[Any]) -> None:
        # Only now is it sure that the thread waits.
        seconds = self.spin.seconds
        if not seconds or self.deferred or self._reactor.broken is not None:
            return
        if len(self._reactor.futures) > FEW_TASKS:
            # Somebody may wait for room by now.
            return
        deadline = time.monotonic() + seconds
        with self._writing:
            # What comes does not wake the thread.
            self._wire.pause(0, True)
        arrived = partial(self.probe.poll, 0)
        while future._state in UNDONE and self.spin.wait(arrived, deadline):
            self._read()
            if not self._take(inert=False):
                return

    # ---------------------------------------------------------------------------------------- for those who submit

    def read_along(self, now: float) -> None:
        """Read what is there, and have the thread leave the wire alone for `LEND_SECONDS`.

        For a thread that submits one task after the other, when it sends. The caller defers Ctrl-C.
        """
        lock = self.lock
        if not self.spin.seconds or now < self._aloof_until or lock._is_owned():  # type: ignore[attr-defined]
            return
        try:
            if lock.acquire(blocking=False):
                self._read_along(now)
        finally:
            if lock._is_owned():  # type: ignore[attr-defined]
                self._leave(lends=True)

    def _read_along(self, now: float) -> None:
        if not self.spin.seconds or self.deferred or self._reactor.broken is not None:
            return
        lent = self.lent
        self.lent_until = now + LEND_SECONDS
        if not lent:
            with self._writing:
                self._wire.pause(0, True)
        self._read()
        # A value that runs code as it is loaded might do anything here, in the middle of `submit`.
        if not self._take(inert=True):
            self._aloof_until = now + ALOOF_SECONDS

    @property
    def lent(self) -> bool:
        """Whether those who submit read and send, until `lent_until`."""
        return self.lent_until < math.inf

    def recall(self) -> None:
        """Have the thread read again, at once: somebody waits for it, who does not submit meanwhile."""
        if self.lent:
            self._aloof_until = time.monotonic() + ALOOF_SECONDS
            self.lent_until = -math.inf
            self._wake()

    def stop(self) -> None:
        """From now on, only the thread reads."""
        self.spin.stop()
        self.recall()

    # ---------------------------------------------------------------------------------------------- for the thread

    def take_back(self, now: float = math.inf) -> None:
        """Read again from here on, if it is time for that."""
        if self.lent and now >= self.lent_until:
            self.lent_until = math.inf
            with self._writing:
                self._wire.pause(0, False)

    # ------------------------------------------------------------------------------------------------------ reading

    def _read(self) -> None:
        self._reading = True
        self._wire.take(0)
        self.deferred += self._wire.receive()
        self._reading = False

    def _take(self, *, inert: bool) -> bool:
        """Put what was read into futures; False where something is not for this thread to take."""
        deferred = self.deferred
        while deferred:
            # It stays there until it is in the future, should an error come in between.
            if not self._take_plain(deferred[0], inert):
                return False
            deferred.popleft()
        return True

    def _take_plain(self, event: Event, inert: bool) -> bool:
        if not isinstance(event, Arrival):
            return False
        try:
            message = codec.decode_to_executor(event.frames[0])
        except ProtocolError:
            return False
        return isinstance(message, m.Results) and self._reactor.take_plain(
            message, event.frames[1:], time.monotonic(), inert=inert
        )

    def _leave(self, *, lends: bool) -> None:
        try:
            midway, self._reading = self._reading, False
            if midway:
                self._cut_short()
            # Who submits may have found the interchange gone while nobody but this thread would have heard of it.
            left = bool(midway or self.deferred or self._wire.pending())
            if left or not lends:
                self.lent_until = math.inf
                with self._writing:
                    self._wire.pause(0, False)
        finally:
            # Whatever came in between again: who got it can give it back.
            self.lock.release()
        if left or min(self.lent_until, self._reactor.next_deadline()) < self.waits_until:
            self._wake()
