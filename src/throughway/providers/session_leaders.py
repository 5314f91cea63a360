"""Local jobs of other processes, found by where their first process writes: to a file named after the job."""

from __future__ import annotations

import os
from typing import NamedTuple

from throughway.processes import live_process
from throughway.providers.interface import JOB_PREFIX

_SUFFIX = ".stdout"


class Leader(NamedTuple):
    """The first process of a local job: it leads a session and a process group of its own."""

    pid: int
    name: str
    """the job's name"""
    folder: str
    """where the job's files are"""


def leader(pid: int) -> Leader | None:
    """The job that process ``pid`` leads, None where it leads none of this user's."""
    process = live_process(pid)
    if process is None or process.group != pid or process.session != pid:
        return None
    try:
        path = os.readlink(f"/proc/{pid}/fd/1").removesuffix(" (deleted)")
    except OSError:  # it is gone, or another user's
        return None
    folder, file_name = os.path.split(path)
    if not (file_name.startswith(JOB_PREFIX) and file_name.endswith(_SUFFIX)):
        return None
    return Leader(pid, file_name.removesuffix(_SUFFIX), folder)


def leaders(prefix: str) -> list[Leader]:
    """All of this user's local jobs whose names start with ``prefix``, whoever started them."""
    found = (leader(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [job for job in found if job is not None and job.name.startswith(prefix)]
