"""Golden scenarios: each file of ``scenarios/`` is a story, its lines in turn commands and, indented, what they caused.

``pytest tests/manager --rewrite-manager`` writes the indented lines anew; they are then reviewed as a diff. The first
command of a story is ``node``; `Story.perform` knows the others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.manager.harness import Node
from throughway.protocol import messages as m
from throughway.protocol.bundles import Mark

FOLDER = Path(__file__).parent / "scenarios"
FILES = sorted(FOLDER.glob("*.txt"))
INDENT = "    "

_BRIEF = frozenset({"run", "finish"})
"""Commands of whose trace the single steps of workers are left out."""

_STEP = re.compile(r"w\d+ (begins|ends) \d+")
_WORKER = re.compile(r"w\d+")

_OPTIONS = {"prefetch": "prefetch_capacity", "max_tasks": "max_tasks_per_child", "drain_at": "drain_at"}


class Story:
    """One scenario as it is played."""

    def __init__(self) -> None:
        self.node: Node | None = None

    def play(self, text: str) -> str:
        """The text with the lines that the commands cause, in place of those that it has."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith(INDENT):
                continue
            lines.append(line)
            if line and not line.startswith("#"):
                command, *words = line.split()
                self.perform(command, words)
                assert self.node is not None
                caused = self.node.take()
                if command in _BRIEF:
                    caused = [line for line in caused if not _STEP.fullmatch(line)]
                lines += [INDENT + line for line in caused]
        return "\n".join(lines) + "\n"

    def perform(self, command: str, words: list[str]) -> None:
        """Do what a line says.

        ``w1`` names a worker. Tasks are written as for `harness.task`, and ``1-9`` are nine of them.
        """
        if command == "node":
            self.node = self._make_node(words)
            return
        assert self.node is not None, "a story begins with its node"
        if words and _WORKER.fullmatch(words[0]):
            self._perform_of_worker(self.node, command, int(words[0][1:]), words[1:])
        else:
            self._perform(self.node, command, words)

    def _perform(self, node: Node, command: str, words: list[str]) -> None:
        match command:
            case "learn":
                node.learn()
            case "assign":
                node.assign(*self._tasks(words))
            case "forget":
                node.assign(forget=[int(word.removeprefix("f")) for word in words])
            case "cancel" | "kill":
                node.cancel(*map(int, self._tasks(words)), kill=command == "kill")
            case "finish":
                node.finish()
            case "wait":
                node.pass_time(float(words[0]))
            case "drain":
                node.say(m.Drain(" ".join(words)))
            case "explain" | "packages":
                node.say(m.Ask(1, command, " ".join(words)))
            case "heartbeat":
                node.say(m.Heartbeat())
            case "acknowledge":
                node.acknowledge(int(words[0]) if words else None)
            case "disconnect":
                node.disconnect(" ".join(words) or "reset")
            case "hello":
                node.hello()
            case "welcome":
                node.welcome(*map(int, words))
            case _:
                raise AssertionError(f"no story has the command {command!r}")

    @staticmethod
    def _perform_of_worker(node: Node, command: str, number: int, words: list[str]) -> None:
        match command:
            case "ready":
                node.get_ready(number)
            case "begin":
                node.begin(number)
            case "end":
                node.end(number, **_manner(words))
            case "run":
                for _ in range(int(words[0])):
                    node.begin(number)
                    node.end(number)
            case "initializer-fails":
                node.workers[number].write(0, Mark.INITIALIZER_FAILED, b"record", 0.0)
            case "read":
                node.read(number)
            case "die":
                node.die(number, int(words[0]) if words else 9)
            case "reap":
                node.reap(number, " ".join(words))
            case _:
                raise AssertionError(f"no story has the command {command!r} of a worker")

    @staticmethod
    def _make_node(words: list[str]) -> Node:
        options: dict[str, Any] = {}
        slots = 1
        ready = True
        for word in words:
            name, _, value = word.partition("=")
            if name == "slots":
                slots = int(value)
            elif name == "unready":
                ready = False
            else:
                options[_OPTIONS[name]] = float(value) if name == "drain_at" else int(value)
        return Node(slots, ready=ready, **options)

    @staticmethod
    def _tasks(words: list[str]) -> list[int | str]:
        found: list[int | str] = []
        for word in words:
            first, dash, last = word.partition("-")
            if dash and last.isdecimal():
                found += range(int(first), int(last) + 1)
            else:
                found.append(word)
        return found


def _manner(words: list[str]) -> dict[str, Any]:
    """How a task ends: its outcome, its running time in seconds, its number of large frames."""
    how: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name == "outcome":
            how[name] = m.Outcome[value.upper()]
        else:
            how[name] = float(value) if name == "seconds" else int(value)
    return how


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_story_goes_as_it_is_written(path: Path, rewrite: bool) -> None:
    written = path.read_text()
    played = Story().play(written)
    if rewrite:
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_stories() -> None:
    assert len(FILES) >= 8


def test_a_story_that_goes_otherwise_is_noticed() -> None:
    text = FILES[0].read_text()
    caused = next(line for line in text.splitlines() if line.startswith(INDENT))
    assert Story().play(text.replace(caused, caused + " and more", 1)) == Story().play(text)
    assert Story().play(text) != text.replace(caused, caused + " and more", 1)


def test_an_unknown_command_fails() -> None:
    with pytest.raises(AssertionError, match="no story has the command 'dance'"):
        Story().play("node\ndance\n")
