"""A provider whose jobs do what a test says, and a clock that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from throughway.protocol.views import BlockLoad, DrainView, LoadView
from throughway.providers.interface import (
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    ProviderRecord,
    SubmitFailure,
)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeProvider:
    label = "fake"

    def __init__(self, *, init_blocks: int = 1, max_blocks: int = 10, local: bool = True) -> None:
        self.init_blocks = init_blocks
        self.min_blocks = 0
        self.max_blocks = max_blocks
        self.nodes_per_block = 2
        self.parallelism = 1.0
        self.cores_per_node: int | None = None
        self.mem_per_node: float | None = None
        self.can_exclude = True
        self.walltime: float | None = None
        self.worker_init = ""
        self.status_polling_interval = 0.25 if local else 60.0
        self.local = local
        self.jobs: dict[JobId, JobStatus] = {}
        self.specs: list[JobSpec] = []
        self.batches: list[int] = []
        self.polls = 0
        self.cancels: list[tuple[list[JobId], bool]] = []
        self.obedient = True
        """whether a cancelled job ends; a killed one always does"""
        self.outage: Exception | None = None
        """what every call raises"""
        self.refusals: list[SubmitFailure] = []
        """outcomes of the next submissions"""

    def render(self, spec: JobSpec) -> str:
        return " ".join(spec.command)

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        if self.outage is not None:
            raise self.outage
        self.batches.append(len(specs))
        outcomes: list[JobId | SubmitFailure] = []
        for spec in specs:
            self.specs.append(spec)
            if self.refusals:
                outcomes.append(self.refusals.pop(0))
                continue
            job_id = JobId(f"j{len(self.jobs)}")
            self.jobs[job_id] = JobStatus(JobState.RUNNING, stdout=spec.stdout, stderr=spec.stderr)
            outcomes.append(job_id)
        return outcomes

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        self.polls += 1
        if self.outage is not None:
            raise self.outage
        return {job_id: self.jobs[job_id] for job_id in ids}

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        self.cancels.append((list(ids), force))
        if self.outage is not None:
            raise self.outage
        for job_id in ids:
            if self.obedient or force:
                self.end(job_id, JobState.CANCELLED, 143)
        return dict.fromkeys(ids, True)

    # -- what a test makes happen

    def end(self, job: str, state: JobState, exit_code: int | None = None, message: str = "") -> None:
        old = self.jobs[JobId(job)]
        if not old.state.terminal:
            self.jobs[JobId(job)] = JobStatus(state, exit_code, message, old.stdout, old.stderr)

    def say(self, job: str, state: JobState, message: str = "") -> None:
        old = self.jobs[JobId(job)]
        self.jobs[JobId(job)] = JobStatus(state, None, message, old.stdout, old.stderr)

    def running(self) -> list[JobId]:
        return [job_id for job_id, status in self.jobs.items() if not status.state.terminal]

    def jobs_of(self, run: str) -> list[NamedJob]:
        names = [spec.name for spec in self.specs]
        return [
            NamedJob(job_id, name, self.jobs[job_id])
            for job_id, name in zip(self.jobs, names, strict=True)
            if job_id in self.running()
        ]

    def record(self) -> ProviderRecord:
        return ProviderRecord("tests.blocks.fakes:FakeProvider")


class FakeInterchange:
    """Answers a controller at once, as a test says; or later, where ``patient``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.loads: dict[str, BlockLoad] = {}
        self.stranded = 0
        self.patient = False
        self.dead = False
        self.waiting: list[Callable[[], None]] = []

    def ask(self, topic: str, subject: str, told: Callable[[bytes | None], None]) -> None:
        self.asked.append((topic, subject))
        reply = lambda: told(None if self.dead else msgspec.msgpack.encode(self.answer(topic, subject)))
        if self.patient:
            self.waiting.append(reply)
        else:
            reply()

    def answer(self, topic: str, subject: str) -> object:
        load = self.loads.get(subject)
        tasks = 0 if load is None else load.tasks
        match topic:
            case "blocks":
                return LoadView(list(self.loads.values()), self.stranded)
            case "drain_block":
                return DrainView(True, tasks=tasks)
            case "drain_idle_block":
                return DrainView(not tasks, tasks=tasks)
            case _:
                return True

    def reply(self) -> None:
        waiting, self.waiting = self.waiting, []
        for reply in waiting:
            reply()
