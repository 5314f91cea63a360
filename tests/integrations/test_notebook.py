"""Notebooks on a real kernel: cells that are run again, interrupted, and that show how far they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.libraries import need

need("jupyter_client", "ipykernel")

from tests.integrations.notebook import Notebook, notebook

pytestmark = [
    pytest.mark.leaks_allowed("the clients of Jupyter keep sockets and threads until they are collected"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    runs = tmp_path_factory.mktemp("runs")
    with notebook() as running:
        begun = running.run(
            "from throughway import HighThroughputExecutor\n"
            f"executor = HighThroughputExecutor(max_workers_per_node=2, run_dir={str(runs)!r})\n"
            "executor.submit(pow, 2, 10).result()"
        )
        assert (begun.error, begun.text) == ("", "1024")
        yield running
        assert running.run("executor.shutdown()").error == ""


def test_a_function_of_a_cell_that_is_edited_and_run_again(book: Notebook) -> None:
    book.run("import math\noffset = 1\ndef helper(x):\n    return math.floor(x) + offset")
    book.run("def step(x):\n    return helper(x) * 10")
    assert book.run("list(executor.map(step, [1.5, 2.5]))").text == "[20, 30]"
    book.run("offset = 5")
    assert book.run("list(executor.map(step, [1.5, 2.5]))").text == "[60, 70]"
    book.run("def helper(x):\n    return -x")
    assert book.run("list(executor.map(step, [1.5, 2.5]))").text == "[-15.0, -25.0]"
    book.run("def step(x):\n    return 'new'")
    assert book.run("list(executor.map(step, [1.5]))").text == "['new']"


def test_a_class_of_a_cell(book: Notebook) -> None:
    book.run(
        "class Point:\n    def __init__(self, x):\n        self.x = x\ndef moved(point):\n    return Point(point.x + 1)"
    )
    assert book.run(
        "point = executor.submit(moved, Point(1)).result()\nisinstance(point, Point), point.x"
    ).text == ("(True, 2)")
    book.run("class Point:\n    def __init__(self, x):\n        self.x = x * 100")
    assert book.run("executor.submit(moved, Point(1)).result().x").text == "10100"


def test_an_error_shows_the_workers_traceback(book: Notebook) -> None:
    book.run("def broken(x):\n    return 1 / x")
    cell = book.run("executor.submit(broken, 0).result()")
    assert "ZeroDivisionError" in cell.error
    assert "in broken" in cell.error


@pytest.mark.parametrize(
    "waiting",
    [
        "executor.submit(forever).result()",
        "list(executor.map(forever_with, range(1000)))",
        "list(executor.map(forever_with, range(1000), progress=True))",
        (
            "with __import__('throughway').integrations.pool.Pool(executor=executor) as pool:\n"
            "    pool.map(forever_with, range(10))"
        ),
    ],
    ids=["result", "map", "progress", "pool"],
)
def test_after_an_interrupt_the_executor_goes_on(book: Notebook, waiting: str) -> None:
    book.run("import time\ndef forever():\n    time.sleep(1000)\ndef forever_with(x):\n    time.sleep(1000)")
    cell = book.run(
        "import throughway.integrations.pool\nprint('begun', flush=True)\n" + waiting, book.interrupt
    )
    assert "KeyboardInterrupt" in cell.error
    assert "Exception ignored" not in cell.text
    # What waits is cancelled, but for one that may just have been submitted. What runs goes on unless it is killed.
    assert book.run("while executor.outstanding > 3:\n    time.sleep(0.01)").error == ""
    book.run(
        "for future in list(executor._futures.values()):\n    executor.kill(future)\n"
        "while executor.outstanding:\n    time.sleep(0.01)"
    )
    assert book.run("sum(executor.map(abs, range(-100, 0)))").text == "5050"


def test_progress_below_the_cell(book: Notebook) -> None:
    book.run("def nap(x):\n    time.sleep(0.01)\n    return x\nimport time")
    cell = book.run("total = sum(executor.map(nap, range(100), progress='naps <b>'))")
    assert cell.error == ""
    assert cell.text == ""  # nothing is printed besides
    assert len(cell.shown) == 1, cell.shown
    (shown,) = cell.shown.values()
    assert shown["text/plain"].startswith("naps <b>: 100 of 100 (100%)")
    assert '<progress value="100" max="100">' in shown["text/html"]
    assert "naps &lt;b&gt;: 100 of 100" in shown["text/html"]
    assert cell.updates >= 1


def test_asyncio_in_a_cell(book: Notebook) -> None:
    cell = book.run(
        "import asyncio\nfrom throughway.integrations.aio import AsyncExecutor\n"
        "async with AsyncExecutor(executor) as ex:\n"
        "    found = [value async for value in ex.map(abs, range(-5, 0))]\nfound"
    )
    assert (cell.error, cell.text) == ("", "[5, 4, 3, 2, 1]")


def test_the_example(tmp_path: Path) -> None:
    need("nbclient", "nbformat")
    import nbclient
    import nbformat

    path = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=50, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = str(book.cells)
    assert "seconds" in text
    assert "ProcessPoolExecutor" in text
