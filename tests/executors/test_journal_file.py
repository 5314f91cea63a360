"""The journal's file: whatever happens to it, what is whole in it is found, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import throughway
from throughway.errors import JournalError
from throughway.executors import journal_file
from throughway.executors.journal_file import (
    VERSION,
    Buffer,
    Damage,
    Found,
    JournalFile,
    Kind,
    Meta,
    encode_record,
    in_use,
    lock_holder,
)

TITLE = b"throughway journal 1\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.journal")


@pytest.fixture
def file(path: str) -> Iterator[JournalFile]:
    journal = JournalFile(path)
    yield journal
    journal.close()


def record(number: int, *body: Buffer) -> list[Buffer]:
    meta = Meta(number.to_bytes(16, "little"), 1.5, "function", frames=[len(part) for part in body[1:]])
    return [encode_record(Kind.RESULT, meta, body), *body]


def append(file: JournalFile, *bodies: tuple[Buffer, ...]) -> list[int]:
    """Append a record for each body; their offsets."""
    offsets = []
    for number, body in enumerate(bodies):
        offsets.append(file.end)
        file.append(record(number, *body))
    return offsets


def scan(path: str) -> list[Found | Damage]:
    file = JournalFile(path, writable=False)
    try:
        return list(file.scan())
    finally:
        file.close()


def test_what_is_appended_is_found_and_read(file: JournalFile, path: str) -> None:
    large = bytes(3_000_000)
    offsets = append(file, (b"one",), (b"", large, b"two"), (b"3" * 100_000,))
    found = scan(path)
    assert [one.offset for one in found] == offsets
    assert sum(one.size for one in found) == file.end - len(TITLE) == file.size - len(TITLE)
    assert [int.from_bytes(one.meta.key, "little") for one in found if isinstance(one, Found)] == [0, 1, 2]
    for offset, parts in zip(offsets, [(b"one",), (b"", large, b"two"), (b"3" * 100_000,)], strict=True):
        read = file.read(offset)
        assert read is not None
        assert read[0].function == "function"
        assert tuple(map(bytes, read[1])) == parts
        # Arrays that are made of them can be changed.
        assert not any(part.readonly for part in read[1])


def test_many_records_across_the_bounds_of_reading(
    file: JournalFile, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "_SCAN_BYTES", 256)
    offsets = append(file, *((bytes(number % 300),) for number in range(500)))
    assert [one.offset for one in scan(path)] == offsets


def test_a_new_file_is_nobody_elses(file: JournalFile, path: str) -> None:
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert Path(path).read_bytes() == TITLE


@given(cut=st.integers(0, 400), damage=st.integers(0, 400), value=st.binary(min_size=1, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_whatever_is_cut_or_damaged_the_rest_is_found(
    tmp_path: Path, cut: int, damage: int, value: bytes
) -> None:
    path = str(tmp_path / "damaged.journal")
    Path(path).unlink(missing_ok=True)
    file = JournalFile(path)
    bodies = [(b"%d" % number * 20,) for number in range(5)]
    offsets = append(file, *bodies)
    size = file.end
    file.close()
    data = bytearray(Path(path).read_bytes())
    at = min(len(TITLE) + damage, size)
    data[at : at + len(value)] = value
    del data[max(len(TITLE), size - cut) :]
    Path(path).write_bytes(data)
    ends = [*offsets[1:], size]
    original = b"".join([TITLE, *(bytes(part) for n, body in enumerate(bodies) for part in record(n, *body))])
    whole = [
        offset
        for offset, end in zip(offsets, ends, strict=True)
        if end <= len(data) and data[offset:end] == original[offset:end]
    ]
    found = scan(path)
    assert [one.offset for one in found if isinstance(one, Found)] == whole
    covered = len(TITLE)
    for one in found:
        assert one.offset == covered
        covered += one.size
    assert covered == len(data)


@given(data=st.binary(max_size=400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_follows_the_title_can_be_read(tmp_path: Path, data: bytes) -> None:
    path = str(tmp_path / "random.journal")
    for content in (data, b"\xabTJ\n" + data, b"\xabTJ\n\x01\0\0\0" + data):
        Path(path).write_bytes(TITLE + content)
        Path(path).chmod(0o600)
        found = scan(path)
        assert sum(one.size for one in found) == len(content)


def test_a_body_that_changed_is_noticed_when_it_is_read(file: JournalFile, path: str) -> None:
    (offset,) = append(file, (b"value",))
    with open(path, "r+b") as raw:
        raw.seek(-1, os.SEEK_END)
        raw.write(b"X")
    assert file.read(offset) is None
    assert file.read(offset + 1) is None
    assert file.read(1 << 40) is None


def test_what_a_killed_writer_left_is_overwritten(path: str) -> None:
    file = JournalFile(path)
    append(file, (b"one",))
    end = file.end
    file.close()
    with open(path, "ab") as raw:
        raw.write(record(1, b"two" * 100)[0][:20])
    file = JournalFile(path)
    found = list(file.scan())
    assert found[-1] == Damage(end, 20, tail=True)
    file.cut()
    file.append(record(2, b"three"))
    file.close()
    assert [type(one) for one in scan(path)] == [Found, Found]


def test_a_title_in_part_is_a_new_file(path: str) -> None:
    Path(path).write_bytes(TITLE[:7])
    Path(path).chmod(0o600)
    assert scan(path) == []
    file = JournalFile(path)
    append(file, (b"one",))
    file.close()
    assert len(scan(path)) == 1


def test_what_is_no_journal_is_left_alone(path: str) -> None:
    Path(path).write_text("my thesis\n")
    Path(path).chmod(0o600)
    with pytest.raises(JournalError, match="is there and is no journal"):
        JournalFile(path)
    assert Path(path).read_text() == "my thesis\n"


def test_a_later_version_is_refused(path: str) -> None:
    Path(path).write_bytes(b"throughway journal %d\n" % (VERSION + 1))
    Path(path).chmod(0o600)
    with pytest.raises(
        JournalError, match=r"later version of Throughway \(format 2, this one knows 1\): upgrade"
    ):
        JournalFile(path)


def test_later_kinds_and_fields_are_passed_over(file: JournalFile, path: str) -> None:
    """So that what a later version adds can be read by this one, and the other way round."""
    append(file, (b"one",))
    file.append([encode_record(77, Meta(), (b"news",)), b"news"])
    meta = b"\x96\xc4\x10" + bytes(16) + b"\xcb" + bytes(8) + b"\xa1f\xa0\x90\xa5later"
    head = journal_file._HEAD.pack(b"\xabTJ\n", Kind.RESULT, len(meta), 3, zlib.crc32(b"two"))
    check = journal_file._CHECK.pack(zlib.crc32(meta, zlib.crc32(head)))
    offset = file.end
    file.append([head, check, meta, b"two"])
    found = scan(path)
    assert [one.kind for one in found if isinstance(one, Found)] == [Kind.RESULT, 77, Kind.RESULT]
    read = file.read(offset)
    assert read is not None
    assert (read[0].function, bytes(read[1][0])) == ("f", b"two")


def test_the_format_is_what_it_was() -> None:
    """Bytes as version 1 writes them: what reads a journal later must read these."""
    head, _ = record(7, b"body")
    assert bytes(head).hex() == (
        "ab544a0a01000000270000000400000000000000b20ba8dbaffdc918"
        "95c41007000000000000000000000000000000cb3ff8000000000000a866756e6374696f6ea090"
    )


# ------------------------------------------------------------------------------------------------------------- refused


def test_one_writes_at_a_time(file: JournalFile, path: str) -> None:
    with pytest.raises(JournalError, match=rf"in use by process {os.getpid()} on .*: wait for its end"):
        JournalFile(path)
    assert in_use(path)
    file.close()
    assert not in_use(path)
    JournalFile(path).close()


def test_another_process_is_named(path: str) -> None:
    code = (
        "import sys\nfrom throughway.executors.journal_file import JournalFile\n"
        "file = JournalFile(sys.argv[1], holder='docking')\nprint('locked', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(throughway.__file__).parents[1])},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(JournalError, match=rf"in use by process {other.pid} on \S+ \(docking\) since 20"):
            JournalFile(path)
        other.kill()
    # Whoever is killed leaves no lock behind.
    JournalFile(path).close()
    holder = lock_holder(path)
    assert holder is not None
    assert holder.pid == os.getpid()


def test_one_who_only_reads_asks_for_no_lock(file: JournalFile, path: str) -> None:
    append(file, (b"one",))
    assert len(scan(path)) == 1


def test_a_file_that_others_can_write_is_refused(path: str) -> None:
    Path(path).write_bytes(TITLE)
    Path(path).chmod(0o620)
    with pytest.raises(JournalError, match=r"can be written by others.*mode 0600"):
        JournalFile(path)
    assert not in_use(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot make .*: No such file or directory: give a path"):
        JournalFile(str(tmp_path / "none" / "a.journal"))
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        JournalFile(str(tmp_path / "none" / "a.journal"), writable=False)


# ------------------------------------------------------------------------------------------------------------ full disk


def test_a_write_that_fails_counts_for_nothing(
    file: JournalFile, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(file, (b"one",))
    end = file.end
    write = os.pwritev

    def full(descriptor: int, buffers: list[memoryview], at: int) -> int:
        if at >= end + 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, [buffers[0][:10]], at)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="No space left"):
        file.append(record(1, b"two"))
    assert file.end == end == os.stat(path).st_size
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: write(fd, [buffers[0][:7]], at))
    file.append(record(1, b"two"))
    assert [type(one) for one in scan(path)] == [Found, Found]


def test_writing_anew_keeps_what_is_wanted(file: JournalFile, path: str) -> None:
    offsets = append(file, (b"one",), (b"two", bytes(2_000_000)), (b"three",))
    again = JournalFile(path, writable=False)
    file.replace(one for one in again.scan() if isinstance(one, Found) and one.offset != offsets[0])
    again.close()
    found = [one for one in scan(path) if isinstance(one, Found)]
    assert [int.from_bytes(one.meta.key, "little") for one in found] == [1, 2]
    assert file.end == os.stat(path).st_size == found[-1].offset + found[-1].size
    file.append(record(3, b"four"))
    assert len(scan(path)) == 3
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_writing_anew_that_fails_changes_nothing(file: JournalFile, path: str, tmp_path: Path) -> None:
    append(file, (b"one",))
    before = Path(path).read_bytes()
    with pytest.raises(OSError, match="the journal ends"):
        file.replace(iter([Found(1, 0, len(before) + 1, Meta(), 0)]))
    assert Path(path).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.journal", "a.journal.lock"]
    file.append(record(1, b"two"))
