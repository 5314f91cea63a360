"""``throughway journal``: what a journal holds, as people and programs read it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from throughway.cli.__main__ import main
from throughway.cli.journal import show
from throughway.executors.journal_file import JournalFile, Kind, Meta, encode_record
from throughway.executors.journal_keys import labelled

NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A journal with four results, one of them outdated, and one task without."""
    monkeypatch.setattr("throughway.cli.journal.time.time", lambda: NOW)
    path = str(tmp_path / "a.journal")
    file = JournalFile(path, holder="docking")
    keys = [labelled(str(number)) for number in range(4)]
    file.append([encode_record(Kind.SUBMITTED, Meta(time=NOW - 7200), keys), *keys])
    for key, function, body, label in [
        (keys[0], "dock", bytes(100_000), ""),
        (keys[0], "dock", b"again", ""),
        (keys[1], "dock", b"two", "two"),
        (keys[2], "score", b"three", ""),
    ]:
        meta = Meta(key, NOW - 60, function, label)
        file.append([encode_record(Kind.RESULT, meta, (body,)), body])
    file.close()
    return path


def shown(path: str, **options: Any) -> str:
    output = io.StringIO()
    assert show(Console(file=output, width=100), output, path=path, **options) == 0
    return output.getvalue()


def test_what_people_see(path: str) -> None:
    lines = shown(path).splitlines()
    assert lines[:5] == [
        f"{path}: 3 results, 98 KiB",
        "  1 of them have a key of the user's",
        "  1 tasks were submitted and have no result",
        "  from 2h00m ago to 1m00s ago",
        "  97.8 KiB are not needed any more: --rewrite removes them",
    ]
    assert lines[6].split() == ["dock", "2", "137", "B"]
    assert lines[7].split() == ["score", "1", "69", "B"]


def test_what_programs_read(path: str) -> None:
    said = json.loads(shown(path, json=True))
    assert said["results"] == 3
    assert said["submitted_without_a_result"] == 1
    assert said["results_with_a_key"] == 1
    assert said["bytes"] == os.stat(path).st_size
    assert said["functions"]["dock"]["results"] == 2
    assert (said["first"], said["last"]) == (NOW - 7200, NOW - 60)
    assert said["in_use_by"] is None


def test_it_is_written_anew(path: str) -> None:
    before = json.loads(shown(path, json=True))
    said = json.loads(shown(path, json=True, rewrite=True))
    assert said["bytes"] < 1000
    for name in ("results", "submitted_without_a_result", "functions"):
        assert said[name] == before[name]


def test_one_that_is_in_use_can_be_read_and_not_written_anew(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = JournalFile(path, holder="docking")
    try:
        assert f"in use by process {os.getpid()}" in shown(path)
        assert json.loads(shown(path, json=True))["in_use_by"]["pid"] == os.getpid()
        assert main(["journal", path, "--rewrite"]) == 1
        assert "is in use by process" in capsys.readouterr().err
    finally:
        file.close()


def test_damage_is_told(path: str) -> None:
    with open(path, "r+b") as raw:
        data = raw.read()
        raw.seek(data.index(b"again") - 10)
        raw.write(b"X")
        raw.truncate(len(data) - 1)
    text = shown(path)
    assert "bytes are damaged: the tasks in them run again" in text
    assert "bytes were not written whole" in text


def test_an_empty_one(tmp_path: Path) -> None:
    path = str(tmp_path / "empty.journal")
    JournalFile(path).close()
    assert shown(path) == f"{path}: 0 results, 21 B\n"


@pytest.mark.parametrize("options", [[], ["--rewrite"]])
def test_one_that_is_not_there(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.journal"
    assert main(["journal", str(path), *options]) == 1
    assert "cannot be opened: No such file or directory" in capsys.readouterr().err
    assert not path.exists()
