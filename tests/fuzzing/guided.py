"""A program that fuzzes one target by coverage: ``python -m tests.fuzzing.guided TARGET [options of libFuzzer]``.

An input that raises is written to a file ``crash-...`` in the working directory; the same command with that file as
its option runs it again.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["throughway"]):
    from tests.fuzzing.maker import Bytes
    from tests.fuzzing.targets import REACTORS, STREAMS


def main(words: list[str]) -> None:
    """Fuzz until the options say that it is enough; ends the process."""
    name = words[1]
    if name in STREAMS:
        target = STREAMS[name]
    else:
        reactor = REACTORS[name]

        def target(data: bytes) -> None:
            reactor(Bytes(data))

    atheris.Setup([words[0], *words[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
