"""How well numbers are told."""

from __future__ import annotations

import numpy as np


def regression_metrics(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare what was said of each example with what is so.

    Args:
        values: float64 [N], as said.
        labels: float64 [N], as it is.

    Returns:
        `pearson`, the correlation of both; `spearman`, that of their ranks, where equal numbers share the mean of
        theirs; both 0 where one side is always the same; and `mean_absolute_error`. All NaN where there is no example.
    """
    if not len(labels):
        return dict.fromkeys(("pearson", "spearman", "mean_absolute_error"), float("nan"))
    return {
        "pearson": _correlation(values, labels),
        "spearman": _correlation(_ranks(values), _ranks(labels)),
        "mean_absolute_error": float(np.abs(values - labels).mean()),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread else 0.0


def _ranks(numbers: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[places]
