"""The leak check itself: every kind of leak fails the test that leaks, by name, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import alive
from tests.waiting import wait_until

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent

SETTINGS = """
[pytest]
markers =
    leaks_allowed
    system
filterwarnings = error
"""

LEAKING = """
import multiprocessing.shared_memory, os, socket, subprocess, sys, threading
import pytest, zmq

kept = []

def test_clean():
    with subprocess.Popen(["true"]):
        pass

def test_process():
    kept.append(subprocess.Popen(["sleep", "600"]))

def test_orphan_with_another_title():
    code = ("import os, setproctitle\\nif os.fork(): os._exit(0)\\n"
            "setproctitle.setproctitle('throughway: lost ' + 'and found ' * 50)\\nimport time\\ntime.sleep(600)")
    subprocess.run([sys.executable, "-c", code], check=True)

def test_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="forgotten", daemon=True).start()

def test_native_thread():
    kept.append(zmq.Context())
    kept[-1].socket(zmq.PUSH).close()

def test_descriptor(tmp_path):
    kept.append(open(tmp_path / "log", "w"))

def test_socket():
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(os.environ["XDG_RUNTIME_DIR"] + "/end")
    kept[-1].listen()

def test_folder():
    os.makedirs(os.environ["XDG_RUNTIME_DIR"] + "/throughway/0123abcd")

def test_what_ends_by_itself():
    threading.Timer(0.05, lambda: None).start()

def test_shared_memory_of_the_standard_library():
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1)
    memory.close()
    memory.unlink()

@pytest.mark.leaks_allowed("to show that it may")
def test_allowed():
    kept.append(os.pipe())

@pytest.mark.leaks_allowed
def test_allowed_without_a_reason():
    pass

@pytest.fixture(scope="module")
def shared():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()

def test_shared_fixture(shared):
    assert shared.poll() is None
"""


def run_tests(pytester: pytest.Pytester, source: str, **environment: str) -> pytest.RunResult:
    pytester.makeini(SETTINGS)
    pytester.makeconftest(
        "import tests.conftest\ntests.conftest.SECONDS_TO_SETTLE = 0.5\nfrom tests.conftest import *\n"
    )
    pytester.makepyfile(test_inner=source)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("TMPDIR", str(pytester.path))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return pytester.runpytest_subprocess("-rA", "-p", "no:cacheprovider")


def test_leaks_fail_by_name(pytester: pytest.Pytester) -> None:
    result = run_tests(pytester, LEAKING)
    output = result.stdout.str()
    expected = {
        "test_process": "process * (sleep 600)",
        "test_orphan_with_another_title": "process * (throughway: lost and found *",
        "test_thread": "thread forgotten *",
        "test_native_thread": "thread ZMQ*",
        "test_descriptor": "descriptor * → */log",
        "test_socket": "descriptor * (unix */run/end)",
        "test_folder": "file */run/throughway/0123abcd",
        "test_allowed_without_a_reason": "leaks_allowed needs its reason*",
    }
    for name, line in expected.items():
        result.stdout.fnmatch_lines([f"*ERROR at * of {name} *", f"*{line}"])
        assert f"ERROR test_inner.py::{name}" in output
    for name in (
        "test_clean",
        "test_shared_memory_of_the_standard_library",
        "test_what_ends_by_itself",
        "test_allowed",
        "test_shared_fixture",
    ):
        assert f"PASSED test_inner.py::{name}\n" in output
        bears_the_error_of_the_run = name == "test_shared_fixture"  # it is the last
        assert (f"ERROR test_inner.py::{name} " in output) == bears_the_error_of_the_run
    result.stdout.fnmatch_lines(
        ["the tests left behind*", "*(sleep 600)", "*throughway: lost*", "*thread forgotten*"]
    )
    assert "resource_tracker" not in output
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_end_of_a_run_ends_what_is_left(pytester: pytest.Pytester) -> None:
    run_tests(
        pytester,
        """
        import os, subprocess, pytest

        @pytest.mark.leaks_allowed("the end of the run is to find it")
        def test_daemon():
            command = "setsid sleep 600 & echo $! > " + os.environ["PID_FILE"]
            subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
        """,
        PID_FILE=str(pytester.path / "pid"),
    ).stdout.fnmatch_lines(["the tests left behind*", "*(sleep 600)"])
    pid = int((pytester.path / "pid").read_text())
    wait_until(lambda: not alive(pid), what=f"the end of process {pid}")


SYSTEM = """
import pytest

@pytest.mark.system
def test_of_a_system():
    pytest.skip("there is no such system here")

def test_other():
    pytest.skip("for another reason")
"""


@pytest.mark.parametrize(
    ("required", "outcomes"),
    [
        pytest.param("1", {"failed": 1, "skipped": 1}, id="required"),
        pytest.param("", {"skipped": 2}, id="not required"),
    ],
)
def test_a_required_system_may_not_be_missing(
    pytester: pytest.Pytester, required: str, outcomes: dict[str, int]
) -> None:
    result = run_tests(pytester, SYSTEM, THROUGHWAY_REQUIRE_SYSTEMS=required)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(["*there is no such system here*"])


def test_the_run_folder_goes_unless_a_test_failed(pytester: pytest.Pytester) -> None:
    note = pytester.path / "folder"
    source = "import os, pathlib\ndef test_it():\n    pathlib.Path(os.environ['NOTE']).write_text({})\n    assert {}\n"
    state = "os.environ['XDG_STATE_HOME']"
    run_tests(pytester, source.format(state, True), NOTE=str(note))
    assert not Path(note.read_text()).exists()
    result = run_tests(pytester, source.format(state, False), NOTE=str(note))
    kept = Path(note.read_text())
    assert kept.is_dir()
    result.stdout.fnmatch_lines([f"*are kept in {kept.parent}"])


def test_sigterm_ends_the_run_as_ctrl_c_does(pytester: pytest.Pytester) -> None:
    result = run_tests(
        pytester,
        """
        import os, pathlib, signal, subprocess, pytest

        @pytest.fixture
        def process():
            with subprocess.Popen(["sleep", "600"]) as process:
                yield process
                process.kill()
                pathlib.Path(os.environ["NOTE"]).write_text("tidied up")

        def test_it(process):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        """,
        NOTE=str(pytester.path / "note"),
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert (pytester.path / "note").read_text() == "tidied up"
