"""Finding this machine's addresses, and probing another's."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import psutil
import pytest

from throughway.errors import TransportError
from throughway.manager import addresses
from throughway.manager.addresses import bracketed, local_addresses, probe, tcp_url

Listen = Callable[[str, int], int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Listen at an address, at a port or (0) any that is free, and return the port."""
    with ExitStack() as stack:

        def start(address: str, port: int = 0) -> int:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = stack.enter_context(socket.socket(family))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen()
            return int(sock.getsockname()[1])

        yield start


@pytest.fixture
def silent() -> Iterator[Listen]:
    """Make an address that does not answer at a port: its queue is full, so connections are dropped."""
    with ExitStack() as stack:

        def start(address: str, port: int) -> int:
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            listener.listen(0)
            stack.enter_context(socket.create_connection((address, port), timeout=10))
            return port

        yield start


@pytest.fixture(autouse=True)
def _no_leaked_descriptors() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")

# -------------------------------------------------------------------------------------------- local addresses


def test_this_machines_addresses_are_its_own() -> None:
    found = local_addresses()
    assert len(set(found)) == len(found)
    for address in found:
        parsed = ipaddress.ip_address(address)
        assert not parsed.is_loopback
        assert not parsed.is_unspecified
        assert not (parsed.version == 6 and parsed.is_link_local)


def test_loopback_comes_last_and_only_when_asked_for() -> None:
    found = local_addresses()
    asked = local_addresses(loopback=True)
    assert asked[: len(found)] == found
    assert "127.0.0.1" in asked[len(found) :]
    assert all(ipaddress.ip_address(address).is_loopback for address in asked[len(found) :])


def made_up_machine(monkeypatch: pytest.MonkeyPatch, *, route: list[str], host: list[str] | OSError) -> None:
    def entry(address: str, family: int = socket.AF_INET) -> SimpleNamespace:
        return SimpleNamespace(address=address, family=family)

    interfaces = {
        "lo": [
            entry("127.0.0.1"),
            entry("::1", socket.AF_INET6),
            entry("00:00:00:00:00:00", socket.AF_PACKET),
        ],
        "eth0": [
            entry("10.0.0.5"),
            entry("fe80::1%eth0", socket.AF_INET6),
            entry("fd00::5", socket.AF_INET6),
        ],
        "ib0": [entry("10.1.0.5"), entry("febf::2%ib0", socket.AF_INET6), entry("fec0::2", socket.AF_INET6)],
        "down0": [entry("192.168.9.9")],
        "new0": [entry("172.16.0.1")],
    }
    states = {name: SimpleNamespace(isup=name != "down0") for name in interfaces if name != "new0"}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(addresses, "_route_addresses", lambda: route)

    def resolve(name: str, port: None, **options: object) -> list[tuple[object, ...]]:
        if isinstance(host, OSError):
            raise host
        return [(socket.AF_INET, 0, 0, "", (address, 0)) for address in host]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_likeliest_come_first_and_the_useless_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_machine(monkeypatch, route=["10.1.0.5", "0.0.0.0"], host=["127.0.1.1", "10.0.0.5", "10.2.0.5"])
    expected = ["10.1.0.5", "10.0.0.5", "10.2.0.5", "fd00::5", "fec0::2", "172.16.0.1"]
    assert local_addresses() == expected
    assert local_addresses(loopback=True) == [*expected, "127.0.1.1", "127.0.0.1", "::1"]


def test_a_host_whose_name_nobody_knows_and_without_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_machine(monkeypatch, route=[], host=socket.gaierror(socket.EAI_NONAME, "unknown"))
    assert local_addresses() == ["10.0.0.5", "fd00::5", "10.1.0.5", "fec0::2", "172.16.0.1"]


def test_a_machine_without_a_protocol_has_no_route_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_OUTSIDE", ((socket.AF_INET, "127.0.0.1"), (9999, "127.0.0.1")))
    assert addresses._route_addresses() == ["127.0.0.1"]


# ------------------------------------------------------------------------------------------------------ probe


def test_the_one_that_listens_is_found_among_those_that_refuse(listen: Listen) -> None:
    port = listen("127.0.0.1", 0)
    assert probe(["127.0.0.2", "127.0.0.1", "127.0.0.3"], port, 60) == ["127.0.0.1"]


def test_silent_addresses_do_not_hold_up_the_first_answer(listen: Listen, silent: Listen) -> None:
    port = listen("127.0.0.1", 0)
    silent("127.0.0.2", port)
    started = time.monotonic()
    assert probe(["127.0.0.2", "127.0.0.1"], port, 600) == ["127.0.0.1"]
    assert time.monotonic() - started < 300  # far below the timeout, and far above what a slow machine takes


def test_with_grace_the_others_are_returned_too_without_waiting_it_out(listen: Listen) -> None:
    port = listen("127.0.0.1", 0)
    listen("127.0.0.2", port)
    found = probe(["127.0.0.3", "127.0.0.2", "127.0.0.1"], port, 60, grace=600)
    assert sorted(found) == ["127.0.0.1", "127.0.0.2"]


def test_grace_ends(listen: Listen, silent: Listen) -> None:
    port = listen("127.0.0.1", 0)
    silent("127.0.0.2", port)
    assert probe(["127.0.0.2", "127.0.0.1"], port, 600, grace=0.05) == ["127.0.0.1"]


def test_each_address_is_tried_once(listen: Listen) -> None:
    port = listen("127.0.0.1", 0)
    assert probe(["127.0.0.1", "127.0.0.1"], port, 60, grace=60) == ["127.0.0.1"]


@needs_ipv6
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_ipv6(listen: Listen, address: str) -> None:
    assert probe([address], listen("::1", 0), 60) == [address]


def test_a_name_counts_once_whatever_it_resolves_to(listen: Listen) -> None:
    assert probe(["localhost"], listen("127.0.0.1", 0), 60, grace=60) == ["localhost"]


def test_failure_names_every_address_its_reason_and_the_remedy(listen: Listen, silent: Listen) -> None:
    port = silent("127.0.0.2", listen("127.0.0.1", 0))
    with pytest.raises(TransportError) as caught:
        probe(["127.0.0.2", "127.0.0.3", "255.255.255.255", "a..b"], port, 0.1)
    message = str(caught.value)
    assert "127.0.0.2 (no answer), 127.0.0.3 (connection refused), 255.255.255.255 (" in message
    assert "a..b (cannot be resolved: " in message
    assert f"on port {port} within 0.1 s" in message
    assert os.uname().nodename in message
    for remedy in ("address=", f"open port {port} in the firewalls", "address_probe_timeout (now 0.1 s)"):
        assert remedy in message


def test_failure_does_not_wait_when_nothing_is_pending(listen: Listen) -> None:
    port = listen("127.0.0.1", 0)
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"127\.0\.0\.2 \(connection refused\)"):
        probe(["127.0.0.2"], port, 600)
    assert time.monotonic() - started < 300


def test_a_name_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*arguments: object, **options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(TransportError, match=r"login9 \(cannot be resolved: Name or service not known\)"):
        probe(["login9"], 54321, 60)


def test_no_addresses_at_all() -> None:
    with pytest.raises(
        TransportError, match=r"named no address .* port 54321: give the executor an address="
    ):
        probe([], 54321, 60)


def test_a_connection_with_itself_is_told_from_one_with_a_listener(listen: Listen) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        assert addresses._self_connected(sock)
    with socket.create_connection(("127.0.0.1", listen("127.0.0.1", 0)), timeout=10) as sock:
        assert not addresses._self_connected(sock)


# ------------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("node7.cluster", "node7.cluster"),
        ("*", "*"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("fd00::5", "[fd00::5]"),
    ],
)
def test_urls_have_ipv6_in_brackets(address: str, written: str) -> None:
    assert bracketed(address) == written
    assert tcp_url(address, 54321) == f"tcp://{written}:54321"
