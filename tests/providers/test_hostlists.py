from __future__ import annotations

import pytest

from throughway.providers.hostlists import MAX_HOSTS, expand


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("(null)", ()),
        ("None assigned", ()),
        ("n1", ("n1",)),
        ("n1,login-2.example.org", ("n1", "login-2.example.org")),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-11,20],gpu", ("n08", "n09", "n10", "n11", "n20", "gpu")),
        ("r[1-2]n[1,3]-ib", ("r1n1-ib", "r1n3-ib", "r2n1-ib", "r2n3-ib")),
        ("n[1-", ()),
        ("n[a-b]", ()),
        (f"n[0-{10 * MAX_HOSTS}]", ()),
        ("n[1-1000][1-1000]", ()),
    ],
)
def test_expand(text: str, hosts: tuple[str, ...]) -> None:
    assert expand(text) == hosts
