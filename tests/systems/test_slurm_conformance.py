"""The provider for Slurm on a real one, with accounting and without."""

from __future__ import annotations

import pytest

from tests.providers.conformance import CommandConformance, System, impostor, jobs
from tests.systems.slurm_cluster import SlurmCluster
from throughway.providers import SlurmProvider

__all__ = ["impostor", "jobs"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

COMMANDS = {"submit": "sbatch", "status": "squeue", "cancel": "scancel"}


def _make(**parameters: object) -> SlurmProvider:
    return SlurmProvider(**{"exclusive": False, "walltime": "00:05:00", **parameters})  # type: ignore[arg-type]


class TestWithoutAccounting(CommandConformance):
    @pytest.fixture
    def system(self, slurm: SlurmCluster) -> System:
        return System(_make, {"partition": "nowhere"}, "invalid partition specified: nowhere", COMMANDS)


@pytest.mark.slow
class TestWithAccounting(CommandConformance):
    @pytest.fixture
    def system(self, slurm_with_accounting: SlurmCluster) -> System:
        return System(_make, {"account": "nobody"}, "Invalid account", COMMANDS)
