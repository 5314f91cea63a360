"""One measurement of one contender, in a process of its own.

The runner starts ``python -m benchmarks.contender JSON`` and reads one JSON object from its standard output;
whatever libraries print goes to standard error. The object is written before the contender is stopped, so
that a library that hangs in its shutdown costs its tidiness, not the measurement.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import import_module
from typing import Any

from benchmarks.contenders import make


def answer(descriptor: int, found: dict[str, Any]) -> None:
    """Hand the runner its JSON object."""
    os.write(descriptor, (json.dumps(found) + "\n").encode())


def measure_alone(descriptor: int, job: dict[str, Any]) -> int:
    """Take a measurement that needs no contender: a floor, or a part of Throughway by itself."""
    try:
        measure = import_module(f"benchmarks.measures.{job['measure']}").measure
        found = measure(job["root"], **job["parameters"])
    except Exception as error:
        traceback.print_exc()
        answer(descriptor, {"error": f"{type(error).__name__}: {error}"})
        return 1
    answer(descriptor, found)
    return 0


def main(text: str) -> int:
    """Measure as the JSON text says, and print what was found."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(text)
    if job["contender"] is None:
        return measure_alone(descriptor, job)
    contender = make(job["contender"], job["options"], job["folder"])
    try:
        contender.load()
        version = contender.version()
    except Exception as error:
        answer(descriptor, {"missing": f"{type(error).__name__}: {error}"})
        return 1
    try:
        measure = import_module(f"benchmarks.measures.{job['measure']}").measure
        contender.start()
        found = measure(contender, job["root"], **job["parameters"])
    except Exception as error:
        traceback.print_exc()
        answer(descriptor, {"version": version, "error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    answer(descriptor, {"version": version, **found})
    if job["stop"]:
        began = time.monotonic()
        contender.stop()
        print(f"stopped in {time.monotonic() - began:.2f} s", file=sys.stderr)
    else:
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
