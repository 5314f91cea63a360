"""What is installed is what the sources say."""

from __future__ import annotations

import importlib.metadata
import importlib.resources

import pytest

import throughway


@pytest.fixture
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("throughway")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("throughway runs from its sources here and is not installed: make test installs it")


def test_the_version_has_one_source(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.version == throughway.__version__


def test_the_command_can_be_run(distribution: importlib.metadata.Distribution) -> None:
    (command,) = distribution.entry_points.select(group="console_scripts")
    assert command.name == "throughway"
    assert callable(command.load())


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert importlib.resources.files("throughway").joinpath("py.typed").is_file()
