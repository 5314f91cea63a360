"""Parsl's own tests, from its wheel, on Throughway's executor:  python run.py --python ENVIRONMENT/bin/python

Four parts, two at a time: all tests that Parsl runs with a given configuration, once with its ``htex_local`` and once
with its ``htex_local_alternate`` (monitoring, memoization, retries, scaling from nothing, JSON logs), its tests of
HTEX, and those of scaling. The tests and the configurations are Parsl's; `substitution` puts Throughway's executor
where they name HTEX, and `not_applicable.toml` says which tests cannot hold, and why. Any difference from it is a
failure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 420.0
"""Seconds for one part."""

READ_ONLY = """\
mount --bind "$0" "$0" && mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd "$0" && shift && exec "$@"
"""
"""For root, to whom no folder is forbidden, as some of the tests expect: all but the work folder can only be read."""


@dataclass(frozen=True)
class Part:
    """Some of Parsl's tests: ``least`` is how many have to pass, so that a change of their number is seen."""

    name: str
    config: str
    targets: tuple[str, ...]
    least: int


PARTS = (
    Part("test_htex", "local", ("test_htex",), 26),
    Part("htex_local_alternate", "configs/htex_local_alternate.py", (".",), 145),
    Part("test_scaling", "local", ("test_scaling",), 19),
    Part("htex_local", "configs/htex_local.py", (".",), 145),
)


@dataclass
class Report:
    """What became of a part. ``outcomes`` are passed, failed or skipped by the test's name."""

    part: Part
    seconds: float
    outcomes: dict[str, str] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    trouble: str = ""

    def named(self, outcome: str) -> set[str]:
        """The tests with this outcome."""
        return {name for name, found in self.outcomes.items() if found == outcome}


class Suite:
    """Runs parts of Parsl's tests in the environment of ``python``."""

    def __init__(self, python: Path, work: Path, *, own: bool, other_version: bool) -> None:
        self.python = python
        self.work = work
        self.own = own
        found = self._ask("import parsl, pathlib; print(pathlib.Path(parsl.__file__).parent / 'tests')")
        self.tests = Path(found)
        self.version = self._ask("import parsl; print(parsl.__version__)")
        expectations = tomllib.loads((HERE / "not_applicable.toml").read_text("utf-8"))
        self.not_applicable: dict[str, str] = expectations["tests"]
        self.left_out: dict[str, str] = expectations["left_out"]
        if other_version:
            self.not_applicable |= expectations["cannot_be_imported"]
        self.shield = self._shield()

    def _ask(self, code: str) -> str:
        command = [str(self.python), "-c", code]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _shield(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        temporary = tempfile.gettempdir()
        shield = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY]
        try:
            subprocess.run([*shield, str(self.work), temporary, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(
                f"Root may write everywhere, and {shield[0]} cannot forbid it ({error}): two tests will fail"
            )
            return []
        return [*shield, "{folder}", temporary]

    def run(self, part: Part, only: list[str] | None = None) -> Report:
        """Run a part, or only some tests of it, and read what came of it."""
        folder = Path(tempfile.mkdtemp(prefix=part.name.replace(" ", "-") + "-", dir=self.work))
        (folder / "pytest.ini").write_text("[pytest]\n")
        config = part.config if part.config == "local" else str(self.tests / part.config)
        targets = [str(self.tests / target) for target in part.targets]
        # Not by --ignore, for which Parsl's conftest.py leaves no room.
        ignored = [f"--deselect=parsl/tests/test_htex/{name}" for name in self.left_out]
        options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(self.tests.parent.parent)]
        options += ["--config", config, "-k", "not cleannet"]
        options += [
            "--continue-on-collection-errors",
            "-p",
            "no:cacheprovider",
            "-q",
            "--tb=short",
            "--show-capture=no",
            "--timeout",
            "90",
            "--junitxml",
            str(folder / "junit.xml"),
        ]
        if self.own:
            options += ["-p", "substitution"]
        # The targets go first: pytest finds the option --config in the conftest.py above the first of them.
        command = [str(self.python), "-m", "pytest", *(only or [*targets, *ignored]), *options]
        shield = [word.format(folder=folder) if word == "{folder}" else word for word in self.shield]
        began = time.monotonic()
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                [*shield, *command],
                cwd=folder,
                env=self._environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(LIMIT)
                trouble = ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                trouble = f"stopped after {LIMIT:.0f} s"
        report = Report(part, time.monotonic() - began, trouble=trouble)
        self._read(report, folder)
        return report

    def _environment(self, folder: Path) -> dict[str, str]:
        environment = dict(os.environ)
        # Parsl's own executor finds its programs on the path.
        environment["PATH"] = os.pathsep.join((str(self.python.parent), environment.get("PATH", "")))
        environment["PYTHONPATH"] = str(HERE)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment["THROUGHWAY_SUBSTITUTED"] = str(folder / "substituted")
        return environment

    def _read(self, report: Report, folder: Path) -> None:
        junit = folder / "junit.xml"
        if not junit.exists():
            tail = (folder / "output").read_text("utf-8", "replace")[-3000:]
            report.trouble = f"{report.trouble or 'no report'}; its output ends:\n{tail}"
            return
        for case in ET.parse(junit).iter("testcase"):
            # A module that cannot be imported has no class.
            module, _, test = f"{case.get('classname')}::{case.get('name')}".rpartition("parsl.tests.")[
                2
            ].partition("::")
            name = f"{module}::{test}"
            kinds = {child.tag for child in case}
            outcome = (
                "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            )
            # A test whose teardown fails, too, is there twice.
            if report.outcomes.get(name) != "failed":
                report.outcomes[name] = outcome
        if self.own:
            counter = folder / "substituted"
            if not counter.exists() or int(counter.read_text()) == 0:
                report.trouble = "Throughway's executor was never made: the substitution does not work"


def complaints(report: Report, not_applicable: dict[str, str], *, exact: bool) -> list[str]:
    """What is not as it should be. Without ``exact``, tests of another version of Parsl may be missing or more."""
    found = [report.trouble] if report.trouble else []
    failed, passed = report.named("failed"), report.named("passed")
    if not exact:
        # Some of them were in other folders.
        known = {name.rpartition(".")[2] for name in not_applicable}
        return found + [f"failed: {name}" for name in sorted(failed) if name.rpartition(".")[2] not in known]
    found += [f"failed: {name}" for name in sorted(failed - set(not_applicable))]
    found += [
        f"listed as not applicable, and passed: {name}" for name in sorted(passed & set(not_applicable))
    ]
    expected = {name for name in not_applicable if name.startswith(report.part.targets)}
    found += [
        f"listed as not applicable, and not there: {name}" for name in sorted(expected - set(report.outcomes))
    ]
    if len(passed) < report.part.least:
        found.append(f"{len(passed)} passed, where {report.part.least} have to")
    return found


def _repeat(suite: Suite, report: Report) -> None:
    """Run what failed a second time, alone: several of these tests have only seconds for what they wait for."""
    failed = sorted(report.named("failed") - set(suite.not_applicable))
    if not failed or len(failed) > 5 or report.trouble:
        return
    modules = sorted({name.partition("::")[0] for name in failed})
    second = suite.run(report.part, [f"{suite.tests / module.replace('.', '/')}.py" for module in modules])
    for name in failed:
        if second.outcomes.get(name) == "passed":
            report.outcomes[name] = "passed"
            report.again.append(name)


def main() -> int:
    """0 where everything is as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="has Throughway, Parsl and pytest<8"
    )
    parser.add_argument(
        "--part", action="append", help="only these: " + ", ".join(part.name for part in PARTS)
    )
    parser.add_argument("--baseline", action="store_true", help="run Parsl's own executor, to compare with")
    parser.add_argument(
        "--other-version", action="store_true", help="another version of Parsl than the newest"
    )
    parser.add_argument("--jobs", type=int, default=2, help="parts at one time (default: 2)")
    parser.add_argument("--keep", type=Path, help="folder for logs and reports, which are otherwise removed")
    options = parser.parse_args()
    parts = [part for part in PARTS if not options.part or part.name in options.part]

    work = Path(tempfile.mkdtemp(prefix="throughway-parsl-", dir=options.keep)).resolve()
    suite = Suite(
        options.python.absolute(), work, own=not options.baseline, other_version=options.other_version
    )
    whose = "Parsl's own executor" if options.baseline else "Throughway's executor"
    print(f"Parsl {suite.version}, its own tests on {whose}", flush=True)
    wrong = 0
    try:
        with ThreadPoolExecutor(options.jobs) as threads:
            reports = list(threads.map(suite.run, parts))
        for report in reports:
            if not options.baseline:
                _repeat(suite, report)
            wrong += _tell(report, suite, exact=not (options.other_version or options.baseline))
    finally:
        if options.keep is None and not wrong:
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"logs: {work}")
    if not options.baseline:
        print(
            f"{len(suite.not_applicable)} tests are not applicable, each for the reason in not_applicable.toml"
        )
    passed = sum(len(report.named("passed")) for report in reports)
    print(
        f"Parsl {suite.version}: {passed} tests passed on {whose}"
        + (f", {wrong} things are wrong" if wrong else "")
    )
    return 1 if wrong and not options.baseline else 0


def _tell(report: Report, suite: Suite, *, exact: bool) -> int:
    counts = {outcome: len(report.named(outcome)) for outcome in ("passed", "failed", "skipped")}
    found = complaints(report, {} if not suite.own else suite.not_applicable, exact=exact)
    print(f"{report.part.name}: {json.dumps(counts)} in {report.seconds:.0f} s", flush=True)
    for name in report.again:
        print(f"    passed when it was run again, alone: {name}")
    for complaint in found:
        print(f"    {complaint}")
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
