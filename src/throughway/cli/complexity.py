"""Cyclomatic complexity of Python functions: what the demonstration computes.

The complexity of a function is McCabe's: the number of linearly independent paths through it, which is 1 plus
the number of decisions in its body. Decisions are:

- each ``if`` and ``elif``, each conditional expression (``a if b else c``);
- each ``for``, ``async for`` and ``while``; an ``else`` of a loop decides nothing and counts nothing;
- each ``except`` and ``except*`` clause; ``try``, ``else`` and ``finally`` count nothing;
- each ``and`` and ``or``: an operation on three operands is two decisions;
- in a comprehension, each ``for`` and each ``if``;
- each ``case`` that may fail to match, and each guard of a case: ``case _`` and ``case name`` match always.

``assert``, ``with`` and ``raise`` decide nothing. A function's decorators, defaults and annotations are
computed where it is defined, and so count there. A nested function counts for itself and not for the function
around it; lambdas, comprehensions and the bodies of nested classes, which are no functions with a name, count
for the function around them. Code outside functions counts for none.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterable
from typing import NamedTuple


class FunctionReport(NamedTuple):
    """One function: its qualified name, the line of its ``def``, its complexity."""

    name: str
    line: int
    complexity: int


class FileReport(NamedTuple):
    """One source file. ``functions`` are in order of their lines; ``fault`` is why it could not be parsed."""

    module: str
    lines: int
    classes: int
    functions: tuple[FunctionReport, ...]
    fault: str = ""

    @property
    def most_complex(self) -> FunctionReport | None:
        """The function of the highest complexity, the first of several; None where there is no function."""
        return max(self.functions, key=lambda function: function.complexity, default=None)


_LEFT_OUT = ("site-packages", "dist-packages", "__pycache__")


def source_files(folder: str) -> list[str]:
    """The paths of the Python source files below ``folder``, relative to it and sorted.

    Packages that were installed beside the standard library (``site-packages``) are left out.
    """
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        sources = (name for name in names if name.endswith(".py"))
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in sources]
    return sorted(found)


def module_name(path: str) -> str:
    """``"json/decoder.py"`` → ``"json.decoder"``, ``"json/__init__.py"`` → ``"json"``."""
    parts = path.removesuffix(".py").split(os.sep)
    if len(parts) > 1 and parts[-1] == "__init__":
        del parts[-1]
    return ".".join(parts)


def examine_file(folder: str, path: str) -> FileReport:
    """Read and parse one file, ``path`` relative to ``folder``. What is no Python is reported, not raised."""
    module = module_name(path)
    try:
        with open(os.path.join(folder, path), "rb") as file:
            source = file.read()
    except OSError as error:
        return FileReport(module, 0, 0, (), f"cannot be read: {error.strerror}")
    return examine_source(module, source)


def examine_source(module: str, source: bytes) -> FileReport:
    """Parse the source of one module and measure its functions."""
    try:
        with warnings.catch_warnings():
            # What old sources are warned about, such as invalid escape sequences, is no matter here.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return FileReport(module, 0, 0, (), f"{type(error).__name__}: {error}")
    classes, functions = _measure(tree)
    return FileReport(module, len(source.splitlines()), classes, tuple(functions))


def most_complex(reports: Iterable[FileReport], count: int) -> list[tuple[FunctionReport, str]]:
    """The ``count`` most complex functions with their modules, the most complex first, in a fixed order."""
    every = [(function, report.module) for report in reports for function in report.functions]
    every.sort(key=lambda entry: (-entry[0].complexity, entry[1], entry[0].line, entry[0].name))
    return every[:count]


def _measure(tree: ast.Module) -> tuple[int, list[FunctionReport]]:
    """Number of classes, and the functions. No recursion: how deep a tree is, is up to its author."""
    classes = 0
    places: list[tuple[int, str]] = []
    counts: list[int] = []
    nobody = -1
    stack: list[tuple[ast.AST, int, str]] = [(tree, nobody, "")]
    while stack:
        node, owner, scope = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            mine = len(counts)
            places.append((node.lineno, scope + node.name))
            counts.append(1)
            inside = f"{scope}{node.name}.<locals>."
            stack += [(statement, mine, inside) for statement in node.body]
            around: list[ast.AST | None] = [*node.decorator_list, node.args, node.returns]
            around += getattr(node, "type_params", ())
            stack += [(outside, owner, scope) for outside in around if outside is not None]
            continue
        if isinstance(node, ast.ClassDef):
            classes += 1
            scope += f"{node.name}."
        elif owner != nobody:
            counts[owner] += _decisions(node)
        stack += [(child, owner, scope) for child in ast.iter_child_nodes(node)]
    functions = (
        FunctionReport(name, line, count) for (line, name), count in zip(places, counts, strict=True)
    )
    return classes, sorted(functions, key=lambda function: (function.line, function.name))


_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


def _decisions(node: ast.AST) -> int:
    """The decisions of this node alone, without those of the nodes below it."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return (not _always_matches(node.pattern)) + (node.guard is not None)
    return 0


def _always_matches(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchAs):
        return pattern.pattern is None or _always_matches(pattern.pattern)
    if isinstance(pattern, ast.MatchOr):
        return _always_matches(pattern.patterns[-1])
    return False
