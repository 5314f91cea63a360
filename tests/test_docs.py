"""The documentation tells what is there: examples run, links lead somewhere, tables agree with the code."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import throughway
from throughway import HighThroughputExecutor
from throughway.executors.options import ResourceSpecification
from throughway.providers import LocalProvider

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUNNING = ["README.md", "docs/guide.md"]

FENCE = re.compile(
    r"(?P<mark><!-- not run: [^>]+ -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
SECONDS = 50.0


def identified(page: Path | str) -> str:
    return str(page) if isinstance(page, str) else page.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------------------------------ examples


def script_of(page: Path) -> str:
    """All Python blocks of a page that are not marked as not run, each at its own line, as one script."""
    text = page.read_text()
    lines = [""] * text.count("\n")
    for match in FENCE.finditer(text):
        if match["language"] == "python" and match["mark"] is None:
            start = text.count("\n", 0, match.start("code"))
            code = match["code"].splitlines()
            lines[start : start + len(code)] = code
    return "\n".join(lines)


@pytest.mark.parametrize("name", RUNNING)
def test_examples_run(name: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(script_of(ROOT / name))
    parent = str(Path(throughway.__file__).resolve().parents[1])
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": parent},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{name}:\n{result.stdout}\n{result.stderr}"
    assert "Warning" not in result.stderr
    assert result.stdout


@pytest.mark.parametrize("page", PAGES, ids=identified)
def test_every_python_block_is_python(page: Path) -> None:
    for match in FENCE.finditer(page.read_text()):
        if match["language"] == "python":
            ast.parse(match["code"])


def test_a_block_that_is_not_run_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```python\na = 1\n```\n<!-- not run: why -->\n```python\nb = 2\n```\n```bash\nls\n```\n"
    )
    assert script_of(page).split("\n") == ["", "", "a = 1", *[""] * 8]


# --------------------------------------------------------------------------------------------------------------- links


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", page.read_text())):
        if not re.match(r"\w+:", match["target"]):
            yield match["target"]


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=identified)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: two\n[a](page.md) [b](#a-heading-two) [c](none.md) [d](#none) [e](https://example.org/x)\n"
    )
    assert broken_links(page) == ["none.md", "#none"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=identified)
def test_each_decision_is_listed_and_titled_by_its_number(page: Path) -> None:
    assert page.read_text().startswith(f"# {page.name[:3]} ")
    assert f"(decisions/{page.name})" in (ROOT / "docs/architecture.md").read_text()


# -------------------------------------------------------------------------------------------------------------- tables


def rows_of(page: Path, heading: str | None = None) -> list[list[str]]:
    """The cells of all table rows of a page, or of those below one heading, without the tables' own headings."""
    text = page.read_text()
    if heading is not None:
        found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found is not None, f"{page} has no heading {heading!r}"
        text = found[1]
    rows = []
    for table in re.findall(r"^\|.*\n\|[-|: ]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE):
        rows += [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return rows


def documented(heading: str) -> dict[str, str]:
    """name → default, as docs/parameters.md has them."""
    rows = rows_of(ROOT / "docs/parameters.md", heading)
    return {row[0].strip("`"): row[1].strip("`") for row in rows}


def defaults_of(function: object) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {parameter.name: repr(parameter.default) for parameter in parameters}


@pytest.mark.parametrize(
    ("heading", "function"),
    [
        ("Constructor", HighThroughputExecutor),
        ("Task options", ResourceSpecification),
        ("LocalProvider", LocalProvider),
    ],
)
def test_parameters_and_defaults_are_those_of_the_code(heading: str, function: object) -> None:
    assert documented(heading) == defaults_of(function)


def test_what_has_no_counterpart_is_no_parameter() -> None:
    rows = rows_of(ROOT / "docs/parameters.md", "What HTEX has, and Throughway has not")
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert len(names) >= len(rows) - 1
    assert names.isdisjoint(defaults_of(HighThroughputExecutor))


def test_every_public_exception_that_a_future_can_get_is_explained() -> None:
    text = (ROOT / "docs/failures.md").read_text()
    lost = [name for name in throughway.__all__ if is_loss(getattr(throughway, name))]
    assert len(lost) >= 5
    assert [name for name in lost if f"`{name}`" not in text] == []


def is_loss(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, throughway.TaskLost)


def names_in(path: Path) -> set[str]:
    """The tests of a file, as pytest names them behind the file's name."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return names


def test_every_failure_names_tests_that_are_there() -> None:
    rows = rows_of(ROOT / "docs/failures.md")
    assert len(rows) > 30
    known: dict[str, set[str]] = {}
    for row in rows:
        assert len(row) == 5, row
        tests = re.findall(r"`([\w/]+\.py)::([\w:]+)`", row[-1])
        assert tests, f"no test is named for: {row[0]}"
        for file, name in tests:
            if file not in known:
                path = ROOT / "tests" / file
                known[file] = names_in(path) if path.exists() else set()
            assert name in known[file], f"there is no test tests/{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=identified)
def test_commands_of_make_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    used = set(re.findall(r"(?:^|`)(?:PYTHON=\S+ )?make ([a-z-]+)", text, re.MULTILINE))
    assert used <= targets
