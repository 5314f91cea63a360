"""A bench for every test, and the option that rewrites golden scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interchange.harness import Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the traces of golden scenarios anew (tests/interchange/scenarios); review them as a diff",
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten. Needs `tests/interchange` on the command line."""
    return bool(request.config.getoption("--rewrite", default=False))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench whose test must have looked at everything that was done."""
    bench = Bench()
    yield bench
    bench.emptiness_check()
