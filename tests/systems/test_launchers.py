"""Launchers with the commands that they are for: managers on "all nodes", which are this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launchers.shells import Managers, bash
from throughway.launchers import GnuParallelLauncher, Launcher, MpiExecLauncher, MpiRunLauncher

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

AS_ROOT = "--allow-run-as-root --oversubscribe" if os.geteuid() == 0 else "--oversubscribe"


def _flavour(command: str) -> str:
    """The MPI library that ``command`` is of; skips where there is none."""
    if shutil.which(command) is None:
        pytest.skip(
            f"no {command} on PATH: install Debian's mpich or openmpi-bin, or PyPI's mpich in the virtualenv"
        )
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return "Open MPI" if "OpenRTE" in said.stdout or "Open MPI" in said.stdout else "MPICH"


def _launcher(name: str) -> Launcher:
    match name:
        case "mpiexec":
            return MpiExecLauncher(overrides=AS_ROOT if _flavour(name) == "Open MPI" else "")
        case "mpirun":
            return MpiRunLauncher(overrides=AS_ROOT if _flavour(name) == "Open MPI" else "")
    if shutil.which("parallel") is None:
        pytest.skip("no parallel on PATH: install Debian's parallel")
    return GnuParallelLauncher()


@pytest.fixture(params=["mpiexec", "mpirun", "parallel"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return _launcher(request.param)


@pytest.fixture
def count(launcher: Launcher) -> int:
    """GNU parallel needs ssh for a second host."""
    return 1 if isinstance(launcher, GnuParallelLauncher) else 2


HARD = "printf '%s|%s\\n' 'a  b' '$HOME `x` \"q\" it'\"'\"'s * \\ {end} é'"
HARD_SAID = 'a  b|$HOME `x` "q" it\'s * \\ {end} é'


def test_arguments_arrive_as_they_are(launcher: Launcher, count: int) -> None:
    done = bash(launcher(HARD, count))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(HARD_SAID) == count


def test_one_that_fails_leaves_the_others_alone(launcher: Launcher, count: int, tmp_path: Path) -> None:
    """One of them fails at once; the text ends with its status when the other has ended, too."""
    folder = tmp_path / "first"
    command = f'bash -c \'mkdir "$0" && exit 7; sleep 2; touch "$0/second"\' {folder}'
    done = bash(launcher(command, count))
    assert done.returncode in (1, 7)
    assert (folder / "second").exists() == (count == 2), done.stderr


def test_signals_reach_all_managers_and_are_waited_for(
    launcher: Launcher, count: int, tmp_path: Path
) -> None:
    managers = Managers(tmp_path, count)
    with managers.running(launcher(managers.command, count)):
        managers.expect("ready")
        managers.shell.send_signal(signal.SIGUSR1)
        managers.expect("warned")
        managers.shell.send_signal(signal.SIGTERM)
        managers.expect("ending")
        assert managers.shell.poll() is None
        assert managers.let_go() == 0
