"""The public interface: what is promised is there, and says what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import throughway
import throughway.errors
import throughway.launchers
import throughway.providers

TREE = ast.parse(Path(throughway.__file__).read_text())


def imported_for_types() -> dict[str, str]:
    """What the package imports for type checkers: public name → module."""
    found = {}
    for node in TREE.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                assert statement.module is not None
                for alias in statement.names:
                    assert alias.asname == alias.name, f"{alias.name}: `as` makes it public for type checkers"
                    found[alias.name] = statement.module
    return found


def test_all_is_what_type_checkers_see() -> None:
    assert sorted(imported_for_types()) == sorted(throughway.__all__)
    assert len(set(throughway.__all__)) == len(throughway.__all__)


@pytest.mark.parametrize("name", sorted(throughway.__all__))
def test_each_name_resolves_to_what_it_says(name: str) -> None:
    value = getattr(throughway, name)
    assert value.__name__ == name
    assert value.__module__ == imported_for_types()[name]
    assert getattr(throughway, name) is value


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'throughway' has no attribute 'nonsense'"):
        throughway.nonsense  # noqa: B018
    assert set(throughway.__all__) <= set(dir(throughway))
    assert "__version__" in dir(throughway)


def test_importing_everything() -> None:
    code = "from throughway import *\nprint(HighThroughputExecutor.__name__, WorkerLost.__name__)"
    path = str(Path(throughway.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PYTHONPATH": path},
    )
    assert done.stdout.split() == ["HighThroughputExecutor", "WorkerLost"]


def test_every_error_that_users_see_is_public() -> None:
    """`errors` is where they live; those that only name a daemon's own trouble need not be at the top."""
    inner = {"TransportError", "ProtocolError", "CommandTimeout"}
    there = {
        name
        for name, kind in vars(throughway.errors).items()
        if inspect.isclass(kind) and kind.__module__ == "throughway.errors"
    }
    assert there - inner == there & set(throughway.__all__)
    assert all(issubclass(getattr(throughway.errors, name), throughway.ThroughwayError) for name in there)


def public() -> Iterator[tuple[str, Any]]:
    for module in (throughway, throughway.errors, throughway.providers, throughway.launchers):
        names = getattr(module, "__all__", None) or [
            name for name in vars(module) if not name.startswith("_")
        ]
        for name in names:
            value = getattr(module, name)
            if inspect.isclass(value) and value.__module__.startswith("throughway"):
                yield f"{module.__name__}.{name}", value


def members() -> Iterator[tuple[str, Any]]:
    """All public classes with their own public methods and properties."""
    for path, value in public():
        yield path, value
        for name, member in vars(value).items():
            if not name.startswith("_") and (
                inspect.isfunction(member) or isinstance(member, property | classmethod)
            ):
                yield f"{path}.{name}", getattr(value, name) if not isinstance(member, property) else member


@pytest.mark.parametrize(("path", "value"), [pytest.param(path, value, id=path) for path, value in members()])
def test_whatever_is_public_says_what_it_is(path: str, value: Any) -> None:
    text = inspect.getdoc(value)  # that of the method it overrides counts
    assert text, f"{path} has no docstring"
    assert text.strip().endswith((".", ":", ">", ")", "`")), f"{path}: {text!r}"


def test_the_package_has_a_version() -> None:
    numbers = throughway.__version__.split(".")
    assert len(numbers) == 3
    assert all(number.isdecimal() for number in numbers)
