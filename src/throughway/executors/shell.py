"""The executor's thread and its interchange process: a wire and a clock around the reactor.

Who submits sends, as long as nobody else does: a task goes out in the call that submits it. Where more than a few are
on their way, further calls within `QUIET_SECONDS` only leave theirs in the outbox, for the next caller or the thread to
send in one message. Who reads what comes back is the affair of `executors.serving`.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from throughway import errors
from throughway.executors.actions import Action, Log, Notify, Restart, Tell
from throughway.executors.interchange_process import InterchangeProcess
from throughway.executors.interrupts import PATIENCE_SECONDS, DeferredInterrupt, exposed
from throughway.executors.reactor import ExecutorReactor
from throughway.executors.serving import FEW_TASKS, Serving, need_stack
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.transport.interface import Arrival, Closed, Event
from throughway.transport.poller import Poller
from throughway.transport.unix import UnixWire

logger = logging.getLogger("throughway.executor")

QUIET_SECONDS = 0.002
"""How long after a message went out in a submitting call the next may."""

STREAM_SECONDS = 2 * QUIET_SECONDS
"""If that was no longer ago than this, somebody submits one task after the other."""

MAX_BACKLOG_BYTES = 4 << 20
"""With more than this waiting for the interchange to read, tasks stay in the outbox."""

FAREWELL_SECONDS = 5.0
"""How long the interchange may take to end."""

Request = Callable[[ExecutorReactor], None]


class _Bell:
    """Wakes the thread. Whoever is about to ring keeps its descriptor open, so that nobody needs a lock for that: the
    handler of a signal might come by while its thread had that lock, and wait for the executor's end."""

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


class ExecutorShell:
    """Owns the executor's end of the wire to its interchange.

    Args:
        reactor: the state machine.
        on_batch: called in the thread after each batch of messages.
        on_end: called in the thread as its last act.
        serves: whether those who wait may read the wire. Not where there is one core, or where each result needs a turn
            of the thread.
    """

    def __init__(
        self,
        reactor: ExecutorReactor,
        *,
        on_batch: Callable[[], None],
        on_end: Callable[[], None],
        serves: bool = True,
    ) -> None:
        self._reactor = reactor
        self._on_batch = on_batch
        self._on_end = on_end
        self._requests: deque[Request] = deque()
        self._sending = threading.RLock()
        """an RLock, since that knows whether this thread has it, whatever came in between"""
        self._midway = False
        self._wire = UnixWire()
        self.serving = Serving(
            reactor,
            self._wire,
            self._sending,
            busy=lambda: self._signalled,
            wake=self.wake,
            cut_short=lambda: self._requests.append(self._was_cut_short),
            serves=serves,
        )
        self._last_sent = 0.0
        self._signalled = False
        self._ending = False
        self.port: int | None = None
        self.listening = threading.Event()
        self._process: InterchangeProcess | None = None
        self._selector = Poller()
        self._bell: _Bell | None = _Bell()
        """None once the thread listens no more"""
        descriptor = self._bell.descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, partial(self._on_wake, descriptor))
        self._thread = threading.Thread(target=self._run, name="throughway: executor", daemon=True)

    # ----------------------------------------------------------------------------------------------- the interchange

    def start(self, process: InterchangeProcess) -> None:
        """Start the interchange, and the thread."""
        self._process = process
        self._attach(process.start(), m.Restore())
        self._thread.start()

    def _attach(self, sock: socket.socket, first: m.Restore) -> None:
        wire = UnixWire.over(sock, label="interchange")
        wire.receive()
        wire.writing = self._sending
        wire.read_elsewhere = True
        wire.register(self._selector)
        wire.send(0, [codec.encode(first)])
        self._wire = wire
        self.serving.attach(wire, sock)

    @property
    def interchange_pid(self) -> int:
        """The interchange's process id, 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    def forsake(self) -> None:
        """In a forked child: managers must not find anybody at the parent's socket once the parent is gone."""
        if self._process is not None:
            self._process.close()

    # --------------------------------------------------------------------------------------------- from other threads

    @property
    def in_thread(self) -> bool:
        """Whether the caller is the executor's thread, as callbacks of futures are."""
        return threading.current_thread() is self._thread

    @property
    def engaged(self) -> bool:
        """Whether the caller has what the executor's thread needs: a finalizer, say, in the middle of `submit`."""
        return bool(self._sending._is_owned() or self.serving.lock._is_owned())  # type: ignore[attr-defined]

    def submitted(self) -> None:
        """Tasks are in the outbox: send them now, or see to it that they are sent soon."""
        now = time.monotonic()
        sending = self._sending
        since = now - self._last_sent
        few = len(self._reactor.futures) <= FEW_TASKS
        # A handler of the user's might raise in the middle, or wait there for what only the thread can bring.
        if (few or since >= QUIET_SECONDS) and not sending._is_owned() and not exposed():  # type: ignore[attr-defined]
            need_stack()
            interrupt = DeferredInterrupt(PATIENCE_SECONDS)
            try:
                interrupt.begin()
                # Who submits now and then has nothing to send but this.
                if not few and since < STREAM_SECONDS and len(self._reactor.outbox) > FEW_TASKS:
                    self.serving.read_along(now)
                if sending.acquire(blocking=False):
                    self._last_sent = now
                    self._midway = True
                    self._send_outbox()
                    self._midway = False
            finally:
                # Want of memory or of stack may have ended it at any of these lines.
                if sending._is_owned():  # type: ignore[attr-defined]
                    midway, self._midway = self._midway, False
                    sending.release()
                    if midway:
                        self.request(self._was_cut_short)
                interrupt.end()
            if not self._reactor.outbox:
                return
        # Where the wire is lent, the next one who submits sends them, or the thread soon after.
        if not self._signalled and not self.serving.lent:
            self.wake()

    def _was_cut_short(self, reactor: ExecutorReactor) -> None:
        # What the interchange has of the message is not known: the next one is told everything anew.
        self._perform(Restart("an error came in the middle of a message to it or from it"))

    def request(self, request: Request) -> None:
        """Have the thread call this with the reactor; after the end, it is called at once."""
        self._requests.append(request)
        self.serving.recall()
        self.wake()

    def wake(self) -> None:
        """Make the thread look at requests and outbox."""
        self._signalled = True
        try:
            bell = self._bell
            if bell is not None:
                bell.ring()
                return
        except BaseException:
            # Ctrl-C, before it was written perhaps: whoever comes next wakes the thread.
            self._signalled = False
            raise
        self._take_requests()

    def end(self) -> None:
        """Make the thread shut the interchange down and end."""
        self._ending = True
        self.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; whether it is gone."""
        if self._thread.ident is None or self.in_thread:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def wait_in_thread(self, done: Callable[[], bool], timeout: float) -> None:
        """Serve the wire until ``done()``, inside a callback that the thread runs itself.

        Only answers and verdicts are taken meanwhile; the rest stays in order for afterwards.
        """
        deadline = time.monotonic() + timeout
        self.serving.take_back()
        self._take_requests()
        while not done() and (left := deadline - time.monotonic()) > 0:
            self._send_all()
            for event in self._wait(left):
                if isinstance(event, Arrival):
                    message = self._decode(event)
                    if isinstance(message, m.Answer | m.Verdicts):
                        self._reactor.interchange_said(message, (), time.monotonic())
                        continue
                self.serving.deferred.append(event)
                if isinstance(event, Closed):
                    return

    # ---------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        self.serving.lock.acquire()
        try:
            while not self._ending:
                self._turn()
        except Exception as error:
            # Whatever it is, no future may wait for a thread that is gone.
            logger.exception("the executor's thread failed")
            self._reactor.fail(errors.ExecutorFailed(f"the executor's thread failed: {error!r}"))
        finally:
            self._finish()

    def _turn(self) -> None:
        serving = self.serving
        self._take_requests()
        now = time.monotonic()
        serving.take_back(now)
        self._reactor.turn(now)
        self._send_all()
        if self._reactor.broken is not None:
            # A request broke it: there may be nothing to wait for any more.
            self._on_batch()
            if self._ending:
                return
        deferred = serving.deferred
        if not (deferred or self._pressing):
            # Meanwhile, others may read the wire.
            timeout = self._patience()
            serving.lock.release()
            try:
                ready = self._selector.poll(timeout)
            finally:
                serving.lock.acquire()
            self._selector.call(ready)
        events = [*deferred, *self._wire.receive()]
        deferred.clear()
        for index, event in enumerate(events):
            self._on_event(event)
            if deferred:
                # A callback waited inside; what came meanwhile comes after what was there before.
                deferred.extendleft(reversed(events[index + 1 :]))
                break
        if self._reactor.broken is not None and self._reactor.futures:
            self._reactor.fail(self._reactor.broken)
        self._on_batch()

    def _wait(self, timeout: float | None) -> list[Event]:
        if not self._pressing:
            self._selector.wait(timeout)
        return self._wire.receive()

    @property
    def _pressing(self) -> bool:
        """Whether there is something to do before anything else comes."""
        outbox = self._reactor.outbox and self._sendable and not self.serving.lent
        return bool(self._requests or outbox or self._wire.pending())

    def _patience(self) -> float | None:
        deadline = min(self._reactor.next_deadline(), self.serving.lent_until)
        self.serving.waits_until = deadline
        return None if deadline == math.inf else max(0.0, deadline - time.monotonic())

    def _on_wake(self, descriptor: int, mask: int) -> None:
        os.eventfd_read(descriptor)
        self._signalled = False

    def _take_requests(self) -> None:
        while True:
            try:
                request = self._requests.popleft()
            except IndexError:
                return
            request(self._reactor)

    @property
    def _sendable(self) -> bool:
        return self._wire.backlog(0) <= MAX_BACKLOG_BYTES

    def _send_all(self) -> None:
        actions = self._reactor.actions()
        # The outbox goes first: what a request is about must be known there before it.
        if self._reactor.outbox and (actions or not self.serving.lent):
            with self._sending:
                self._send_outbox()
        while actions:
            for action in actions:
                self._perform(action)
            actions = self._reactor.actions()

    def _send_outbox(self) -> None:
        while self._sendable and (submission := self._reactor.submission()) is not None:
            message, frames = submission
            self._wire.send(0, [codec.encode(message), *frames])

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(message=message, frames=frames):
                with self._sending:
                    if isinstance(message, m.Cancel):
                        while (submission := self._reactor.submission()) is not None:
                            self._wire.send(0, [codec.encode(submission[0]), *submission[1]])
                    self._wire.send(0, [codec.encode(message), *frames])
            case Notify(callback=callback, arguments=arguments):
                callback(*arguments)
            case Restart(reason=reason):
                logger.error("the interchange (process %d) is killed: %s", self.interchange_pid, reason)
                if self._process is not None:
                    self._process.kill()
            case Log(level=level, text=text):
                logger.log(getattr(logging, level), "%s", text)

    def _decode(self, event: Arrival) -> m.ToExecutor | None:
        try:
            return codec.decode_to_executor(event.frames[0])
        except errors.ProtocolError as error:
            logger.error("dropped a message of the interchange: %s", error)  # noqa: TRY400 - no fault of this code
            return None

    def _on_event(self, event: Event) -> None:
        match event:
            case Arrival(frames=frames):
                message = self._decode(event)
                if isinstance(message, m.Listening):
                    self.port = message.port
                    self.listening.set()
                if message is not None:
                    self._reactor.interchange_said(message, frames[1:], time.monotonic())
            case Closed(reason=reason):
                if not self._ending:
                    self._interchange_ended(reason)
            case _:
                pass

    def _interchange_ended(self, reason: str) -> None:
        """The interchange is dead: start another, which is told all that this one knew; or give up."""
        assert self._process is not None
        obituary = self._process.obituary()
        restore = None
        try:
            # Whoever submits keeps to the outbox meanwhile.
            with self._sending:
                if self._reactor.broken is None:
                    restore = self._reactor.interchange_left(self._process.assignments(), time.monotonic())
                if restore is not None:
                    self._wire.close()
                    assigned = {expected.manager: expected.tasks for expected in restore.managers}
                    self._attach(self._process.start(self.port, assigned), restore)
        except OSError as error:
            obituary = f"{obituary}; another cannot be started: {error}"
            restore = None
        if restore is None:
            again = f", after {self._reactor.restarts} others" if self._reactor.restarts else ""
            self._reactor.fail(errors.InterchangeLost(f"{obituary} ({reason}{again})"))
            self._ending = True
        else:
            pid = self._process.pid
            logger.error("%s; another one takes over (process %d), and no task is lost", obituary, pid)

    def _finish(self) -> None:
        try:
            self.serving.take_back()
            if self._process is not None:
                told = self._wire.send(0, [codec.encode(m.Shutdown("the executor shut down"))])
                self._await_end(self._process, told)
                self._process.close()
        finally:
            self.listening.set()
            with self._sending:
                self._wire.close()
            self._selector.close()
            self._reactor.close()
            self._bell = None
            self._take_requests()
            self._on_end()

    def _await_end(self, process: InterchangeProcess, told: bool) -> None:
        deadline = time.monotonic() + FAREWELL_SECONDS
        closed = not told
        while not closed and (left := deadline - time.monotonic()) > 0:
            self._selector.wait(left)
            closed = any(isinstance(event, Closed) for event in self._wire.receive())
        if not process.wait(max(0.1, deadline - time.monotonic())):
            logger.warning("the interchange (process %d) did not end by itself and is killed", process.pid)
            process.kill()

    def abandon(self) -> None:
        """Give the descriptors back although the thread was never started."""
        if self._process is not None:
            self._process.kill()
        self._wire.close()
        self._selector.close()
        self._bell = None
