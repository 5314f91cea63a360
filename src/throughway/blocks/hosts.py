"""Which hosts are left out, since managers keep dying there. Pure."""

from __future__ import annotations

STRIKES = 3
"""Managers that are lost on a host in a row before it is left out."""

LONG_LIFE = 300.0
"""Seconds after which a manager that is lost says nothing against its host."""


class Hosts:
    """How managers fared on each host. Times are on the caller's clock.

    A manager that drains, or lives for `LONG_LIFE`, clears its host. The only host that was ever seen is never left
    out: there would be nothing to go on with.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}
        """host → why"""
        self._strikes: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def joined(self, host: str) -> None:
        """A manager has registered from there."""
        self._strikes.setdefault(host, 0)

    def left(self, host: str, lost: bool, reason: str, seconds: float) -> list[str]:
        """A manager there is gone after so many seconds; the hosts that are left out from now on."""
        if not lost or seconds >= LONG_LIFE:
            self._strikes[host] = 0
            return []
        self._strikes[host] = self._strikes.get(host, 0) + 1
        self._reasons[host] = reason
        if len(self._strikes) < 2:
            return []
        fresh = []
        for name, strikes in self._strikes.items():
            if strikes >= STRIKES and name not in self.left_out:
                self.left_out[name] = (
                    f"{strikes} managers in a row were lost there, each within {LONG_LIFE:g} s; the last: "
                    f"{self._reasons[name]}"
                )
                fresh.append(name)
        return fresh
