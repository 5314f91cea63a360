"""What the tests of real systems share: their marker, their fixtures, and no silent gap where they are required."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.conftest import REQUIRE_SYSTEMS_VARIABLE
from tests.systems.network_namespaces import NetworkNamespaces, missing


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
