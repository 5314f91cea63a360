"""Nodes for tests of the reactor, and the option that rewrites golden scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.manager.harness import Node


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-manager",
        action="store_true",
        help="write the traces of golden scenarios anew (tests/manager/scenarios); review them as a diff",
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten. Needs `tests/manager` on the command line."""
    return bool(request.config.getoption("--rewrite-manager", default=False))


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """Makes a `Node`; the test must have looked at everything that happened there."""
    made: list[Node] = []

    def make(*arguments: int, **options: object) -> Node:
        made.append(Node(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for node in made:
        node.emptiness_check()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """A node with one ready worker."""
    return make_node(1)


@pytest.fixture
def pair(make_node: Callable[..., Node]) -> Node:
    """A node with two ready workers."""
    return make_node(2)
