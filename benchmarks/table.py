"""What is measured, of whom, and what the goals are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import UNITS

THROUGHWAY = "Throughway"
HTEX = "Parsl HTEX"
HTEX_PREFETCH = "Parsl HTEX, prefetch_capacity=100"
IN_PARSL = "Throughway in Parsl"
PROCESS_POOL = "ProcessPoolExecutor"
POOL = "multiprocessing.Pool"
DASK = "Dask"
RAY = "Ray"


@dataclass(frozen=True)
class Variant:
    """A contender with its options, or a measurement without one (``contender`` None)."""

    name: str
    contender: str | None
    options: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    measure: str | None = None
    """module of `benchmarks.measures`, where it differs from the measurement's"""


@dataclass(frozen=True)
class Measurement:
    """Variants that are measured by turns, with the same code and parameters."""

    name: str
    about: str
    measure: str
    variants: tuple[Variant, ...]
    figures: dict[str, str]
    """the figures that are told as they come: where in the result → unit"""
    parameters: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    """what a quick run does differently"""
    most_rounds: int | None = None
    limit: float = 120.0
    """seconds that one contender has to answer"""
    stop: bool = True
    """whether the contender is stopped by its own means; else it is killed"""

    def parameters_of(self, variant: Variant, *, quick: bool) -> dict[str, Any]:
        """The keyword arguments of the measure for this variant."""
        found = self.parameters | variant.parameters
        return found | self.quick | variant.quick if quick else found

    def brief(self, found: dict[str, Any]) -> str:
        """One line on one result."""
        parts = []
        for figure, unit in self.figures.items():
            value: Any = found
            for part in figure.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                parts.append(f"{figure} {UNITS[unit](float(value))}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of Throughway, alone or against another's.

    The ratio is Throughway's figure over the other's; with ``speed`` it is the other's time over
    Throughway's.
    """

    title: str
    measurement: str
    figure: str
    unit: str
    subject: str = THROUGHWAY
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    speed: bool = False


_throughway = Variant(THROUGHWAY, "throughway")
_htex = Variant(HTEX, "parsl-htex")
_htex_prefetch = Variant(HTEX_PREFETCH, "parsl-htex", {"prefetch_capacity": 100})
_in_parsl = Variant(IN_PARSL, "parsl-throughway")
_process_pool = Variant(PROCESS_POOL, "process-pool")
_plain = Variant(
    "Throughway, ZeroMQ in the clear", "throughway", {"address": "127.0.0.1", "encrypted": False}
)
_curve = Variant("Throughway, ZeroMQ encrypted", "throughway", {"address": "127.0.0.1", "encrypted": True})
_interpreter = Variant(
    'python -c "import concurrent.futures"', None, measure="interpreter", parameters={"repeats": 10}
)
_floor = Variant("floor: one round trip at a time", None, parameters={"window": 1})
_floor_pipelined = Variant("floor: 64 on their way", None, parameters={"window": 64})

_relay = Variant("floor: a bare relay through as many processes", None, measure="relay")

_few_managers = Variant("interchange, 8 managers", None, parameters={"managers": 8, "queued": 10_000})
_many_managers = Variant("interchange, 8,192 managers", None, parameters={"managers": 8192, "queued": 10_000})
_few_large_managers = Variant(
    "interchange, 8 managers with as many tasks out",
    None,
    parameters={"managers": 8, "queued": 10_000, "workers": 16_384},
)
_few_queued = Variant("interchange, 1,000 queued", None, parameters={"managers": 8, "queued": 1_000})
_many_queued = Variant("interchange, 1,000,000 queued", None, parameters={"managers": 8, "queued": 1_000_000})

_KIB_64 = {"block_bytes": 65536, "limit": 8192}

_joblib = Variant("joblib on Throughway", None, parameters={"backend": "throughway"})
_loky = Variant("joblib on loky", None, parameters={"backend": "loky"})

MEASUREMENTS = (
    Measurement(
        "throughput",
        "no-op tasks, two workers, submit in a loop, then collect",
        "throughput",
        (
            _throughway,
            _process_pool,
            Variant(POOL, "multiprocessing-pool"),
            _htex,
            _htex_prefetch,
            _in_parsl,
            Variant(DASK, "dask"),
            Variant(RAY, "ray"),
        ),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "parsl-perf",
        "Parsl's own benchmark: apps through the data flow kernel, two workers",
        "parsl_perf",
        (
            Variant("parsl-perf, Throughway", None, parameters={"module": "throughway.integrations.parsl"}),
            Variant("parsl-perf, Parsl HTEX", None, parameters={"module": "parsl.executors"}),
        ),
        {"rate": "rate"},
        {"seconds": 5.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "parsl-perf-blocks",
        "the same with arguments of 64 KiB",
        "parsl_perf",
        (
            Variant("parsl-perf, Throughway", None, parameters={"module": "throughway.integrations.parsl"}),
            Variant("parsl-perf, Parsl HTEX", None, parameters={"module": "parsl.executors"}),
        ),
        {"rate": "rate"},
        {"seconds": 5.0, "argument_bytes": 65536},
        {"seconds": 1.0},
    ),
    Measurement(
        "map",
        "no-op tasks, two workers, executor.map without chunksize",
        "throughput",
        (_throughway, _process_pool),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0, "how": "map"},
        {"seconds": 1.0},
    ),
    Measurement(
        "roundtrip",
        "one no-op after the other, submit(...).result()",
        "roundtrip",
        (_throughway, _process_pool, _htex, _relay),
        {"median": "milliseconds", "p99": "milliseconds"},
        {"seconds": 3.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "startup",
        "import the library, construct, first result; the start of the Python process is not included, but "
        "for the interpreter's own line, which is nothing else",
        "startup",
        (_throughway, _process_pool, _htex, _interpreter),
        {
            "seconds.import": "milliseconds",
            "seconds.start_and_first": "milliseconds",
            "seconds.total": "milliseconds",
        },
    ),
    Measurement(
        "floor",
        "pickle, future, one Unix socket round trip between two processes, unpickle",
        "floor",
        (_floor, _floor_pipelined),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "memory",
        "memory (PSS of all processes) of a queued no-op task while both workers are held",
        "memory",
        (
            Variant(
                THROUGHWAY,
                "throughway",
                {"max_outstanding": 2_000_000},
                parameters={"tasks": 1_000_000},
                quick={"tasks": 100_000},
            ),
            Variant(HTEX, "parsl-htex", parameters={"tasks": 100_000}, quick={"tasks": 20_000}),
        ),
        {"bytes_per_task": "bytes", "submitted_per_second": "rate"},
        most_rounds=3,
        limit=600.0,
        stop=False,
    ),
    Measurement(
        "interchange",
        "CPU time of a task in the interchange's pure core, by the number of managers and of queued tasks",
        "interchange",
        (_few_managers, _many_managers, _few_large_managers, _few_queued, _many_queued),
        {"cpu_per_task": "microseconds", "reactor_per_task": "microseconds"},
        {"seconds": 2.0},
        {"seconds": 0.5},
    ),
    Measurement(
        "blocks",
        "tasks with an argument of 64 KiB, two workers",
        "throughput",
        (_throughway, _process_pool, _htex),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0, **_KIB_64},
        {"seconds": 1.0},
    ),
    Measurement(
        "arrays",
        "one numpy array of 100 MB as an argument, and as a result",
        "arrays",
        (_throughway, _process_pool),
        {"argument": "milliseconds", "result": "milliseconds"},
        {"array_bytes": 100_000_000, "repeats": 7},
        {"repeats": 3},
    ),
    Measurement(
        "wire",
        "no-op tasks over the wire between machines",
        "throughput",
        (_plain, _curve),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0, "network": True},
        {"seconds": 1.0},
    ),
    Measurement(
        "wire-blocks",
        "tasks with an argument of 64 KiB over the wire between machines",
        "throughput",
        (_plain, _curve),
        {"rate": "rate", "cpu_per_task": "microseconds"},
        {"seconds": 3.0, "network": True, **_KIB_64},
        {"seconds": 1.0},
    ),
    Measurement(
        "joblib-search",
        "fits of scikit-learn's GridSearchCV, two workers",
        "joblib_backend",
        (_joblib, _loky),
        {"rate": "rate"},
        {"what": "search", "seconds": 5.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "joblib-calls",
        "no-op calls in a joblib.Parallel, batched by joblib itself, two workers",
        "joblib_backend",
        (_joblib, _loky),
        {"rate": "rate"},
        {"what": "calls", "seconds": 3.0},
        {"seconds": 1.0},
    ),
    Measurement(
        "killed-worker",
        "kill -9 of a worker to the error in its task's future",
        "loss",
        (Variant(THROUGHWAY, "throughway", parameters={"repeats": 5}), _process_pool),
        {"median": "milliseconds", "worst": "milliseconds"},
        {"victim": "worker"},
        stop=False,
    ),
    Measurement(
        "killed-manager",
        "kill -9 of the manager to the error in its task's future",
        "loss",
        (_throughway,),
        {"median": "milliseconds"},
        {"victim": "manager"},
        limit=240.0,
        stop=False,
    ),
    Measurement(
        "killed-interchange",
        "kill -9 of the interchange to the answer, or the error, of a task submitted right after",
        "loss",
        (_throughway,),
        {"median": "milliseconds"},
        {"victim": "interchange"},
        limit=240.0,
        stop=False,
    ),
)

ROWS = (
    Row("no-op throughput, submit in a loop", "throughput", "rate", "rate", against=HTEX, at_least=100),
    Row("no-op throughput, submit in a loop", "throughput", "rate", "rate", against=HTEX_PREFETCH),
    Row("bare executor in Parsl's place", "throughput", "rate", "rate", IN_PARSL, HTEX),
    Row(
        "apps through Parsl's data flow kernel",
        "parsl-perf",
        "rate",
        "rate",
        "parsl-perf, Throughway",
        "parsl-perf, Parsl HTEX",
    ),
    Row(
        "the same with 64 KiB arguments",
        "parsl-perf-blocks",
        "rate",
        "rate",
        "parsl-perf, Throughway",
        "parsl-perf, Parsl HTEX",
    ),
    Row(
        "no-op throughput, submit in a loop", "throughput", "rate", "rate", against=PROCESS_POOL, at_least=20
    ),
    Row("no-op throughput, submit in a loop", "throughput", "rate", "rate", against=POOL, at_least=5),
    Row("no-op throughput, submit in a loop", "throughput", "rate", "rate", against=DASK, at_least=150),
    Row("no-op throughput, submit in a loop", "throughput", "rate", "rate", against=RAY, at_least=60),
    Row("no-op throughput, map", "map", "rate", "rate", against=PROCESS_POOL, at_least=20),
    Row("round trip, median", "roundtrip", "median", "milliseconds", against=PROCESS_POOL, at_most=1.0),
    Row("round trip, 99th percentile", "roundtrip", "p99", "milliseconds", against=PROCESS_POOL, at_most=1.0),
    Row("round trip, median", "roundtrip", "median", "milliseconds", against=HTEX, at_most=0.2),
    Row("round trip, 99th percentile", "roundtrip", "p99", "milliseconds", against=HTEX, at_most=0.2),
    Row("round trip, median", "roundtrip", "median", "milliseconds", against=_relay.name),
    Row(
        "constructor to first result",
        "startup",
        "seconds.start_and_first",
        "milliseconds",
        against=HTEX,
        at_most=0.1,
    ),
    Row(
        "constructor to first result",
        "startup",
        "seconds.start_and_first",
        "milliseconds",
        _throughway.name,
        _interpreter.name,
        at_most=10,
    ),
    Row("import to first result", "startup", "seconds.total", "milliseconds", against=HTEX),
    Row("import to first result", "startup", "seconds.total", "milliseconds", against=_interpreter.name),
    Row(
        "constructor to first result",
        "startup",
        "seconds.start_and_first",
        "milliseconds",
        against=PROCESS_POOL,
    ),
    Row("import", "startup", "seconds.import", "milliseconds", against=HTEX),
    Row(
        "CPU time of a no-op, all processes",
        "throughput",
        "cpu_per_task",
        "microseconds",
        against=_floor.name,
        at_most=2.5,
    ),
    Row(
        "CPU time of a no-op, all processes",
        "throughput",
        "cpu_per_task",
        "microseconds",
        against=_floor_pipelined.name,
    ),
    Row(
        "CPU time of a no-op, all processes",
        "throughput",
        "cpu_per_task",
        "microseconds",
        against=PROCESS_POOL,
    ),
    Row("memory of a queued no-op", "memory", "bytes_per_task", "bytes", against=HTEX, at_most=0.25),
    Row("memory of a queued no-op", "memory", "bytes_per_task", "bytes", at_most=1536),
    Row(
        "CPU time of a task in the interchange, 8,192 managers",
        "interchange",
        "cpu_per_task",
        "microseconds",
        _many_managers.name,
        _few_managers.name,
        at_most=1.3,
    ),
    Row(
        "the same, the reactor by itself",
        "interchange",
        "reactor_per_task",
        "microseconds",
        _many_managers.name,
        _few_managers.name,
    ),
    Row(
        "the same, with as many tasks out at 8 managers",
        "interchange",
        "cpu_per_task",
        "microseconds",
        _many_managers.name,
        _few_large_managers.name,
    ),
    Row(
        "CPU time of a task in the interchange, 1,000,000 queued",
        "interchange",
        "cpu_per_task",
        "microseconds",
        _many_queued.name,
        _few_queued.name,
        at_most=1.3,
    ),
    Row("64 KiB arguments", "blocks", "rate", "rate", against=HTEX, at_least=50),
    Row("64 KiB arguments", "blocks", "rate", "rate", against=PROCESS_POOL),
    Row(
        "100 MB array as argument, speed",
        "arrays",
        "argument",
        "milliseconds",
        against=PROCESS_POOL,
        at_least=1,
        speed=True,
    ),
    Row(
        "100 MB array as result, speed",
        "arrays",
        "result",
        "milliseconds",
        against=PROCESS_POOL,
        at_least=1,
        speed=True,
    ),
    Row("no-op throughput, encrypted", "wire", "rate", "rate", _curve.name, _plain.name, at_least=0.7),
    Row("64 KiB arguments, encrypted", "wire-blocks", "rate", "rate", _curve.name, _plain.name, at_least=0.7),
    Row("GridSearchCV, fits", "joblib-search", "rate", "rate", _joblib.name, _loky.name),
    Row("joblib.Parallel, no-op calls", "joblib-calls", "rate", "rate", _joblib.name, _loky.name),
    Row("killed worker noticed", "killed-worker", "median", "milliseconds", at_most=0.1),
    Row("killed worker noticed", "killed-worker", "median", "milliseconds", against=PROCESS_POOL),
    Row("killed manager noticed, one machine", "killed-manager", "median", "milliseconds", at_most=1.0),
    Row("killed interchange noticed", "killed-interchange", "median", "milliseconds", at_most=1.0),
)
