"""Dask's distributed scheduler on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.contenders.interface import Contender


class DaskCluster(Contender):
    """`distributed.LocalCluster` of two worker processes with one thread each, and a `Client`."""

    distribution = "distributed"
    _distributed: Any
    _cluster: Any
    _client: Any

    def load(self) -> None:
        self._distributed = import_module("distributed")

    def start(self) -> None:
        settings: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        self._cluster = self._distributed.LocalCluster(
            processes=True, local_directory=self.folder, **(settings | self.options)
        )
        self._client = self._distributed.Client(self._cluster)

    def submit_all(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        submit = self._client.submit
        return [submit(function, argument, pure=False) for argument in arguments]

    def collect(self, pending: list[Any]) -> list[Any]:
        results: list[Any] = self._client.gather(pending)
        return results

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()
