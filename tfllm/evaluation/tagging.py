"""How well words are tagged, and spans of them found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfllm.evaluation.classification import confusion_matrix


def tag_metrics(said: np.ndarray, meant: np.ndarray, num_classes: int) -> dict[str, float]:
    """Compare the tag that is said of each word with its own.

    Args:
        said: int32 [N].
        meant: int32 [N].
        num_classes: Tags that there are.

    Returns:
        `accuracy`, and `f1_macro`, the mean over the tags that are said or meant anywhere; NaN where there is no word.
    """
    if not len(meant):
        return {"accuracy": float("nan"), "f1_macro": float("nan")}
    confusion = confusion_matrix(said, meant, num_classes)
    right, both = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = both > 0
    return {
        "accuracy": float(right.sum() / len(meant)),
        "f1_macro": float((2.0 * right[seen] / both[seen]).mean()),
    }


def span_metrics(counts: np.ndarray, kinds: Sequence[str]) -> dict[str, float]:
    """Compare the spans that are said with those that are meant: right is the same words and the same kind.

    Args:
        counts: int64 [K, 3]: the spans of each kind that are right, said and meant.
        kinds: What the kinds are called.

    Returns:
        `span_f1`, `span_precision` and `span_recall` of all together, 0 where nothing is right; and `span_f1/<kind>` of
        each kind, where there are several.
    """
    right, said, meant = counts.sum(axis=0).tolist()
    found = {
        "span_f1": _f1(right, said, meant),
        "span_precision": right / said if said else 0.0,
        "span_recall": right / meant if meant else 0.0,
    }
    if len(kinds) > 1:
        rows = zip(kinds, counts.tolist(), strict=True)
        found |= {f"span_f1/{kind}": _f1(*numbers) for kind, numbers in rows}
    return found


def _f1(right: int, said: int, meant: int) -> float:
    return 2.0 * right / (said + meant) if right else 0.0
