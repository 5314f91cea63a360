"""What happens in a run from outside: machines, tasks, requests and faults, all made from a seed.

A plan is plain data, so that a failing one can be printed, written to a file, and made smaller. What it leaves open,
such as how long each message takes, is drawn from streams of random numbers of their own: one for each process and
each connection. So a plan without one of its faults goes on as before where that fault made no difference.
"""

from __future__ import annotations

import random

import msgspec

ALL = -1


class Site(msgspec.Struct, omit_defaults=True):
    """A node: a manager is started there, and another one whenever that has ended."""

    number: int
    at: float
    workers: int
    prefetch: int | None = None
    max_tasks: int | None = None
    drain_period: float | None = None


class Job(msgspec.Struct, omit_defaults=True):
    """A task that the user submits. ``does``: ``value``, ``raise``, ``die`` (its worker with it, each time), or
    ``die once``."""

    task: int
    at: float
    function: int
    seconds: float
    does: str = "value"
    retries: int = 0
    walltime: float = 0.0
    priority: int = 0
    frames: int = 0


class Request(msgspec.Struct, omit_defaults=True):
    """What the user asks for: ``cancel`` or ``kill`` a task, ``cancel many`` from that task on, or a question to the
    interchange by its topic, where it needs one about the manager at a site."""

    at: float
    what: str
    target: int = 0


class Fault(msgspec.Struct, omit_defaults=True):
    """Something that goes wrong. See `faults.FAULTS` for what there is.

    ``actions`` lets a process die in the middle of its next turns, once it has done so many actions.
    """

    at: float
    what: str
    site: int = 0
    seconds: float = 0.0
    actions: int | None = None
    pick: int = 0


class Plan(msgspec.Struct):
    """A run. ``local``: everything on one machine, as over Unix sockets; else managers are on nodes of their own."""

    seed: int
    local: bool
    period: float
    threshold: float
    sites: list[Site]
    jobs: list[Job]
    requests: list[Request]
    faults: list[Fault]
    tight: bool = False
    """whether messages and memory are so small that everything comes in pieces, and waits for room"""
    end: str = "shutdown"
    """how the run ends: ``shutdown``, ``vanish`` (the user's process is killed), or ``vanish with interchange``"""

    @property
    def quiet(self) -> float:
        """When the last fault is over, in seconds from the start."""
        return max([0.0, *(fault.at + fault.seconds for fault in self.faults)])

    @property
    def size(self) -> int:
        """How many things happen."""
        return len(self.sites) + len(self.jobs) + len(self.requests) + len(self.faults)


TINY, SHORT, LONG = (1e-5, 1e-4), (0.001, 0.05), (0.2, 5.0)

_LOCAL_FAULTS = (
    "kill interchange",
    "kill interchange",
    "kill interchange",
    "stop interchange",
    "kill manager",
    "stop manager",
    "kill worker",
    "kill worker",
    "stop worker",
    "kill zygote",
    "terminate",
    "stop executor",
)
_REMOTE_FAULTS = (
    *_LOCAL_FAULTS,
    "kill node",
    "kill job",
    "break",
    "break",
    "half-break",
    "half-break",
    "cut",
    "cut",
    "cut and break",
    "cut and break",
)


def make_plan(seed: int) -> Plan:
    """The plan of this seed."""
    draw = random.Random(f"plan {seed}")
    local = draw.random() < 0.4
    threshold = draw.choice((6.0, 6.0, 20.0))
    span = draw.choice((0.5, 3.0, 10.0, 30.0))
    sites = [_site(draw, number, span) for number in range(draw.choice((1, 1, 2, 2, 3, 4)))]
    jobs = _jobs(draw, span)
    faults = _faults(draw, jobs, local=local, span=span, threshold=threshold, sites=len(sites))
    requests = _requests(draw, jobs, faults, span, len(sites))
    end = draw.choice(("shutdown", "shutdown", "shutdown", "shutdown", "vanish", "vanish with interchange"))
    return Plan(
        seed, local, threshold / 4, threshold, sites, jobs, requests, faults, draw.random() < 0.2, end
    )


def _site(draw: random.Random, number: int, span: float) -> Site:
    return Site(
        number,
        0.0 if number == 0 else draw.choice((0.0, draw.uniform(0, span))),
        draw.choice((1, 2, 2, 4)),
        draw.choice((None, None, None, 0, 3)),
        draw.choice((None, None, None, None, 2)),
        draw.uniform(1.0, 20.0) if number and draw.random() < 0.15 else None,
    )


def _jobs(draw: random.Random, span: float) -> list[Job]:
    count = draw.choice((1, 5, 20, 20, 50, 150))
    kinds = draw.choice(((TINY,), (TINY, SHORT), (SHORT,), (SHORT, LONG), (TINY, SHORT, LONG)))
    trouble = draw.choice((0.0, 0.0, 0.05, 0.3))
    patience = draw.choice((0, 1, 1, 3))
    jobs: list[Job] = []
    at = 0.0
    while len(jobs) < count:
        burst = draw.choice((1, 3, 10, 40))
        kind = draw.choice(kinds)
        function = draw.randint(1, 2) + len(jobs) // 30
        retries = draw.choice((0, patience))
        for _ in range(min(burst, count - len(jobs))):
            job = Job(len(jobs) + 1, at, function, draw.uniform(*kind), retries=retries)
            if draw.random() < trouble:
                job.does = draw.choice(("raise", "die", "die once", "die once"))
            if draw.random() < 0.05:
                job.walltime = draw.choice((0.02, 1.0, 30.0))
            if draw.random() < 0.1:
                job.priority = draw.randint(-1, 1)
            if draw.random() < 0.05:
                job.frames = draw.randint(1, 2)
            jobs.append(job)
        at += draw.choice((0.0, 0.001, draw.uniform(0, span / 4)))
    return jobs


def _moment(draw: random.Random, job: Job, span: float) -> float:
    """Some moment of a run, preferably one in which something is going on."""
    return draw.choice(
        (
            draw.uniform(0, span),
            job.at + draw.uniform(0, 0.001),
            job.at + draw.uniform(0, 0.05),
            job.at + draw.uniform(0, job.seconds + 0.02),
        )
    )


def _requests(
    draw: random.Random, jobs: list[Job], faults: list[Fault], span: float, sites: int
) -> list[Request]:
    requests = []

    def moment(job: Job) -> float:
        if faults and draw.random() < 0.3:
            return max(0.0, draw.choice(faults).at + draw.uniform(-0.01, 0.15))
        return _moment(draw, job, span)

    for _ in range(draw.choice((0, 0, 1, 3, 8))):
        job = draw.choice(jobs)
        what = draw.choice(("cancel", "cancel", "cancel many", "kill"))
        requests.append(Request(moment(job), what, job.task))
    for _ in range(draw.choice((0, 0, 1, 2, 5))):
        what = draw.choice(
            ("hold", "drain", "drain_block", "drain_idle_block", "status", "blocks", "explain", "packages")
        )
        at = moment(draw.choice(jobs))
        site = draw.randrange(sites)
        requests.append(Request(at, what, site))
        if what == "hold":
            requests.append(Request(at + draw.uniform(0.1, span), "release", site))
    return requests


def _faults(
    draw: random.Random, jobs: list[Job], *, local: bool, span: float, threshold: float, sites: int
) -> list[Fault]:
    kinds = _LOCAL_FAULTS if local else _REMOTE_FAULTS
    chosen = draw.sample(kinds, draw.randint(1, len(kinds)))
    faults: list[Fault] = []
    at = 0.0
    for _ in range(draw.choice((0, 1, 2, 2, 3, 5, 8))):
        # Some come in close succession, as when a process dies while others still deal with the death of another.
        moment = _moment(draw, draw.choice(jobs), span)
        at = draw.choice((moment, moment, at + draw.uniform(0, 0.01), at + draw.uniform(0, 0.3)))
        fault = Fault(at, draw.choice(chosen), draw.randrange(sites), pick=draw.randrange(8))
        word = fault.what.split()[0]
        if word in {"stop", "cut"}:
            fault.seconds = draw.choice(
                (draw.uniform(0, 0.05), draw.uniform(0, 0.5) * threshold, draw.uniform(1.2, 3.0) * threshold)
            )
        elif word == "half-break":
            fault.seconds = draw.choice((draw.uniform(0, 1.0), draw.uniform(0, 1.5) * threshold))
        elif fault.what in {"kill interchange", "kill manager"} and draw.random() < 0.5:
            fault.actions = draw.choice((0, 1, 2, 3, 5, 10))
        faults.append(fault)
    return sorted(faults, key=lambda fault: fault.at)
