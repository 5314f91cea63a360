"""What holds for every test: its own folders, nothing left behind, and no system missing where all are required.

Each run of the tests has a folder of its own for what Throughway would keep in the user's: runtime files, logs and
state. The folder is removed at the end, or named and kept where a test failed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator

import hypothesis
import pytest
from zmq.utils import garbage

from tests.leaks import Snapshot, resource_trackers
from tests.processes import Family, ProcessRecord, kill_all, started_with, title
from tests.waiting import wait_until as wait

RUN_VARIABLE = "THROUGHWAY_TEST_RUN"
"""Marks every process that a run of the tests starts, with the run's id."""

REQUIRE_SYSTEMS_VARIABLE = "THROUGHWAY_REQUIRE_SYSTEMS"
"""Set to 1, a test marked `system` may not be skipped."""

SECONDS_TO_SETTLE = 5.0
"""For what ends by itself, but after the call that ended it."""

_FOLDERS = {
    "XDG_RUNTIME_DIR": "run",
    "XDG_STATE_HOME": "state",
    "XDG_CONFIG_HOME": "config",
    "XDG_CACHE_HOME": "cache",
}

hypothesis.settings.register_profile("throughway", deadline=None, print_blob=True)  # no test is timed
hypothesis.settings.load_profile("throughway")


class _Run:
    """One run of the tests: its id, its folder, and the environment as it was before."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.family = Family()
        self.folder = tempfile.mkdtemp(prefix="tw-")
        self._replaced = {name: os.environ.get(name) for name in (RUN_VARIABLE, *_FOLDERS)}
        os.environ[RUN_VARIABLE] = self.id
        for name, folder in _FOLDERS.items():
            path = os.path.join(self.folder, folder)
            os.mkdir(path, 0o700)
            os.environ[name] = path

    @property
    def runtime_folder(self) -> str:
        return os.path.join(self.folder, _FOLDERS["XDG_RUNTIME_DIR"])

    def snapshot(self) -> Snapshot:
        return Snapshot.take(self.family, self.runtime_folder)

    def processes(self) -> set[ProcessRecord]:
        """All that were started in this run and live, this process excepted."""
        found = {*self.family.members(afresh=True), *started_with(RUN_VARIABLE, self.id)}
        return {record for record in found if record.pid not in resource_trackers("_pid")}

    def restore(self) -> None:
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_run_key = pytest.StashKey[_Run]()


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the fixtures tidy up, as after Ctrl-C
    config.stash[_run_key] = _Run()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        terminalreporter.write_line(f"logs and runtime files are kept in {config.stash[_run_key].folder}")
    else:
        shutil.rmtree(config.stash[_run_key].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(_run_key, None)
    if run is not None:
        run.restore()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = os.environ.get(REQUIRE_SYSTEMS_VARIABLE) == "1"
    if required and report.skipped and item.get_closest_marker("system") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = (
            f"{REQUIRE_SYSTEMS_VARIABLE}=1, and this test of a real system was skipped. {reason}"
        )
    return report


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector, report: pytest.TestReport) -> None:
    """Show a failure at once: what it left may keep the fixtures from tidying up, and the run from its summary."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and report.failed:
        reporter.ensure_newline()
        reporter.write_line(report.longreprtext)


@pytest.fixture(autouse=True, scope="session")
def not_exposed() -> Iterator[None]:
    """Here signals have handlers, of this file and of pytest-timeout, that run once a test is lost anyway. An executor
    must not take them for those of a user's, and leave all to its thread."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("serving", "shell"):
            patched.setattr(f"throughway.executors.{module}.exposed", lambda: False)
        yield


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """`tests.waiting.wait_until`, for tests that need nothing else of that module."""
    return wait


@pytest.fixture(autouse=True, scope="session")
def leftovers_of_the_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process outlives the run that started it, and no thread or runtime file the fixture, whatever its scope."""
    run = request.config.stash[_run_key]
    garbage.gc.start()  # pyzmq's thread for zero-copy messages, which no test can end
    before = run.snapshot()
    yield

    def left() -> list[str]:
        found = [f"process {record.pid} ({title(record.pid)})" for record in sorted(run.processes())]
        return found + run.snapshot().new_since(before, processes=False, descriptors=False)

    try:
        _settle(request.session, left, "the tests left behind")
    finally:
        kill_all(run.processes())


@pytest.fixture(autouse=True)
def leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a process, a thread, a descriptor or a runtime file behind, unless marked `leaks_allowed`."""
    marker = request.node.get_closest_marker("leaks_allowed")
    if marker is not None:
        if not (marker.args and marker.args[0]):
            pytest.fail("leaks_allowed needs its reason: @pytest.mark.leaks_allowed('why')", pytrace=False)
        yield
        return
    run = request.config.stash[_run_key]
    before = run.snapshot()
    yield
    _settle(request.session, lambda: run.snapshot().new_since(before), "the test left behind")


def _settle(session: pytest.Session, left: Callable[[], list[str]], what: str) -> None:
    """Fail unless nothing is ``left``, now or soon: what was told to end may take a moment."""
    if (
        session.exitstatus == pytest.ExitCode.INTERRUPTED or not left()
    ):  # interrupted, a test did not get to its end
        return
    with contextlib.suppress(AssertionError):
        wait(lambda: not left(), SECONDS_TO_SETTLE)
    found = left()
    if found:
        pytest.fail("\n  ".join([f"{what} (after {SECONDS_TO_SETTLE:g} s):", *found]), pytrace=False)
