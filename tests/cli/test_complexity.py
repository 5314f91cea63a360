from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from throughway.cli.complexity import (
    FileReport,
    FunctionReport,
    examine_file,
    examine_source,
    module_name,
    most_complex,
    source_files,
)


def complexities(source: str) -> dict[str, int]:
    report = examine_source("module", textwrap.dedent(source).encode())
    assert not report.fault
    return {function.name: function.complexity for function in report.functions}


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("return a", 1),
        ("assert a and b", 2),
        ("with a as b: raise c", 1),
        ("if a: pass", 2),
        ("if a: pass\n    else: pass", 2),
        ("if a: pass\n    elif b: pass\n    else: pass", 3),
        ("return a if b else c", 2),
        ("for x in a: pass\n    else: pass", 2),
        ("while a: pass\n    else: pass", 2),
        ("try: pass\n    except A: pass\n    except B: pass\n    else: pass\n    finally: pass", 3),
        ("try: pass\n    except* A: pass", 2),
        ("return a and b", 2),
        ("return a and b and c", 3),
        ("return a and (b or c)", 3),
        ("return not a", 1),
        ("return a < b < c", 1),
        ("return [x for x in a]", 2),
        ("return {x: y for x in a if b if c for y in x}", 5),
        ("return sum(x for x in a if x or b)", 4),
        ("return lambda x: x if a else b", 2),
        ("match a:\n        case 1: pass\n        case 2 | 3: pass\n        case _: pass", 3),
        ("match a:\n        case [x] if x: pass\n        case (1 | _): pass", 3),
        ("match a:\n        case 1 as x: pass\n        case (_ as x): pass", 2),
        ("match a:\n        case x if x: pass", 2),
    ],
)
def test_decisions(body: str, complexity: int) -> None:
    assert complexities(f"def f(a, b, c):\n    {body}\n") == {"f": complexity}


def test_async_loops_count_as_loops() -> None:
    source = """
        async def f(a):
            async for x in a:
                async with x:
                    if x:
                        break
            return [y async for y in a]
    """
    assert complexities(source) == {"f": 4}


def test_a_nested_function_counts_for_itself_and_its_defaults_for_the_function_around_it() -> None:
    source = """
        def outer(a):
            @decorate(a or 1)
            def inner(b=a if a else 2, *, c: int = a and 3) -> (a or None):
                for x in b:
                    if x:
                        pass
            return inner
    """
    assert complexities(source) == {"outer": 5, "outer.<locals>.inner": 3}


def test_methods_have_qualified_names_and_class_bodies_count_for_the_function_around() -> None:
    source = """
        if flag or other:
            pass

        class A(Base if flag else Other):
            x = 1 if flag else 2
            def method(self):
                return self.x or 3
            class B:
                def method(self): pass

        def f():
            class C:
                if flag:
                    y = 1
                def method(self): pass
    """
    report = examine_source("module", textwrap.dedent(source).encode())
    assert report.functions == (
        FunctionReport("A.method", 7, 2),
        FunctionReport("A.B.method", 10, 1),
        FunctionReport("f", 12, 2),
        FunctionReport("f.<locals>.C.method", 16, 1),
    )
    assert report.classes == 3


def test_a_function_without_type_errors_in_a_long_program() -> None:
    # Worked out by hand: 1 + for + if + and + while + except + except + comprehension (for, if) + elif.
    source = """
        def read(paths, limit=None):
            found = []
            for path in paths:
                if path and limit != 0:
                    try:
                        with open(path) as file:
                            while line := file.readline():
                                found.append(line)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        found.append(str(error))
                elif limit is None:
                    break
            return [line for line in found if line]
    """
    assert complexities(source) == {"read": 10}


def test_lines_and_the_most_complex_function_of_a_file() -> None:
    source = b"def f(): pass\r\n\r\ndef g(a):\r\n    return a or 1\r\ndef h(a): return a or 2"
    report = examine_source("module", source)
    assert report.lines == 5
    assert report.most_complex == FunctionReport("g", 3, 2)
    assert examine_source("empty", b"") == FileReport("empty", 0, 0, ())
    assert examine_source("empty", b"").most_complex is None


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (b"print 'no'\n", "SyntaxError"),
        (b"# -*- coding: uft-8 -*-\n", "SyntaxError"),
        (b"x = '\xff'\n", "SyntaxError"),
        (b"x = 1\0\n", "null bytes"),
    ],
)
def test_what_is_no_python_is_reported(source: bytes, fault: str) -> None:
    report = examine_source("bad", source)
    assert fault in report.fault
    assert report == FileReport("bad", 0, 0, (), report.fault)


def test_warnings_of_the_parser_are_kept_quiet() -> None:
    assert examine_source("old", b"x = '\\d' is 1\n").fault == ""


def test_a_deep_tree_is_no_recursion() -> None:
    source = "def f(a):\n    return " + "+".join(["a"] * 900) + "\n"
    assert examine_source("deep", source.encode()).functions == (FunctionReport("f", 1, 1),)


def test_files_are_found_sorted_without_installed_packages(tmp_path: Path) -> None:
    for path in ("b.py", "a/__init__.py", "a/c.py", "a/data.txt", "site-packages/d.py", "a/__pycache__/e.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("def f(): pass\n")
    paths = source_files(str(tmp_path))
    assert paths == [os.path.join("a", "__init__.py"), os.path.join("a", "c.py"), "b.py"]
    assert [module_name(path) for path in paths] == ["a", "a.c", "b"]
    assert examine_file(str(tmp_path), "b.py") == FileReport("b", 1, 0, (FunctionReport("f", 1, 1),))


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert examine_file(str(tmp_path), "gone.py").fault == "cannot be read: No such file or directory"


def test_the_most_complex_are_in_a_fixed_order() -> None:
    reports = [
        FileReport("b", 1, 0, (FunctionReport("f", 1, 3), FunctionReport("g", 5, 7))),
        FileReport("a", 1, 0, (FunctionReport("h", 9, 3), FunctionReport("i", 2, 3))),
    ]
    assert most_complex(reports, 3) == [
        (FunctionReport("g", 5, 7), "b"),
        (FunctionReport("i", 2, 3), "a"),
        (FunctionReport("h", 9, 3), "a"),
    ]
