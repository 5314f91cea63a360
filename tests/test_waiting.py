from __future__ import annotations

import threading
import time

import pytest

from tests.waiting import wait_until


def test_returns_what_the_predicate_gave() -> None:
    event = threading.Event()
    timer = threading.Timer(0.02, event.set)
    timer.start()
    assert wait_until(lambda: "there" if event.is_set() else "", 30, "the timer") == "there"
    timer.join()


def test_asks_once_more_after_the_deadline() -> None:
    asked = []
    with pytest.raises(AssertionError):
        wait_until(lambda: asked.append(time.monotonic()), 0.0, "nothing")
    assert len(asked) == 1


def test_fails_with_what_was_waited_for_and_seen() -> None:
    asked = []

    def predicate() -> list[int]:
        asked.append(0)
        return []

    with pytest.raises(AssertionError, match=r"waited 0\.01 s in vain for 2 of \d+ \(seen last: \[\]\)"):
        wait_until(predicate, 0.01, lambda: f"2 of {len(asked)}")
    assert len(asked) > 1


def test_names_the_predicate_where_nothing_else_is_said() -> None:
    def never() -> bool:
        return False

    with pytest.raises(AssertionError, match=r"in vain for .*never"):
        wait_until(never, 0.0)
