from __future__ import annotations

from throughway.blocks.hosts import LONG_LIFE, STRIKES, Hosts


def lose(hosts: Hosts, host: str, count: int, seconds: float = 10.0) -> list[str]:
    fresh = []
    for number in range(count):
        hosts.joined(host)
        fresh += hosts.left(host, True, f"reason {number}", seconds)
    return fresh


def test_a_host_is_left_out_after_so_many_losses_in_a_row() -> None:
    hosts = Hosts()
    hosts.joined("good")
    assert lose(hosts, "bad", STRIKES - 1) == []
    assert lose(hosts, "bad", 1) == ["bad"]
    assert "the last: reason 0" in hosts.left_out["bad"]
    assert lose(hosts, "bad", 1) == [], "once only"


def test_what_drains_or_lives_long_clears_its_host() -> None:
    hosts = Hosts()
    hosts.joined("good")
    lose(hosts, "h", STRIKES - 1)
    hosts.left("h", False, "drained", 1.0)
    assert lose(hosts, "h", STRIKES - 1) == []
    hosts.left("h", True, "silent", LONG_LIFE)
    assert lose(hosts, "h", STRIKES - 1) == []
    assert lose(hosts, "h", 10, seconds=LONG_LIFE) == []


def test_the_only_host_is_not_left_out_until_there_is_another() -> None:
    hosts = Hosts()
    assert lose(hosts, "only", 10) == []
    hosts.joined("other")
    assert lose(hosts, "only", 1) == ["only"]
