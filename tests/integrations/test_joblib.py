"""joblib's `Parallel` and scikit-learn on Throughway."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import calls
from tests.integrations.libraries import need
from tests.waiting import wait_until
from throughway import HighThroughputExecutor, SerializationError, WorkerLost

need("joblib")

import joblib
from joblib import Parallel, delayed, parallel_config

import throughway.integrations.joblib as integration

pytestmark = pytest.mark.leaks_allowed("an error kills workers, and others take their place")


@pytest.fixture(autouse=True)
def on_the_executor(executor: HighThroughputExecutor) -> Iterator[None]:
    with parallel_config(backend="throughway", executor=executor):
        yield


def backend_here() -> str:
    return type(joblib.parallel.get_active_backend()[0]).__name__


def nested(count: int, backend: str | None) -> tuple[str, int]:
    found = Parallel(n_jobs=2, backend=backend)(delayed(calls.square)(value) for value in range(count))
    return backend_here(), sum(found)


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 7}, {"pre_dispatch": "all"}])
def test_results_in_order(options: dict[str, Any]) -> None:
    assert Parallel(**options)(delayed(calls.square)(n) for n in range(500)) == [n**2 for n in range(500)]
    assert Parallel(**options)([]) == []


def test_generators() -> None:
    ordered = Parallel(return_as="generator")(delayed(calls.square)(n) for n in range(100))
    assert list(ordered) == [n**2 for n in range(100)]
    unordered = Parallel(return_as="generator_unordered")(delayed(calls.square)(n) for n in range(100))
    assert sorted(unordered) == [n**2 for n in range(100)]


def test_a_generator_that_is_left(executor: HighThroughputExecutor) -> None:
    results = Parallel(return_as="generator", pre_dispatch=10)(
        delayed(calls.square)(n) for n in range(10_000)
    )
    assert next(results) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # joblib's: that there was more to come
        results.close()
    wait_until(lambda: executor.outstanding == 0, what="nothing to be outstanding")


def test_a_backend_that_is_kept() -> None:
    with Parallel() as parallel:
        for _ in range(3):
            assert parallel(delayed(calls.square)(n) for n in range(5)) == [0, 1, 4, 9, 16]


def test_an_error_ends_everything(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    def work() -> Iterator[Any]:
        yield delayed(calls.start_and_sleep)(str(tmp_path / "started"))
        yield delayed(calls.fail_behind)(str(tmp_path / "started"))
        for _ in range(100):
            yield delayed(calls.sleep_for_ever)()

    with pytest.raises(KeyError, match="behind"):
        Parallel(batch_size=1, pre_dispatch=2)(work())
    wait_until(lambda: executor.outstanding == 0, what="nothing to be outstanding")
    assert Parallel()(delayed(calls.square)(n) for n in range(3)) == [0, 1, 4]


def test_a_timeout() -> None:
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
        Parallel(timeout=0.1)(delayed(calls.sleep_for_ever)() for _ in range(3))
    assert Parallel()(delayed(calls.square)(n) for n in range(3)) == [0, 1, 4]


def test_a_worker_that_dies() -> None:
    with pytest.raises(WorkerLost):
        Parallel()(delayed(calls.die)() for _ in range(2))


def test_what_cannot_be_pickled() -> None:
    with pytest.raises(SerializationError, match="generator"):
        Parallel()(delayed(calls.square)(value) for value in [1, (n for n in [1])])


def test_an_iterable_that_raises() -> None:
    def broken() -> Iterator[Any]:
        for number in range(100):
            if number == 50:
                raise ArithmeticError("the iterable's own")
            yield delayed(calls.square)(number)

    with pytest.raises(ArithmeticError, match="own"):
        Parallel()(broken())


def test_fewer_jobs_than_workers(tmp_path: Path) -> None:
    with HighThroughputExecutor(max_workers_per_node=4, cores_per_worker=0.1, run_dir=tmp_path) as wide:  # noqa: SIM117
        with parallel_config(backend="throughway", executor=wide):
            assert joblib.effective_n_jobs(-1) == 4
            assert joblib.effective_n_jobs(-2) == 3
            seen: list[int] = []
            lock = threading.Lock()
            original = integration._Call._submit

            def counting(call: Any, function: Any, *arguments: Any) -> Any:
                with lock:
                    seen.append(wide.outstanding + 1)
                return original(call, function, *arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(integration._Call, "_submit", counting)
                done = Parallel(n_jobs=2, batch_size=1)(delayed(calls.square)(n) for n in range(50))
            assert done == [n**2 for n in range(50)]
            assert max(seen) <= 2


def test_one_job_stays_here(executor: HighThroughputExecutor) -> None:
    assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
    assert os.getpid() not in Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2))
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(abs)(1) for _ in range(2))


@pytest.mark.parametrize("backend", [None, "throughway"])
def test_nested_calls_run_in_threads(backend: str | None) -> None:
    assert Parallel()(delayed(nested)(n, backend) for n in range(5)) == [
        ("ThreadingBackend", sum(value**2 for value in range(n))) for n in range(5)
    ]


def test_lambdas_and_closures() -> None:
    factor = 3
    assert Parallel()(delayed(lambda value: factor * value)(n) for n in range(5)) == [0, 3, 6, 9, 12]


@pytest.mark.leaks_allowed("the executor that calls share goes on until it is shut down")
def test_the_shared_executor() -> None:
    try:
        with parallel_config(backend="throughway", n_jobs=2, inner_max_num_threads=3):
            first = set(Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(50)))
            second = set(Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(50)))
            assert len(first | second) <= 2
            assert set(Parallel()(delayed(calls.variable)("OMP_NUM_THREADS") for _ in range(4))) == {"3"}
        with parallel_config(backend="throughway", n_jobs=3):
            assert Parallel()(delayed(calls.square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
            assert integration._shared is not None
            assert integration._shared[1]._max_workers == 3
    finally:
        integration.shutdown()
    integration.shutdown()


@pytest.mark.leaks_allowed("the backend's own executor ends some time after it")
def test_an_executor_by_its_parameters(tmp_path: Path) -> None:
    config = parallel_config(
        backend="throughway", n_jobs=2, run_dir=str(tmp_path), initializer=os.putenv, initargs=("A", "b")
    )
    with config:
        backend = joblib.parallel.get_active_backend()[0]
        assert Parallel()(delayed(calls.square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
        assert joblib.effective_n_jobs(-1) == 2
        backend._own.shutdown()


def test_what_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="label"):
        parallel_config(backend="throughway", executor=executor, label="x")
    with pytest.raises(TypeError, match="HighThroughputExecutor"):
        parallel_config(backend="throughway", executor=3)
    with parallel_config(backend="throughway", executor=executor, inner_max_num_threads=2):  # noqa: SIM117
        with pytest.raises(ValueError, match="inner_max_num_threads=2"):
            Parallel(n_jobs=2)(delayed(abs)(n) for n in range(2))


def test_without_joblib(tmp_path: Path) -> None:
    (tmp_path / "joblib.py").write_text("raise ModuleNotFoundError('no', name='joblib')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import throughway.integrations.joblib"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "pip install 'throughway[joblib]'" in done.stderr


# ------------------------------------------------------------------------------------------------------ scikit-learn


@pytest.mark.leaks_allowed("loky keeps its workers")
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_what_it_finds_with_loky() -> None:
    need("sklearn")
    import numpy
    from joblib.externals.loky import get_reusable_executor
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC

    samples, classes = make_classification(n_samples=200, random_state=0)
    found = {}
    began = time.monotonic()
    for backend in ("throughway", "loky"):
        options = {} if backend == "loky" else {"executor": joblib.parallel.get_active_backend()[0]._given}
        with parallel_config(backend=backend, n_jobs=2, **options):
            search = GridSearchCV(SVC(), {"C": [0.1, 1.0, 10.0], "gamma": [0.01, 0.1]}, cv=3)
            search.fit(samples, classes)
            scores = cross_val_score(LogisticRegression(), samples, classes, cv=4)
        found[backend] = search.cv_results_["mean_test_score"], search.best_params_, scores
    get_reusable_executor().shutdown(wait=True)
    ours, theirs = found["throughway"], found["loky"]
    numpy.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    numpy.testing.assert_array_equal(ours[2], theirs[2])
    assert time.monotonic() - began < 50
