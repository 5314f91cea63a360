"""A Slurm cluster of a test run's own on this machine, started and stopped as one.

Needs root and Debian's `slurm-wlm`, `munge`, `slurmdbd` and `mariadb-server` (the last two for accounting only). All
daemons are children of this process and run in the foreground; nothing of an installed Slurm is touched.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.processes import kill_all, started_with
from tests.systems.hosts import Hosts
from tests.waiting import wait_until

START_SECONDS = 40.0
"""For a daemon or a node to be up: databases take their time on a busy machine."""

STOP_SECONDS = 5.0
"""For daemons to end before they are killed: slurmd resists while it tries to register."""

PASSWORD = "throughway"

_COMMANDS = (
    ("munged", "munge"),
    ("slurmctld", "slurm-wlm"),
    ("slurmd", "slurm-wlm"),
    ("sbatch", "slurm-wlm"),
)
_ACCOUNTING = (
    ("slurmdbd", "slurmdbd"),
    ("mariadbd", "mariadb-server"),
    ("mariadb-install-db", "mariadb-server"),
)

CONFIGURATION = """\
ClusterName=throughway
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge={min_job_age}
SlurmdTimeout={slurmd_timeout}
SlurmctldTimeout=30
MessageTimeout=10
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
{accounting}
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 State=UP OverSubscribe=NO
PartitionName=short Nodes=ALL MaxTime=00:01:00 State=UP OverSubscribe=NO
"""

DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
PidFile={base}/slurmdbd.pid
LogFile={base}/log/slurmdbd.log
DebugLevel=info
"""


def missing(*, accounting: bool = False) -> str | None:
    """Why there can be no Slurm here, or None where there can."""
    for command, package in _COMMANDS + (_ACCOUNTING if accounting else ()):
        if _which(command) is None:
            return f"a Slurm cluster needs the command {command}: install the package {package}"
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    return None


class SlurmCluster:
    """A context manager: inside, a cluster is up; at its end it and all that ran on it are gone.

    Args:
        nodes: how many; they are called n1, n2, ...
        cores: of each node, as Slurm is told.
        accounting: whether there is a database for `sacct`, with the one account ``default``.
        separate: whether each node is a host of its own, with its own network, host name and loopback address
            (see `Hosts`); without it all are this machine.
        min_job_age: seconds for which `squeue` remembers jobs that have ended.
        slurmd_timeout: seconds after which a node that does not answer is down.

    Raises:
        RuntimeError: it does not start; the message holds what the daemons logged.
    """

    def __init__(
        self,
        nodes: int = 2,
        *,
        cores: int = 4,
        accounting: bool = False,
        separate: bool = False,
        min_job_age: int = 300,
        slurmd_timeout: int = 30,
    ) -> None:
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.base = Path(tempfile.mkdtemp(prefix="tw-slurm-"))
        self.configuration = self.base / "slurm.conf"
        self.accounting = accounting
        self.hosts = Hosts(self.nodes) if separate else None
        self._cores = cores
        self._min_job_age = min_job_age
        self._slurmd_timeout = slurmd_timeout
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What clients and daemons need in their environment."""
        return {"SLURM_CONF": str(self.configuration)}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's commands says; without an answer within 20 seconds, or a failure, it raises."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[str]:
        """The ids of jobs that wait or run."""
        return self.run("squeue", "--noheader", "--format=%i").split()

    def kill_node(self, node: str) -> None:
        """Kill the node's slurmd. On a host of its own all else is killed, too, as if it were switched off; without,
        steps that run there go on as orphans.
        """
        daemon = self._daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()
        if self.hosts is not None:
            self.hosts.kill(node)

    def start_node(self, node: str) -> None:
        """Start the node's slurmd (again)."""
        name = f"slurmd-{node}"
        command = ["slurmd", "-D", "-f", str(self.configuration), "-N", node]
        if self.hosts is not None:
            command = self.hosts.command_in(node, command)
        self._spawn(name, command)

    def wait_idle(self, *nodes: str) -> None:
        """Wait until these nodes, or all, are idle."""
        wanted = nodes or tuple(self.nodes)

        def idle() -> bool:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended with {daemon.returncode}: {self._logged(name)}")
            lines = self.run(
                "sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N %T", check=False
            )
            states = dict(line.split() for line in lines.splitlines())
            return all(states.get(node) == "idle" for node in wanted)

        wait_until(idle, START_SECONDS, lambda: f"idle nodes; {self._logged('slurmctld')}")

    def clear(self) -> None:
        """Kill all jobs, and wait until all nodes are idle."""
        jobs = self.jobs()
        if jobs:
            self.run("scancel", "--signal=KILL", "--full", *jobs, check=False)
            self.run("scancel", *jobs, check=False)
        wait_until(lambda: not self.jobs(), START_SECONDS, "an empty queue")
        self.wait_idle()

    def stop(self) -> None:
        """End the cluster and everything that ran on it. May be called again, and on one that is half started."""
        ending = [daemon for name, daemon in self._daemons.items() if name not in ("munged", "mariadbd")]
        self._end(ending)
        # Jobs, slurmstepd and clients all have the configuration in their environment.
        kill_all(started_with("SLURM_CONF", str(self.configuration)))
        self._end(list(self._daemons.values()))
        self._daemons.clear()
        if self.hosts is not None:
            self.hosts.remove()
        shutil.rmtree(self.base, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------ inside

    def _start(self) -> None:
        for folder in ("state", "log", "munge", *(f"spool/{node}" for node in self.nodes)):
            (self.base / folder).mkdir(parents=True)
        self.base.chmod(0o755)  # the database has a user of its own
        address = "127.0.0.1"
        if self.hosts is not None:
            self.hosts.make()
            address = self.hosts.address
        self._start_munge()
        port, database_port, *node_ports = _free_ports(len(self.nodes) + 2)
        host = socket.gethostname().partition(".")[0]
        accounting = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            accounting = (
                "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
                f"AccountingStoragePort={database_port}\nAccountingStoragePass={self.base}/munge/socket\n"
                "AccountingStorageEnforce=associations"
            )
        nodes = []
        for node, node_port in zip(self.nodes, node_ports, strict=True):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port}"
            if self.hosts is not None:
                where = f"NodeHostname={node} NodeAddr={self.hosts.address_of(node)}"
            nodes.append(f"NodeName={node} {where} CPUs={self._cores} RealMemory=4000 State=UNKNOWN")
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host,
                address=address,
                port=port,
                base=self.base,
                accounting=accounting,
                nodes="\n".join(nodes),
                min_job_age=self._min_job_age,
                slurmd_timeout=self._slurmd_timeout,
            )
        )
        (self.base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        if self.accounting:
            self._start_database(database_port)
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", str(self.configuration), "-c"])
        for node in self.nodes:
            self.start_node(node)
        self.wait_idle()

    def _start_munge(self) -> None:
        folder = self.base / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        folder.chmod(0o711)
        paths = {
            "key-file": key,
            "socket": folder / "socket",
            "pid-file": folder / "pid",
            "seed-file": folder / "seed",
        }
        options = [f"--{name}={path}" for name, path in paths.items()]
        log = f"--log-file={self.base}/log/munged.log"
        self._spawn("munged", ["munged", "--foreground", "--force", "--num-threads=2", log, *options])
        wait_until((folder / "socket").exists, START_SECONDS, lambda: f"munged; {self._logged('munged')}")

    def _start_database(self, port: int) -> None:
        folder = self.base / "mysql"
        folder.mkdir()
        user = pwd.getpwnam("mysql")
        os.chown(folder, user.pw_uid, user.pw_gid)
        data, sock = folder / "data", folder / "socket"
        with (self.base / "log" / "mysql-install.log").open("wb") as log:
            subprocess.run(
                [
                    *("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}"),
                    *("--auth-root-authentication-method=socket", "--skip-test-db"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                check=True,
            )
        self._spawn(
            "mariadbd",
            [
                *("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={sock}"),
                *(f"--pid-file={folder}/pid", "--skip-networking", "--innodb-buffer-pool-size=64M"),
                *("--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"),
                *("--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"),
            ],
        )
        ask = ("mariadb", "--no-defaults", "-S", str(sock), "-e")

        def ready() -> bool:
            asked = subprocess.run([*ask, "select 1"], capture_output=True, timeout=20, check=False)
            return asked.returncode == 0

        wait_until(ready, START_SECONDS, lambda: f"mariadbd; {self._logged('mariadbd')}")
        grant = (
            f"create user slurm@localhost identified by '{PASSWORD}'; grant all on *.* to slurm@localhost;"
        )
        subprocess.run([*ask, grant], check=True, timeout=20, capture_output=True)
        path = self.base / "slurmdbd.conf"
        path.write_text(DATABASE.format(base=self.base, port=port, password=PASSWORD))
        path.chmod(0o600)
        # It logs in through the library's default socket, which this variable names.
        self._spawn("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(sock))
        account = ("sacctmgr", "--immediate")

        def registered() -> bool:
            self.run(*account, "add", "cluster", "throughway", check=False)
            return "throughway" in self.run("sacctmgr", "--noheader", "show", "clusters", check=False)

        wait_until(registered, START_SECONDS, lambda: f"slurmdbd; {self._logged('slurmdbd')}")
        self.run(*account, "add", "account", "default")
        self.run(*account, "add", "user", pwd.getpwuid(os.geteuid()).pw_name, "account=default", check=False)

    def _spawn(self, name: str, command: list[str], **environment: str) -> None:
        program = _which(command[0])
        with (self.base / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.base,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
            )

    def _logged(self, name: str) -> str:
        found = []
        for suffix in ("out", "log"):
            path = self.base / "log" / f"{name.replace('slurmd-', 'slurmd.')}.{suffix}"
            if path.exists():
                found.append(path.read_text(errors="replace")[-1500:])
        return f"{name} logged: {' '.join(found).strip() or 'nothing'}"

    def _end(self, daemons: list[subprocess.Popen[bytes]]) -> None:
        for daemon in daemons:
            if daemon.poll() is None:
                daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _which(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports below those that the system gives away: another program could get one before its daemon listens there."""
    probes: list[socket.socket] = []
    try:
        while len(probes) < count:
            probe = socket.socket()
            probes.append(probe)
            try:
                probe.bind(("127.0.0.1", random.randrange(20_000, 32_768)))
            except OSError:
                probes.pop().close()
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
