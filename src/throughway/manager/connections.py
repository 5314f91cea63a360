"""How a manager connects to its interchange, the first time and every time after."""

from __future__ import annotations

import logging
from collections.abc import Callable

from throughway.protocol.configuration import ManagerConfig
from throughway.transport.interface import Wire
from throughway.transport.unix import UnixWire


def connections(config: ManagerConfig, logger: logging.Logger) -> Callable[[], Wire]:
    """A function that makes a connection as the manager's document has it.

    On one machine it connects at once, or raises `TransportError` where nobody listens any more. To another machine,
    the first finds the address that answers, or raises `TransportError`; those after it use the same and go on trying.
    """
    limit = config.max_message_bytes
    if config.socket is not None:
        path = config.socket
        return lambda: UnixWire.connect(path, max_message_bytes=limit)
    # Imported here: a manager beside its interchange has no need of ZeroMQ and of its time to load.
    from throughway.manager.addresses import probe, tcp_url
    from throughway.transport.curve import load_manager_keys
    from throughway.transport.zeromq import ZmqConnector

    assert config.port is not None
    port = config.port
    keys = None if config.certificates is None else load_manager_keys(config.certificates)
    found: list[str] = []

    def connect() -> Wire:
        if not found:
            found.append(probe(config.addresses, port, config.address_probe_timeout)[0])
            logger.info("the interchange answers at %s port %d", found[0], port)
        return ZmqConnector(
            tcp_url(found[0], port),
            keys=None if keys is None else keys.own,
            listener_key=None if keys is None else keys.interchange,
            max_message_bytes=limit,
        )

    return connect
