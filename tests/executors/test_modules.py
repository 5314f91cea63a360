"""Scripts with modules of their own: workers find what the script finds, and say so where they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import throughway
from tests.executors import tasks
from tests.executors.scripts import Script, environment, run
from throughway import HighThroughputExecutor

MAIN = """
import os, sys
import beside
import travelling.deep
from throughway import HighThroughputExecutor

print("main is imported in", "the script" if __name__ == "__main__" else "a worker")

def of_the_script(value):
    return beside.double(value) + OFFSET

OFFSET = 1

class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)

executor = HighThroughputExecutor(max_workers_per_node=2, run_dir=sys.argv[1])
with executor:
    print(executor.submit(of_the_script, 20).result())
    print(executor.submit(beside.double, 4).result())
    print(executor.submit(travelling.deep.triple, 5).result())
    print(executor.submit(Point(3).moved, 4).result().x)
    print(executor.submit(lambda path: open(path).read(), "data.txt").result())
    print(sorted(executor.map(of_the_script, range(3))))
    print(executor.submit(lambda: type(beside.Own("x"))).result() is beside.Own)
"""

EXPECTED = """\
main is imported in the script
41
8
15
7
in the working directory
[1, 3, 5]
True"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A script ``main.py`` with a module beside it, a package in another folder, and a working directory elsewhere."""
    script, library, work = (tmp_path / name for name in ("script", "library", "work"))
    for folder in (script, library / "travelling", work):
        folder.mkdir(parents=True)
    (script / "main.py").write_text(MAIN)
    (script / "beside.py").write_text(
        "class Own:\n    def __init__(self, name):\n        self.name = name\n\n\n"
        "def double(value):\n    return 2 * value\n"
    )
    (library / "travelling" / "__init__.py").write_text("")
    (library / "travelling" / "deep.py").write_text("def triple(value):\n    return 3 * value\n")
    (work / "data.txt").write_text("in the working directory")
    return tmp_path


def test_a_script_with_its_modules(project: Path) -> None:
    """Nor is there a guard for ``__main__`` in it: workers never import the script."""
    said = run(
        [project / "script" / "main.py", project / "runs"],
        cwd=project / "work",
        env=environment(str(project / "library")),
    )
    assert said == EXPECTED


def test_a_script_that_is_run_as_a_module(project: Path) -> None:
    env = environment(str(project / "library"), str(project / "script"))
    assert run(["-m", "main", project / "runs"], cwd=project / "work", env=env) == EXPECTED


def test_a_script_from_standard_input(project: Path) -> None:
    """The working directory is then on the import path, as ``''``."""
    os.rename(project / "script" / "beside.py", project / "work" / "beside.py")
    env = environment(str(project / "library"))
    said = run(["-", project / "runs"], cwd=project / "work", env=env, stdin=MAIN)
    assert said == EXPECTED


def test_a_script_from_the_command_line(project: Path) -> None:
    os.rename(project / "script" / "beside.py", project / "work" / "beside.py")
    env = environment(str(project / "library"))
    assert run(["-c", MAIN, project / "runs"], cwd=project / "work", env=env) == EXPECTED


def test_import_paths_that_the_script_adds(project: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, "../library")
import travelling.deep
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1, run_dir={str(project / "runs")!r}) as executor:
    print(executor.submit(travelling.deep.triple, 2).result())
"""
    assert run(["-c", code], cwd=project / "work") == "6"


def test_a_script_that_leaves_its_directory(project: Path) -> None:
    code = f"""
import os
os.chdir({str(project / "work")!r})
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1, run_dir={str(project / "runs")!r}) as executor:
    print(executor.submit(os.getcwd).result())
"""
    assert run(["-c", code], cwd=project) == str(project / "work")


def test_a_module_that_shadows_one_of_the_standard_library(project: Path) -> None:
    """What lies beside a script must not get into the daemons, which import by the same names."""
    for name in ("selectors.py", "logging.py", "msgspec.py"):
        (project / "work" / name).write_text("raise RuntimeError('a shadow was imported')\n")
    code = f"""
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1, run_dir={str(project / "runs")!r}) as executor:
    print(executor.submit(abs, -3).result())
"""
    script = project / "elsewhere.py"
    script.write_text(code)
    assert run([script], cwd=project / "work") == "3"


# ------------------------------------------------------------------------------------------ what is missing


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that this process has imported and that no worker finds."""
    folder = tmp_path / "only-here"
    folder.mkdir()
    (folder / "vanished_module.py").write_text(
        "def answer():\n    return 42\n\n\nclass Thing:\n    pass\n\n\nclass Trouble(Exception):\n    pass\n"
    )
    sys.path.insert(0, str(folder))
    try:
        import vanished_module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    yield folder
    del sys.modules["vanished_module"]
    assert vanished_module


def test_a_module_that_workers_do_not_have(runs: Path, only_here: Path) -> None:
    import vanished_module

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        direct = executor.submit(vanished_module.answer)
        argument = executor.submit(id, vanished_module.Thing())
        inside = executor.submit(lambda: vanished_module.answer() + 1)
        inner = executor.submit(import_it)
        fine = executor.submit(tasks.add, 1, 2)
        for future in (direct, argument, inside):
            error = future.exception(timeout=20)
            assert isinstance(error, throughway.MissingModule)
            assert isinstance(error, ModuleNotFoundError)
            text = str(error) + "\n".join(error.__notes__)
            assert "'vanished_module'" in text
            assert executor.connected_managers()[0].host in text
            assert any(word in text for word in ("PYTHONPATH", "install", "worker_init", "sys.path")), text
            assert error.name == "vanished_module"
        # What the function itself fails to import is its own affair.
        assert type(inner.exception(timeout=20)) is ModuleNotFoundError
        assert fine.result(timeout=20) == 3
        assert executor.submit(vanished_module.answer).exception(timeout=20) is not direct.exception()


def import_it() -> None:
    import vanished_module

    assert vanished_module


def test_a_result_whose_module_is_missing_here(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text(
        "class Thing:\n    pass\n\n\nclass Trouble(Exception):\n    pass\n"
    )

    def make(folder: str, name: str) -> object:
        import importlib

        if folder not in sys.path:
            sys.path.insert(0, folder)
        made = getattr(importlib.import_module("only_there"), name)()
        if isinstance(made, Exception):
            raise made
        return made

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        thing = executor.submit(make, str(tmp_path), "Thing").exception(timeout=20)
        assert isinstance(thing, throughway.MissingModule)
        assert "only_there" in str(thing)
        trouble = executor.submit(make, str(tmp_path), "Trouble").exception(timeout=20)
        assert isinstance(trouble, throughway.DeserializationError)
        assert "only_there.Trouble" in str(trouble)
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1


def test_a_module_with_a_fault(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be found on the worker, but raises as it is imported there."""
    (tmp_path / "works_only_once.py").write_text(
        "import os\nif os.environ.get('THROUGHWAY_WORKER_RANK'):\n    raise LookupError('no licence here')\n"
        "def answer():\n    return 42\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import works_only_once  # type: ignore[import-not-found]

    with HighThroughputExecutor(max_workers_per_node=1, run_dir=runs) as executor:
        error = executor.submit(works_only_once.answer).exception(timeout=20)
        assert isinstance(error, throughway.DeserializationError)
        assert not isinstance(error, throughway.MissingModule)
        assert "no licence here" in str(error)
        assert executor.submit(tasks.add, 1).result(timeout=20) == 1
    del sys.modules["works_only_once"]


def test_the_interactive_interpreter(project: Path) -> None:
    """A session in a terminal: functions have no source file, and nothing ends the session between two lines."""
    lines = f"""
from throughway import HighThroughputExecutor
executor = HighThroughputExecutor(max_workers_per_node=1, run_dir={str(project / "runs")!r})
def scaled(value): return value * scale

scale = 2
print(executor.submit(scaled, 10).result())
scale = 3
print(executor.submit(scaled, 10).result())
def scaled(value): return -value * scale

print(executor.submit(scaled, 10).result())
1 / 0
print("goes on", executor.submit(scaled, 1).result())
"""
    with Script(["-i", "-q"], cwd=project / "work", stdin=lines) as session:
        status, output, errors = session.ended()
    assert (status, output.split("\n")[:4]) == (0, ["20", "30", "-30", "goes on -3"]), errors


def test_scripts_need_nothing_of_the_environment(project: Path) -> None:
    """An empty environment, as cron has it, but for the home directory and where Throughway is."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME") if name in os.environ}
    env["PYTHONPATH"] = environment()["PYTHONPATH"]
    env["TMPDIR"] = str(project)
    code = """
from throughway import HighThroughputExecutor
with HighThroughputExecutor(max_workers_per_node=1) as executor:
    print(executor.submit(abs, -3).result())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "3"
