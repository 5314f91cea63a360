"""Where a run keeps its logs and sockets.

The run folder holds readable logs and configuration, and stays; the last `KEPT_RUNS` runs are kept. The runtime folder
holds the Unix socket, must have a short path, and goes with the run. ``run.json`` in the run folder says which process
owns the run, so that `throughway status` finds it and leftovers of dead runs are told from live ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import time
from pathlib import Path

import msgspec

from throughway.errors import ConfigurationError
from throughway.processes import process_started
from throughway.protocol.identifiers import RunId
from throughway.protocol.version import python_version

logger = logging.getLogger("throughway.executor")

KEPT_RUNS = 20
"""Run folders of ended runs that are kept, the newest."""

SOCKET_NAME = "interchange.sock"

MAX_SOCKET_PATH_BYTES = 107
"""What Linux takes as the path of a Unix socket."""


class RunRecord(msgspec.Struct):
    """What ``run.json`` says; ``started`` is in seconds since the epoch."""

    run: str
    label: str
    pid: int
    process_started: float
    started: float
    socket: str
    folder: str
    python: str
    host: str = ""
    ended: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process that owns the run is there, on this host."""
        return self.ended is None and self.known and process_started(self.pid) == self.process_started

    @property
    def known(self) -> bool:
        """Whether the run is one of this host: the processes of others cannot be seen from here."""
        return self.host == socket.gethostname()


def runs_folder(run_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the run folders: ``run_dir``, or the user's state folder."""
    if run_dir is not None:
        return Path(run_dir).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "throughway" / "runs"


class RunFolder:
    """The folders of one run."""

    def __init__(self, run: RunId, label: str, run_dir: str | os.PathLike[str] | None) -> None:
        parent = runs_folder(run_dir)
        self.run = run
        self.path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{run}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            prune(parent)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"run_dir={os.fspath(parent)!r}: cannot make {self.path}: {error.strerror}: "
                "give a run_dir that is writable"
            ) from error
        try:
            self.runtime = _runtime_folder(run)
        except BaseException:
            self.path.rmdir()
            raise
        self.socket = str(self.runtime / SOCKET_NAME)
        self._record = RunRecord(
            run=str(run),
            label=label,
            pid=os.getpid(),
            process_started=process_started(os.getpid()) or 0.0,
            started=time.time(),
            socket=self.socket,
            folder=str(self.path),
            python=python_version(),
            host=socket.gethostname(),
        )
        try:
            self._write()
        except OSError as error:
            remove_runtime_folder(self.runtime)
            _remove(self.path)
            raise ConfigurationError(
                f"run_dir={os.fspath(parent)!r}: cannot write in {self.path}: {error.strerror}: "
                "make room there, or give another run_dir"
            ) from error

    def _write(self) -> None:
        temporary = self.path / "run.json.new"
        temporary.write_bytes(msgspec.json.encode(self._record))
        temporary.replace(self.path / "run.json")

    def end(self) -> None:
        """The run is over: its runtime folder goes."""
        self._record.ended = time.time()
        try:
            self._write()
        except OSError as error:
            # The run is over all the same; who looks at its record sees that its process is gone.
            logger.warning("cannot write that the run has ended into %s: %s", self.path, error.strerror)
        finally:
            remove_runtime_folder(self.runtime)


def _runtime_folder(run: RunId) -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    candidates = [Path(base) / "throughway"] if base and os.access(base, os.W_OK) else []
    temporary = (os.environ.get("TMPDIR") or "/tmp", "/tmp")  # noqa: S108 - the folder in it is private
    candidates += [Path(folder) / f"throughway-{os.getuid()}" for folder in temporary]
    # Unix sockets have short paths, where batch systems like to give long folders.
    fitting = (
        folder
        for folder in candidates
        if len(os.fsencode(folder / str(run) / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES
    )
    parent = next(fitting, candidates[0])
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = parent.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the runtime folder {parent}: {error.strerror}: "
            "set XDG_RUNTIME_DIR or TMPDIR to a folder of this user"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigurationError(
            f"the runtime folder {parent} must belong to this user alone (mode 0700): remove it, or set XDG_RUNTIME_DIR"
        )
    path = parent / str(run)
    path.mkdir(mode=0o700)
    return path


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run folder, None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=RunRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def list_runs(run_dir: str | os.PathLike[str] | None = None) -> list[RunRecord]:
    """All runs of a runs folder, the newest first."""
    parent = runs_folder(run_dir)
    try:
        folders = sorted((entry for entry in parent.iterdir() if entry.is_dir()), reverse=True)
    except OSError:
        return []
    return [record for record in map(read_record, folders) if record is not None]


def prune(parent: Path) -> None:
    """Remove what ended runs left: runtime folders at once, run folders beyond the newest `KEPT_RUNS`."""
    ended = 0
    for folder in sorted((entry for entry in parent.iterdir() if entry.is_dir()), reverse=True):
        record = read_record(folder)
        if record is None or record.alive or (record.ended is None and not record.known):
            continue
        ended += 1
        if record.ended is None:
            remove_runtime_folder(Path(record.socket).parent)
        if ended >= KEPT_RUNS:
            _remove(folder)


def remove_runtime_folder(folder: Path) -> None:
    """Remove a run's runtime folder, which holds only its socket; what is gone already is no error.

    Without `shutil`: to import it after an unhandled Ctrl-C, as late as this is called, makes the interpreter forget
    that it is to end by that signal.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            os.unlink(folder / entry)
        os.rmdir(folder)


def _remove(folder: Path) -> None:
    # Imported here: few starts have anything to remove.
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
