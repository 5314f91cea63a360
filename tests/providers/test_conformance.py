"""The providers that need no other system, or have a stand-in for it, in the suite that all pass."""

from __future__ import annotations

import pytest

from tests.providers.conformance import Conformance, System, jobs
from throughway.providers import LocalProvider

__all__ = ["jobs"]


class TestLocal(Conformance):
    @pytest.fixture
    def system(self) -> System:
        return System(LocalProvider)
