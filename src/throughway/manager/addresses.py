"""The addresses by which other machines may reach this one, and which of an interchange's answers from here.

A machine on a cluster has many addresses, and which of them a node can reach is known only there. So the
executor names all that it has, and each manager tries all at once and takes the first that answers.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable, Sequence

from throughway.errors import TransportError

# Connecting a datagram socket finds the route and sends nothing; these addresses are reserved for examples.
_OUTSIDE = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))


def local_addresses(*, loopback: bool = False) -> list[str]:
    """The addresses of this machine that others might reach, likeliest first: where the route to the outside
    starts, what the host's name resolves to, and every interface that is up; IPv4 and IPv6.

    Link-local IPv6 addresses are left out, as their zone means nothing on another machine. Loopback addresses
    come last, and only with ``loopback``. The list is empty on a machine without a network. Asks the system's
    resolver for the host's own name, which may take its timeout where name service is broken; nothing else
    leaves the machine.
    """
    found = dict.fromkeys([*_route_addresses(), *_host_addresses(), *_interface_addresses()])
    usable = [address for address in found if _reachable(address)]
    return usable + [address for address in found if loopback and _is_loopback(address)]


def probe(addresses: Iterable[str], port: int, timeout: float, *, grace: float = 0.0) -> list[str]:
    """Connect to a port at all addresses at once, and return those that accepted, the first to do so first.

    Returns as soon as one has answered, with those that had by then; with ``grace``, waits that much longer
    for the others. The connections are closed again.

    Args:
        addresses: IPv4 and IPv6 addresses, or names. Names are resolved first, outside of ``timeout``.
        port: the TCP port.
        timeout: seconds within which the first must answer.
        grace: seconds after the first answer in which others may still answer.

    Raises:
        TransportError: none answered: names each address with its reason, and the remedy.
    """
    attempts = _Attempts(port)
    try:
        for address in dict.fromkeys(addresses):
            attempts.begin(address)
        deadline = time.monotonic() + timeout
        while attempts.pending() and (left := deadline - time.monotonic()) > 0:
            had_answer = bool(attempts.answered)
            attempts.wait(left)
            if attempts.answered and not had_answer:
                deadline = time.monotonic() + grace
        if attempts.answered:
            return list(attempts.answered)
        raise TransportError(_failure(attempts, port, timeout))
    finally:
        attempts.close()


def bracketed(address: str) -> str:
    """An address as URLs and ``host:port`` forms need it: IPv6 in brackets, anything else as it is."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def tcp_url(address: str, port: int) -> str:
    """The ``tcp://`` URL of a port at an address or name; ``*`` stands for all interfaces, as ZeroMQ has
    it."""
    return f"tcp://{bracketed(address)}:{port}"


# -------------------------------------------------------------------------------------------- local addresses


def _route_addresses() -> list[str]:
    addresses = []
    for family, outside in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((outside, 9))
                addresses.append(str(sock.getsockname()[0]))
        except OSError:
            continue  # this machine has no such protocol or no such route: then it has no such address either
    return addresses


def _host_addresses() -> list[str]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # a host whose name nobody knows is common, and its interfaces still say what it has
    return [str(entry[4][0]) for entry in found]


def _interface_addresses() -> list[str]:
    import psutil  # here, because it costs time and only executors that span machines need it

    states = psutil.net_if_stats()
    return [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        if name not in states or states[name].isup
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _reachable(address: str) -> bool:
    if _is_loopback(address) or address in ("0.0.0.0", "::"):  # noqa: S104 - it is left out
        return False
    if ":" not in address:
        return True
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return not (packed[0] == 0xFE and packed[1] & 0xC0 == 0x80)


# ------------------------------------------------------------------------------------------------------ probe


class _Attempts:
    """Connections under way, to one port at several addresses."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: dict[str, None] = {}
        self.reasons: dict[str, str] = {}
        """why an address failed, as far as it is known; "" while none of its connections has ended"""
        self._selector = selectors.DefaultSelector()

    def begin(self, address: str) -> None:
        """Start to connect to all that an address stands for: a name may have several, in both families."""
        self.reasons[address] = ""
        try:
            found = socket.getaddrinfo(address.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.reasons[address] = f"cannot be resolved: {reason}"
            return
        for family, kind, protocol, _, target in found:
            try:
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            except OSError as error:
                self.reasons[address] = _explained(error.errno)
                continue
            code = sock.connect_ex(target)
            if code in (0, errno.EINPROGRESS):
                self._selector.register(sock, selectors.EVENT_WRITE, address)
            else:
                sock.close()
                self.reasons[address] = _explained(code)

    def pending(self) -> bool:
        """Whether any connection is still under way."""
        return bool(self._selector.get_map())

    def wait(self, seconds: float) -> None:
        """Wait until connections succeed or fail, and note which."""
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._selector.unregister(sock)
            with sock:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0 and not _self_connected(sock):
                    self.answered[key.data] = None
                else:
                    self.reasons[key.data] = _explained(code or errno.ECONNREFUSED)

    def close(self) -> None:
        """Give up what is under way."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def _self_connected(sock: socket.socket) -> bool:
    """Whether a connection is with itself. On one machine, TCP allows that where nobody listens, when the
    port that the kernel picks for our end happens to be the one that we connect to."""
    return bool(sock.getsockname() == sock.getpeername())


def _explained(code: int | None) -> str:
    return os.strerror(code).lower() if code else "unknown error"


def _failure(attempts: _Attempts, port: int, timeout: float) -> str:
    if not attempts.reasons:
        return (
            f"The interchange named no address at which to reach its port {port}: "
            "give the executor an address= that this node can reach"
        )
    reasons: Sequence[str] = [
        f"{address} ({reason or 'no answer'})" for address, reason in attempts.reasons.items()
    ]
    return (
        f"No address of the interchange answered {os.uname().nodename} on port {port} within {timeout:g} s: "
        f"{', '.join(reasons)}. Give the executor an address= that this node can reach, open port {port} in "
        f"the firewalls between them, or raise address_probe_timeout (now {timeout:g} s)"
    )
