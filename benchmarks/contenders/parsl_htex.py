"""Parsl's HighThroughputExecutor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.contenders.interface import Contender


class ParslHtex(Contender):
    """A bare HTEX, without Parsl's DataFlowKernel in front of it, which would only slow it down.

    One block of one manager with two workers on this machine, unencrypted and at the loopback address (an
    address that is not given is looked up over the network). The block is scaled out by hand, as the
    DataFlowKernel would do.
    """

    distribution = "parsl"
    _htex: Any
    _provider: Any
    _executor: Any

    def load(self) -> None:
        self._htex = import_module("parsl.executors").HighThroughputExecutor
        self._provider = import_module("parsl.providers").LocalProvider

    def start(self) -> None:
        provider = self._provider(init_blocks=1, min_blocks=0, max_blocks=1)
        provider.script_dir = os.path.join(self.folder, "submit_scripts")
        os.makedirs(provider.script_dir, exist_ok=True)
        settings: dict[str, Any] = {"encrypted": False, "address": "127.0.0.1", "max_workers_per_node": 2}
        self._executor = self._htex(label="htex", provider=provider, **(settings | self.options))
        self._executor.run_dir = self.folder
        self._executor.run_id = "benchmark"
        self._executor.start()
        self._executor.scale_out_facade(1)

    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        submit = self._executor.submit
        return [submit(function, {}, argument) for argument in arguments]

    def call(self, function: Callable[..., Any], argument: Any) -> Any:
        return self._executor.submit(function, {}, argument).result()

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # whatever it leaves behind is ended, and counted, by the runner
            self._executor.scale_in_facade(1)
        self._executor.shutdown()
