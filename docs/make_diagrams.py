"""Writes what the documentation takes from the code: state diagrams, message tables and constants.

A page has blocks ``<!-- begin generated: KIND NAME -->`` to ``<!-- end generated -->``; what stands between them is
replaced. The kinds:

- ``lifecycle NAME``: a state diagram and the meanings of states and events, from `throughway.scheduling.lifecycles`
- ``union NAME``: every message of a union, from its class
- ``structs NAME ...``: other structs of the protocol
- ``enum NAME``: an enumeration of the protocol
- ``constants NAME ...``: constants, from their modules

Usage: ``python docs/make_diagrams.py`` writes; ``--check`` writes nothing and fails where a page is stale.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from throughway.protocol import bundles, messages, version, views
from throughway.scheduling import lifecycles
from throughway.transport import framing, interface

PAGES = [Path(__file__).parent / "protocol.md"]
BLOCK = re.compile(r"(<!-- begin generated: (?P<block>[^>]+?) -->\n).*?(<!-- end generated -->)", re.DOTALL)

MODULES = (messages, bundles, views)
CONSTANTS: dict[str, ModuleType] = {
    "PROTOCOL_VERSION": version,
    "MAX_FRAMES": interface,
    "MAX_MESSAGE_BYTES": interface,
    "DIRECT_BYTES": framing,
}


class StalePage(Exception):
    """A page does not say what the code says."""


# ------------------------------------------------------------------------------------------------- lifecycles


def lifecycle_block(name: str) -> str:
    """The mermaid diagram of a lifecycle, and the meanings of its states and events."""
    (lifecycle,) = [one for one in lifecycles.LIFECYCLES if one.name == name]
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", f"    [*] --> {lifecycle.initial.name}"]
    for state, following in lifecycle.table.items():
        targets: dict[Enum, list[str]] = {}
        for event, target in following.items():
            targets.setdefault(target, []).append(_words(event))
        lines += [
            f"    {state.name} --> {target.name}: {', '.join(names)}" for target, names in targets.items()
        ]
    lines += [f"    {state.name} --> [*]" for state in lifecycle.states() if state in lifecycle.ends]
    lines += ["```", ""]
    lines += _table(
        ("state", "the " + lifecycle.name), [(f"`{s.name}`", s.value) for s in lifecycle.states()]
    )
    kinds = {type(event) for _, event, _ in lifecycle.transitions()}
    events = [(_words(event), event.value) for kind in kinds for event in kind]
    lines += ["", *_table(("event", "what happens"), events)]
    return "\n".join(lines)


def _words(event: Enum) -> str:
    return event.name.lower().replace("_", " ")


# --------------------------------------------------------------------------------------------------- messages


def union_block(name: str, described: set[str]) -> str:
    """Every message of a union: what it is for, and its fields. One that goes both ways is described once."""
    parts = []
    for kind in typing.get_args(_named(name)):
        parts.append(f"**`{kind.__name__}`**: as above." if kind.__name__ in described else _struct(kind))
        described.add(kind.__name__)
    return "\n\n".join(parts)


def structs_block(*names: str) -> str:
    """These structs, as the messages of a union."""
    return "\n\n".join(_struct(_named(name)) for name in names)


def enum_block(name: str) -> str:
    """An enumeration's values and what they mean."""
    kind = _named(name)
    notes = _notes(kind)
    rows = [(str(int(member)), f"`{member.name}`", notes.get(member.name, "")) for member in kind]
    return "\n".join(_table(("value", "name", "meaning"), rows))


def constants_block(*names: str) -> str:
    """Constants with their values and docstrings."""
    rows = []
    for name in names:
        module = CONSTANTS[name]
        note = _body_notes(ast.parse(inspect.getsource(module)).body).get(name, "")
        rows.append((f"`{name}`", f"{getattr(module, name):,}", note))
    return "\n".join(_table(("constant", "value", "meaning"), rows))


def _named(name: str) -> Any:
    for module in MODULES:
        if hasattr(module, name):
            return getattr(module, name)
    raise StalePage(f"the protocol has no {name}: name something else in the page")


def _struct(kind: type[msgspec.Struct]) -> str:
    config = kind.__struct_config__
    form = "array" if config.array_like else "map"
    tag = "" if config.tag is None else f", tag `{config.tag!r}`"
    lines = [f"**`{kind.__name__}`** ({form}{tag}). {_text(inspect.getdoc(kind) or '')}"]
    annotations = _annotations(kind)
    notes = _notes(kind)
    rows = [
        (f"`{field.name}`", f"`{annotations[field.name]}`", _default(field), notes.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
    ]
    if rows:
        lines += ["", *_table(("field", "type", "default", ""), rows)]
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()!r}`"
    return ""


def _definition(kind: type) -> ast.ClassDef:
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return definition


def _annotations(kind: type) -> dict[str, str]:
    """Field → its type as it is written."""
    return {
        part.target.id: ast.unparse(part.annotation)
        for part in _definition(kind).body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def _notes(kind: type) -> dict[str, str]:
    """Field or member → the docstring below it."""
    return _body_notes(_definition(kind).body)


def _body_notes(body: Sequence[ast.stmt]) -> dict[str, str]:
    notes = {}
    for part, following in itertools.pairwise(body):
        target: ast.expr | None = None
        if isinstance(part, ast.AnnAssign):
            target = part.target
        elif isinstance(part, ast.Assign):
            target = part.targets[0]
        match following:
            case ast.Expr(value=ast.Constant(value=str(note))) if isinstance(target, ast.Name):
                notes[target.id] = _text(note)
    return notes


def _text(docstring: str) -> str:
    """A docstring as a paragraph of Markdown."""
    return " ".join(docstring.replace("``", "`").split())


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


# ------------------------------------------------------------------------------------------------------ pages

KINDS: dict[str, Callable[..., str]] = {
    "lifecycle": lifecycle_block,
    "structs": structs_block,
    "enum": enum_block,
    "constants": constants_block,
}

REQUIRED = [
    *[f"lifecycle {lifecycle.name}" for lifecycle in lifecycles.LIFECYCLES],
    *[
        f"union {name}"
        for name in ("FromExecutor", "ToExecutor", "FromManager", "ToManager", "Hello", "Greeting")
    ],
]
"""Blocks that must stand in one of the pages, so that nothing is left out when the protocol grows."""


def render(text: str) -> str:
    """The page with its blocks as they should be.

    Raises:
        StalePage: it names something that there is not.
    """
    described: set[str] = set()
    kinds = {**KINDS, "union": lambda name: union_block(name, described)}

    def block(match: re.Match[str]) -> str:
        kind, *names = match["block"].split()
        if kind not in kinds:
            raise StalePage(f"there is no kind of block {kind!r}: choose among {', '.join(kinds)}")
        return f"{match[1]}{kinds[kind](*names)}\n{match[3]}"

    return BLOCK.sub(block, text)


def check(pages: Sequence[Path]) -> list[str]:
    """What is stale or missing in these pages; nothing where all is well."""
    faults = []
    blocks: set[str] = set()
    for page in pages:
        text = page.read_text()
        found = [match["block"] for match in BLOCK.finditer(text)]
        blocks.update(found)
        if text.count("<!-- begin generated") != len(found) or text.count("<!-- end generated") != len(found):
            faults.append(f"{page}: a block has no end")
        elif render(text) != text:
            faults.append(f"{page}: stale; run python docs/make_diagrams.py")
    return faults + [f"no page has the block {block!r}" for block in REQUIRED if block not in blocks]


def main(arguments: list[str], pages: Sequence[Path] = tuple(PAGES)) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make_diagrams.py [--check]", file=sys.stderr)
        return 2
    try:
        if not arguments:
            for page in pages:
                page.write_text(render(page.read_text()))
        faults = check(pages)
    except StalePage as error:
        faults = [str(error)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
