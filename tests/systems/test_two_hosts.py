"""An executor on one host and its managers on another: network namespaces, ZeroMQ with Curve, and a wire to cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import throughway
from tests.processes import alive
from tests.systems.network_namespaces import Namespace, NetworkNamespaces
from tests.waiting import wait_until
from throughway.providers import JobId, JobSpec, JobStatus, LocalProvider, SubmitFailure
from throughway.providers.interface import NamedJob, ProviderRecord

ROOT = Path(__file__).resolve().parents[2]


class NamespaceProvider:
    """Nodes of another host: each job runs there, and only the network leads from it to the executor."""

    label = "namespace"
    local = False
    init_blocks = 1
    min_blocks = 0
    max_blocks = 1
    nodes_per_block = 1
    parallelism = 1.0
    walltime: float | None = None
    cores_per_node: int | None = None
    mem_per_node: float | None = None
    can_exclude = False
    worker_init = ""
    status_polling_interval = 0.25

    def __init__(self, namespace: str, host: str) -> None:
        self._prefix = ["ip", "netns", "exec", namespace]
        self._prefix += ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host]
        self._jobs = LocalProvider()

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        return self._jobs.submit([self._there(spec) for spec in specs])

    def _there(self, spec: JobSpec) -> JobSpec:
        return JobSpec(spec.name, [*self._prefix, *spec.command], spec.nodes, spec.folder, spec.environment)

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        return self._jobs.status(ids)

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        return self._jobs.cancel(ids, force=force)

    def jobs_of(self, run: str) -> list[NamedJob]:
        return self._jobs.jobs_of(run)

    def record(self) -> ProviderRecord:
        return self._jobs.record()

    def render(self, spec: JobSpec) -> str:
        return self._jobs.render(self._there(spec))


SCRIPT = """
import json, operator, os, socket, sys, time
from tests.executors import tasks
from tests.systems.test_two_hosts import NamespaceProvider
from throughway import HighThroughputExecutor

namespace, host, runs, folder, encrypted, address = sys.argv[1:]

def tell(**said):
    print(json.dumps(said), flush=True)

def wait():
    sys.stdin.readline()

executor = HighThroughputExecutor(
    provider=NamespaceProvider(namespace, host), encrypted=encrypted == "encrypted", address=address or None,
    max_workers_per_node=2, cores_per_worker=0.5, heartbeat_period=0.5, heartbeat_threshold=3.0, run_dir=runs,
    block_error_handler=False,
)
with executor:
    hosts = {executor.submit(socket.gethostname).result(timeout=40) for _ in range(10)}
    total = sum(executor.map(tasks.add, range(2000)))
    data = os.urandom(20_000_000)
    tell(hosts=sorted(hosts), here=socket.gethostname(), total=total,
         large=executor.submit(operator.add, data, b"!").result(timeout=40) == data + b"!")
    error = executor.submit(tasks.fail, "over there").exception(timeout=40)
    lost = executor.submit(os._exit, 3).exception(timeout=40)
    tell(error=type(error).__name__, notes=error.__notes__, lost=type(lost).__name__, lost_host=lost.host)
    marks = [os.path.join(folder, str(number)) for number in range(2)]
    futures = [executor.submit(tasks.hold, os.path.join(folder, "never"), mark) for mark in marks]
    while not all(os.path.exists(mark) and os.path.getsize(mark) for mark in marks):
        time.sleep(0.002)
    (manager,) = executor.connected_managers()
    workers = [int(open(mark).read()) for mark in marks]
    tell(manager=manager.pid, id=manager.manager, workers=workers, port=executor._run.shell.port)
    wait()
    errors = [future.exception(timeout=40) for future in futures]
    tell(errors=[type(error).__name__ for error in errors], text=str(errors[0]), host=errors[0].host)
    third = executor.submit(tasks.hold, os.path.join(folder, "gate"))
    waiting = executor.explain(third)
    tell(state=waiting.state, waits_for=waiting.waits_for)
    wait()
    again = executor.submit(socket.gethostname).result(timeout=60)
    open(os.path.join(folder, "gate"), "w").close()
    tell(again=again, third=third.result(timeout=60) > 0)
"""


class Session:
    """The script on host A."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(20)
            pytest.fail(f"the script ended with status {self.process.returncode}; its errors are above")
        told: dict[str, Any] = json.loads(line)
        return told

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


def start(
    hosts: NetworkNamespaces, a: Namespace, b: Namespace, tmp_path: Path, wire: str, address: str
) -> Session:
    parents = [str(Path(throughway.__file__).resolve().parents[1]), str(ROOT)]
    folder = tmp_path / "marks"
    folder.mkdir()
    argv = [sys.executable, "-c", SCRIPT, b.name, b.host, str(tmp_path / "runs"), str(folder), wire, address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(parents)}
    process = hosts.run_in(a, argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return Session(process)


@pytest.fixture(
    params=[("encrypted", False), ("plain", True)], ids=["encrypted, address found", "plain, address given"]
)
def session(
    request: pytest.FixtureRequest, network_namespaces: NetworkNamespaces, tmp_path: Path
) -> Iterator[Session]:
    wire, given = request.param
    a, b = network_namespaces.a, network_namespaces.b
    under_way = start(network_namespaces, a, b, tmp_path, wire, a.address if given else "")
    yield under_way
    for stream in (under_way.process.stdin, under_way.process.stdout):
        assert stream is not None
        stream.close()


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_two_hosts_and_a_cut_between_them(
    session: Session, network_namespaces: NetworkNamespaces, tmp_path: Path
) -> None:
    a, b = network_namespaces.a, network_namespaces.b
    told = session.told()
    assert told == {"hosts": ["host-b"], "here": "host-a", "total": sum(range(2000)), "large": True}
    told = session.told()
    assert (told["error"], told["lost"], told["lost_host"]) == ("ValueError", "WorkerLost", "host-b")
    assert "host host-b" in told["notes"][0]
    told = session.told()
    there = network_namespaces.processes(b)
    assert {told["manager"], *told["workers"]} <= set(there)
    assert not {told["manager"], *told["workers"]} & set(network_namespaces.processes(a))

    network_namespaces.disconnect(b)
    session.go_on()
    lost = session.told()
    assert lost["errors"] == ["ManagerLost", "ManagerLost"]
    assert lost["host"] == "host-b"
    assert "heartbeat_threshold: 3 s" in lost["text"]
    wait_until(
        lambda: not any(map(alive, [told["manager"], *told["workers"]])),
        20,
        "the manager and its workers to end",
    )
    log = next((tmp_path / "runs").glob(f"*/block-0/manager-{told['manager']}.log")).read_text()
    assert "the interchange was silent for" in log
    explained = session.told()
    assert explained["state"] == "at the interchange"
    assert "none is registered" in explained["waits_for"]

    network_namespaces.connect(b)
    session.go_on()
    assert session.told() == {"again": "host-b", "third": True}
    assert session.process.wait(30) == 0
    wait_until(lambda: not network_namespaces.processes(b), 20, "nothing to run on the other host")


@pytest.mark.timeout(60)
def test_the_death_of_the_users_process(session: Session, network_namespaces: NetworkNamespaces) -> None:
    """Killed on the one host, it leaves nothing on either."""
    b = network_namespaces.b
    for _ in range(3):
        session.told()
    session.process.send_signal(signal.SIGKILL)
    session.process.wait(20)
    wait_until(lambda: not network_namespaces.processes(b), 20, "nothing to run on the other host")
    wait_until(
        lambda: not network_namespaces.processes(network_namespaces.a), 20, "nothing to run on this one"
    )


def test_the_provider_of_this_test_is_one() -> None:
    """It has all that the interface asks for."""
    from throughway.providers import Provider

    provider: Provider = NamespaceProvider("nowhere", "host-x")
    assert provider.status([JobId("1")]) == LocalProvider().status([JobId("1")])
    assert "ip netns exec nowhere" in provider.render(JobSpec("job", ["true"], 1, "/nowhere"))
