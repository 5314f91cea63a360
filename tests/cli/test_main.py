from __future__ import annotations

import subprocess
import sys

import pytest

from throughway import __version__
from throughway.cli.__main__ import main

pytestmark = pytest.mark.timeout(60)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "throughway.cli", *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_version_needs_no_other_package() -> None:
    program = (
        "import sys\n"
        "from throughway.cli.__main__ import main\n"
        "assert main(['--version']) == 0\n"
        "print(sorted({'cyclopts', 'rich', 'msgspec', 'zmq', 'psutil'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(f"throughway {__version__} (protocol ")
    assert second == "[]"


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
@pytest.mark.parametrize("words", [["demo"], ["--help"], []])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    missing: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(words) == 1
    said = capsys.readouterr()
    assert f"'{missing}'" in said.err
    assert "pip install 'throughway[cli]'" in said.err
    assert said.out == ""


def test_help_names_the_commands_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("demo", "bench", "status", "journal"):
        assert f"throughway {command}" in text
    assert "Examples" in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"throughway {__version__} ")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--limit", "--workers", "--run-dir"]),
        ("bench", ["--tasks", "--workers", "--rounds", "--json", "--run-dir"]),
        ("status", ["--once", "--json", "--interval", "--run-dir"]),
        ("journal", ["--json", "--rewrite"]),
    ],
)
def test_each_command_tells_its_options(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in options:
        assert option in text
    assert "Examples" in text
    assert "--no-" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo", "--limit", "0"), "--limit"),
        (("demo", "--workers", "many"), "--workers"),
        (("status", "--interval", "0"), "--interval"),
        (("bnech",), "bench"),
    ],
)
def test_what_cannot_be_understood_is_said(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "throughway.cli", "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(50) == 1
