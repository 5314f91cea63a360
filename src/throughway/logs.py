"""Logs of the daemons: readable lines in one file a process, with the moment, the level and the process id."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

MAX_LOG_BYTES = 16 << 20
"""A log is rotated at this size, and one old part is kept."""


def open_log(path: Path, name: str, *, debug: bool = False) -> logging.Logger:
    """The logger ``throughway.<name>`` of a daemon, writing to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8"
    )
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logger = logging.getLogger(f"throughway.{name}")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    return logger
