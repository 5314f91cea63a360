"""The hosts that other tests stand on: separate networks, a wire between them that can be cut, nothing left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.processes import alive
from tests.systems.network_namespaces import Namespace, NetworkNamespaces, missing, remove_abandoned
from tests.waiting import wait_until

SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 4000))
print("listening", flush=True)
while True:
    connection, (address, port) = listener.accept()
    with connection:
        connection.sendall(f"{socket.gethostname()} {address}".encode())
"""

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 4000), timeout=float(sys.argv[2])) as connection:
    print(socket.gethostname(), connection.recv(100).decode())
"""


def serve(namespaces: NetworkNamespaces, on: Namespace, address: str) -> subprocess.Popen[bytes]:
    server = namespaces.run_in(on, [sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    return server


def ask(namespaces: NetworkNamespaces, on: Namespace, address: str, timeout: float) -> str:
    """What the server answers; an empty text where it cannot be reached within ``timeout`` seconds."""
    argv = [sys.executable, "-c", CLIENT, address, str(timeout)]
    with namespaces.run_in(on, argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        output, _ = client.communicate(timeout=30)
    return output.decode().strip()


def test_two_hosts_talk_over_the_wire_only(network_namespaces: NetworkNamespaces) -> None:
    a, b = network_namespaces.a, network_namespaces.b
    with serve(network_namespaces, a, a.address) as server:
        assert ask(network_namespaces, b, a.address, 10) == f"host-b host-a {b.address}"
        network_namespaces.disconnect(b)
        assert ask(network_namespaces, b, a.address, 0.2) == ""
        network_namespaces.connect(b)
        assert ask(network_namespaces, b, a.address, 10) == f"host-b host-a {b.address}"
        server.terminate()
    assert server.returncode == -signal.SIGTERM, "the process is the command itself"


def test_a_host_has_a_loopback_address_of_its_own(network_namespaces: NetworkNamespaces) -> None:
    a, b = network_namespaces.a, network_namespaces.b
    with serve(network_namespaces, a, "127.0.0.1") as server:
        assert ask(network_namespaces, a, "127.0.0.1", 10) == "host-a host-a 127.0.0.1"
        assert ask(network_namespaces, b, "127.0.0.1", 0.2) == ""
        server.kill()


def test_removal_ends_what_runs_there(network_namespaces: NetworkNamespaces) -> None:
    hosts = network_namespaces
    argv = ["sh", "-c", "trap '' TERM; setsid sleep 600 & sleep 600"]
    with hosts.run_in(hosts.b, argv) as shell:
        wait_until(lambda: len(hosts.processes(hosts.b)) == 3, what="the shell and its two children")
        pids = hosts.processes(hosts.b)
        hosts.remove()
        assert not any(alive(pid) for pid in pids)
    assert shell.returncode == -signal.SIGKILL
    assert not {hosts.a.name, hosts.b.name} & set(os.listdir("/run/netns"))
    hosts.remove()


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    code = (
        "import os, signal, subprocess\n"
        "from tests.systems.network_namespaces import NetworkNamespaces\n"
        "hosts = NetworkNamespaces().__enter__()\n"
        "command = ['sh', '-c', 'echo running; exec sleep 600 > /dev/null']\n"
        "process = hosts.run_in(hosts.a, command, stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(hosts.a.name, hosts.b.name, process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    *names, pid = killed.stdout.split()
    assert set(names) <= set(os.listdir("/run/netns"))
    assert alive(int(pid))
    remove_abandoned()
    assert not set(names) & set(os.listdir("/run/netns"))
    assert not alive(int(pid))
