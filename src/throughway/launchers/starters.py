"""Launchers that leave the way to the nodes to one command of the site: srun, mpiexec, mpirun, aprun, jsrun."""

from __future__ import annotations

from throughway.errors import ConfigurationError
from throughway.launchers.forwarding import READ_REPORT, carry, keep
from throughway.launchers.hosts import HOSTS

_SAY = 'echo "throughway: {text}"\n'

_MPI = """\
# The MPI libraries differ in how a host's number of processes is written and in what they hand on: MPICH's
# starter kills at SIGUSR2, Open MPI's one second after SIGTERM.
how="$({mpi} --version 2>&1)"
case "$how" in
    *"Open MPI"* | *OpenRTE* | *open-mpi* | *PRRTE*)
        format='%s slots=1\\n'
        end=USR2
        # One manager that fails must not end the others.
        export OMPI_MCA_orte_abort_on_non_zero_status=0
        {open_mpi}
        ;;
    *HYDRA* | *Intel*)
        format='%s:1\\n'
        end=TERM
        ;;
    *)
        format='%s\\n'
        end=TERM
        ;;
esac
hostfile=
count={nodes}
if [ "${{#hosts[@]}}" -gt 0 ]; then
    hostfile="$(mktemp)" || exit
    trap 'rm -f "$hostfile"' EXIT
    printf "$format" "${{hosts[@]}}" >"$hostfile"
    count=${{#hosts[@]}}
fi
"""


class _Starter:
    """What the launchers of this module have in common."""

    def __init__(self, debug: bool = True, overrides: str = "") -> None:
        if not isinstance(debug, bool):
            raise ConfigurationError(f"debug={debug!r} is not True or False: give one of them")
        self.debug = debug
        self.overrides = words("overrides", overrides)

    def _say(self, text: str) -> str:
        return _SAY.format(text=text) if self.debug else ""

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


class SrunLauncher(_Starter):
    """One manager on each node, by one ``srun``.

    A manager may use all cores of its node, and one that ends does not end the others. ``overrides`` are further
    options of srun, which win over those that are given here. With ``debug`` the job's output says what is started.
    """

    def __call__(self, command: str, nodes: int) -> str:
        options = f"--nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --wait=0"
        # srun kills its tasks when it gets SIGTERM itself.
        return (
            carry(command, environment=False)
            + self._say(f"srun starts {nodes} manager(s)")
            + keep(f'exec srun {options} {self.overrides} bash -c "$agent"', end="USR2")
        )


class SrunMPILauncher(_Starter):
    """One manager on each node, each by an ``srun`` of its own: for tasks that start MPI programs.

    ``overrides`` are further options of srun. With ``debug`` the job's output says what is started.
    """

    def __call__(self, command: str, nodes: int) -> str:
        options = '--nodes=1 --ntasks=1 --relative="$node" --cpu-bind=none'
        return (
            carry(command, environment=False)
            + self._say(f"srun starts {nodes} manager(s), each in a step of its own")
            + keep(f'exec srun {options} {self.overrides} bash -c "$agent"', count=nodes, end="USR2")
        )


class MpiExecLauncher(_Starter):
    """One manager on each node, by ``mpiexec`` of MPICH, Intel MPI, Open MPI or Cray PALS.

    ``bind_cmd`` is the option that binds processes to cores, which is given as ``none``; empty for no such option.
    ``overrides`` are further options. With ``debug`` the job's output says what is started.
    """

    def __init__(self, debug: bool = True, bind_cmd: str = "--bind-to", overrides: str = "") -> None:
        super().__init__(debug, overrides)
        self.bind_cmd = words("bind_cmd", bind_cmd)

    def __call__(self, command: str, nodes: int) -> str:
        bind = f"{self.bind_cmd} none " if self.bind_cmd else ""
        start = (
            f'exec mpiexec {bind}{self.overrides} -n "$count" ${{hostfile:+--hostfile "$hostfile"}} '
            'bash -c "$agent"'
        )
        return (
            carry(command, environment=True, report=True)
            + HOSTS.format(nodes=nodes)
            + _MPI.format(mpi="mpiexec", nodes=nodes, open_mpi=":")
            + self._say("mpiexec starts $count manager(s) on ${hosts[*]:-the nodes that it knows of}")
            + keep(start, end='"$end"', verdict=READ_REPORT)
        )


class MpiRunLauncher(_Starter):
    """One manager on each node, by ``mpirun``.

    ``bash_location`` is the shell on the nodes. ``overrides`` are options of mpirun. With ``debug`` the job's
    output says what is started.
    """

    def __init__(self, debug: bool = True, bash_location: str = "/bin/bash", overrides: str = "") -> None:
        super().__init__(debug, overrides)
        self.bash_location = words("bash_location", bash_location)
        if not self.bash_location:
            raise ConfigurationError(
                "bash_location is empty: give the path of bash on the nodes, as /bin/bash"
            )

    def __call__(self, command: str, nodes: int) -> str:
        start = (
            f'exec mpirun -np "$count" $bind ${{hostfile:+--hostfile "$hostfile"}} {self.overrides} '
            f'{self.bash_location} -c "$agent"'
        )
        # Open MPI would leave a manager one core, or the cores of one socket.
        open_mpi = ":" if "bind" in self.overrides else "bind='--bind-to none'"
        return (
            carry(command, environment=True, report=True)
            + HOSTS.format(nodes=nodes)
            + "bind=\n"
            + _MPI.format(mpi="mpirun", nodes=nodes, open_mpi=open_mpi)
            + self._say("mpirun starts $count manager(s) on ${hosts[*]:-the nodes that it knows of}")
            + keep(start, end='"$end"', verdict=READ_REPORT)
        )


class AprunLauncher(_Starter):
    """One manager on each node, by ``aprun`` (Cray ALPS).

    ``overrides`` are options of aprun; without any, managers are not bound to a core (``-cc none``). With ``debug``
    the job's output says what is started.
    """

    def __call__(self, command: str, nodes: int) -> str:
        return (
            carry(command, environment=False)
            + self._say(f"aprun starts {nodes} manager(s)")
            + keep(f'exec aprun -n {nodes} -N 1 {self.overrides or "-cc none"} bash -c "$agent"')
        )


class JsrunLauncher(_Starter):
    """One manager on each node, by ``jsrun`` (LSF with IBM's job step manager).

    ``overrides`` are options of jsrun; without any, a manager has all cores and GPUs of its node. With ``debug`` the
    job's output says what is started.
    """

    def __call__(self, command: str, nodes: int) -> str:
        options = self.overrides or "-a 1 -c ALL_CPUS -g ALL_GPUS --bind none"
        return (
            carry(command, environment=False)
            + self._say(f"jsrun starts {nodes} manager(s)")
            + keep(f'exec jsrun -n {nodes} -r 1 {options} bash -c "$agent"')
        )


def words(name: str, value: object) -> str:
    """``value`` as options on one line. Raises `ConfigurationError`."""
    if not isinstance(value, str) or "\0" in value or "\n" in value:
        raise ConfigurationError(
            f"{name}={value!r} is not text on one line: give options as for a command line"
        )
    return value.strip()
