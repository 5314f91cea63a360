"""The configurations of the documentation can be made, and their scripts are bash."""

from __future__ import annotations

import subprocess

import pytest

from tests.test_docs import FENCE, ROOT
from throughway import HighThroughputExecutor
from throughway.providers import JobSpec

PAGE = ROOT / "docs" / "guides" / "configurations.md"
BLOCKS = [match["code"] for match in FENCE.finditer(PAGE.read_text()) if match["language"] == "python"]


@pytest.mark.parametrize("code", BLOCKS)
def test_a_configuration_makes_scripts(code: str) -> None:
    found: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), found)
    provider = found.get("provider")
    if provider is None:
        executor = found["executor"]
        assert isinstance(executor, HighThroughputExecutor)
        provider = executor.provider
        executor.shutdown()
    text = provider.render(JobSpec("throughway-try-0", ["true"], provider.nodes_per_block, "/tmp/try"))  # type: ignore[attr-defined]
    checked = subprocess.run(
        ["bash", "-n"], input=text, text=True, capture_output=True, timeout=30, check=False
    )
    assert checked.returncode == 0, checked.stderr
