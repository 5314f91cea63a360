"""The benchmarks' command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import environment, machine, report
from benchmarks.contenders import CONTENDERS
from benchmarks.processes import adopt_orphans
from benchmarks.runs import Outcome, Runner
from benchmarks.table import MEASUREMENTS, ROWS, Measurement

LATEST = Path(__file__).parent / "results" / "latest.json"
SCHEMA = 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Throughway side by side with its peers, on this machine, by turns.",
    )
    names = ", ".join(measurement.name for measurement in MEASUREMENTS)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"only these, several allowed: {names}"
    )
    parser.add_argument(
        "--contender", action="append", metavar="NAME", help=f"only these of: {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (default: 5; quick: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that all works, proves nothing"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"where the figures go; a complete run's go to {LATEST} by default",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown also to a terminal")
    parser.add_argument(
        "--refresh", action="store_true", help="install the peers again, in their newest releases"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        default=environment.ROOT / ".venv-bench",
        help="where the contenders are installed",
    )
    parser.add_argument(
        "--python", type=Path, help="use this Python, which has all contenders, and install nothing"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure as the command line says; 0 where every figure was taken, 1 where some could not be, 2 for none."""
    parser = _arguments()
    options = parser.parse_args(argv)
    known = {measurement.name: measurement for measurement in MEASUREMENTS}
    for wanted, all_of_them in ((options.only, known), (options.contender, CONTENDERS)):
        if unknown := [name for name in wanted or () if name not in all_of_them]:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(all_of_them)}")
    rounds = options.rounds or (1 if options.quick else 5)

    def say(text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    adopt_orphans()
    failures: dict[str, str] = {}
    if options.python is not None:
        python = options.python.absolute()
    else:
        try:
            python, failures = environment.prepare(
                options.environment.absolute(), say, refresh=options.refresh
            )
        except RuntimeError as error:
            say(str(error))
            return 2
    described = machine.describe()
    if described["idle_use"] > report.DISTURBED:
        say(f"other programs keep {described['idle_use']:.1f} cores busy: the figures will be disturbed")

    began = time.time()
    runner = Runner(python, say)
    outcomes: report.Outcomes = {}
    for measurement in _chosen(options.only, options.contender):
        turns = min(rounds, measurement.most_rounds or rounds)
        done = runner.run(measurement, turns, quick=options.quick)
        outcomes[measurement.name] = {outcome.variant: outcome for outcome in done}
    judged = [report.judge(row, outcomes) for row in ROWS if row.measurement in outcomes]
    found = _document(described, outcomes, judged, failures, rounds, options.quick, began)

    complete = not (options.only or options.contender or options.quick)
    target = options.json or (LATEST if complete else None)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        say(f"figures written to {target}")
    _print(found, judged, outcomes, as_markdown=options.markdown or not sys.stdout.isatty())
    return 0 if all(outcome.rounds for variants in outcomes.values() for outcome in variants.values()) else 1


def _chosen(names: list[str] | None, contenders: list[str] | None) -> list[Measurement]:
    """The measurements of these names, of these contenders, where any are named; those without one always stay."""
    chosen = [measurement for measurement in MEASUREMENTS if not names or measurement.name in names]
    if not contenders:
        return chosen
    return [
        dataclasses.replace(
            measurement,
            variants=tuple(
                variant
                for variant in measurement.variants
                if variant.contender is None or variant.contender in contenders
            ),
        )
        for measurement in chosen
    ]


def _document(
    described: dict[str, Any],
    outcomes: report.Outcomes,
    judged: list[dict[str, Any]],
    failures: dict[str, str],
    rounds: int,
    quick: bool,
    began: float,
) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for variants in outcomes.values():
        for name, outcome in variants.items():
            versions[name] = outcome.version or versions.get(name, "")
    return {
        "schema": SCHEMA,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "quick": quick,
        "rounds": rounds,
        "commit": machine.commit(environment.ROOT),
        "machine": described,
        "python": sys.version.split()[0],
        "versions": {name: version for name, version in versions.items() if version},
        "not_installed": failures,
        "rows": judged,
        "notes": report.notes(judged, outcomes),
        "measurements": {
            measurement.name: {
                "about": measurement.about,
                "parameters": measurement.parameters | (measurement.quick if quick else {}),
                "variants": {name: _outcome(outcome) for name, outcome in outcomes[measurement.name].items()},
            }
            for measurement in MEASUREMENTS
            if measurement.name in outcomes
        },
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(outcome).items() if value and key != "variant"}


def _print(
    found: dict[str, Any], judged: list[dict[str, Any]], outcomes: report.Outcomes, *, as_markdown: bool
) -> None:
    table = report.markdown if as_markdown else report.plain
    about = found["machine"]
    print(
        f"{about['cpu']}, {about['cores']} cores{', virtual' if about['hypervisor'] else ''}, "
        f"{about['memory_bytes'] / 2**30:.0f} GiB, {about['system']} {about['kernel']}, "
        f"Python {found['python']}; "
        f"{found['rounds']} {'quick ' if found['quick'] else ''}rounds, medians, {found['began']}."
    )
    print(
        "Versions: " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()) + ".\n"
    )
    print(table(report.rows_of_table(judged)) + "\n")
    if len(budget := report.rows_of_budget(outcomes)) > 1:
        print(table(budget) + "\n")
    for failure, reason in found["not_installed"].items():
        print(f"- {failure} could not be installed: {reason}")
    for note in found["notes"]:
        print(f"- {note}")


if __name__ == "__main__":
    sys.exit(main())
