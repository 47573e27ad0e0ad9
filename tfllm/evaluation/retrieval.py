"""How well vectors find what belongs to them."""

from __future__ import annotations

import numpy as np

_CHUNK = 1024  # anchors whose scores exist at once


def retrieval_metrics(
    anchors: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    *,
    keys: tuple[np.ndarray, np.ndarray, np.ndarray],
    temperature: float,
) -> dict[str, float]:
    """Rank each anchor's positive among all positives and negatives.

    A candidate that is the same text as the anchor or its positive, or the positive of an equal anchor, is left out.
    One that is as near as the positive stands before it: vectors that are all the same find nothing.

    Args:
        anchors: float32 [N, D], of length 1.
        positives: float32 [N, D], in the order of the anchors.
        negatives: float32 [M, D].
        keys: Of each of the three: int32, equal where texts are.
        temperature: What products are divided by for `loss`.

    Returns:
        `recall_at_1`, `recall_at_10`, the mean reciprocal rank `mrr` (Voorhees 1999), and `loss`, the mean
        cross-entropy of the positive in nats.
    """
    candidates = np.concatenate([positives, negatives])
    candidate_keys = np.concatenate(keys[1:])
    ranks, losses = [], []
    for start in range(0, len(anchors), _CHUNK):
        stop = min(start + _CHUNK, len(anchors))
        scores = anchors[start:stop].astype(np.float64) @ candidates.T
        own = scores[np.arange(stop - start), np.arange(start, stop)][:, None]
        same = candidate_keys[None] == keys[0][start:stop, None]
        same |= candidate_keys[None] == keys[1][start:stop, None]
        same[:, : len(anchors)] |= keys[0][None] == keys[0][start:stop, None]
        ranks.append(1 + ((scores >= own) & ~same).sum(axis=1))
        others = np.where(same, -np.inf, (scores - own) / temperature)
        losses.append(np.logaddexp(0.0, np.logaddexp.reduce(others, axis=1)))
    rank, loss = np.concatenate(ranks), np.concatenate(losses)
    return {
        "recall_at_1": float(np.mean(rank <= 1)),
        "recall_at_10": float(np.mean(rank <= 10)),
        "mrr": float(np.mean(1.0 / rank)),
        "loss": float(loss.mean()),
    }
