"""``throughway`` and ``python -m throughway.cli``: what goes wrong becomes a sentence and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

EXTRA = "pip install 'throughway[cli]'"
"""What installs the packages that the command line needs beyond those of the library."""

FAILED = 1
INTERRUPTED = 128 + 2
"""The exit status after Ctrl-C, as shells count it: 128 and the number of the signal."""


def version() -> str:
    """What ``throughway --version`` says: the package, its protocol, the interpreter."""
    from throughway import __version__
    from throughway.protocol.version import PROTOCOL_VERSION, implementation

    return f"throughway {__version__} (protocol {PROTOCOL_VERSION}, {implementation()})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. ``arguments`` are those after the program's name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output is gone. Nothing must be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def _run(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        print(version())
        return 0
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"throughway: the command line needs the package {error.name!r}, which is not installed: {EXTRA}",
            file=sys.stderr,
        )
        return FAILED
    from throughway.cli.app import call
    from throughway.errors import ThroughwayError

    try:
        return call(words)
    except ThroughwayError as error:
        print(f"throughway: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
