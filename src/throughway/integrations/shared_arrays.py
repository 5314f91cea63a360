"""Large arrays in files that workers map: written once, however many tasks use them.

What joblib does for its own workers, for those of Throughway: an array above ``max_bytes`` that is met while a batch is
pickled goes into a file, and the pickle gets its path. The file lasts as long as the array, or a batch that uses it.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import sys
import tempfile
import threading
import weakref
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]

from throughway.serialize.pickling import LARGE_FRAME_BYTES, PROTOCOL, ByValuePickler

MEMORY = "/dev/shm"  # noqa: S108 - the folder made there is this user's alone
"""A file system in memory, taken where it has room."""

PREFIX = "throughway-joblib-"
"""How the folders of arrays are named, before the process id of whoever made them."""


class _File:
    """The file of one array."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.uses = 0
        self.needed = True
        """whether the array is still there, and might be used again"""


class SharedArrays:
    """The files of the arrays of one call of `joblib.Parallel`.

    Args:
        folder: where files go, which workers must see under the same path; None for memory or the temporary folder
            of this machine.
        max_bytes: arrays above this size go into files.
        mode: how workers map them, one of numpy's ``mmap_mode``: ``r``, ``c`` or ``r+``.
    """

    def __init__(self, folder: str | None, max_bytes: int, mode: str) -> None:
        self._given = folder
        self._max_bytes = max_bytes
        self._mode = "r+" if mode == "w+" else mode  # the file is there already
        self._lock = threading.RLock()
        self._folders: dict[str, str] = {}
        self._files: dict[int, tuple[weakref.ref[Any], _File]] = {}
        self._count = 0
        self._remove = weakref.finalize(self, _remove_all, self._folders)

    def dump(self, value: object) -> tuple[bytes, list[pickle.PickleBuffer], list[_File]]:
        """Pickle ``value``: the pickle, its buffers out of band, and the files that it needs until `release`.

        Raises:
            BaseException: whatever the user's code raises, or pickle does, or writing a file.
        """
        # As `throughway.serialize.pickling.dump`: the standard pickler is several times faster, where it will do.
        try:
            found = self._dump(_PlainPickler, value)
        except Exception:  # noqa: BLE001 - it may still go by value; if not, that error is the one to tell
            return self._dump(_ValuePickler, value)
        if b"main__" not in found[0] and not cloudpickle.list_registry_pickle_by_value():
            return found
        self.release(found[2])
        return self._dump(_ValuePickler, value)

    def _dump(
        self, kind: type[_PlainPickler | _ValuePickler], value: object
    ) -> tuple[bytes, list[pickle.PickleBuffer], list[_File]]:
        used: list[_File] = []
        buffers: list[pickle.PickleBuffer] = []
        with io.BytesIO() as file:
            pickler = kind(file, _keep_large(buffers))
            pickler.arrays = self
            pickler.used = used
            try:
                pickler.dump(value)
            except BaseException:
                self.release(used)
                raise
            return file.getvalue(), buffers, used

    def reduce(self, array: Any, used: list[_File]) -> Any:
        """How an array is pickled: by its file, or NotImplemented for the usual way."""
        numpy = sys.modules["numpy"]
        if array.dtype.hasobject or array.nbytes <= self._max_bytes:
            return NotImplemented
        if type(array) is numpy.memmap and (found := _mapped(array, numpy)) is not None:
            return map_file, found
        with self._lock:
            reference, file = self._files.get(id(array), (None, None))
            if reference is None or file is None or reference() is not array:
                file = _File(self._write(array, numpy))
                key = id(array)
                watch = weakref.ref(array, lambda _: self._array_ended(key, file))
                self._files[key] = watch, file
            file.uses += 1
        used.append(file)
        return load_file, (file.path, self._mode)

    def _write(self, array: Any, numpy: Any) -> str:
        self._count += 1
        for folder in self._places(array.nbytes):
            path = os.path.join(folder, f"{self._count}.npy")
            try:
                numpy.save(path, array, allow_pickle=False)
            except OSError:  # the file system is full, most likely
                with contextlib.suppress(OSError):
                    os.unlink(path)
                if folder == self._folders.get(MEMORY):
                    continue
                raise
            return path
        raise AssertionError("the temporary folder is always tried")

    def _places(self, size: int) -> list[str]:
        """The folders to try for a file of this size."""
        if self._given is not None:
            return [self._folder_in(self._given)]
        places = []
        with contextlib.suppress(OSError):
            room = os.statvfs(MEMORY)
            if 2 * size < room.f_bavail * room.f_frsize and os.access(MEMORY, os.W_OK | os.X_OK):
                places.append(self._folder_in(MEMORY))
        return [*places, self._folder_in(tempfile.gettempdir())]

    def _folder_in(self, parent: str) -> str:
        if parent not in self._folders:
            os.makedirs(parent, exist_ok=True)
            _remove_forgotten(parent)
            self._folders[parent] = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        return self._folders[parent]

    def _array_ended(self, key: int, file: _File) -> None:
        with self._lock:
            file.needed = False
            known = self._files.get(key)
            if known is not None and known[1] is file:
                del self._files[key]
            if not file.uses:
                _unlink(file)

    def release(self, used: list[_File]) -> None:
        """A batch has ended: what nothing uses any more is removed."""
        with self._lock:
            for file in used:
                file.uses -= 1
                if not file.uses and not file.needed:
                    _unlink(file)

    def close(self) -> None:
        """Remove all files. Workers that have mapped one keep what they see."""
        with self._lock:
            self._files.clear()
            self._remove()


class _PlainPickler(pickle.Pickler):
    arrays: SharedArrays
    used: list[_File]

    def __init__(self, file: io.BytesIO, buffer_callback: Any) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=buffer_callback)

    def reducer_override(self, obj: Any) -> Any:
        return self.arrays.reduce(obj, self.used) if _is_array(obj) else NotImplemented


class _ValuePickler(ByValuePickler):
    arrays: SharedArrays
    used: list[_File]

    def reducer_override(self, obj: Any) -> Any:
        return self.arrays.reduce(obj, self.used) if _is_array(obj) else super().reducer_override(obj)


def _is_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and (type(obj) is numpy.ndarray or type(obj) is numpy.memmap)


def _keep_large(buffers: list[pickle.PickleBuffer]) -> Any:
    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            size = buffer.raw().nbytes
        except BufferError:  # not contiguous
            return True
        if size < LARGE_FRAME_BYTES:
            return True
        buffers.append(buffer)
        return False

    return keep_in_band


def _mapped(array: Any, numpy: Any) -> tuple[Any, ...] | None:
    """What `map_file` needs to map what a user's own memmap shows; None where it shows it in strides."""
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else None
    root = array
    while isinstance(root.base, numpy.memmap):
        root = root.base
    if order is None or root.filename is None or root._mmap is None:
        return None
    start = array.ctypes.data - root.ctypes.data
    mode = "r+" if root.mode == "w+" else root.mode
    return str(root.filename), array.dtype, mode, root.offset + start, array.shape, order


def map_file(filename: str, dtype: Any, mode: str, offset: int, shape: tuple[int, ...], order: Any) -> Any:
    """In a worker: the user's memmap, mapped again."""
    import numpy

    return numpy.memmap(filename, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)  # type: ignore[call-overload]


def load_file(path: str, mode: Any) -> Any:
    """In a worker: map the array of this file."""
    import numpy

    return numpy.load(path, mmap_mode=mode)


def _unlink(file: _File) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file.path)


def _remove_all(folders: dict[str, str]) -> None:
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)


def _remove_forgotten(parent: str) -> None:
    """Remove what processes of this user left here that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            pid = name.removeprefix(PREFIX).partition("-")[0]
            if name.startswith(PREFIX) and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                path = os.path.join(parent, name)
                if os.stat(path).st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)
