"""joblib's backends: a grid search of scikit-learn, or tiny calls in a `Parallel`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.measures.warm import WORKERS
from benchmarks.tasks import echo


def measure(root: int, *, backend: str, what: str, seconds: float) -> dict[str, Any]:
    """Calls per second with two workers that are up.

    Args:
        backend: ``throughway`` or ``loky``.
        what: ``search`` for the fits of a `GridSearchCV`, ``calls`` for no-ops.
        seconds: how long to go on, about.
    """
    from joblib import parallel_config

    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if backend == "throughway":
            import throughway.integrations.joblib  # noqa: F401 - registers the backend
            from throughway import HighThroughputExecutor

            options["executor"] = stack.enter_context(HighThroughputExecutor(max_workers_per_node=WORKERS))
        stack.enter_context(parallel_config(backend=backend, n_jobs=WORKERS, **options))
        one_pass = _search if what == "search" else _calls
        one_pass()  # workers are up, and have imported what they need
        done = 0
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            done += one_pass()
    return {"rate": done / took, "calls": done, "seconds": took}


def _search() -> int:
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    samples, classes = make_classification(n_samples=200, random_state=0)
    grid = {"C": [10.0**power for power in range(-3, 5)], "gamma": [10.0**power for power in range(-4, 4)]}
    search = GridSearchCV(SVC(), grid, cv=5).fit(samples, classes)
    if not 0.8 < search.best_score_ <= 1.0:
        raise RuntimeError(f"the search found {search.best_score_}")
    return 5 * len(search.cv_results_["params"])


def _calls() -> int:
    from joblib import Parallel, delayed

    count = 20_000
    if Parallel()(delayed(echo)(number) for number in range(count)) != list(range(count)):
        raise RuntimeError("results are wrong")
    return count
