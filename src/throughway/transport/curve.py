"""CurveZMQ keys of a run, the files that carry them to other nodes, and the gate that lets known keys in.

A run has two key pairs: the interchange's and the managers'. They lie in two files of one folder on a file system that
the nodes share, readable by their owner only. The interchange is told by its own file whom it is, and by an allow-list
in memory who may connect; a manager's file holds its pair and the interchange's public key. Secrets are never part of
a command line, an environment variable, a log or a ``repr``.
"""

from __future__ import annotations

import os
import selectors
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from throughway.errors import TransportError

INTERCHANGE_FILE = "interchange.key"
MANAGER_FILE = "manager.key"

ZAP_DOMAIN = b"throughway"

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_FRAMES = 7
"""version, request id, domain, address, routing id, mechanism, and the one credential of CURVE"""
_KEY_CHARACTERS = 40
_MAX_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """A CurveZMQ key pair, each key as 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> CurveKeys:
        """A fresh pair."""
        public, secret = zmq.curve_keypair()
        return cls(public, secret)


@dataclass(frozen=True, slots=True)
class ManagerKeys:
    """What a manager needs to connect: its own pair and the interchange's public key."""

    own: CurveKeys
    interchange: bytes


@dataclass(frozen=True, slots=True)
class Certificates:
    """The keys of a run, as `create_certificates` made them."""

    folder: str
    interchange: CurveKeys
    manager: CurveKeys


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    public: str
    secret: str
    interchange: str = ""


def create_certificates(folder: str | os.PathLike[str]) -> Certificates:
    """Make the keys of a run and write them into ``folder``: `INTERCHANGE_FILE` and `MANAGER_FILE`, each of mode 0600.

    The folder is made with mode 0700 where it does not exist (its parent must).

    Raises:
        TransportError: the folder belongs to somebody else, its group or others may enter it, it holds keys already,
            or it cannot be written to.
    """
    path = os.fspath(folder)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise TransportError(f"cannot make the key folder {path}: {error.strerror}") from error
    _check_private(path, _status(path), kind="key folder", remedy=f"chmod 700 {path}", folder=True)
    certificates = Certificates(path, CurveKeys.generate(), CurveKeys.generate())
    _write(path, INTERCHANGE_FILE, _record("interchange", certificates.interchange))
    _write(path, MANAGER_FILE, _record("manager", certificates.manager, certificates.interchange.public))
    return certificates


def load_interchange_keys(folder: str | os.PathLike[str]) -> CurveKeys:
    """The interchange's pair.

    Raises:
        TransportError: the file is missing, not private, or not a key file.
    """
    return _pair(*_load(folder, INTERCHANGE_FILE, "interchange"))


def load_manager_keys(folder: str | os.PathLike[str]) -> ManagerKeys:
    """A manager's pair and the interchange's public key; also what an executor takes the allow-list from.

    Raises:
        TransportError: the file is missing, not private, or not a key file.
    """
    path, record = _load(folder, MANAGER_FILE, "manager")
    return ManagerKeys(_pair(path, record), _key(path, "interchange", record.interchange))


def check_key(key: bytes, what: str) -> bytes:
    """``key``, if it is 40 characters of Z85 that hold 32 bytes.

    Raises:
        TransportError: it is not; the message says ``what`` it was to be, and not what it is.
    """
    try:
        if len(key) == _KEY_CHARACTERS and len(z85.decode(key)) == 32:
            return key
    except Exception as error:
        raise TransportError(f"{what} is not a CurveZMQ key ({_KEY_CHARACTERS} characters of Z85)") from error
    raise TransportError(f"{what} is not a CurveZMQ key ({_KEY_CHARACTERS} characters of Z85)")


class Gate:
    """Answers libzmq's question (ZAP) whether a client may connect: its public key must be on the allow-list.

    Serves from the owner's selector, with no thread: a handshake waits until the owner turns to its selector. One
    gate serves all sockets of a context, and must be there before the first of them is bound. Any mechanism but CURVE
    is refused. Revoking a key refuses new connections with it; those that stand go on.
    """

    def __init__(self, context: zmq.Context[Any], allowed: Mapping[bytes, str]) -> None:
        self._names: dict[bytes, bytes] = {}
        for public, name in allowed.items():
            self.allow(public, name)
        self.refused = 0
        """handshakes refused"""
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ZAP_ENDPOINT)
        self.descriptor = int(self._socket.getsockopt(zmq.FD))

    def allow(self, public: bytes, name: str) -> None:
        """Let clients in that hold the secret to ``public``; ``name`` is what logs call them."""
        self._names[z85.decode(check_key(public, "the key to allow"))] = name.encode()

    def revoke(self, public: bytes) -> None:
        """Let no further client in with this key. Unknown keys are no error."""
        self._names.pop(z85.decode(check_key(public, "the key to revoke")), None)

    def ready(self, mask: int = selectors.EVENT_READ) -> None:
        """Answer every question that waits."""
        while not self._socket.closed:
            try:
                question = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._answer(question), zmq.NOBLOCK)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close(0)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        request = question[1] if len(question) > 1 else b""
        name = None
        if len(question) == _ZAP_FRAMES:
            version, _, domain, _, _, mechanism, key = question
            if version == _ZAP_VERSION and domain == ZAP_DOMAIN and mechanism == b"CURVE":
                name = self._names.get(key)
        if name is None:
            self.refused += 1
            return [_ZAP_VERSION, request, b"400", b"this key is not on the allow-list", b"", b""]
        return [_ZAP_VERSION, request, b"200", b"OK", name, b""]


# -------------------------------------------------------------------------------------------------------- key files


def _record(role: str, keys: CurveKeys, interchange: bytes = b"") -> bytes:
    return msgspec.json.encode(
        _KeyFile(role, keys.public.decode(), keys.secret.decode(), interchange.decode())
    )


def _write(folder: str, name: str, content: bytes) -> None:
    path = os.path.join(folder, name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            # The umask may have taken the owner's own rights away.
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise TransportError(
            f"{path} is there already: a run makes its keys in a folder of its own"
        ) from None
    except OSError as error:
        raise TransportError(f"cannot write the key file {path}: {error.strerror}") from error


def _load(folder: str | os.PathLike[str], name: str, role: str) -> tuple[str, _KeyFile]:
    path = os.path.join(os.fspath(folder), name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TransportError(
            f"there is no key file {path}: it must lie on a file system that this node shares with the executor"
        ) from None
    except OSError as error:
        raise TransportError(f"cannot read the key file {path}: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        _check_private(path, os.fstat(descriptor), kind="key file", remedy=f"chmod 600 {path}", folder=False)
        content = file.read(_MAX_FILE_BYTES)
    try:
        record = msgspec.json.decode(content, type=_KeyFile)
    except (msgspec.MsgspecError, ValueError):
        # The cause is left out on purpose: it could quote the content.
        raise TransportError(f"{path} is not a key file, or only a part of one") from None
    if record.role != role:
        raise TransportError(f"{path} holds the keys of role {record.role!r}, not of {role!r}")
    return path, record


def _pair(path: str, record: _KeyFile) -> CurveKeys:
    keys = CurveKeys(_key(path, "public", record.public), _key(path, "secret", record.secret))
    if zmq.curve_public(keys.secret) != keys.public:
        raise TransportError(f"{path}: the public and the secret key do not belong together")
    return keys


def _key(path: str, which: str, text: str) -> bytes:
    return check_key(text.encode(), f"{path}: {which!r}")


def _status(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as error:
        raise TransportError(f"cannot use the key folder {path}: {error.strerror}") from error


def _check_private(path: str, status: os.stat_result, *, kind: str, remedy: str, folder: bool) -> None:
    right_type = stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)
    if not right_type:
        raise TransportError(f"the {kind} {path} is not a {'folder' if folder else 'regular file'}")
    if status.st_uid != os.getuid():
        raise TransportError(f"the {kind} {path} belongs to user {status.st_uid}, not to user {os.getuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise TransportError(f"the {kind} {path} has mode {mode:04o}, open to others: {remedy}")
