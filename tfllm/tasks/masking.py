"""Which tokens of a row are hidden, and what stands in their place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfllm.data.pipeline import positions_from_segments
from tfllm.layers.stateless_random import fold_in, uniform

# What numbers are drawn for: each purpose has its own.
_ORDER, _LAST, _KIND, _TOKEN = 0x3A51, 0x3A52, 0x3A53, 0x3A54
_LONGEST_LAST = 16  # tokens of the last word chosen, at most, beside the share that is asked for


def most_masked(seq_len: int, rate: float) -> int:
    """How many tokens of a row are hidden at most."""
    return min(seq_len, int(seq_len * rate) + 1 + _LONGEST_LAST)


def mask(
    rows: dict[str, tf.Tensor],
    *,
    rate: float,
    split: Sequence[float],
    whole_words: bool,
    mask_id: int,
    random_ids: np.ndarray,
) -> dict[str, tf.Tensor]:
    """Hides a share of each row's tokens (Devlin et al. 2019, section 3.1).

    Words, or tokens, are taken in an order drawn for the row until the share is reached. The last one that does not
    fit whole is taken with the probability that makes the expected number the share itself, exactly.

    Args:
        rows: `token_ids`, `words` and `segment_ids` int32 [B, T], and `row_seeds` int32 [B], from which all follows.
        rate: Share of the tokens in words that are hidden.
        split: Of those the shares that become the mask token, another token, and stay what they are.
        whole_words: All tokens of a word, or none.
        mask_id: The mask token.
        random_ids: int32 [R], what another token is drawn from.

    Returns:
        `token_ids` as the model sees them; and int32 [B, M] `masked_positions`, which tokens were hidden, in their
        order, int32 [B, M] `masked_targets`, what they were, and float32 [B, M] `masked_weights`, 1, and 0 behind the
        last of a row.
    """
    token_ids, seeds = rows["token_ids"], rows["row_seeds"]
    length = token_ids.shape[1]
    chosen = _chosen(rows, rate, whole_words) & (rows["words"] > 0)
    limit = most_masked(length, rate)
    order = tf.argsort(tf.where(chosen, 0, 1), axis=1, stable=True)[:, :limit]  # those chosen first
    weights = tf.gather(tf.cast(chosen, tf.float32), order, batch_dims=1)
    places = tf.where(weights > 0, order, 0)
    kept = chosen & (tf.cumsum(tf.cast(chosen, tf.int32), axis=1) <= limit)
    kind = uniform(fold_in(seeds, _KIND), length)
    drawn = tf.cast(uniform(fold_in(seeds, _TOKEN), length) * len(random_ids), tf.int32)
    other = tf.gather(tf.constant(random_ids, tf.int32), drawn)
    hidden = tf.where(kind < split[0], mask_id, tf.where(kind < split[0] + split[1], other, token_ids))
    return {
        "token_ids": tf.where(kept, hidden, token_ids),
        "masked_positions": places,
        "masked_targets": tf.gather(token_ids, places, batch_dims=1),
        "masked_weights": weights,
    }


def _chosen(rows: dict[str, tf.Tensor], rate: float, whole_words: bool) -> tf.Tensor:
    """Whether each token is hidden, bool [B, T]."""
    words, segment_ids, seeds = rows["words"], rows["segment_ids"], rows["row_seeds"]
    length = words.shape[1]
    real = words > 0
    if whole_words:
        number = words + segment_ids * (length + 1)  # words of other segments are others
        begins = tf.concat([tf.ones_like(real[:, :1]), number[:, 1:] != number[:, :-1]], axis=1)
    else:
        begins = tf.ones_like(real)
    unit = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # int32 [B, T], from 0
    start = tf.range(length)[None] - positions_from_segments(unit + 1)
    sizes = tf.math.bincount(unit, minlength=length, maxlength=length, axis=-1)
    size = tf.cast(tf.gather(sizes, unit, batch_dims=1), tf.float32)
    drawn = tf.gather(uniform(fold_in(seeds, _ORDER), length), unit, batch_dims=1)
    order = tf.argsort(tf.where(real, drawn, 2.0), axis=1, stable=True)
    rank = tf.argsort(order, axis=1, stable=True)
    before = tf.cast(tf.gather(rank, start, batch_dims=1), tf.float32)  # tokens of words that come first
    share = rate * tf.reduce_sum(tf.cast(real, tf.float32), axis=1, keepdims=True)
    last = tf.gather(uniform(fold_in(seeds, _LAST), length), unit, batch_dims=1)
    return real & ((before + size <= share) | ((before < share) & (last * size < share - before)))
