"""Memory for frames that arrive."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from throughway.errors import ProtocolError
from throughway.transport import buffers
from throughway.transport.buffers import LAZY_BYTES, frame_buffer


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    buffers._kept.buffers.clear()
    yield
    buffers._kept.buffers.clear()


def address(buffer: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_small_ones_are_bytearrays() -> None:
    assert frame_buffer(LAZY_BYTES - 1) == bytearray(LAZY_BYTES - 1)
    assert type(frame_buffer(0)) is bytearray


def test_large_ones_are_writable_and_as_long_as_wanted() -> None:
    buffer = frame_buffer(LAZY_BYTES + 1)
    assert len(buffer) == LAZY_BYTES + 1
    buffer[-1] = 7
    assert buffer[-1] == 7


def test_memory_is_used_again_once_nobody_has_it() -> None:
    first = frame_buffer(LAZY_BYTES + 5)
    where = address(first)
    del first
    again = frame_buffer(LAZY_BYTES)
    assert address(again) == where
    assert len(again) == LAZY_BYTES


def test_a_view_of_it_keeps_it() -> None:
    first = frame_buffer(LAZY_BYTES)
    assert isinstance(first, memoryview)
    where = address(first)
    part = first[5:10].cast("B")
    del first
    other = frame_buffer(LAZY_BYTES)
    assert address(other) != where
    del part
    assert address(frame_buffer(LAZY_BYTES)) == where


def test_an_array_made_of_it_keeps_it() -> None:
    array = (ctypes.c_ubyte * LAZY_BYTES).from_buffer(frame_buffer(LAZY_BYTES))
    array[5] = 3
    others = [frame_buffer(LAZY_BYTES) for _ in range(3)]
    for other in others:
        other[:] = bytes(LAZY_BYTES)
    assert array[5] == 3


def test_a_much_larger_one_is_not_wasted_on_a_small_frame() -> None:
    first = frame_buffer(4 * LAZY_BYTES)
    where = address(first)
    del first
    assert address(frame_buffer(LAZY_BYTES)) != where


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "KEPT_BYTES", 3 * LAZY_BYTES)
    taken = [frame_buffer(LAZY_BYTES) for _ in range(5)]
    assert len(buffers._kept.buffers) == 3
    too_large = frame_buffer(3 * LAZY_BYTES + 1)
    assert len(buffers._kept.buffers) == 3
    del taken, too_large
    monkeypatch.setattr(buffers, "KEPT_BUFFERS", 2)
    several = [frame_buffer(LAZY_BYTES + (4 << 20)) for _ in range(2)]
    assert len(buffers._kept.buffers) <= 2
    assert len({address(one) for one in several}) == 2


def test_each_thread_has_its_own() -> None:
    first = frame_buffer(LAZY_BYTES)
    where = address(first)
    del first
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(address(frame_buffer(LAZY_BYTES))))
    thread.start()
    thread.join()
    assert seen
    assert address(frame_buffer(LAZY_BYTES)) == where


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(ProtocolError, match="a frame of 4611686018427387904 bytes was announced"):
        frame_buffer(1 << 62)


def test_what_is_kept_without_a_use_goes_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    frame_buffer(LAZY_BYTES)
    used = frame_buffer(LAZY_BYTES)
    make = mmap.mmap

    def short(*arguments: int, **options: int) -> mmap.mmap:
        if buffers._kept.buffers:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return make(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", short)
    used[0] = 5
    large = frame_buffer(3 * LAZY_BYTES)
    large[-1] = 7
    assert used[0] == 5
    assert len(buffers._kept.buffers) == 1


def test_a_worker_keeps_none() -> None:
    seen: list[int] = []

    def work() -> None:
        buffers.keep_none()
        frame_buffer(LAZY_BYTES)
        seen.append(len(buffers._kept.buffers))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
