"""Ray on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.contenders.interface import Contender


class RayCluster(Contender):
    """`ray.init` with two CPUs, so two workers; no dashboard, no usage report."""

    distribution = "ray"
    _ray: Any

    def load(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        self._ray = import_module("ray")

    def start(self) -> None:
        settings: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
        self._remotes: dict[Callable[[Any], Any], Any] = {}
        self._ray.init(
            address="local", object_store_memory=1 << 30, _temp_dir=self.folder, **(settings | self.options)
        )

    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        if function not in self._remotes:
            self._remotes[function] = self._ray.remote(function)
        remote = self._remotes[function].remote
        return [remote(argument) for argument in arguments]

    def collect(self, pending: list[Any]) -> list[Any]:
        results: list[Any] = self._ray.get(pending)
        return results

    def stop(self) -> None:
        self._ray.shutdown()
