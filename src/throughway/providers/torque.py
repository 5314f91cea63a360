"""Blocks from Torque: its dialect of qsub, qstat and qdel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from throughway.launchers.interface import Launcher
from throughway.providers import parameters
from throughway.providers.interface import JobId, JobSpec
from throughway.providers.pbs import QsubProvider

MEANINGS = {
    -1: "the job could not be started (before its files were there)",
    -2: "the job could not be started (after its files were there)",
    -3: "the job could not be started, and is tried again",
    -8: "the job's command could not be run",
    -9: "the job's output file could not be opened",
    -10: "the job used more memory than it asked for and was ended",
    -11: "the job reached its walltime and was ended",
    -12: "the job used more CPU time than it asked for and was ended",
}
"""Torque's own exit codes."""

_HEAD = re.compile(r"Job Id:\s*(\S+)")


class TorqueProvider(QsubProvider):
    """Blocks from Torque; see `BatchProvider` for the parameters that all batch schedulers have.

    Args:
        account: who is charged, None for the user's default.
        queue: where jobs go, None for the default queue.

    How a job ended, Torque says for as long as the server's ``keep_completed``; afterwards its script does.
    """

    label = "Torque"
    meanings: ClassVar[Mapping[int, str]] = MEANINGS
    walltime_code: ClassVar[int] = -11
    force_options: ClassVar[Sequence[str]] = ("-W", "0")

    def __init__(
        self,
        account: str | None = None,
        queue: str | None = None,
        scheduler_options: str = "",
        worker_init: str = "",
        nodes_per_block: int = 1,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        parallelism: float = 1,
        launcher: Launcher | None = None,
        walltime: str | float | None = "00:20:00",
        cmd_timeout: float = 120,
        **others: Any,
    ) -> None:
        self.account = parameters.word("account", account)
        self.queue = parameters.word("queue", queue)
        super().__init__(
            scheduler_options=scheduler_options,
            worker_init=worker_init,
            nodes_per_block=nodes_per_block,
            init_blocks=init_blocks,
            min_blocks=min_blocks,
            max_blocks=max_blocks,
            parallelism=parallelism,
            launcher=launcher,
            walltime=walltime,
            cmd_timeout=cmd_timeout,
            **others,
        )

    def resources(self, spec: JobSpec) -> Sequence[str]:
        """Nodes and their cores."""
        cores = "" if self.cores_per_node is None else f":ppn={self.cores_per_node}"
        options = [f"-l nodes={spec.nodes}{cores}"]
        if self.mem_per_node is not None:
            options.append(f"-l mem={max(1, int(self.mem_per_node * 1024)) * spec.nodes}mb")
        return options

    def status_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """``qstat``, in the text that all versions write."""
        return ["qstat", "-f", *ids]

    def parse_jobs(self, text: str) -> dict[str, Mapping[str, str]]:
        """From paragraphs of ``name = value``; a long value goes on in lines that start with a tab."""
        jobs: dict[str, Mapping[str, str]] = {}
        job: dict[str, str] = {}
        key = ""
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head is not None:
                key = ""
                job = {}
                jobs[head[1]] = job
            elif line.startswith("\t") and key:
                job[key] += line.strip()
            elif " = " in line and line.startswith("    "):
                key, _, value = line.strip().partition(" = ")
                job[key] = value
        if text.strip() and not all("job_state" in entry for entry in jobs.values() or [{}]):
            raise ValueError("there is no job_state in it")
        return jobs
