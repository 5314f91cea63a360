"""What every launcher does.

A provider gets a job of some nodes and runs one script on the first of them; a launcher is how the script
gets a manager started on each. It is a pure function from text to text, so that a script can be shown
without being run.
"""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Turns the command of one manager into the command of a block."""

    def __call__(self, command: str, nodes: int) -> str:
        """Bash text that runs ``command`` (one simple command, quoted for bash) for each of ``nodes`` nodes.

        The text ends when all managers have ended, with a non-zero status where they failed. A launcher
        that has nothing to add returns ``command`` itself; a provider may then start it without a shell.

        What reaches the shell that runs the text must reach the managers on all nodes: SIGUSR1 as such (the
        block will end soon), SIGTERM and SIGINT as SIGTERM (end). The text goes on waiting for them, and
        starts no more after the latter.
        """
