"""``python -m throughway.interchange CONFIGURATION``: started by an executor, with the path of its document."""

from __future__ import annotations

import sys

from throughway.errors import ThroughwayError
from throughway.interchange.shell import serve
from throughway.protocol.configuration import InterchangeConfig, read_configuration


def main(arguments: list[str]) -> int:
    """Run the interchange that the only argument, a path, configures."""
    if len(arguments) != 1:
        print("usage: python -m throughway.interchange CONFIGURATION.json", file=sys.stderr)
        return 2
    try:
        return serve(read_configuration(arguments[0], InterchangeConfig))
    except ThroughwayError as error:
        print(f"throughway interchange: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
