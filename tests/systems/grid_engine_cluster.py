"""A Grid Engine cluster of a test run's own on this machine, started and stopped as one.

Its hosts have networks and names of their own, as Grid Engine wants them. Needs root and Debian's
`gridengine-master`, `gridengine-exec` and `gridengine-client`; nothing of an installed cell is touched.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.etree import ElementTree

from tests.processes import kill_all, started_with
from tests.systems.hosts import Hosts
from tests.waiting import wait_until

START_SECONDS = 40.0
STOP_SECONDS = 5.0

CLIENTS = ("qsub", "qstat", "qdel", "qconf", "qacct", "qhost", "qmod", "qalter", "qrls")

_INSTALLED = Path("/var/lib/gridengine")
_DAEMONS = Path("/usr/lib/gridengine")
_SHARED = Path("/usr/share/gridengine")
_ADMINISTRATOR = "sgeadmin"
_PORTS = {"SGE_QMASTER_PORT": "6444", "SGE_EXECD_PORT": "6445"}

QUEUE = """\
qname batch
hostlist @allhosts
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 0
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list nodes
rerun FALSE
slots {slots}
tmpdir {tmp}
shell /bin/bash
prolog NONE
epilog NONE
shell_start_mode unix_behavior
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:60
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
s_rt INFINITY
h_rt INFINITY
s_cpu INFINITY
h_cpu INFINITY
s_fsize INFINITY
h_fsize INFINITY
s_data INFINITY
h_data INFINITY
s_stack INFINITY
h_stack INFINITY
s_core INFINITY
h_core INFINITY
s_rss INFINITY
h_rss INFINITY
s_vmem INFINITY
h_vmem INFINITY
"""

PARALLEL_ENVIRONMENT = """\
pe_name nodes
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule 1
control_slaves TRUE
job_is_first_task FALSE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""


def missing() -> str | None:
    """Why there can be no Grid Engine here, or None where there can."""
    for path, package in (
        (_DAEMONS / "sge_qmaster", "gridengine-master"),
        (_DAEMONS / "sge_execd", "gridengine-exec"),
        (Path("/usr/bin/qsub"), "gridengine-client"),
    ):
        if not path.exists():
            return f"a Grid Engine cluster needs {path}: install the package {package}"
    if os.geteuid() != 0:
        return "a Grid Engine cluster needs root"
    return None


class GridEngineCluster:
    """A context manager: inside, a cluster is up; at its end it and all that ran on it are gone.

    The hosts are ge1, ge2, ...; the first is the master as well, and where clients run: ``bin`` holds commands that
    run those of Grid Engine there. Jobs go to the queue ``batch``, and to several hosts in the parallel
    environment ``nodes``.

    Raises:
        RuntimeError: it does not start; the message holds what the daemons logged.
    """

    def __init__(self, nodes: int = 2, *, slots: int = 4) -> None:
        self.nodes = [f"ge{number}" for number in range(1, nodes + 1)]
        self.base = Path(tempfile.mkdtemp(prefix="tw-ge-"))
        self.root = self.base / "root"
        self.bin = self.base / "bin"
        self.hosts = Hosts(self.nodes)
        self._slots = slots
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What clients and daemons need in their environment."""
        return {"SGE_ROOT": str(self.root), "SGE_CELL": "default", **_PORTS}

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
        """What one of Grid Engine's commands says; without an answer within 20 seconds, or a failure, it raises."""
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if check and done.returncode:
            said = f"{done.stderr} {done.stdout}".strip()
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {said}")
        return done.stdout

    def jobs(self) -> list[str]:
        """The ids of jobs that wait or run."""
        tree = ElementTree.fromstring(self.run("qstat", "-u", "*", "-xml"))
        return [str(entry.text) for entry in tree.iter("JB_job_number")]

    def clear(self) -> None:
        """Kill all jobs, and wait until they are gone."""
        jobs = self.jobs()
        if jobs:
            self.run("qdel", "-f", *jobs, check=False)
        wait_until(lambda: not self.jobs(), START_SECONDS, "an empty queue")

    def stop(self) -> None:
        """End the cluster and everything that ran on it. May be called again, and on one that is half started."""
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        # Shepherds and their jobs have it in their environment, and all are on the hosts.
        kill_all(started_with("SGE_ROOT", str(self.root)))
        self.hosts.remove()
        shutil.rmtree(self.base, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------ inside

    def _start(self) -> None:
        self.base.chmod(0o755)
        self.hosts.make()
        common = self.root / "default" / "common"
        spool = self.base / "spool"
        for folder in (
            common,
            spool / "qmaster" / "job_scripts",
            spool / "exec",
            spool / "database",
            self.bin,
        ):
            folder.mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.root / name).symlink_to(_INSTALLED / name)
        (common / "bootstrap").write_text(
            f"admin_user {_ADMINISTRATOR}\ndefault_domain none\nignore_fqdn true\nspooling_method berkeleydb\n"
            f"spooling_lib libspoolb\nspooling_params {spool}/database\nbinary_path {_DAEMONS}\n"
            f"qmaster_spool_dir {spool}/qmaster\nsecurity_mode none\nlistener_threads 2\nworker_threads 2\n"
            "scheduler_threads 1\njvm_threads 0\n"
        )
        (common / "act_qmaster").write_text(f"{self.nodes[0]}\n")
        user = pwd.getpwnam(_ADMINISTRATOR)
        for path in (self.base, *self.base.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        for client in CLIENTS:
            line = shlex.join(self.hosts.command_in(self.nodes[0], [f"/usr/bin/{client}"]))
            wrapper = self.bin / client
            wrapper.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            wrapper.chmod(0o755)
        settings = ["/bin/sh", str(_SHARED / "scripts" / "init_cluster"), str(self.root), "default"]
        self._on_master([*settings, f"{spool}/database", _ADMINISTRATOR], user=_ADMINISTRATOR)
        self._spawn(self.nodes[0], "sge_qmaster")
        wait_until(self._answers, START_SECONDS, lambda: f"sge_qmaster; {self._logged()}")
        self._configure(spool)
        for node in self.nodes:
            self._spawn(node, "sge_execd")
        wait_until(self._ready, START_SECONDS, lambda: f"sge_execd; {self._logged()}")

    def _configure(self, spool: Path) -> None:
        root = pwd.getpwuid(os.geteuid()).pw_name
        self.run("qconf", "-am", root, check=False)
        self.run("qconf", "-as", ",".join(self.nodes), check=False)
        self.run("qconf", "-ah", ",".join(self.nodes), check=False)
        for name, text in (("-Ap", PARALLEL_ENVIRONMENT), ("-Ahgrp", self._host_group())):
            self._edit(name, text)
        self._edit("-Aq", QUEUE.format(slots=self._slots, tmp="/tmp"))
        settings = self.run("qconf", "-sconf", "global").splitlines()
        replaced = {
            "execd_spool_dir": str(spool / "exec"),
            "min_uid": "0",
            "min_gid": "0",
            "load_report_time": "00:00:02",
            "gid_range": "20000-20100",
            "loglevel": "log_info",
            "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
        }
        lines = [line for line in settings if not line.startswith(("#", *replaced))]
        lines += [f"{key} {value}" for key, value in replaced.items()]
        self._edit("-Mconf", "\n".join(lines) + "\n", name="global")
        scheduler = self.run("qconf", "-ssconf").splitlines()
        quick = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        lines = [line for line in scheduler if not line.startswith(tuple(quick))]
        self._edit("-Msconf", "\n".join([*lines, *(f"{key} {value}" for key, value in quick.items())]) + "\n")

    def _host_group(self) -> str:
        return f"group_name @allhosts\nhostlist {' '.join(self.nodes)}\n"

    def _edit(self, option: str, text: str, name: str = "definition") -> None:
        path = self.base / name
        path.write_text(text)
        self.run("qconf", option, str(path))

    def _answers(self) -> bool:
        try:
            self.run("qconf", "-sh")
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return True

    def _ready(self) -> bool:
        tree = ElementTree.fromstring(self.run("qstat", "-f", "-xml"))
        states = [queue.findtext("state", "") for queue in tree.iter("Queue-List")]
        return len(states) == len(self.nodes) and not any(states)

    def _on_master(self, command: list[str], user: str) -> None:
        switched = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
        done = subprocess.run(
            self.hosts.command_in(self.nodes[0], switched),
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed with {done.returncode}: {done.stdout} {done.stderr}")

    def _spawn(self, node: str, daemon: str) -> None:
        with (self.base / f"{daemon}-{node}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    self.hosts.command_in(node, [str(_DAEMONS / daemon)]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.base,
                    env={**os.environ, **self.environment, "SGE_ND": "1"},
                    start_new_session=True,
                )
            )

    def _logged(self) -> str:
        paths = [*self.base.glob("*.out"), *self.base.glob("spool/**/messages")]
        return "; ".join(f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in paths)
