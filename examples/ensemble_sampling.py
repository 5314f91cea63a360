"""emcee samples a posterior with Throughway's Pool, and beside it with multiprocessing.Pool and with neither.

    pip install throughway emcee
    python ensemble_sampling.py      # half a minute; --quick for some seconds

emcee takes a pool; so do many other libraries. One line differs: which Pool.
"""

import argparse
import contextlib
import multiprocessing
import time

import emcee
import numpy as np

from throughway.integrations.pool import Pool

WALKERS = 32
TIMES = np.linspace(0.0, 10.0, 4000)
TRUTH = np.array([1.5, 0.8, 0.3])


def model(parameters: np.ndarray) -> np.ndarray:
    """A damped oscillation: amplitude, angular frequency, damping."""
    amplitude, frequency, damping = parameters
    return amplitude * np.exp(-damping * TIMES) * np.cos(frequency * TIMES)


def log_posterior(parameters: np.ndarray, observed: np.ndarray) -> float:
    """Flat priors, normal errors; the model is integrated several times, as if it were more expensive."""
    if np.any(parameters <= 0) or np.any(parameters > 5):
        return -np.inf
    for _ in range(20):
        residuals = observed - model(parameters)
    return float(-0.5 * np.sum((residuals / 0.1) ** 2))


def sample(pool: object, steps: int) -> tuple[np.ndarray, float]:
    """The means of the posterior, and the seconds that it took."""
    random = np.random.default_rng(0)
    observed = model(TRUTH) + 0.1 * random.normal(size=len(TIMES))
    start = TRUTH + 0.01 * random.normal(size=(WALKERS, len(TRUTH)))
    np.random.seed(0)  # noqa: NPY002 - emcee starts from its state
    sampler = emcee.EnsembleSampler(WALKERS, len(TRUTH), log_posterior, args=[observed], pool=pool)
    state = sampler.run_mcmc(start, 2)  # workers are up
    began = time.perf_counter()
    sampler.run_mcmc(state, steps)
    return sampler.get_chain(discard=steps // 2, flat=True).mean(axis=0), time.perf_counter() - began


def main() -> None:
    """Sample with each pool, and compare what they find and how long they take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, for a first look")
    steps = 20 if parser.parse_args().quick else 300

    pools = {
        "throughway.integrations.pool.Pool": Pool,
        "multiprocessing.Pool": multiprocessing.Pool,
        "no pool": lambda: contextlib.nullcontext(None),
    }
    found = []
    for name, make in pools.items():
        with make() as pool:
            means, seconds = sample(pool, steps)
        found.append(means)
        print(
            f"{name:>33}: {steps} steps of {WALKERS} walkers in {seconds:.2f} seconds, "
            f"{steps * WALKERS / seconds:,.0f} evaluations/s, means {np.round(means, 4)}"
        )
    print("All found the same means:", all(np.array_equal(found[0], means) for means in found))


if __name__ == "__main__":
    main()
