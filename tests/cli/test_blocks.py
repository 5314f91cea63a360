from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.processes import alive
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.blocks.record import BlockRecord, BlocksRecord, write_blocks
from throughway.cli import blocks
from throughway.executors.run_folder import RunFolder
from throughway.protocol.identifiers import RunId
from throughway.providers import LocalProvider
from throughway.providers.records import write_record

pytestmark = pytest.mark.timeout(60)


class Screen:
    def __init__(self) -> None:
        self.text = io.StringIO()
        self.console = Console(file=self.text, width=100)

    def show(self, run_dir: Path) -> str:
        assert blocks.show(self.console, self.text, run_dir=str(run_dir)) == 0
        return self.text.getvalue()


@pytest.fixture
def screen() -> Screen:
    return Screen()


class DeadRun:
    """The folder of a run whose process is gone, with a job that goes on on this machine."""

    def __init__(self, runs: Path) -> None:
        self.folder = RunFolder(RunId("dead0001"), "docking", runs)
        self.folder._record.pid = 2**22 + 1
        self.folder._write()
        write_record(LocalProvider(), self.folder.path)
        name = f"{self.folder.path}/throughway-dead0001-0.stdout"
        with open(name, "wb") as output:
            self.job = subprocess.Popen(["sleep", "600"], stdout=output, start_new_session=True)

    def end(self) -> None:
        self.job.kill()
        self.job.wait()
        self.folder.end()


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[DeadRun]:
    run = DeadRun(tmp_path)
    yield run
    run.end()


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], screen: Screen) -> None:
    assert screen.show(tmp_path) == ""
    assert "nothing runs, and no dead run has left a job" in capsys.readouterr().out


def test_a_live_run(tmp_path: Path, screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    provider = LocalProvider(init_blocks=2, max_blocks=3)
    with HighThroughputExecutor("docking", provider, max_workers_per_node=1, run_dir=tmp_path) as executor:
        executor.start()
        wait_until(lambda: len(executor.connected_managers()) == 2, 20, "two managers")
        jobs = {block.job_id for block in executor.blocks()}
        found: dict[str, list[dict[str, object]]] = {}

        def recorded() -> bool:
            output = io.StringIO()
            assert blocks.show(screen.console, output, json=True, run_dir=str(tmp_path)) == 0
            found.update(json.loads(output.getvalue()))
            (run,) = found["live"]
            return [block["managers"] for block in run["blocks"]] == [1, 1]  # type: ignore[attr-defined]

        wait_until(recorded, 20, "the managers to be recorded")
        assert {block["job_id"] for block in found["live"][0]["blocks"]} == jobs  # type: ignore[attr-defined]
        text = screen.show(tmp_path)
        assert "(docking)" in text
        assert "strategy simple, 0 to 3 blocks of 1 nodes" in text
        assert all(job in text for job in jobs)
        run = found["live"][0]["run"]
        assert blocks.cancel(screen.console, str(run), run_dir=str(tmp_path)) == 1
        assert "is alive" in capsys.readouterr().err
        assert len(executor.connected_managers()) == 2


def test_what_a_dead_run_has_left_is_listed_and_cancelled(
    tmp_path: Path, dead: DeadRun, screen: Screen
) -> None:
    text = screen.show(tmp_path)
    assert "run dead0001 (docking) is dead" in text
    assert f"job {dead.job.pid} (throughway-dead0001-0): running" in text
    assert "throughway blocks --cancel dead0001" in text
    assert blocks.cancel(screen.console, "dead", run_dir=str(tmp_path)) == 0
    assert not alive(dead.job.pid)
    assert "they are gone" in screen.text.getvalue()
    assert blocks.cancel(screen.console, "docking", run_dir=str(tmp_path)) == 0
    assert "has left no job" in screen.text.getvalue()


def test_a_run_that_is_not_there(tmp_path: Path, screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks.cancel(screen.console, "nobody", run_dir=str(tmp_path)) == 1
    assert "there is no run 'nobody'" in capsys.readouterr().err


def test_a_run_of_another_host_is_left_alone(
    tmp_path: Path, dead: DeadRun, screen: Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    dead.folder._record.host = "elsewhere"
    dead.folder._write()
    assert blocks.cancel(screen.console, "dead0001", run_dir=str(tmp_path)) == 1
    assert "on elsewhere, which cannot be seen from here" in capsys.readouterr().err
    assert alive(dead.job.pid)
    assert blocks.cancel(screen.console, "dead0001", force=True, run_dir=str(tmp_path)) == 0
    assert not alive(dead.job.pid)


def test_a_provider_that_cannot_be_asked(
    tmp_path: Path, dead: DeadRun, screen: Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    (dead.folder.path / "provider.json").write_text('{"provider": "no.such.module:Provider"}')
    (dead.folder.path / "provider.json").chmod(0o600)
    assert blocks.show(screen.console, screen.text, run_dir=str(tmp_path)) == 1
    assert "what it has left is not known" in screen.text.getvalue()
    assert blocks.cancel(screen.console, "dead0001", run_dir=str(tmp_path)) == 1
    assert "no.such.module" in capsys.readouterr().err


def test_an_ended_run_is_suspicious_only_if_a_block_did_not_end(tmp_path: Path) -> None:
    folder = RunFolder(RunId("ab12cd34"), "docking", tmp_path)
    folder.end()
    assert not blocks.suspicious(folder._record)
    now = time.time()
    for state, suspicious in (("scaled in", False), ("running", True)):
        record = BlockRecord("0", "17", state, now, now, 1, 0, 0, False, "")
        write_blocks(BlocksRecord("slurm", now, [record]), folder.path)
        assert blocks.suspicious(folder._record) is suspicious
