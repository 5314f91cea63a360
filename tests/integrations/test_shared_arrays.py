"""Large arrays go through files that workers map, which are there no longer than they are needed."""

from __future__ import annotations

import gc
import glob
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.integrations.libraries import need
from throughway import HighThroughputExecutor
from throughway.integrations import shared_arrays
from throughway.integrations.shared_arrays import SharedArrays


def load(dumped: tuple[bytes, list[Any], list[Any]]) -> Any:
    return pickle.loads(dumped[0], buffers=dumped[1])


def files(folder: Path) -> list[str]:
    return sorted(glob.glob(f"{folder}/*/*"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f8", "<M8[s]", "i4,f4"])
def test_an_array_comes_back_mapped(tmp_path: Path, order: Any, kind: str) -> None:
    arrays = SharedArrays(str(tmp_path), 1000, "r")
    array = numpy.zeros((50, 40), dtype=kind, order=order)
    found = load(arrays.dump({"x": array}))["x"]
    assert isinstance(found, numpy.memmap)
    assert not found.flags.writeable
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.f_contiguous == (order == "F")
    arrays.close()
    assert files(tmp_path) == []


def test_an_array_is_written_once(tmp_path: Path) -> None:
    arrays = SharedArrays(str(tmp_path), 1000, "c")
    array = numpy.arange(1000.0)
    dumps = [arrays.dump([array, array]) for _ in range(3)]
    assert len(files(tmp_path)) == 1
    first, second = load(dumps[0])
    assert first is second or numpy.array_equal(first, second)
    for _, _, used in dumps:
        arrays.release(used)
    assert len(files(tmp_path)) == 1  # the array may come again
    del array, dumps
    gc.collect()
    assert files(tmp_path) == []
    arrays.close()


def test_a_file_outlives_its_array_as_long_as_a_batch_needs_it(tmp_path: Path) -> None:
    arrays = SharedArrays(str(tmp_path), 1000, "r")
    dumped = arrays.dump(numpy.arange(1000.0))
    gc.collect()
    assert load(dumped)[999] == 999
    arrays.release(dumped[2])
    assert files(tmp_path) == []
    arrays.close()


def test_small_arrays_and_objects_go_as_ever(tmp_path: Path) -> None:
    arrays = SharedArrays(str(tmp_path), 1000, "r")
    small, objects = numpy.arange(10), numpy.array([[1], "two"] * 1000, dtype=object)
    found = load(arrays.dump((small, objects, lambda: small)))
    assert numpy.array_equal(found[0], small)
    assert found[1][0] == [1]
    assert list(found[2]()) == list(small)
    assert os.listdir(tmp_path) == []
    large = SharedArrays(str(tmp_path), 10**9, "r")
    array = numpy.arange(100_000.0)
    data, buffers, used = large.dump(array)
    assert (len(data) < 1000, len(buffers), used) == (True, 1, [])
    assert numpy.array_equal(pickle.loads(data, buffers=buffers), array)


def test_what_cannot_be_pickled_leaves_nothing(tmp_path: Path) -> None:
    arrays = SharedArrays(str(tmp_path), 1000, "r")
    with pytest.raises(TypeError):
        arrays.dump([numpy.arange(1000.0), (n for n in [0])])
    gc.collect()
    assert files(tmp_path) == []
    arrays.close()


def test_memmaps_of_the_user_are_mapped_from_their_own_file(tmp_path: Path) -> None:
    arrays = SharedArrays(str(tmp_path / "shared"), 1000, "r")
    path = tmp_path / "mine"
    mine = numpy.memmap(path, dtype=float, mode="w+", shape=(100, 100))
    mine[:] = numpy.arange(10_000.0).reshape(100, 100)
    mine.flush()
    for part in (mine, mine[10:30], mine.T):
        found = load(arrays.dump(part))
        assert found.filename == str(path) or Path(found.filename) == path
        assert numpy.array_equal(found, part)
    assert not (tmp_path / "shared").exists()
    strided = load(arrays.dump(mine[::2]))
    assert numpy.array_equal(strided, mine[::2])
    assert len(files(tmp_path / "shared")) == 1
    arrays.close()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import numpy, os; from throughway.integrations.shared_arrays import SharedArrays\n"
        f"arrays = SharedArrays({str(tmp_path)!r}, 1000, 'r'); x = numpy.arange(1000.0); arrays.dump(x); os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=50)
    assert len(files(tmp_path)) == 1
    arrays = SharedArrays(str(tmp_path), 1000, "r")
    arrays.dump(numpy.arange(1000.0))
    assert [
        path for path in files(tmp_path) if f"-{os.getpid()}-" not in path and f"{os.getpid()}-" not in path
    ] == []
    arrays.close()


def test_a_full_memory_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(shared_arrays, "MEMORY", str(memory))
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    save = numpy.save

    def full(path: str, *arguments: Any, **options: Any) -> None:
        if path.startswith(str(memory)):
            raise OSError(28, "No space left on device")
        save(path, *arguments, **options)

    monkeypatch.setattr(numpy, "save", full)
    arrays = SharedArrays(None, 1000, "r")
    array = numpy.arange(1000.0)
    assert numpy.array_equal(load(arrays.dump(array)), array)
    assert (len(files(memory)), len(files(disk))) == (0, 1)
    arrays.close()


def test_joblib_maps_them_in_workers(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    need("joblib")
    from joblib import Parallel, delayed, parallel_config

    import throughway.integrations.joblib  # noqa: F401

    array = numpy.arange(300_000.0)
    with parallel_config(backend="throughway", executor=executor):
        mapped = Parallel(temp_folder=str(tmp_path))(delayed(seen)(array) for _ in range(4))
        sent = Parallel(max_nbytes=None)(delayed(seen)(array) for _ in range(4))
    assert mapped == [("memmap", float(array.sum()))] * 4
    assert sent == [("ndarray", float(array.sum()))] * 4
    assert files(tmp_path) == []


def seen(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())
