"""What the tests of real systems share: their marker, their fixtures, and no silent gap where they are required."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.conftest import REQUIRE_SYSTEMS_VARIABLE
from tests.systems import grid_engine_cluster, slurm_cluster
from tests.systems.grid_engine_cluster import GridEngineCluster
from tests.systems.network_namespaces import NetworkNamespaces, missing
from tests.systems.slurm_cluster import SlurmCluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "systems" in item.path.parts:
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and os.environ.get(REQUIRE_SYSTEMS_VARIABLE) == "1":
        report.outcome = "failed"
        report.longrepr = (
            f"{REQUIRE_SYSTEMS_VARIABLE}=1, and {collector.nodeid} was skipped: {report.longrepr}"
        )
    return report


@pytest.fixture
def network_namespaces() -> Iterator[NetworkNamespaces]:
    """Two hosts of this test's own, joined by a wire."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with NetworkNamespaces() as namespaces:
        yield namespaces


def _slurm(**options: object) -> Iterator[SlurmCluster]:
    reason = slurm_cluster.missing(accounting=bool(options.get("accounting")))
    if reason:
        pytest.skip(reason)
    with SlurmCluster(**options) as cluster:  # type: ignore[arg-type]
        yield cluster


def _in_use(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.clear()


@pytest.fixture(scope="session")
def slurm_of_the_session() -> Iterator[SlurmCluster]:
    yield from _slurm(nodes=3)


@pytest.fixture(scope="session")
def slurm_with_accounting_of_the_session() -> Iterator[SlurmCluster]:
    # A job is forgotten by squeue as soon as Slurm can do that.
    yield from _slurm(nodes=2, accounting=True, min_job_age=2)


@pytest.fixture(scope="session")
def slurm_hosts_of_the_session() -> Iterator[SlurmCluster]:
    yield from _slurm(nodes=2, separate=True, slurmd_timeout=10)


@pytest.fixture
def slurm(slurm_of_the_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Slurm with three nodes on this machine, without accounting; its queue is empty before and after the test."""
    yield from _in_use(slurm_of_the_session, monkeypatch)


@pytest.fixture
def slurm_with_accounting(
    slurm_with_accounting_of_the_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmCluster]:
    """Slurm with two nodes on this machine and a database, in which only the account ``default`` may submit."""
    yield from _in_use(slurm_with_accounting_of_the_session, monkeypatch)


@pytest.fixture
def slurm_hosts(
    slurm_hosts_of_the_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmCluster]:
    """Slurm with two nodes that are hosts of their own: separate networks, host names and loopback addresses."""
    yield from _in_use(slurm_hosts_of_the_session, monkeypatch)


@pytest.fixture(scope="session")
def grid_engine_of_the_session() -> Iterator[GridEngineCluster]:
    reason = grid_engine_cluster.missing()
    if reason:
        pytest.skip(reason)
    with GridEngineCluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def grid_engine(
    grid_engine_of_the_session: GridEngineCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GridEngineCluster]:
    """Grid Engine with two nodes that are hosts of their own; its queue is empty before and after the test."""
    cluster = grid_engine_of_the_session
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
    yield cluster
    cluster.clear()
