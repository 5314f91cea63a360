"""Libraries that a test of an integration needs: it is skipped where one is missing, unless all are required."""

from __future__ import annotations

import importlib
import os
import warnings

import pytest

REQUIRE_VARIABLE = "THROUGHWAY_REQUIRE_INTEGRATIONS"
"""Set to 1, as `make test-integrations` does, a missing library is an error."""


def need(*modules: str) -> None:
    """Skip the module that calls this, unless these can be imported."""
    for name in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # what a library says of its own dependencies as it is imported
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            if os.environ.get(REQUIRE_VARIABLE) == "1":
                raise
            pytest.skip(
                f"{error.name} is not installed: make test-integrations installs it", allow_module_level=True
            )
