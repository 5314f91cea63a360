"""Notebooks: functions that cells define and redefine in a ``__main__`` that no file stands for."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from throughway import HighThroughputExecutor


class Notebook:
    """Cells that are executed one after the other in one namespace, as IPython does it."""

    def __init__(self, module: types.ModuleType) -> None:
        self.names: dict[str, Any] = module.__dict__
        self._count = 0

    def cell(self, text: str) -> None:
        self._count += 1
        exec(compile(text, f"<ipython-input-{self._count}>", "exec"), self.names)

    def value(self, expression: str) -> Any:
        return eval(expression, self.names)


@pytest.fixture
def notebook(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    book = Notebook(main)
    book.names["executor"] = executor
    return book


def test_a_function_of_a_cell(notebook: Notebook) -> None:
    notebook.cell("import math\nOFFSET = 1\ndef area(r):\n    return math.floor(math.pi * r ** 2) + OFFSET")
    notebook.cell("future = executor.submit(area, 10)")
    assert notebook.value("future.result(timeout=20)") == 315
    assert notebook.value("list(executor.map(area, range(3)))") == [1, 4, 13]


def test_a_cell_that_is_edited_and_run_again(notebook: Notebook) -> None:
    notebook.cell("def step(value):\n    return value + 1")
    notebook.cell("first = executor.submit(step, 1)")
    notebook.cell("def step(value):\n    return value * 100")
    notebook.cell("second = executor.submit(step, 1)")
    assert notebook.value("(first.result(timeout=20), second.result(timeout=20))") == (2, 100)


def test_a_helper_that_is_redefined(notebook: Notebook) -> None:
    notebook.cell("def helper(value):\n    return value + 1\ndef step(value):\n    return helper(value)")
    notebook.cell("first = executor.submit(step, 1)")
    notebook.cell("def helper(value):\n    return value - 1")
    notebook.cell("second = executor.submit(step, 1)")
    assert notebook.value("(first.result(timeout=20), second.result(timeout=20))") == (2, 0)


def test_a_global_between_two_submits(notebook: Notebook) -> None:
    notebook.cell(
        "scale = 2\nsettings = {'shift': 1}\ndef step(value):\n    return value * scale + settings['shift']"
    )
    notebook.cell("first = executor.submit(step, 10)")
    notebook.cell("scale = 3")
    notebook.cell("second = executor.submit(step, 10)")
    notebook.cell("settings['shift'] = 5")
    notebook.cell("third = executor.submit(step, 10)")
    assert notebook.value("[future.result(timeout=20) for future in (first, second, third)]") == [21, 31, 35]


def test_a_class_of_a_cell(notebook: Notebook) -> None:
    notebook.cell(
        "class Point:\n    def __init__(self, x):\n        self.x = x\n"
        "    def moved(self, by):\n        return Point(self.x + by)"
    )
    notebook.cell("first = executor.submit(Point(1).moved, 2).result(timeout=20)")
    assert notebook.value("(first.x, isinstance(first, Point))") == (3, True)
    notebook.cell("class Point(Point):\n    def moved(self, by):\n        return Point(self.x - by)")
    assert notebook.value("executor.submit(Point(1).moved, 2).result(timeout=20).x") == -1


def test_an_exception_of_a_cell(notebook: Notebook) -> None:
    notebook.cell("class Trouble(Exception):\n    pass\ndef fail():\n    raise Trouble('in the cell', 5)")
    notebook.cell("error = executor.submit(fail).exception(timeout=20)")
    assert notebook.value("(type(error) is Trouble, error.args)") == (True, ("in the cell", 5))


def test_a_recursive_function(notebook: Notebook) -> None:
    notebook.cell("def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)")
    assert notebook.value("executor.submit(factorial, 10).result(timeout=20)") == 3628800


def test_lambdas_and_comprehensions(notebook: Notebook) -> None:
    notebook.cell(
        "base = 7\nfutures = [executor.submit(lambda value: value + base, index) for index in range(5)]"
    )
    assert notebook.value("[future.result(timeout=20) for future in futures]") == [7, 8, 9, 10, 11]


def test_what_a_cell_keeps_is_not_sent_unless_it_is_used(notebook: Notebook) -> None:
    """A lock and the executor itself are in the namespace, and could not travel."""
    notebook.cell("import threading\nlock = threading.Lock()\ndef plain(value):\n    return value + 1")
    assert notebook.value("executor.submit(plain, 1).result(timeout=20)") == 2


def test_what_cannot_travel_is_named(notebook: Notebook) -> None:
    notebook.cell(
        "import threading\nguard = threading.Lock()\ndef guarded(value):\n    with guard:\n        return value"
    )
    notebook.cell("error = executor.submit(guarded, 1).exception(timeout=20)")
    text = notebook.value("str(error)")
    assert "guard" in text
    assert "lock" in text
