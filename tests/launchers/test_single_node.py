from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launchers.shells import bash, read_lines
from throughway.errors import ConfigurationError
from throughway.launchers import SimpleLauncher, SingleNodeLauncher, WrappedLauncher

pytestmark = pytest.mark.timeout(30)


DRAINING = """\
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def say(text):
    with open(sys.argv[1], "w") as ready:
        ready.write(text)
say("ready\\n")
signal.sigwait([signal.SIGTERM])
say("draining\\n")
with open(sys.argv[2], "rb", buffering=0) as go_on:
    assert go_on.read(1)
"""


def test_simple_launcher_leaves_the_command_as_it_is() -> None:
    assert SimpleLauncher()("manager --config 'a b'", 7) == "manager --config 'a b'"


def test_wrapped_launcher_puts_its_text_before() -> None:
    assert WrappedLauncher("numactl --interleave=all")("manager x", 3) == "numactl --interleave=all manager x"


@pytest.mark.parametrize("prepend", ["", "  ", None, 3])
def test_wrapped_launcher_refuses_what_is_no_command(prepend: object) -> None:
    with pytest.raises(ConfigurationError, match=r"prepend=.*SimpleLauncher"):
        WrappedLauncher(prepend)  # type: ignore[arg-type]


def test_fail_on_any_must_be_a_bool() -> None:
    with pytest.raises(ConfigurationError, match="fail_on_any='no'"):
        SingleNodeLauncher(fail_on_any="no")  # type: ignore[arg-type]


def test_single_node_launcher_adds_nothing_for_one_node() -> None:
    assert SingleNodeLauncher()("manager", 1) == "manager"


def test_single_node_launcher_starts_one_for_each_node(tmp_path: Path) -> None:
    done = bash(SingleNodeLauncher()(f"mktemp -p '{tmp_path}'", 5))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 5


SOME_FAIL = "bash -c 'mkdir \"$FOLDER/first\" 2>/dev/null || exit 7'"


def test_one_failure_fails_the_job_or_not(tmp_path: Path) -> None:
    """One of the three can make the folder; the other two fail."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert bash(SingleNodeLauncher()(SOME_FAIL, 3), FOLDER=str(tmp_path / "a")).returncode == 7
    tolerant = SingleNodeLauncher(fail_on_any=False)
    assert bash(tolerant(SOME_FAIL, 3), FOLDER=str(tmp_path / "b")).returncode == 0
    assert bash(tolerant("bash -c 'exit 9'", 3)).returncode == 9


def test_a_signal_to_all_leaves_the_managers_their_time(tmp_path: Path) -> None:
    """The managers answer SIGTERM with work that takes a moment: the shell must wait until it is done."""
    ready, go_on = tmp_path / "ready", tmp_path / "go on"
    os.mkfifo(ready)
    os.mkfifo(go_on)
    manager = tmp_path / "manager.py"
    manager.write_text(DRAINING)
    arguments = [sys.executable, str(manager), str(ready), str(go_on)]
    text = SingleNodeLauncher()(shlex.join(arguments), 3)
    shell = subprocess.Popen(["bash", "-c", text], start_new_session=True)
    try:
        assert read_lines(ready, 3) == ["ready"] * 3
        os.killpg(shell.pid, signal.SIGTERM)
        assert read_lines(ready, 3) == ["draining"] * 3
        assert shell.poll() is None
        with open(os.open(go_on, os.O_RDWR), "wb", buffering=0) as file:
            file.write(b"...")
            assert shell.wait(20) == 0
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
