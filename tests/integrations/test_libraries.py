"""Libraries that take a pool or an executor as they are: emcee, SciPy, schwimmbad, tqdm."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import as_completed
from typing import Any

import pytest

from tests.integrations import calls
from tests.integrations.libraries import need
from throughway import HighThroughputExecutor
from throughway.integrations.aio import AsyncExecutor
from throughway.integrations.pool import Pool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def pool(executor: HighThroughputExecutor) -> Pool:
    return Pool(executor=executor)


def log_normal(position: Any) -> float:
    return float(-0.5 * (position**2).sum())


def rosenbrock(position: Any) -> float:
    return float((100.0 * (position[1:] - position[:-1] ** 2) ** 2 + (1 - position[:-1]) ** 2).sum())


def test_emcee(pool: Pool) -> None:
    need("emcee")
    import emcee
    import numpy

    def chain(pool: Any) -> Any:
        numpy.random.seed(1)  # noqa: NPY002 - emcee takes its state
        sampler = emcee.EnsembleSampler(8, 2, log_normal, pool=pool)
        sampler.run_mcmc(numpy.random.default_rng(0).normal(size=(8, 2)), 20)
        return sampler.get_chain()

    numpy.testing.assert_array_equal(chain(pool), chain(None))


def test_scipy_workers(pool: Pool) -> None:
    need("scipy")
    import numpy
    from scipy import optimize

    def best(workers: Any) -> Any:
        return optimize.differential_evolution(
            rosenbrock, [(-2, 2)] * 3, workers=workers, updating="deferred", seed=1, maxiter=10, polish=False
        ).x

    numpy.testing.assert_array_equal(best(pool.map), best(1))
    ours = optimize.brute(rosenbrock, ((-1, 1), (-1, 1)), Ns=5, workers=pool.map, finish=None)
    numpy.testing.assert_array_equal(ours, optimize.brute(rosenbrock, ((-1, 1), (-1, 1)), Ns=5, finish=None))


def test_beside_schwimmbad(pool: Pool) -> None:
    """What is written for schwimmbad's pools has ``map`` with a callback of its own, and works on `map` alone."""
    need("schwimmbad")
    import schwimmbad

    def work(any_pool: Any) -> list[int]:
        return list(any_pool.map(calls.square, range(20)))

    assert work(pool) == work(schwimmbad.SerialPool())


def test_tqdm(executor: HighThroughputExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    need("tqdm")
    from tqdm import tqdm
    from tqdm.asyncio import tqdm as async_tqdm

    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else it starts a thread that never ends
    out = io.StringIO()
    assert list(tqdm(executor.map(calls.square, range(100)), total=100, file=out)) == [
        n**2 for n in range(100)
    ]
    futures = [executor.submit(calls.square, n) for n in range(50)]
    assert sum(future.result() for future in tqdm(as_completed(futures), total=50, file=out)) == 40425

    async def main() -> int:
        async with AsyncExecutor(executor) as ex:
            return sum(
                [value async for value in async_tqdm(ex.map(calls.square, range(50)), total=50, file=out)]
            )

    assert asyncio.run(main()) == 40425
    assert "100/100" in out.getvalue()
    assert out.getvalue().count("50/50") >= 2
