"""Logs of the daemons: readable lines in one file a process, with the moment, the level and the process id."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

MAX_LOG_BYTES = 16 << 20
"""A log is rotated at this size, and one old part is kept."""

MAX_WAITING_RECORDS = 10_000
"""Lines that may wait for a slow disk; further ones are counted and left out."""

LAST_SECONDS = 1.0
"""How long the last lines may take at a process's end."""


def open_log(path: Path, name: str, *, debug: bool = False) -> logging.Logger:
    """The logger ``throughway.<name>`` of a daemon, writing to ``path``."""
    # Imported here: it brings sockets and pickle, which those who only name a logger do not need.
    from logging.handlers import RotatingFileHandler

    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logger = logging.getLogger(f"throughway.{name}")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    return logger


class BackgroundLog(logging.Handler):
    """Writes a logger's lines in a thread of its own, so that a disk that hangs does not stop the process.

    To be made once the process has forked what it forks: a thread does not survive that.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger
        self._targets = list(logger.handlers)
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING_RECORDS)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="throughway: log", daemon=True)
        self._thread.start()
        logger.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a line for the thread; never waits."""
        try:
            # What the arguments show may change before the line is written.
            record.msg, record.args = record.getMessage(), None
            self._waiting.put_nowait(record)
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Write what waits, for `LAST_SECONDS` at most; the logger then writes by itself again."""
        try:
            self._waiting.put(None, timeout=LAST_SECONDS)
            self._thread.join(LAST_SECONDS)
        except queue.Full:
            pass  # the disk hangs: the process ends without its last lines
        if not self._thread.is_alive():
            self._logger.handlers[:] = self._targets
        super().close()

    def _run(self) -> None:
        while (record := self._waiting.get()) is not None:
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                text = f"{left_out} lines before this one are missing: the disk was too slow"
                self._write(
                    logging.makeLogRecord({"msg": text, "levelno": logging.WARNING, "levelname": "WARNING"})
                )
            self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            target.handle(record)
