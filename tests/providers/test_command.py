from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.processes import alive
from tests.waiting import wait_until
from throughway.providers import command
from throughway.providers.command import CommandFailed, CommandMissing, CommandTimedOut, run


def test_what_a_command_says_and_how_it_ends() -> None:
    result = run(["bash", "-c", "echo out; echo err >&2; exit 3"], timeout=20)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert result.described().startswith(
        "bash -c 'echo out; echo err >&2; exit 3' (exit code 3) said: err\nout"
    )


def test_the_end_by_a_signal() -> None:
    assert run(["bash", "-c", "kill -9 $$"], timeout=20).exit_code == 137


def test_it_has_no_input_and_a_session_of_its_own() -> None:
    result = run(["bash", "-c", "cat; cut -d' ' -f6 /proc/$$/stat; echo $$"], timeout=20)
    session, pid = result.stdout.split()
    assert session == pid


def test_environment_and_folder(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "A": "b"}
    result = run(
        ["bash", "-c", 'echo "$A|${HOME-none}|$PWD"'],
        timeout=20,
        environment=environment,
        folder=str(tmp_path),
    )
    assert result.stdout == f"b|none|{tmp_path}\n"


def test_bytes_that_are_no_text() -> None:
    assert run(["printf", r"a\377b"], timeout=20).stdout == "a\ufffdb"


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(CommandMissing, match="the command sbatch was not found: PATH is /nowhere"):
        run(["sbatch", "x"], timeout=20, environment={"PATH": "/nowhere"})


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(CommandFailed, match="could not be started"):
        run(["broken"], timeout=20, environment={"PATH": str(tmp_path)})


def test_too_late_it_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ >{pids}; echo so far; trap '' TERM; wait"
    with pytest.raises(CommandTimedOut) as raised:
        run(["bash", "-c", script], timeout=3)
    assert "did not end within cmd_timeout=3 s and was killed; it said: so far" in str(raised.value)
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not alive(pid), what=f"the end of process {pid}")


def test_what_is_left_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run(["bash", "-c", "sleep 1000 & echo $!; disown"], timeout=30)
    assert time.monotonic() - started < 20
    pid = int(result.stdout)
    assert alive(pid)
    os.kill(pid, 9)


def test_a_command_that_goes_wild_is_stopped() -> None:
    with pytest.raises(CommandFailed, match="yes wrote more than 100000 bytes and was killed"):
        run(["yes"], timeout=30, max_output=100_000)


def test_much_output_on_both_ends() -> None:
    result = run(["bash", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"], timeout=30)
    assert (len(result.stdout), len(result.stderr)) == (300_000, 300_000)


def test_an_error_quotes_a_bounded_part() -> None:
    said = run(["bash", "-c", "printf '%5000s' | tr ' ' x; exit 1"], timeout=20).described()
    assert len(said) < command.QUOTED + 200
    assert "[...]" in said


def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    run(["true"], timeout=20)
    with pytest.raises(CommandTimedOut):
        run(["sleep", "1000"], timeout=0.05)
    assert sorted(os.listdir("/proc/self/fd")) == before
