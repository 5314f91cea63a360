"""Throughway in the place of Parsl's executor, called as Parsl calls it."""

from __future__ import annotations

from importlib import import_module

from benchmarks.contenders.parsl_htex import ParslHtex


class ParslThroughway(ParslHtex):
    """`throughway.integrations.parsl.HighThroughputExecutor`, bare, in all else like Parsl's HTEX.

    With the address it is given, managers connect over ZeroMQ as those of Parsl do, not by a Unix socket.
    """

    distribution = "throughway"

    def version(self) -> str:
        from throughway import __version__

        return f"{__version__} in Parsl {import_module('parsl').__version__}"

    def load(self) -> None:
        self._htex = import_module("throughway.integrations.parsl").HighThroughputExecutor
        self._provider = import_module("parsl.providers").LocalProvider
