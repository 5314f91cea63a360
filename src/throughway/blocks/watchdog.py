"""The process that cancels the jobs of a run whose own process has died, in whatever way.

It watches the run's process by a pidfd, which no forked child keeps open, and hears of an orderly end over a pipe. It
finds the jobs by their names, so that one counts that was being submitted when the process died. It leaves a log in
the run's folder.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from throughway.errors import ConfigurationError
from throughway.providers.interface import NamedJob, Provider

FORCE_SECONDS = 20.0
"""How long cancelled jobs may take to end before they are killed."""

GIVE_UP_SECONDS = 3600.0
"""How long a scheduler that does not answer is asked again."""

SETTLE_SECONDS = 5.0
"""How long no job may have been there before it is believed: one may be on its way into the queue."""

END_SECONDS = 5.0
"""How long a watchdog may take to end once it is told to."""

_DONE = b"done\n"
_LEFT = b"left\n"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0


class Watchdog:
    """The run's end of it.

    Args:
        run: the run's id, which the names of its jobs hold.
        folder: the run's folder, for the provider's record and the log.
        command: starts this module as a program.
        environment: of that program.
    """

    def __init__(self, run: str, folder: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._run = run
        self._folder = folder
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, provider: Provider) -> None:
        """Start it, before the first job is submitted. Raises `OSError`."""
        # Imported here, as below: most runs are on this machine alone, and need none.
        from throughway.providers.records import write_record

        write_record(provider, self._folder)
        pidfd = os.pidfd_open(os.getpid())
        try:
            with open(os.path.join(self._folder, "watchdog.out"), "ab") as output:
                self._process = subprocess.Popen(
                    [*self._command, self._run, self._folder, str(pidfd)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=[pidfd],
                    start_new_session=True,
                    env=self._environment,
                )
        finally:
            os.close(pidfd)

    def end(self, *, left: bool) -> None:
        """The run ends. With jobs ``left`` that did not end in time, the watchdog goes on cancelling them."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.write(_LEFT if left else _DONE)
            process.stdin.close()
        except BrokenPipeError:
            pass
        if left:
            # It outlives this process; who inherits it waits for it.
            process.returncode = 0
            return
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cancel_jobs(
    provider: Provider,
    run: str,
    logger: logging.Logger,
    *,
    settle: float = SETTLE_SECONDS,
    force_after: float = FORCE_SECONDS,
    give_up: float = GIVE_UP_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[NamedJob]:
    """Cancel all jobs of a run until none is there any more for ``settle`` seconds; those that are left in the end.

    A scheduler that does not answer is asked again, ever more seldom, for ``give_up`` seconds.
    """
    started = clock()
    pause = min(_FIRST_PAUSE, settle or _FIRST_PAUSE)
    absent_since: float | None = None
    jobs: list[NamedJob] = []
    first_seen: float | None = None
    while True:
        try:
            jobs = provider.jobs_of(run)
            if jobs:
                absent_since = None
                first_seen = clock() if first_seen is None else first_seen
                force = clock() >= first_seen + force_after
                provider.cancel([job.id for job in jobs], force=force)
                names = ", ".join(f"{job.id} ({job.name})" for job in jobs)
                logger.info("%s %s", "killing" if force else "cancelling", names)
            elif absent_since is None:
                absent_since = clock()
        except Exception as error:
            logger.warning("the %s provider does not answer: %s", provider.label, error, exc_info=True)
            absent_since = None
        now = clock()
        if absent_since is not None and now >= absent_since + settle:
            return []
        if now >= started + give_up:
            logger.error("given up after %g s; jobs that may be left: %s", give_up, [job.id for job in jobs])
            return jobs
        sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE) if absent_since is None else pause


def await_end(pidfd: int, words: int) -> bool:
    """Wait until the run's process is gone, or says over ``words`` that it ends; whether jobs may be left."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(words, select.POLLIN | select.POLLHUP)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        # What was said before the end counts.
        if words in ready:
            return os.read(words, 64) != _DONE
        if pidfd in ready:
            return True


def main(arguments: Sequence[str]) -> int:
    """Watch over the run with this id, folder and pidfd of its process; its word comes over the standard input."""
    run, folder, pidfd = arguments
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    from setproctitle import setproctitle

    setproctitle(f"throughway-watchdog {run}")
    if not await_end(int(pidfd), 0):
        return 0
    from pathlib import Path

    from throughway.logs import open_log
    from throughway.providers.records import read_record, restore

    logger = open_log(Path(folder) / "watchdog.log", "watchdog")
    logger.info("the process of run %s is gone: cancelling its jobs", run)
    try:
        record = read_record(folder)
        if record is None:
            logger.error("there is no record of the run's provider in %s", folder)
            return 1
        provider = restore(record)
        # A local job's submission died with the process.
        left = cancel_jobs(provider, run, logger, settle=0.0 if provider.local else SETTLE_SECONDS)
    except ConfigurationError as error:
        logger.error("no job was cancelled: %s", error)  # noqa: TRY400 - the message says all
        return 1
    logger.info("no job of run %s is left" if not left else "jobs of run %s are left", run)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
