"""``python -m throughway.manager CONFIGURATION``: started by a provider's job, with the path of its document."""

from __future__ import annotations

import socket
import sys

from throughway.errors import ThroughwayError
from throughway.manager.shell import serve
from throughway.worker.zygote import Zygote


def _run_zygote(control: socket.socket) -> None:
    Zygote(control).run()


def main(arguments: list[str]) -> int:
    """Run the manager that the only argument, a path, configures."""
    if len(arguments) != 1:
        print("usage: python -m throughway.manager CONFIGURATION.json", file=sys.stderr)
        return 2
    try:
        return serve(arguments[0], _run_zygote)
    except ThroughwayError as error:
        print(f"throughway manager: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
