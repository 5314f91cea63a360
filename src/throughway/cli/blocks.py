"""``throughway blocks``: lists the blocks of this user's runs, and cancels what dead runs have left."""

from __future__ import annotations

import json as jsonlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import msgspec

from throughway.blocks.record import BlocksRecord, read_blocks
from throughway.blocks.watchdog import cancel_jobs
from throughway.cli import figures
from throughway.cli.status_view import blocks_table
from throughway.executors.run_folder import RunRecord, list_runs, runs_folder
from throughway.providers.interface import JobState, NamedJob, Provider
from throughway.providers.records import read_record, restore

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
"""The exit status where something is left, or nothing could be done."""

CANCEL_SECONDS = 120.0
"""How long cancelled jobs may take to be gone."""

FORCE_SECONDS = 30.0
"""After how long of these they are killed."""


class Leftovers(NamedTuple):
    """What a run that is over has left, as far as its scheduler tells."""

    run: RunRecord
    jobs: list[NamedJob]
    trouble: str = ""
    """why that is not known"""


def show(console: Console, output: TextIO, *, json: bool = False, run_dir: str | None = None) -> int:
    """List the blocks of live runs, and the jobs that dead ones have left; the exit status.

    Schedulers are asked only for runs that did not end in order.
    """
    runs = list_runs(run_dir)
    living = [(run, read_blocks(run.folder)) for run in runs if run.alive]
    dead = [leftovers(run) for run in runs if not run.alive and suspicious(run)]
    dead = [left for left in dead if left.jobs or left.trouble]
    if json:
        print(jsonlib.dumps(_document(living, dead)), file=output)
    else:
        _print(console, living, dead, run_dir)
    return FAILED if any(left.trouble for left in dead) else 0


def cancel(
    console: Console,
    run: str,
    *,
    force: bool = False,
    run_dir: str | None = None,
    timeout: float = CANCEL_SECONDS,
) -> int:
    """Cancel all jobs of a run whose process is dead, and wait for their end; the exit status.

    Args:
        run: beginning of a run's id, or a label.
        force: also of a run that is alive, or that another host's process owns.
        timeout: seconds to wait.
    """
    found = [record for record in list_runs(run_dir) if run == record.label or record.run.startswith(run)]
    dead = [
        record
        for record in found
        if force or not (record.alive or (record.ended is None and not record.known))
    ]
    if not dead:
        print(_refusal(run, found, run_dir), file=sys.stderr)
        return FAILED
    logger = logging.getLogger("throughway.blocks")
    status = 0
    for record in dead:
        left = leftovers(record)
        if left.trouble:
            print(f"run {record.run} ({record.label}): {left.trouble}", file=sys.stderr)
            status = FAILED
            continue
        if not left.jobs:
            console.print(f"run {record.run} ({record.label}) has left no job", highlight=False, markup=False)
            continue
        names = ", ".join(job.id for job in left.jobs)
        console.print(
            f"run {record.run} ({record.label}): cancelling {figures.counted(len(left.jobs), 'job')} ({names})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        rest = cancel_jobs(
            _provider(record), record.run, logger, settle=0.0, force_after=FORCE_SECONDS, give_up=timeout
        )
        if rest:
            ids = " ".join(job.id for job in rest)
            print(f"these jobs are still there after {timeout:g} s: {ids}", file=sys.stderr)
            status = FAILED
        else:
            console.print("they are gone", highlight=False)
    return status


def suspicious(run: RunRecord) -> bool:
    """Whether a run that is not alive may have left jobs: it did not end in order, or not with all of its blocks."""
    if run.ended is None:
        return run.known
    blocks = read_blocks(run.folder)
    return blocks is not None and any(not JobState(block.state).terminal for block in blocks.blocks)


def leftovers(run: RunRecord) -> Leftovers:
    """Ask the scheduler for the jobs of a run."""
    try:
        return Leftovers(run, _provider(run).jobs_of(run.run))
    except FileNotFoundError:
        # Its blocks were this machine's managers, which end with their interchange.
        return Leftovers(run, [])
    except Exception as error:
        logging.getLogger("throughway.blocks").debug("no answer", exc_info=True)
        return Leftovers(run, [], f"what it has left is not known: {error}")


def _provider(run: RunRecord) -> Provider:
    record = read_record(run.folder)
    if record is None:
        raise FileNotFoundError(f"there is no record of a provider in {run.folder}")
    return restore(record)


def _refusal(run: str, found: list[RunRecord], run_dir: str | None) -> str:
    if not found:
        return f"there is no run {run!r} in {runs_folder(run_dir)}: throughway blocks lists them"
    lines = []
    for record in found:
        if record.alive:
            lines.append(
                f"run {record.run} ({record.label}) is alive: process {record.pid} cancels its blocks when it ends; "
                "--force cancels them under its hands"
            )
        else:
            lines.append(
                f"run {record.run} ({record.label}) belongs to process {record.pid} on {record.host}, which cannot be "
                "seen from here: use that host, or --force if the process is dead"
            )
    return "\n".join(lines)


def _print(
    console: Console,
    living: list[tuple[RunRecord, BlocksRecord | None]],
    dead: list[Leftovers],
    run_dir: str | None,
) -> None:
    if not living and not dead:
        print(f"no blocks: nothing runs, and no dead run has left a job, in {runs_folder(run_dir)}")
        return
    for run, blocks in living:
        wants = f"; {blocks.wants}" if blocks is not None and blocks.wants else ""
        _say(console, f"run {run.run} ({run.label}), process {run.pid}{wants}")
        if blocks is None:
            _say(console, "  no block was started")
        else:
            console.print(blocks_table(blocks, [], time.time(), width=console.width))
    for left in dead:
        _say(console, f"run {left.run.run} ({left.run.label}) is dead: process {left.run.pid} is gone")
        if left.trouble:
            _say(console, f"  {left.trouble}")
        for job in left.jobs:
            _say(
                console,
                f"  job {job.id} ({job.name}): {job.status.state.value} {job.status.message}".rstrip(),
            )
        if left.jobs:
            _say(console, f"  to cancel them: throughway blocks --cancel {left.run.run}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _document(living: list[tuple[RunRecord, BlocksRecord | None]], dead: list[Leftovers]) -> dict[str, Any]:
    return {
        "live": [
            {
                "run": run.run,
                "label": run.label,
                "pid": run.pid,
                "folder": run.folder,
                "blocks": [] if blocks is None else msgspec.to_builtins(blocks.blocks),
                "left_out": {} if blocks is None else blocks.left_out,
            }
            for run, blocks in living
        ],
        "dead": [
            {
                "run": left.run.run,
                "label": left.run.label,
                "folder": left.run.folder,
                "jobs": [
                    {"id": job.id, "name": job.name, "state": job.status.state.value} for job in left.jobs
                ],
                "trouble": left.trouble,
            }
            for left in dead
        ],
    }
