"""A grid search of scikit-learn on Throughway, and beside it on loky, which joblib takes by itself.

    pip install 'throughway[joblib]' scikit-learn
    python grid_search.py            # a minute; --quick for some seconds

One line differs: the backend's name. On a cluster, give the executor a provider for it.
"""

import argparse
import time

import numpy as np
from joblib import parallel_config
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

import throughway.integrations.joblib  # noqa: F401 - registers backend="throughway"
from throughway import HighThroughputExecutor


def search(samples: np.ndarray, classes: np.ndarray, points: int) -> GridSearchCV:
    """The best of ``points`` × ``points`` support vector machines, each fitted five times."""
    grid = {"C": np.logspace(-2, 3, points), "gamma": np.logspace(-4, 0, points)}
    return GridSearchCV(SVC(), grid, cv=5).fit(samples, classes)


def main() -> None:
    """Search with each backend, and compare what they find and how long they take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small grid, for a first look")
    points = 3 if parser.parse_args().quick else 16

    samples, classes = make_classification(n_samples=300, n_features=20, random_state=0)
    fits = 5 * points**2

    with HighThroughputExecutor() as executor:
        found = {}
        for backend, options in (("throughway", {"executor": executor}), ("loky", {})):
            with parallel_config(backend=backend, n_jobs=-1, **options):
                cross_val_score(
                    SVC(), samples, classes, cv=8
                )  # workers are up and have imported scikit-learn
                began = time.perf_counter()
                found[backend] = search(samples, classes, points)
                seconds = time.perf_counter() - began
            best = {name: float(f"{value:.3g}") for name, value in found[backend].best_params_.items()}
            print(
                f"{backend:>10}: {fits} fits in {seconds:.2f} seconds, {fits / seconds:,.0f} fits/s, "
                f"best {best} with {found[backend].best_score_:.4f}"
            )
    scores = [search.cv_results_["mean_test_score"] for search in found.values()]
    print("Both found the same scores:", np.array_equal(*scores))


if __name__ == "__main__":
    main()
