from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.launchers.shells import Commands, Managers, bash
from throughway.errors import ConfigurationError
from throughway.launchers import (
    AprunLauncher,
    GnuParallelLauncher,
    JsrunLauncher,
    Launcher,
    MpiExecLauncher,
    MpiRunLauncher,
    SingleNodeLauncher,
    SrunLauncher,
    SrunMPILauncher,
)

pytestmark = pytest.mark.timeout(40)

OPEN_MPI = "mpiexec (Open MPI) 5.0.8"

HARD = "printf '%s|%s\\n' 'a  b' '$HOME `x` \"q\" it'\"'\"'s * \\ {end} é'"
"""A command full of what quoting can break."""
HARD_SAID = 'a  b|$HOME `x` "q" it\'s * \\ {end} é'

ALL: list[Launcher] = [
    SrunLauncher(),
    SrunMPILauncher(),
    MpiExecLauncher(),
    MpiRunLauncher(),
    AprunLauncher(),
    JsrunLauncher(),
    GnuParallelLauncher(),
]
every_launcher = pytest.mark.parametrize("launcher", ALL, ids=lambda launcher: type(launcher).__name__)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, str]:
    """The hosts of a job of two nodes, in PBS's way: one line for each core."""
    path = tmp_path / "nodefile"
    path.write_text("node7\nnode7\nnode12\nnode12\n")
    return {"PBS_NODEFILE": str(path)}


@every_launcher
@pytest.mark.parametrize("count", [1, 2])
def test_text_is_bash(launcher: Launcher, count: int) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=launcher(HARD, count), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@every_launcher
def test_one_manager_for_each_node_whatever_its_arguments(
    launcher: Launcher, commands: Commands, nodes: dict[str, str]
) -> None:
    done = bash(launcher(HARD, 2), **commands.environment, **nodes)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("throughway:")] == [
        HARD_SAID
    ] * 2
    assert done.stderr == ""


@every_launcher
def test_failure_of_one_fails_the_text(
    launcher: Launcher, commands: Commands, nodes: dict[str, str], tmp_path: Path
) -> None:
    command = f"bash -c 'mkdir \"$0\" 2>/dev/null || exit 7' {tmp_path}/first"
    assert bash(launcher(command, 2), **commands.environment, **nodes).returncode == 7


@every_launcher
def test_signals_reach_all_managers_and_are_waited_for(
    launcher: Launcher, commands: Commands, nodes: dict[str, str], tmp_path: Path
) -> None:
    managers = Managers(tmp_path, 2, status=3)
    with managers.running(launcher(managers.command, 2), **commands.environment, **nodes):
        managers.expect("ready")
        managers.shell.send_signal(signal.SIGUSR1)
        managers.expect("warned")
        managers.shell.send_signal(signal.SIGTERM)
        managers.expect("ending")
        assert managers.shell.poll() is None
        assert managers.let_go() == 3


@pytest.mark.parametrize(
    "launcher", [MpiExecLauncher(), MpiRunLauncher()], ids=lambda launcher: type(launcher).__name__
)
def test_open_mpi_is_not_told_to_kill(
    launcher: Launcher, commands: Commands, nodes: dict[str, str], tmp_path: Path
) -> None:
    managers = Managers(tmp_path, 2)
    with managers.running(
        launcher(managers.command, 2), **commands.environment, **nodes, FAKE_VERSION=OPEN_MPI
    ):
        managers.expect("ready")
        managers.shell.send_signal(signal.SIGTERM)
        managers.expect("ending")
        assert managers.let_go() == 0
    (call,) = commands.calls()
    assert call["hosts"] == ["node7 slots=1", "node12 slots=1"]
    assert ["--bind-to", "none"] in call["options"]


def test_single_node_launcher_hands_signals_on(tmp_path: Path) -> None:
    managers = Managers(tmp_path, 3, status=4)
    with managers.running(SingleNodeLauncher()(managers.command, 3)):
        managers.expect("ready")
        managers.shell.send_signal(signal.SIGUSR1)
        managers.expect("warned")
        managers.shell.send_signal(signal.SIGINT)
        managers.expect("ending")
        assert managers.let_go() == 4


def test_a_warning_before_a_manager_can_take_it_is_ignored() -> None:
    """It would end a process that has no handler for it."""
    sends_itself = "bash -c 'kill -USR1 $$; exit 5'"
    assert bash(SingleNodeLauncher()(sends_itself, 2)).returncode == 5


def test_srun_gets_all_cores_and_leaves_the_others_alone(commands: Commands) -> None:
    assert bash(SrunLauncher(overrides="--overlap -v")("true", 4), **commands.environment).returncode == 0
    (call,) = commands.calls()
    options = [option for (option,) in call["options"]]
    assert {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit=0"} < {
        *options
    }
    assert options[-2:] == ["--overlap", "-v"]


def test_srun_mpi_makes_a_step_for_each_node(commands: Commands) -> None:
    assert bash(SrunMPILauncher(overrides="--mpi=none")("true", 3), **commands.environment).returncode == 0
    calls = commands.calls()
    relative = sorted(option for call in calls for (option,) in call["options"] if "relative" in option)
    assert relative == ["--relative=0", "--relative=1", "--relative=2"]
    assert all(["--mpi=none"] in call["options"] for call in calls)


def test_mpiexec_takes_each_host_once(commands: Commands, nodes: dict[str, str]) -> None:
    launcher = MpiExecLauncher(bind_cmd="--cpu-bind", overrides="--depth=64")
    assert bash(launcher("true", 2), **commands.environment, **nodes).returncode == 0
    (call,) = commands.calls()
    assert call["hosts"] == ["node7:1", "node12:1"]
    assert call["options"][:2] == [["--cpu-bind", "none"], ["--depth=64"]]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LSB_DJOB_HOSTFILE", "node7\nnode12\nnode12\n"),
        ("PE_HOSTFILE", "node7 4 all.q@node7 UNDEFINED\nnode12 4 all.q@node12 UNDEFINED\n"),
    ],
)
def test_hosts_of_other_schedulers(variable: str, text: str, commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    done = bash(MpiExecLauncher()("true", 2), **commands.environment, **{variable: str(path)})
    assert done.returncode == 0
    assert commands.calls()[0]["hosts"] == ["node7:1", "node12:1"]


def test_hosts_of_slurm(commands: Commands) -> None:
    scontrol = commands.bin / "scontrol"
    scontrol.write_text('#!/bin/bash\n[ "$*" = "show hostnames node[7,12]" ] && printf "node7\\nnode12\\n"\n')
    scontrol.chmod(0o755)
    done = bash(MpiRunLauncher()("true", 2), **commands.environment, SLURM_JOB_NODELIST="node[7,12]")
    assert done.returncode == 0
    assert commands.calls()[0]["hosts"] == ["node7:1", "node12:1"]


def test_without_a_scheduler_mpiexec_finds_the_nodes_itself(commands: Commands) -> None:
    assert bash(MpiExecLauncher()("true", 2), **commands.environment).returncode == 0
    (call,) = commands.calls()
    assert call["hosts"] == []
    assert ["-n", "2"] in call["options"]


def test_fewer_hosts_than_nodes_are_said(commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("node7\nnode7\n")
    done = bash(MpiExecLauncher()("echo hello", 2), **commands.environment, PBS_NODEFILE=str(path))
    assert done.stdout.count("hello") == 1
    assert "2 node(s) were asked for, the scheduler names 1: node7" in done.stderr


@pytest.mark.parametrize("launcher", [MpiExecLauncher(), MpiRunLauncher(), GnuParallelLauncher()], ids=repr)
def test_environment_is_carried_to_nodes_that_do_not_have_it(
    launcher: Launcher, commands: Commands, nodes: dict[str, str], tmp_path: Path
) -> None:
    """The starter is given none of it."""
    for name in ("mpiexec", "mpirun", "parallel"):
        program = commands.bin / name
        program.write_text(program.read_text().replace('"FAKE_RANK": str(rank)', '"HARD": ""'))
    hard = "two\nlines 'and' $all \"that\" \\"
    with_value = f'bash -c \'printf %s "$HARD" >"$0"; pwd\' {tmp_path}/value'
    done = bash(f"cd {tmp_path}\n" + launcher(with_value, 2), **commands.environment, **nodes, HARD=hard)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "value").read_text() == hard
    assert str(tmp_path) in done.stdout


def test_an_endless_environment_is_not_carried_and_that_is_said(commands: Commands) -> None:
    done = bash(MpiExecLauncher()("true", 1), **commands.environment, HUGE="x" * 100_000)
    assert done.returncode == 0
    assert "the environment is too long" in done.stderr


def test_aprun_and_jsrun_give_all_cores_unless_told_otherwise(commands: Commands) -> None:
    for launcher in (
        AprunLauncher(),
        JsrunLauncher(),
        AprunLauncher(overrides="-d 8"),
        JsrunLauncher(overrides="-c 4"),
    ):
        assert bash(launcher("true", 2), **commands.environment).returncode == 0
    first, second, third, fourth = [call["options"] for call in commands.calls()]
    assert first == [["-n", "2"], ["-N", "1"], ["-cc", "none"]]
    assert second[3:5] == [["-c", "ALL_CPUS"], ["-g", "ALL_GPUS"]]
    assert ["-cc", "none"] not in third
    assert fourth[2:] == [["-c", "4"]]


def test_parallel_logs_in_where_the_scheduler_says(commands: Commands, nodes: dict[str, str]) -> None:
    done = bash(GnuParallelLauncher(debug=False)("true", 2), **commands.environment, **nodes)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert commands.calls()[0]["hosts"] == ["node7", "node12"]
    bash(GnuParallelLauncher()("true", 1), **commands.environment)
    assert commands.calls()[1]["hosts"] == [":"]


@every_launcher
def test_debug_says_what_is_started_and_its_absence_nothing(
    launcher: Launcher, commands: Commands, nodes: dict[str, str]
) -> None:
    assert bash(launcher("true", 2), **commands.environment, **nodes).stdout.startswith("throughway: ")
    quiet = type(launcher)(debug=False)  # type: ignore[call-arg]
    assert bash(quiet("true", 2), **commands.environment, **nodes).stdout == ""


@every_launcher
def test_repr_makes_the_same_again(launcher: Launcher) -> None:
    names = {type(entry).__name__: type(entry) for entry in ALL}
    assert eval(repr(launcher), names)("manager", 2) == launcher("manager", 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SrunLauncher(overrides="a\nb"), "overrides="),
        (lambda: SrunMPILauncher(overrides=None), "overrides=None"),  # type: ignore[arg-type]
        (lambda: MpiExecLauncher(bind_cmd=3), "bind_cmd=3"),  # type: ignore[arg-type]
        (lambda: MpiRunLauncher(bash_location=""), "bash_location"),
        (lambda: AprunLauncher(debug="yes"), "debug='yes'"),  # type: ignore[arg-type]
        (lambda: GnuParallelLauncher(debug=1), "debug=1"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()  # type: ignore[operator]
