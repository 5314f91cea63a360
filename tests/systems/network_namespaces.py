"""Two hosts on one machine: network namespaces joined by a veth pair, each with an address and a host name of its own.

What runs in them shares files and process ids with this machine, but neither its network nor its loopback address nor
abstract Unix sockets. It needs root and Debian's `iproute2` and `util-linux`.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, NamedTuple, Self

from tests.processes import ProcessRecord, alive, kill_all, living

_NAME = re.compile(r"throughway-(?P<pid>\d+)-\d+-[ab]")
_count = itertools.count()
_INTERFACE = "wire"


def missing() -> str | None:
    """Why network namespaces cannot be made here, or None where they can."""
    for command, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("hostname", "hostname")):
        if shutil.which(command) is None:
            return f"network namespaces need the command {command}: install the package {package}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"this system gives no network namespaces: {probe.stderr.strip()}"
    return None


class Namespace(NamedTuple):
    """One of the two hosts."""

    name: str
    address: str
    host: str


class NetworkNamespaces:
    """A context manager: inside, the hosts ``a`` and ``b`` exist; at its end they and all that runs in them are gone.

    Raises:
        RuntimeError: a command failed; the message holds it and what it said.
    """

    def __init__(self) -> None:
        number = next(_count)
        stem = f"throughway-{os.getpid()}-{number}"
        subnet = f"10.77.{number % 256}"
        self.a = Namespace(f"{stem}-a", f"{subnet}.1", "host-a")
        self.b = Namespace(f"{stem}-b", f"{subnet}.2", "host-b")
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        remove_abandoned()
        try:
            for namespace in (self.a, self.b):
                _ip("netns", "add", namespace.name)
            pair = ["link", "add", _INTERFACE, "netns", self.a.name, "type", "veth"]
            _ip(*pair, "peer", "name", _INTERFACE, "netns", self.b.name)
            for namespace in (self.a, self.b):
                # no duplicate address detection: addresses serve as soon as they are set
                _ip("-n", namespace.name, "address", "add", f"{namespace.address}/24", "dev", _INTERFACE)
                _ip("-n", namespace.name, "link", "set", "lo", "up")
                self.connect(namespace)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def run_in(
        self,
        namespace: Namespace,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` on that host. The process is the command itself: signals and the exit code are its own."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', namespace.host]
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, *named, *argv],
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self._started.append(process)
        return process

    def disconnect(self, namespace: Namespace) -> None:
        """Pull the wire out of this host: packets are lost in both directions, and no connection is told."""
        _ip("-n", namespace.name, "link", "set", _INTERFACE, "down")

    def connect(self, namespace: Namespace) -> None:
        """Put the wire into this host, also again."""
        _ip("-n", namespace.name, "link", "set", _INTERFACE, "up")

    def processes(self, namespace: Namespace) -> list[int]:
        """The ids of the living processes on this host."""
        return [record.pid for record in _processes_in(namespace.name)]

    def remove(self) -> None:
        """End all that runs on the two hosts, and take them away. May be called again, and on half-made ones."""
        for process in self._started:  # one that has only just been started is not in its namespace yet
            process.kill()
        for namespace in (self.a, self.b):
            _remove(namespace.name)
        for process in self._started:
            process.wait()
        self._started.clear()


def remove_abandoned() -> None:
    """Take away what test runs left here that were killed before they could do it themselves."""
    for name in _names():
        match = _NAME.fullmatch(name)
        if match and not alive(int(match["pid"])):
            _remove(name)


def _names() -> list[str]:
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:  # none was ever made since the machine started
        return []


def _remove(name: str) -> None:
    if name in _names():
        kill_all(_processes_in(name))
        _ip("netns", "delete", name)


def _processes_in(name: str) -> list[ProcessRecord]:
    return living(map(int, _ip("netns", "pids", name).split()))


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {result.returncode}: {result.stderr.strip()}")
    return result.stdout
