"""How well classes are told apart."""

from __future__ import annotations

import numpy as np

_BINS = 15


def classification_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare the likeliest class of each example with its own.

    Args:
        probabilities: float32 [N, C].
        labels: int32 [N].

    Returns:
        `accuracy`; `f1_macro`, the mean over the classes that are said or meant anywhere; `mcc`, the correlation of
        both (Gorodkin 2004), 0 where one of them is always the same; and `calibration_error`, how far the
        probability of the likeliest class is from how often it is right, in the mean over 15 bins (Guo et al. 2017).
        All NaN where there is no example.
    """
    names = ("accuracy", "f1_macro", "mcc", "calibration_error")
    if not len(labels):
        return dict.fromkeys(names, float("nan"))
    said = probabilities.argmax(axis=1)
    confusion = confusion_matrix(said, labels, probabilities.shape[1])
    right, meant, told = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    seen = meant + told > 0
    f1 = 2.0 * right[seen] / (meant + told)[seen]
    values = (
        right.sum() / len(labels),
        f1.mean(),
        _mcc(confusion),
        _calibration_error(probabilities, said == labels),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def relation_f1(said: np.ndarray, meant: np.ndarray, none: int) -> float:
    """F1 of all classes together but one, that says that there is nothing: what is right of what is said and of what is
    meant, the others left out (Zhang et al. 2017, TACRED). 0 where nothing is right.

    Args:
        said: int32 [N].
        meant: int32 [N].
        none: That class.
    """
    right = int(((said == meant) & (meant != none)).sum())
    return 2.0 * right / float((said != none).sum() + (meant != none).sum()) if right else 0.0


def multi_label_metrics(said: np.ndarray, meant: np.ndarray) -> dict[str, float]:
    """Compare the classes that are said of each example with those that it has.

    Args:
        said: bool [N, C].
        meant: bool [N, C].

    Returns:
        `f1_micro`, of all pairs of an example and a class; `f1_macro`, the mean over the classes that are said or
        meant anywhere; and `exact_match`, the share of examples of which all is right. All NaN where there is no
        example; F1 is 0 where nothing is said or meant.
    """
    names = ("f1_micro", "f1_macro", "exact_match")
    if not len(meant):
        return dict.fromkeys(names, float("nan"))
    right = (said & meant).sum(axis=0)
    all_of = said.sum(axis=0) + meant.sum(axis=0)  # F1 = 2 · right / (said + meant)
    seen = all_of > 0
    micro = 2.0 * right.sum() / all_of.sum() if seen.any() else 0.0
    macro = (2.0 * right[seen] / all_of[seen]).mean() if seen.any() else 0.0
    exact = (said == meant).all(axis=1).mean()
    return {name: float(value) for name, value in zip(names, (micro, macro, exact), strict=True)}


def confusion_matrix(said: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the examples of each class, a row, by what was said of them, a column: int64 [C, C]."""
    counts = np.bincount(labels.astype(np.int64) * num_classes + said, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _mcc(confusion: np.ndarray) -> float:
    counts = confusion.astype(np.float64)
    total, right = counts.sum(), np.trace(counts)
    meant, told = counts.sum(axis=1), counts.sum(axis=0)
    spread = np.sqrt((total**2 - meant @ meant) * (total**2 - told @ told))
    return float((right * total - meant @ told) / spread) if spread else 0.0


def _calibration_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    sure = probabilities.max(axis=1).astype(np.float64)
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    excess = np.bincount(bins, weights=sure - right, minlength=_BINS)
    return float(np.abs(excess).sum() / len(right))
