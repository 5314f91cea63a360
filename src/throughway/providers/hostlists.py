"""Lists of hosts in the short form of Slurm, such as ``n[01-03,7],login``, written out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MAX_HOSTS = 100_000
"""Hosts in one list; a longer one is taken as not understood."""

_PART = re.compile(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)")
_RANGE = re.compile(r"(\d+)-(\d+)")


def expand(text: str) -> tuple[str, ...]:
    """The hosts of a list, in its order; empty for an empty one or one that is not understood."""
    text = text.strip()
    if not text or text in ("(null)", "None assigned", "None"):
        return ()
    hosts: list[str] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return ()
        try:
            for host in _written_out(match[1]):
                hosts.append(host)
                if len(hosts) > MAX_HOSTS:
                    return ()
        except ValueError:
            return ()
        position = match.end()
    return tuple(hosts)


def _written_out(part: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\[\]]*)\]", part)
    choices = [[piece] if index % 2 == 0 else list(_numbers(piece)) for index, piece in enumerate(pieces)]
    return ("".join(choice) for choice in itertools.product(*choices))


def _numbers(ranges: str) -> Iterator[str]:
    for entry in ranges.split(","):
        match = _RANGE.fullmatch(entry)
        if match is None:
            if not entry.isdecimal():
                raise ValueError(entry)
            yield entry
            continue
        first, last = int(match[1]), int(match[2])
        if last - first > MAX_HOSTS:
            raise ValueError(entry)
        width = len(match[1])
        for number in range(first, last + 1):
            yield f"{number:0{width}d}"
