"""The provider for Grid Engine on a real one."""

from __future__ import annotations

import pytest

from tests.providers.conformance import CommandConformance, System, impostor, jobs
from tests.systems.grid_engine_cluster import GridEngineCluster
from throughway.providers import GridEngineProvider

__all__ = ["impostor", "jobs"]

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]


def _make(**parameters: object) -> GridEngineProvider:
    return GridEngineProvider(**{"walltime": "00:05:00", **parameters})  # type: ignore[arg-type]


class TestGridEngine(CommandConformance):
    @pytest.fixture
    def system(self, grid_engine: GridEngineCluster) -> System:
        commands = {"submit": "qsub", "status": "qstat", "cancel": "qdel"}
        return System(_make, {"queue": "nowhere"}, 'unknown queue "nowhere"', commands)
