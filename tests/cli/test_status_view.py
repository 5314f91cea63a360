from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from tests.cli.fakes import manager_view, run_view
from throughway.blocks.record import BlockRecord, BlocksRecord
from throughway.cli.status_view import TOTAL_LINES, Rates, document, one_line, screen
from throughway.executors.run_folder import RunRecord
from throughway.protocol.views import RunView

RECORD = RunRecord(
    run="ab12cd34",
    label="docking",
    pid=4242,
    process_started=1.0,
    started=2.0,
    socket="/run/throughway/sock",
    folder="/runs/one",
    python="3.11.7",
)


def words(text: str) -> list[str]:
    return text.split()


def shown(
    view: RunView, rates: Rates, *, width: int = 80, rows: int | None = None, note: str = ""
) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(RECORD, view, rates, width=width, rows=rows, note=note), highlight=False)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_rates_are_differences_over_the_time_between() -> None:
    earlier = run_view(2, submitted=1000, completed=500, core_seconds=10.0)
    later = run_view(2, submitted=1100, completed=700, core_seconds=22.0, uptime=104.0)
    later.managers[0] = manager_view(0, age=104.0, tasks_done=1200)
    later.managers[1] = manager_view(9, age=2.0, tasks_done=8)  # it joined in between
    rates = Rates.between(earlier, later)
    assert rates.seconds == 4
    assert rates.tasks_in == 25
    assert rates.tasks_out == 50
    assert rates.managers == {later.managers[0].manager: 50, later.managers[1].manager: 4}
    assert rates.utilisation == 12 / (4 * 4 + 4 * 2)


def test_without_an_earlier_view_rates_are_means_since_the_beginning() -> None:
    rates = Rates.between(None, run_view(1, submitted=1000, completed=500, core_seconds=100.0))
    assert (rates.seconds, rates.tasks_in, rates.tasks_out) == (100, 10, 5)
    assert rates.utilisation == 0.25


def test_rates_of_a_run_that_has_just_begun_or_has_no_manager() -> None:
    assert Rates.between(None, run_view(0, uptime=0.0)) == Rates(1e-9, 0, 0, 0, {})
    view = run_view(1)
    assert Rates.between(view, view).tasks_out == 0


def test_the_screen_fits_80_columns_and_leaves_nothing_out() -> None:
    view = run_view(2, pending=1_234_567, assigned=12, completed=98_765_432, core_seconds=7200.0, cores=8)
    view.managers[0] = manager_view(
        0,
        tasks=123_456,
        tasks_done=98_765_432,
        seconds_left=86_000.0,
        silence=59.0,
        host="a-very-long-name.of.a.node",
    )
    view.managers[1] = manager_view(1, draining=True, active=False, age=1_054_800.0)
    lines = shown(view, Rates.between(None, view))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "docking  run ab12cd34  up 1m40s  process 4242  Python 3.11.7" in text
    assert re.search(r"outstanding +1,234,579 +utilisation +0% +idle +0 +refused +0", text)
    assert re.search(r"done +98,765,432 +core-hours +2.000 ", text)
    heading, first, second = (line.split() for line in lines if line.startswith(("host", "a-very", "node1")))
    assert heading == words("host block pid idle tasks done per s age left silent state")
    assert first[0].endswith("…")
    assert first[1:] == words("0 4000000 1/4 123k 98.8M 988k 1m40s 23h53m 59s active")
    assert second == words("node1.cluster 0 4000001 1/4 3 1,000 <0.01 12d05h - 0s draining")


def test_a_wide_screen_also_tells_ids_and_whole_numbers() -> None:
    view = run_view(1)
    view.managers[0] = manager_view(0, active=False, tasks=123_456)
    lines = shown(view, Rates.between(None, view), width=120)
    heading, row = (
        line.split() for line in lines if line.startswith(("manager ", "000000")) and "queued" not in line
    )
    assert heading == words("manager host block pid workers idle tasks done per s age silent state")
    assert row == words("000000000000 node0.cluster 0 4000000 4 1 123,456 1,000 10 1m40s 0s held")


def test_no_manager_is_said() -> None:
    view = run_view(0, pending=3)
    assert "no manager is registered" in shown(view, Rates.between(None, view))


@pytest.mark.parametrize("rows", [1, 5, 30])
def test_more_managers_than_rows_are_counted(rows: int) -> None:
    view = run_view(30)
    lines = shown(view, Rates.between(None, view), rows=rows, note="a note")
    assert sum(line.startswith("node") for line in lines) == rows
    assert len(lines) <= rows + TOTAL_LINES
    assert lines[-1] == "a note"
    left = [line for line in lines if "more manager" in line]
    assert left == ([f"and {30 - rows} more managers"] if rows < 30 else [])


def test_blocks_are_in_order() -> None:
    view = run_view(24)
    lines = shown(view, Rates.between(None, view))
    blocks = [line.split()[1] for line in lines if line.startswith("node")]
    assert blocks == sorted(blocks, key=int)


def test_one_line_has_the_gist() -> None:
    view = run_view(2, pending=5000, assigned=8, completed=700, submitted=5708, idle_workers=3)
    assert one_line(RECORD, view, Rates.between(None, view)) == (
        "docking ab12cd34, 2 managers, 8 workers (3 idle), 5,000 queued, 5,008 outstanding, 57.1 tasks/s in, "
        "7 out, 700 done"
    )


def test_the_document_has_every_field_also_where_it_is_a_default() -> None:
    view = run_view(1, pending=5)
    found = json.loads(json.dumps(document(RECORD, view, Rates.between(None, view))))
    assert found["run"]["pid"] == 4242
    assert found["status"]["malformed_messages"] == 0
    assert found["status"]["outstanding"] == 5
    assert found["rates"]["tasks_in_per_second"] == 0
    (manager,) = found["managers"]
    assert manager["seconds_left"] is None
    assert (manager["state"], manager["tasks_per_second"]) == ("active", 10)


# -------------------------------------------------------------------------------------------------------------- blocks


def block(number: int, state: str = "running", **fields: object) -> BlockRecord:
    given: dict[str, object] = {
        "id": str(number),
        "job_id": f"41{number}",
        "state": state,
        "since": 900.0,
        "submitted": 700.0,
        "nodes": 2,
        "managers": 2,
        "workers": 8,
        "draining": False,
        "message": "",
        **fields,
    }
    return BlockRecord(**given)  # type: ignore[arg-type]


def with_blocks(blocks: BlocksRecord, *, width: int = 80, rows: int | None = None) -> list[str]:
    view = run_view(4)
    view.managers[0].seconds_left = 500.0
    view.managers[1].seconds_left = 400.0
    console = Console(file=io.StringIO(), width=width)
    rates = Rates.between(None, view)
    shown = screen(RECORD, view, rates, width=width, rows=rows, blocks=blocks, now=1000.0)
    console.print(shown, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_blocks_are_shown_with_what_their_managers_do() -> None:
    record = BlocksRecord(
        "slurm",
        1000.0,
        [
            block(0),
            block(1, draining=True),
            block(2, "pending", managers=0, workers=0, message="Resources"),
            block(3, "failed", message="NonZeroExitCode\nsecond line"),
        ],
        left_out={"n7": "3 managers in a row were lost there"},
        trouble="the slurm provider gives no status: squeue timed out",
    )
    lines = with_blocks(record, width=112)
    rows = {line.split()[1]: line.split() for line in lines if line[2:].lstrip().startswith("41")}
    assert rows["410"] == ["0", "410", "running", "1m40s", "5m00s", "6m40s", "2/2", "8", "6"]
    assert rows["411"][2] == "draining"
    assert rows["412"] == ["2", "412", "pending", "1m40s", "5m00s", "-", "2", "-", "-", "Resources"]
    assert rows["413"][2:5] == ["failed", "1m40s", "-"]
    assert rows["413"][-2:] == ["second", "line"]
    text = "\n".join(lines)
    assert "host n7 is left out: 3 managers in a row" in text
    assert "squeue timed out" in text
    assert all(len(line) <= 80 for line in with_blocks(record))


def test_one_block_of_this_machine_is_not_worth_a_table() -> None:
    assert not any("job" in line.split() for line in with_blocks(BlocksRecord("local", 0.0, [block(0)])))
    two = BlocksRecord("local", 0.0, [block(0), block(1)])
    assert any("job" in line.split() for line in with_blocks(two))


def test_only_the_last_ended_blocks_and_as_many_lines_as_there_are() -> None:
    ended = [block(number, "scaled in", since=float(number)) for number in range(10, 30)]
    lines = with_blocks(BlocksRecord("slurm", 0.0, [block(0), *ended]))
    assert [line.split()[0] for line in lines if "scaled in" in line] == ["27", "28", "29"]
    many = BlocksRecord("slurm", 0.0, [block(number) for number in range(50)])
    lines = with_blocks(many, rows=10)
    assert "and 45 more blocks" in lines
    assert len(lines) <= TOTAL_LINES + 10 + 2


def test_blocks_in_the_document() -> None:
    view = run_view(4)
    view.managers[1].seconds_left = 400.0
    found = document(
        RECORD, view, Rates.between(None, view), BlocksRecord("slurm", 0.0, [block(0)], {"n7": "x"})
    )
    json.dumps(found)
    (first,) = found["blocks"]
    assert (first["job_id"], first["tasks"], first["seconds_left"]) == ("410", 6, 400.0)
    assert found["left_out"] == {"n7": "x"}
    assert document(RECORD, view, Rates.between(None, view))["blocks"] == []
