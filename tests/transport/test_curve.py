from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from throughway.errors import TransportError
from throughway.transport.curve import (
    INTERCHANGE_FILE,
    MANAGER_FILE,
    ZAP_DOMAIN,
    CurveKeys,
    Gate,
    check_key,
    create_certificates,
    load_interchange_keys,
    load_manager_keys,
)

LOADERS = {INTERCHANGE_FILE: load_interchange_keys, MANAGER_FILE: load_manager_keys}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture(params=[INTERCHANGE_FILE, MANAGER_FILE])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_written_is_read_again(folder: Path) -> None:
    certificates = create_certificates(folder)
    assert load_interchange_keys(folder) == certificates.interchange
    manager = load_manager_keys(folder)
    assert manager.own == certificates.manager
    assert manager.interchange == certificates.interchange.public
    assert certificates.manager != certificates.interchange


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_files_and_folder_are_for_their_owner_only(folder: Path, umask: int) -> None:
    folder.mkdir(0o700)
    former = os.umask(umask)
    try:
        create_certificates(folder)
    finally:
        os.umask(former)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (INTERCHANGE_FILE, MANAGER_FILE):
        assert stat.S_IMODE((folder / file).stat().st_mode) == 0o600


def test_a_new_folder_is_private(folder: Path) -> None:
    former = os.umask(0)
    try:
        create_certificates(folder)
    finally:
        os.umask(former)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o720, 0o777])
def test_a_folder_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(TransportError, match=rf"mode {mode:04o}.*chmod 700"):
        create_certificates(folder)
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_refused(folder: Path, name: str) -> None:
    create_certificates(folder)
    os.chown(folder / name, 12345, -1)
    with pytest.raises(TransportError, match="belongs to user 12345"):
        LOADERS[name](folder)
    os.chown(folder, 12345, -1)
    with pytest.raises(TransportError, match="belongs to user 12345"):
        create_certificates(folder)


def test_a_link_is_no_folder_and_a_file_neither(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(0o700)
    folder.symlink_to(target)
    with pytest.raises(TransportError, match="not a folder"):
        create_certificates(folder)
    folder.unlink()
    folder.touch(0o600)
    with pytest.raises(TransportError, match="not a folder"):
        create_certificates(folder)


def test_keys_are_never_overwritten(folder: Path) -> None:
    certificates = create_certificates(folder)
    with pytest.raises(TransportError, match="is there already"):
        create_certificates(folder)
    assert load_interchange_keys(folder) == certificates.interchange


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    with pytest.raises(TransportError, match=r"cannot make the key folder .*missing/keys"):
        create_certificates(folder / "missing" / "keys")


def test_a_missing_file_names_the_remedy(folder: Path, name: str) -> None:
    with pytest.raises(TransportError, match=rf"{name}: it must lie on a file system that this node shares"):
        LOADERS[name](folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_open_to_others_is_refused(folder: Path, name: str, mode: int) -> None:
    create_certificates(folder)
    (folder / name).chmod(mode)
    with pytest.raises(TransportError, match=rf"mode {mode:04o}.*chmod 600"):
        LOADERS[name](folder)


def test_a_link_is_not_followed(folder: Path, name: str) -> None:
    create_certificates(folder)
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to(folder / "elsewhere")
    with pytest.raises(TransportError, match="cannot read the key file"):
        LOADERS[name](folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 5000, b'{"role":"manager"}', b"null"])
def test_what_is_not_a_key_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    create_certificates(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(TransportError, match=f"{name} is not a key file"):
        LOADERS[name](folder)


def test_a_truncated_file_is_refused_without_quoting_it(folder: Path, name: str) -> None:
    certificates = create_certificates(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-20])
    with pytest.raises(TransportError, match="or only a part of one") as caught:
        LOADERS[name](folder)
    assert caught.value.__cause__ is None
    for keys in (certificates.interchange, certificates.manager):
        assert keys.secret.decode() not in str(caught.value)


def test_files_are_not_mistaken_for_one_another(folder: Path) -> None:
    create_certificates(folder)
    manager = (folder / MANAGER_FILE).read_bytes()
    (folder / MANAGER_FILE).write_bytes((folder / INTERCHANGE_FILE).read_bytes())
    (folder / INTERCHANGE_FILE).write_bytes(manager)
    with pytest.raises(TransportError, match="role 'manager', not of 'interchange'"):
        load_interchange_keys(folder)
    with pytest.raises(TransportError, match="role 'interchange', not of 'manager'"):
        load_manager_keys(folder)


def test_halves_of_two_pairs_are_refused(folder: Path, name: str) -> None:
    certificates = create_certificates(folder)
    keys = certificates.interchange if name == INTERCHANGE_FILE else certificates.manager
    content = (folder / name).read_bytes()
    other = CurveKeys.generate()
    (folder / name).write_bytes(content.replace(keys.secret, other.secret))
    with pytest.raises(TransportError, match="do not belong together") as caught:
        LOADERS[name](folder)
    assert other.secret.decode() not in str(caught.value)
    (folder / name).write_bytes(content.replace(keys.secret, keys.secret[:-1] + b"~"))
    with pytest.raises(TransportError, match="'secret' is not a CurveZMQ key") as caught:
        LOADERS[name](folder)
    assert keys.secret[:-1].decode() not in str(caught.value)


def test_secrets_are_not_shown(folder: Path) -> None:
    certificates = create_certificates(folder)
    shown = repr(certificates) + repr(load_manager_keys(folder)) + str(certificates.manager)
    assert certificates.manager.public.decode() in shown
    for keys in (certificates.interchange, certificates.manager):
        assert keys.secret.decode() not in shown


@pytest.mark.parametrize("key", [b"", b"x" * 39, b"x" * 41, b"~" * 40, b"%" * 40, "ä".encode() * 20])
def test_what_is_not_a_key_is_refused(key: bytes) -> None:
    with pytest.raises(TransportError, match="it is not a CurveZMQ key"):
        check_key(key, "it")


# --------------------------------------------------------------------------------------------------- the gate


class Asker:
    """Asks a gate as libzmq does."""

    def __init__(self, allowed: dict[bytes, str]) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.gate = Gate(self.context, allowed)
        self.socket = self.context.socket(zmq.REQ)
        self.socket.connect("inproc://zeromq.zap.01")

    def ask(self, *question: bytes) -> list[bytes]:
        self.socket.send_multipart(question)
        self.gate.ready()
        return self.socket.recv_multipart(zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)
        self.gate.close()
        self.gate.close()
        self.context.term()


@pytest.fixture
def keys() -> CurveKeys:
    return CurveKeys.generate()


@pytest.fixture
def asker(keys: CurveKeys) -> Iterator[Asker]:
    asker = Asker({keys.public: "manager"})
    yield asker
    asker.close()


def question(keys: CurveKeys) -> list[bytes]:
    return [b"1.0", b"7", ZAP_DOMAIN, b"10.0.0.9", b"", b"CURVE", z85.decode(keys.public)]


def test_a_known_key_is_let_in_under_its_name(asker: Asker, keys: CurveKeys) -> None:
    assert asker.ask(*question(keys)) == [b"1.0", b"7", b"200", b"OK", b"manager", b""]
    assert asker.gate.refused == 0


def test_keys_come_and_go(asker: Asker, keys: CurveKeys) -> None:
    late = CurveKeys.generate()
    assert asker.ask(*question(late))[2] == b"400"
    asker.gate.allow(late.public, "late")
    assert asker.ask(*question(late))[2:5] == [b"200", b"OK", b"late"]
    asker.gate.revoke(late.public)
    asker.gate.revoke(late.public)
    assert asker.ask(*question(late))[2] == b"400"
    assert asker.ask(*question(keys))[2] == b"200"
    assert asker.gate.refused == 2


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, b"2.0"), (2, b"other"), (2, b""), (5, b"NULL"), (5, b"PLAIN"), (6, b""), (6, bytes(32))],
)
def test_any_other_question_is_refused(asker: Asker, keys: CurveKeys, index: int, value: bytes) -> None:
    asked = question(keys)
    asked[index] = value
    assert asker.ask(*asked)[1:3] == [b"7", b"400"]
    assert asker.gate.refused == 1
    assert asker.ask(*question(keys))[2] == b"200"


@pytest.mark.parametrize("frames", [1, 2, 6, 8])
def test_a_question_of_another_length_is_refused(asker: Asker, keys: CurveKeys, frames: int) -> None:
    asked = [*question(keys), b"more"][:frames]
    assert asker.ask(*asked)[2] == b"400"
    assert asker.ask(*question(keys))[2] == b"200"


def test_the_gate_refuses_a_list_with_something_else_than_keys(asker: Asker) -> None:
    with pytest.raises(TransportError, match="the key to allow is not a CurveZMQ key"):
        asker.gate.allow(b"short", "manager")
