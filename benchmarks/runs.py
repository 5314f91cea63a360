"""Running measurements: each in a process of its own, the contenders by turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, variables
from benchmarks.processes import end_descendants
from benchmarks.table import Measurement, Variant

_STOP_PATIENCE = 20.0


def short(error: str) -> str:
    """The first and the last line of an error; the whole of it is in the JSON document."""
    first, *rest = error.strip().splitlines() or [""]
    return f"{first} ... {rest[-1].strip()}" if rest else first


@dataclass
class Outcome:
    """All rounds of one variant in one measurement. ``missing`` and ``errors`` are empty if all went well."""

    variant: str
    version: str = ""
    missing: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        """A figure of each round; ``seconds.total`` means ``total`` within ``seconds``."""
        found = []
        for one in self.rounds:
            value: Any = one
            for part in figure.split("."):
                value = value[part]
            found.append(float(value))
        return found

    def median(self, figure: str) -> float | None:
        """The median over the rounds, None where there is none."""
        values = self.values(figure)
        return statistics.median(values) if values else None


class Runner:
    """Starts contenders and cleans up after them: its process must have no other descendants."""

    def __init__(self, python: Path, say: Callable[[str], None]) -> None:
        self._python = python
        self._say = say

    def run(self, measurement: Measurement, rounds: int, *, quick: bool) -> list[Outcome]:
        """Measure all variants, by turns: A B C, A B C, ..."""
        outcomes = [Outcome(variant.name) for variant in measurement.variants]
        for number in range(rounds):
            for variant, outcome in zip(measurement.variants, outcomes, strict=True):
                if outcome.missing:
                    continue
                found = self._once(measurement, variant, quick=quick)
                outcome.version = found.pop("version", outcome.version)
                if "missing" in found:
                    outcome.missing = found["missing"]
                elif "error" in found:
                    outcome.errors.append(found["error"])
                else:
                    outcome.rounds.append(found)
                told = found.get("missing") or short(found.get("error", "")) or measurement.brief(found)
                self._say(f"{measurement.name} {number + 1}/{rounds} · {variant.name}: {told}")
        return outcomes

    def _once(self, measurement: Measurement, variant: Variant, *, quick: bool) -> dict[str, Any]:
        """One measurement of one variant. Everything that it started is gone when this returns."""
        parameters = measurement.parameters_of(variant, quick=quick)
        with tempfile.TemporaryDirectory(prefix="tw-bench-") as folder:
            if measurement.measure == "startup" and variant.contender is not None:
                arguments = ["benchmarks.cold", variant.contender, folder, json.dumps(variant.options)]
            else:
                job = {
                    "contender": variant.contender,
                    "options": variant.options,
                    "measure": variant.measure or measurement.measure,
                    "parameters": parameters,
                    "folder": folder,
                    "root": os.getpid(),
                    "stop": measurement.stop,
                }
                arguments = ["benchmarks.contender", json.dumps(job)]
            out, err = Path(folder, "stdout"), Path(folder, "stderr")
            with open(out, "wb") as stdout, open(err, "wb") as stderr:
                process = subprocess.Popen(
                    [str(self._python), "-m", *arguments],
                    cwd=ROOT,
                    env=variables(self._python, Path(folder)),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
                try:
                    notes = self._wait(process, out, measurement.limit)
                finally:
                    left = end_descendants(os.getpid())
            text = out.read_text()
            if not text.strip():
                tail = " / ".join(err.read_text(errors="replace").strip().splitlines()[-4:])
                trouble = notes.get("trouble") or f"exit code {process.returncode}"
                return {"error": f"{trouble}: {tail or 'no output'}"}
            found: dict[str, Any] = json.loads(text)
            if "error" in found:
                tail = "\n".join(err.read_text(errors="replace").strip().splitlines()[-12:])
                self._say(f"{variant.name}, the end of its standard error:\n{tail}")
            if measurement.stop:
                found["left_behind"] = left
            found.update(notes)
            return found

    def _wait(self, process: subprocess.Popen[bytes], out: Path, limit: float) -> dict[str, Any]:
        """Wait for the process to end; it has ``limit`` seconds to answer, and then some to stop in."""
        deadline = time.monotonic() + limit
        answered = None
        while True:
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if answered is None and out.stat().st_size:
                    answered = now
                if answered is not None and now - answered > _STOP_PATIENCE:
                    return {"trouble": f"still not stopped {_STOP_PATIENCE:.0f} s after the measurement"}
                if answered is None and now > deadline:
                    return {"trouble": f"no answer within {limit:.0f} s"}
            else:
                return {}
