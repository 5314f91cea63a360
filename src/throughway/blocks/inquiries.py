"""What the controller of blocks asks the interchange, and what it makes of the answers. Nothing here waits."""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from throughway.blocks.state import Ledger
from throughway.protocol.views import DrainView, LoadView

logger = logging.getLogger("throughway.blocks")

LOOK_SPACING = 1.0
"""Seconds between two questions for the managers' idleness, at least."""

ANSWER_SECONDS = 600.0
"""How long an answer is waited for before the question is asked again."""

Told: TypeAlias = Callable[[bytes | None], None]
"""Takes an answer of the interchange, None where there is none."""

Ask: TypeAlias = Callable[[str, str, Told], None]
"""Asks the interchange about a topic and a subject."""


class Inquiries:
    """Asks for idleness and has blocks drained; the answers go into the ledger.

    Args:
        label: the executor's.
        ledger: what is known of the blocks.
        lock: guards the ledger. No method is to be called by whoever holds it.
        ask: asks the interchange; None where there is none: then only blocks without managers are drained.
        touch: called with the lock held after an answer.
        clock: seconds.
        introduced: whether it need not be told of tasks for which nobody has the time.
    """

    def __init__(
        self,
        label: str,
        ledger: Ledger,
        lock: threading.Lock,
        *,
        ask: Ask | None,
        touch: Callable[[], None],
        clock: Callable[[], float],
        introduced: bool,
    ) -> None:
        self.wanted = False
        """whether idleness is to be asked for at once; guarded by the lock"""
        self._label = label
        self._ledger = ledger
        self._lock = lock
        self._interchange = ask
        self._touch = touch
        self._clock = clock
        self._uninterested = introduced
        self._introduced = introduced
        self._asked_at = -math.inf

    def forget(self) -> None:
        """Another interchange has taken over, which answers nothing that was asked before. With the lock held."""
        self._introduced = self._uninterested
        self._asked_at = -math.inf

    def introduce(self) -> None:
        """Say what the controller wants to be told, once."""
        if not self._introduced:
            self._introduced = True
            self._ask("tell_stranded", "", _nothing)

    def refuse(self, host: str) -> None:
        """No manager is welcome from this host any more."""
        self._ask("refuse_host", host, _nothing)

    def vacate(self, block: str) -> None:
        """The provider says that the block's job has ended, and it still has managers."""
        self._ask("block_ended", block, _nothing)

    def look(self) -> float:
        """Ask how idle the managers are; when to try again, should it be too soon or be answered by nobody."""
        with self._lock:
            now = self._clock()
            if self._interchange is None:
                self.wanted = False
                return math.inf
            if self._asked_at > self._ledger.looked_at and now < self._asked_at + ANSWER_SECONDS:
                return self._asked_at + ANSWER_SECONDS
            if now < self._asked_at + LOOK_SPACING:
                return self._asked_at + LOOK_SPACING
            self.wanted = False
            self._asked_at = now
        self._ask("blocks", "", self.answered)
        return math.inf

    def answered(self, payload: bytes | None) -> None:
        """How idle the managers are, or that nobody says."""
        with self._lock:
            loads = LoadView([]) if payload is None else msgspec.msgpack.decode(payload, type=LoadView)
            hopeless = self._ledger.hopeless
            self._ledger.looked(loads.blocks, loads.stranded, self._clock())
            if self._ledger.hopeless and not hopeless:
                logger.warning(
                    "executor %r: %d tasks wait whose walltime is longer than what even a fresh block has left: they "
                    "never run; give the provider a longer walltime, or tasks a shorter one",
                    self._label,
                    loads.stranded,
                )
            self._touch()

    def drain(self, blocks: Iterable[tuple[str, bool]], topic: str) -> None:
        """Have blocks held and drained, each by force or not, as ``drain_block`` or only if idle."""
        for block, force in blocks:
            with self._lock:
                live = self._ledger.live.get(block)
                # Those that users named are marked already.
                if live is None or not (live.asked_to_drain or live.scaled_in):
                    if not self._ledger.ask_to_drain(block, force=force):
                        continue
                    live = self._ledger.live[block]
                empty = not live.managers
            logger.info("block %s is scaled in%s", block, " by force" if force else "")
            if self._interchange is None:
                self._drained(block, msgspec.msgpack.encode(DrainView(empty or force)))
            else:
                self._ask(topic, block, functools.partial(self._drained, block))

    def _drained(self, block: str, payload: bytes | None) -> None:
        with self._lock:
            accepted = payload is not None and msgspec.msgpack.decode(payload, type=DrainView).accepted
            self._ledger.drain_answered(block, accepted, self._clock())
            self._touch()

    def _ask(self, topic: str, subject: str, told: Told) -> None:
        if self._interchange is not None:
            self._interchange(topic, subject, told)


def _nothing(payload: bytes | None) -> None:
    """Nothing depends on this answer."""
