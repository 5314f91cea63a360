"""Memory for frames that arrive. Large buffers are used again once nobody refers to them any more.

To fill memory that is new costs more than to copy what goes into it: the kernel provides each page on its own, and a
virtual machine may have to ask its host for it. So the last few large buffers are remembered, and given out again when
the arrays, messages and views that were made of them are gone.
"""

from __future__ import annotations

import mmap
import sys
import threading

from throughway.errors import ProtocolError

LAZY_BYTES = 1 << 25
"""A frame of at least this size is read into pages that the kernel only provides as they fill, so that announcing a
huge frame costs its sender as many bytes as it costs the reader. Below, reusing the heap is faster."""

KEPT_BYTES = 1 << 28
"""Bytes of large buffers that a thread remembers, in use or not, and so what it may keep without a use."""

KEPT_BUFFERS = 8
"""How many that are, at most."""

_GRAIN_BYTES = 1 << 21


class _Kept(threading.local):
    """Each thread has its own: nobody else may take a buffer between a look and its use."""

    def __init__(self) -> None:
        self.buffers: list[mmap.mmap] = []
        """the one that was given out last is the last"""
        self.wanted = True


_kept = _Kept()


def frame_buffer(length: int) -> bytearray | memoryview:
    """Writable memory for a frame of so many bytes. What is in it is not defined.

    Raises:
        ProtocolError: there is no memory for it.
    """
    if length < LAZY_BYTES:
        return bytearray(length)
    buffers = _kept.buffers
    for index in reversed(range(len(buffers))):
        if length <= len(buffers[index]) <= 2 * length and _references(buffers, index) == _ALONE:
            buffers.append(buffers.pop(index))
            return memoryview(buffers[-1])[:length]
    size = -(-length // _GRAIN_BYTES) * _GRAIN_BYTES
    try:
        try:
            buffer = _pages(size)
        except OSError:
            # What is kept without a use may be what is missing.
            buffers.clear()
            buffer = _pages(size)
    except (OSError, OverflowError, ValueError) as error:
        raise ProtocolError(
            f"a frame of {length} bytes was announced, and there is no memory for it"
        ) from error
    if size <= KEPT_BYTES and _kept.wanted:
        buffers.append(buffer)
        while len(buffers) > KEPT_BUFFERS or sum(map(len, buffers)) > KEPT_BYTES:
            # Whoever uses it still has it; then it is gone.
            del buffers[0]
    return memoryview(buffer)[:length]


def keep_none() -> None:
    """Remember none in this thread: for workers, of which there may be many, and whose memory is for tasks."""
    _kept.buffers.clear()
    _kept.wanted = False


def _pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _references(buffers: list[mmap.mmap], index: int) -> int:
    """How many refer to a buffer: a view refers to it for as long as anything is made of the view."""
    return sys.getrefcount(buffers[index])


_ALONE = _references([mmap.mmap(-1, mmap.PAGESIZE)], 0)
"""The count of a buffer that nothing but its list refers to."""
