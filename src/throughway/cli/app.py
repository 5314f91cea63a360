"""The commands, and what ``--help`` says of them. Each command's module is loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from rich.console import Console

from throughway.cli.__main__ import version

MISUSED = 2
"""The exit status for words that cannot be understood, as for most commands."""

AtLeastOne = Parameter(validator=Number(gte=1))
Seconds = Parameter(validator=Number(gte=0.05))
Flag = Parameter(negative="")

app = App(
    name="throughway",
    help="Run Python functions on clusters: fast, without losing any, and saying why.",
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway demo`: parse the standard library on all cores, and see what that brings\n"
        "- `throughway bench`: what a task costs on this machine, beside ProcessPoolExecutor\n"
        "- `throughway status`: watch what is running\n"
        "- `throughway blocks`: the jobs of all runs, and what dead runs have left\n"
        "- `throughway journal PATH`: what an executor's journal holds\n"
        "- `throughway COMMAND --help`: the options of a command, with examples\n"
    ),
    help_format="markdown",
    version=version,
    version_flags=["--version", "-V"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


def call(words: Sequence[str]) -> int:
    """Run the command that the words name; the exit status. What is wrong with the words is said."""
    try:
        status = app(list(words), exit_on_error=False)
    except CycloptsError:
        return MISUSED
    return status if isinstance(status, int) else 0


@app.command(
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway demo --limit 200`: only the first 200 files\n"
        "- `throughway demo --workers 1`: what the tasks themselves cost\n"
    )
)
def demo(
    *,
    limit: Annotated[int | None, AtLeastOne] = None,
    workers: Annotated[int | None, AtLeastOne] = None,
    run_dir: str | None = None,
) -> int:
    """Parse the standard library's source files in tasks, and compare with the same done serially.

    Each file is a task: how many lines, classes and functions it has, and how complex each function is. The
    exit status is 0 where both ways give the same results.

    Parameters
    ----------
    limit
        Parse this many files at most.
    workers
        Run this many workers; by default one on each core.
    run_dir
        Folder in which the run keeps its logs; by default the user's state folder.
    """
    from throughway.cli.demo import demonstrate

    return demonstrate(Console(), limit=limit, workers=workers, run_dir=run_dir)


@app.command(
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway bench --tasks 100000 --rounds 5`: longer, and so steadier\n"
        "- `throughway bench --json bench.json`: with every figure in a file\n"
    )
)
def bench(
    *,
    tasks: Annotated[int, AtLeastOne] = 10_000,
    workers: Annotated[int | None, AtLeastOne] = None,
    rounds: Annotated[int, AtLeastOne] = 3,
    json: str | None = None,
    run_dir: str | None = None,
) -> int:
    """Measure what a task costs on this machine, beside the standard library's ProcessPoolExecutor.

    The tasks do nothing, so that what is measured is all that surrounds them. Both take turns; the table
    shows medians over the rounds.

    Parameters
    ----------
    tasks
        Tasks in one measurement of throughput.
    workers
        Workers of each executor; by default one on each core.
    rounds
        How often each measurement is repeated.
    json
        Write every figure of every round to this file.
    run_dir
        Folder in which the runs keep their logs; by default the user's state folder.
    """
    from throughway.cli.bench import benchmark

    return benchmark(Console(), tasks=tasks, workers=workers, rounds=rounds, json_file=json, run_dir=run_dir)


@app.command(
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway status`: the only run there is; where several are, their ids are listed\n"
        "- `throughway status docking --interval 5`: the run with the label docking\n"
        "- `throughway status --once --json`: for scripts\n"
    )
)
def status(
    run: str | None = None,
    /,
    *,
    once: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
    interval: Annotated[float, Seconds] = 1.0,
    run_dir: str | None = None,
) -> int:
    """Watch a running executor: its managers, workers, queue and rates. Ctrl-C leaves it running.

    The exit status is 1 where nothing is running.

    Parameters
    ----------
    run
        Id (or its beginning) or label of the run, where several are running.
    once
        Print once, and exit.
    json
        Print JSON: one document a line.
    interval
        Seconds between two looks.
    run_dir
        The executor's `run_dir`, where it was given one.
    """
    from throughway.cli.status import watch

    return watch(Console(), sys.stdout, run=run, once=once, json=json, interval=interval, run_dir=run_dir)


@app.command(
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway journal campaign.journal`: how many results it has, of which functions, and how old\n"
        "- `throughway journal campaign.journal --rewrite`: smaller, where much of it is not needed any more\n"
    )
)
def journal(
    path: str,
    /,
    *,
    json: Annotated[bool, Flag] = False,
    rewrite: Annotated[bool, Flag] = False,
) -> int:
    """Look at the journal of an executor, also while the executor writes it: results, sizes, age.

    Parameters
    ----------
    path
        The file that the executor was given as `journal`.
    json
        Print JSON.
    rewrite
        Write the file anew first, without what nothing needs any more. No executor may be using it.
    """
    from throughway.cli.journal import show

    return show(Console(), sys.stdout, path=path, json=json, rewrite=rewrite)


@app.command(
    help_epilogue=(
        "Examples:\n\n"
        "- `throughway blocks`: the blocks of live runs, and the jobs that dead ones have left\n"
        "- `throughway blocks --cancel ab12cd34`: cancel what this dead run has left\n"
    )
)
def blocks(
    *,
    cancel: str | None = None,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
    run_dir: str | None = None,
) -> int:
    """List the blocks of this user's runs, and cancel what dead runs have left in a batch system.

    A run's own process cancels its jobs when it ends, and a process beside it does so should it die. What is
    left after both were killed, or after a reboot of this machine, is found here. The exit status is 1 where
    a scheduler does not answer, or jobs are left after they were cancelled.

    Parameters
    ----------
    cancel
        Id (or its beginning) or label of the run whose jobs are to be cancelled.
    force
        Cancel also where the run is alive, or belongs to another host.
    json
        Print one JSON document.
    run_dir
        The executor's `run_dir`, where it was given one.
    """
    from throughway.cli import blocks as command

    if cancel is not None:
        return command.cancel(Console(), cancel, force=force, run_dir=run_dir)
    return command.show(Console(), sys.stdout, json=json, run_dir=run_dir)
