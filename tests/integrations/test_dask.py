"""Dask's collections on an executor: ``compute(scheduler=executor)``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import calls
from tests.integrations.libraries import need
from throughway import HighThroughputExecutor, SerializationError

need("dask", "dask.array", "dask.dataframe")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

import dask
import dask.array
import dask.bag
import dask.dataframe
import numpy
import pandas as pd


def test_as_many_tasks_at_a_time_as_there_are_workers(executor: HighThroughputExecutor) -> None:
    assert executor._max_workers == 2
    assert executor.options(priority=1)._max_workers == 2


def test_delayed(executor: HighThroughputExecutor) -> None:
    values = [dask.delayed(calls.square)(n) for n in range(200)]
    total = dask.delayed(sum)(values)
    assert total.compute(scheduler=executor) == sum(n**2 for n in range(200))
    first, second = dask.compute(values[3], total, scheduler=executor.options(priority=-1))
    assert (first, second) == (9, total.compute(scheduler="sync"))
    pids = dask.compute(*[dask.delayed(os.getpid, pure=False)() for _ in range(20)], scheduler=executor)
    assert os.getpid() not in pids


def test_by_configuration(executor: HighThroughputExecutor) -> None:
    with dask.config.set(scheduler=executor):
        assert dask.delayed(os.getpid, pure=False)().compute() != os.getpid()


def test_arrays(executor: HighThroughputExecutor) -> None:
    plain = numpy.arange(10_000.0).reshape(100, 100)
    numbers = dask.array.from_array(plain, chunks=(50, 50))
    found = (numbers @ numbers.T).mean(axis=0).compute(scheduler=executor)
    numpy.testing.assert_allclose(found, (plain @ plain.T).mean(axis=0))


def test_bags(executor: HighThroughputExecutor) -> None:
    bag = dask.bag.from_sequence(range(1000), npartitions=10)
    odd = bag.map(calls.square).filter(lambda value: value % 2)
    assert odd.sum().compute(scheduler=executor) == sum(n**2 for n in range(1000) if n % 2)
    counted = dict(
        bag.groupby(lambda n: n % 3).map(lambda group: (group[0], len(group[1]))).compute(scheduler=executor)
    )
    assert counted == {0: 334, 1: 333, 2: 333}


def test_data_frames(executor: HighThroughputExecutor) -> None:
    plain = pd.DataFrame({"key": numpy.arange(1000) % 7, "value": numpy.arange(1000.0)})
    frame = dask.dataframe.from_pandas(plain, npartitions=4)
    means = frame.groupby("key").value.mean().compute(scheduler=executor)
    pd.testing.assert_series_equal(means.sort_index(), plain.groupby("key").value.mean())
    assert len(frame.shuffle("key").compute(scheduler=executor)) == 1000


def test_an_exception_of_a_task(executor: HighThroughputExecutor) -> None:
    with pytest.raises(KeyError, match="3"):
        dask.compute(*[dask.delayed(calls.fail_at_three)(n) for n in range(5)], scheduler=executor)
    with pytest.raises(SerializationError, match="generator"):
        dask.delayed(list)(dask.delayed(n for n in [0])).compute(scheduler=executor)
    assert dask.delayed(calls.square)(2).compute(scheduler=executor) == 4


def test_callbacks_of_dask(executor: HighThroughputExecutor, capsys: Any) -> None:
    from dask.diagnostics import ProgressBar

    with ProgressBar():
        dask.delayed(sum)([dask.delayed(calls.square)(n) for n in range(20)]).compute(scheduler=executor)
    assert "Completed" in capsys.readouterr().out


def test_an_executor_that_has_not_started(tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=1, run_dir=tmp_path) as fresh:
        assert fresh._max_workers == 1
        assert dask.delayed(calls.square)(3).compute(scheduler=fresh) == 9
