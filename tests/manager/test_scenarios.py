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

        ``w1`` names a worker. Tasks are written as for `harness.task`.
        """
        if command == "node":
            self.node = self._make_node(words)
            return
        node = self.node
        assert node is not None, "a story begins with its node"
        text = " ".join(words)
        match command:
            case "learn":
                node.learn()
            case "assign":
                node.assign(*self._tasks(words))
            case "forget":
                node.assign(forget=[int(word.removeprefix("f")) for word in words])
            case "cancel" | "kill":
                node.cancel(
                    *(one.id if isinstance(one, m.Task) else int(one) for one in self._tasks(words)),
                    kill=command == "kill",
                )
            case "ready":
                node.get_ready(self._worker(words))
            case "begin":
                node.begin(self._worker(words))
            case "end":
                self._end(node, words)
            case "run":
                for _ in range(int(words[1]) if len(words) > 1 else 1):
                    node.begin(self._worker(words))
                    node.end(self._worker(words))
            case "initializer-fails":
                node.workers[self._worker(words)].write(0, Mark.INITIALIZER_FAILED, b"record", 0.0)
            case "read":
                node.read(self._worker(words))
            case "die":
                node.die(self._worker(words), int(words[1]) if len(words) > 1 else 9)
            case "reap":
                node.reap(self._worker(words), " ".join(words[1:]))
            case "finish":
                node.finish()
            case "wait":
                node.pass_time(float(words[0]))
            case "drain":
                node.say(m.Drain(text))
            case "shutdown":
                node.say(m.Shutdown(text))
            case "explain":
                node.say(m.Ask(1, "explain", text))
            case "packages":
                node.say(m.Ask(1, "packages"))
            case "heartbeat":
                node.say(m.Heartbeat())
            case "interchange-leaves":
                node.reactor.interchange_left(text)
                node.turn()
            case _:
                raise AssertionError(f"no story has the command {command!r}")

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
    def _worker(words: list[str]) -> int:
        assert words and words[0].startswith("w"), f"{words} names no worker"
        return int(words[0][1:])

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

    def _end(self, node: Node, words: list[str]) -> None:
        how: dict[str, Any] = {}
        for word in words[1:]:
            name, _, value = word.partition("=")
            how[name] = (
                m.Outcome[value.upper()]
                if name == "outcome"
                else float(value)
                if name == "seconds"
                else int(value)
            )
        node.end(self._worker(words), **how)


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
