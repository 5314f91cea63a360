"""``throughway journal``: what an executor's journal holds."""

from __future__ import annotations

import json as jsonlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table

from throughway.cli import figures
from throughway.errors import JournalError
from throughway.executors.journal import Journal
from throughway.executors.journal_file import (
    KEY_BYTES,
    Damage,
    Holder,
    JournalFile,
    Kind,
    in_use,
    lock_holder,
)

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_FUNCTIONS = 20
"""Functions in the table, those with most results."""


@dataclass
class Contents:
    """What a journal holds. Times are in seconds since the epoch."""

    path: str
    size: int = 0
    results: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """key → function and bytes of its last result"""
    records: int = 0
    labelled: int = 0
    open: set[bytes] = field(default_factory=set)
    """keys that were submitted and have no result"""
    damaged: int = 0
    """bytes between records that are no record"""
    tail: int = 0
    """bytes behind the last whole record"""
    first: float | None = None
    last: float | None = None
    holder: Holder | None = None
    """who writes it now"""

    @property
    def useless(self) -> int:
        """Bytes that a journal which is written anew does not have."""
        return self.size - sum(size for _, size in self.results.values())


def show(console: Console, output: TextIO, *, path: str, json: bool = False, rewrite: bool = False) -> int:
    """Print what a journal holds; returns the exit status.

    Args:
        console: where people look.
        output: where JSON goes.
        rewrite: write it anew first, without what nothing needs any more.

    Raises:
        JournalError: it is not there, is no journal, or is in use and to be written anew.
    """
    if rewrite:
        _rewrite(path)
    contents = read(path)
    if json:
        print(jsonlib.dumps(document(contents)), file=output)
    else:
        _print(console, contents)
    return 0


def read(path: str) -> Contents:
    """What a journal holds, also while somebody writes it.

    Raises:
        JournalError: it is not there, or is no journal.
    """
    file = JournalFile(path, writable=False)
    try:
        contents = Contents(path, file.size, holder=lock_holder(path) if in_use(path) else None)
        for found in file.scan():
            if isinstance(found, Damage):
                if found.tail:
                    contents.tail = found.size
                else:
                    contents.damaged += found.size
                continue
            contents.records += 1
            meta = found.meta
            if found.kind == Kind.RESULT:
                contents.labelled += bool(meta.label) and meta.key not in contents.results
                contents.results[meta.key] = (meta.function, found.size)
                contents.open.discard(meta.key)
            elif found.kind == Kind.SUBMITTED:
                record = file.read(found.offset)
                keys = b"" if record is None else bytes(record[1][0])
                for at in range(0, len(keys), KEY_BYTES):
                    if keys[at : at + KEY_BYTES] not in contents.results:
                        contents.open.add(keys[at : at + KEY_BYTES])
            if meta.time:
                contents.first = meta.time if contents.first is None else min(contents.first, meta.time)
                contents.last = meta.time if contents.last is None else max(contents.last, meta.time)
        return contents
    finally:
        file.close()


def _rewrite(path: str) -> None:
    JournalFile(path, writable=False).close()  # what is not there is not to be made
    journal = Journal(path, "throughway journal")
    journal.open()
    try:
        journal.rewrite()
    except OSError as error:
        raise JournalError(
            f"journal={path!r} cannot be written anew: {error.strerror or error}: make room for a second one beside it"
        ) from error
    finally:
        journal.close()


def document(contents: Contents) -> dict[str, Any]:
    """What ``--json`` prints: counts, sizes in bytes, and times in seconds since the epoch."""
    holder = contents.holder
    return {
        "path": contents.path,
        "bytes": contents.size,
        "results": len(contents.results),
        "results_with_a_key": contents.labelled,
        "submitted_without_a_result": len(contents.open),
        "bytes_not_needed": contents.useless,
        "bytes_damaged": contents.damaged,
        "bytes_not_written_whole": contents.tail if holder is None else 0,
        "first": contents.first,
        "last": contents.last,
        "in_use_by": None if holder is None else {"pid": holder.pid, "host": holder.host},
        "functions": {
            name: {"results": count, "bytes": size} for name, (count, size) in _functions(contents).items()
        },
    }


def _functions(contents: Contents) -> dict[str, tuple[int, int]]:
    """The results of each function, and their bytes; those with most results come first."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, size in contents.results.values():
        counts[name] += 1
        sizes[name] += size
    return {name: (count, sizes[name]) for name, count in counts.most_common()}


def _print(console: Console, contents: Contents) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{contents.path}: {len(contents.results)} results, {figures.size(contents.size)}")
    if contents.labelled:
        say(f"  {contents.labelled} of them have a key of the user's")
    if contents.open:
        say(f"  {len(contents.open)} tasks were submitted and have no result")
    if contents.first is not None and contents.last is not None:
        now = time.time()
        say(f"  from {_ago(now - contents.first)} to {_ago(now - contents.last)}")
    if contents.records and 2 * contents.useless > contents.size:
        say(f"  {figures.size(contents.useless)} are not needed any more: --rewrite removes them")
    if contents.damaged:
        say(f"  {contents.damaged} bytes are damaged: the tasks in them run again")
    if contents.holder is not None:
        say(f"  in use by {contents.holder}")
    elif contents.tail:
        say(f"  the last {contents.tail} bytes were not written whole: the task in them runs again")
    functions = _functions(contents)
    if not functions:
        return
    table = Table("function", box=None, pad_edge=False)
    table.add_column("results", justify="right")
    table.add_column("size", justify="right")
    for name, (count, size) in list(functions.items())[:SHOWN_FUNCTIONS]:
        table.add_row(name or "?", str(count), figures.size(size))
    console.print(table)
    if len(functions) > SHOWN_FUNCTIONS:
        say(f"and {len(functions) - SHOWN_FUNCTIONS} more functions")


def _ago(seconds: float) -> str:
    return f"{figures.age(max(0.0, seconds))} ago"
