"""``python -m throughway.manager.obituary CONFIGURATION MANAGER [REASON]``: tells the interchange of a manager's end.

Its standard input is the manager's notes of what it had given to workers. Started by the manager's zygote, which sees
at once what the interchange, on another machine, would only conclude from silence.
"""

from __future__ import annotations

import logging
import sys
import time

from throughway.errors import ThroughwayError
from throughway.manager.connections import connections
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.configuration import ManagerConfig, read_configuration
from throughway.protocol.version import PROTOCOL_VERSION
from throughway.transport.assignments import GIVEN, read_notes
from throughway.transport.interface import Closed, Opened, Wire
from throughway.transport.poller import Poller

SECONDS = 30.0
"""How long to try. After that the manager's silence says the same."""

DIED = "its process died, as the zygote on its node tells"
"""Why, where the manager itself could not say."""


def given_tasks(descriptor: int) -> list[int] | None:
    """What the manager had noted there as given to workers, None where there are no notes."""
    try:
        return read_notes(descriptor).get(GIVEN, [])
    except (OSError, LookupError, ValueError):
        return None


def tell(wire: Wire, manager: str, reason: str, given: list[int] | None, seconds: float) -> bool:
    """Say over a wire that a manager is gone; whether it was heard, as the interchange shows by hanging up."""
    poller = Poller()
    wire.register(poller)
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            poller.wait(0.0 if wire.pending() else left)
            for event in wire.receive():
                if isinstance(event, Opened):
                    died = m.ManagerDied(PROTOCOL_VERSION, manager, reason, given)
                    wire.send(event.peer, [codec.encode(died)])
                elif isinstance(event, Closed):
                    return True
        return False
    finally:
        wire.close()
        poller.close()


def main(arguments: list[str]) -> int:
    """Tell it, for the manager and by the document that are named."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: python -m throughway.manager.obituary CONFIGURATION.json MANAGER [REASON]\n")
        return 2
    document, manager, *reasons = arguments
    reason = reasons[0] if reasons else DIED
    try:
        connect = connections(
            read_configuration(document, ManagerConfig), logging.getLogger("throughway.manager")
        )
        heard = tell(connect(), manager, reason, given_tasks(0), SECONDS)
    except ThroughwayError as error:
        sys.stderr.write(f"throughway: cannot tell that manager {manager} is dead: {error}\n")
        return 1
    return 0 if heard else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
