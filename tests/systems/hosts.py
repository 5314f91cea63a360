"""Many hosts on one machine: a network and a host name of its own for each, all on one bridge with this machine.

They share files and process ids with this machine. It needs root and Debian's `iproute2` and `util-linux`.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.processes import alive, kill_all, living

_FILES = Path("/etc/netns")
_count = itertools.count()
_NAME = re.compile(r"tw(\d+)x\d+-\S+")


class Hosts:
    """The hosts named ``names``; `make` makes them, and `remove` takes them away with all that runs on them.

    ``address`` is this machine's on their network. The hosts know one another by name; this machine knows them by
    their addresses only.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._number = next(_count)
        self._stem = f"tw{os.getpid()}x{self._number}"
        # Interfaces have short names; two runs at one time shall not meet.
        self._subnet = f"10.{100 + os.getpid() % 100}.{(os.getpid() // 100 * 8 + self._number) % 256}"
        self._bridge = f"twb{os.getpid()}x{self._number}"[:15]
        self.address = f"{self._subnet}.254"

    def address_of(self, name: str) -> str:
        """The address of a host."""
        return f"{self._subnet}.{self.names.index(name) + 1}"

    def namespace(self, name: str) -> str:
        """The network namespace of a host."""
        return f"{self._stem}-{name}"

    def make(self) -> None:
        """Make them. Raises `RuntimeError` where a command fails."""
        remove_abandoned()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        known = "".join(f"{self.address_of(name)} {name}\n" for name in self.names)
        for index, name in enumerate(self.names):
            # `ip netns exec` puts these files into the place of those in /etc.
            files = _FILES / self.namespace(name)
            files.mkdir(parents=True)
            (files / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            namespace, wire = self.namespace(name), self.wire(name)
            _ip("netns", "add", namespace)
            _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", wire, "master", self._bridge, "up")
            _ip("-n", namespace, "address", "add", f"{self._subnet}.{index + 1}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", namespace, "link", "set", "lo", "up")

    def wire(self, name: str) -> str:
        """This machine's end of the host's wire, an interface that can be set down and up."""
        return f"tw{self.names.index(name)}p{os.getpid()}x{self._number}"[:15]

    def cut(self, name: str) -> None:
        """Cut a host off: packets are lost, and no connection is told."""
        _ip("link", "set", self.wire(name), "down")

    def join(self, name: str) -> None:
        """Put the host's wire back."""
        _ip("link", "set", self.wire(name), "up")

    def command_in(self, name: str, command: Sequence[str]) -> list[str]:
        """The command that runs ``command`` on a host; the process is the command itself."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
        return ["ip", "netns", "exec", self.namespace(name), *named, *command]

    def kill(self, name: str) -> None:
        """Kill all that runs on a host."""
        kill_all(living(map(int, _ip("netns", "pids", self.namespace(name)).split())))

    def remove(self) -> None:
        """Take them away. May be called again, and on hosts that are half made."""
        for name in self.names:
            _remove(self.namespace(name))
        if os.path.exists(f"/sys/class/net/{self._bridge}"):
            _ip("link", "delete", self._bridge)


def remove_abandoned() -> None:
    """Take away what test runs left here that were killed before they could do it themselves."""
    for name in _names():
        match = _NAME.fullmatch(name)
        if match and not alive(int(match[1])):
            _remove(name)
    for entry in os.listdir(_FILES) if _FILES.exists() else ():
        match = _NAME.fullmatch(entry)
        if match and not alive(int(match[1])):
            shutil.rmtree(_FILES / entry)
    for entry in os.listdir("/sys/class/net"):
        match = re.fullmatch(r"twb(\d+)x\d+", entry)
        if match and not alive(int(match[1])):
            _ip("link", "delete", entry)


def _names() -> list[str]:
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:  # none was ever made since the machine started
        return []


def _remove(name: str) -> None:
    if name in _names():
        kill_all(living(map(int, _ip("netns", "pids", name).split())))
        _ip("netns", "delete", name)
    shutil.rmtree(_FILES / name, ignore_errors=True)


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {result.returncode}: {result.stderr.strip()}")
    return result.stdout
