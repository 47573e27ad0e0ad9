"""Counting where each token stands."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

_LONGEST = 2**24  # tokens of a row whose length is not known when the graph is built


def positions_of(features: Mapping[str, tf.Tensor | None], side: str = "") -> tf.Tensor:
    """The `positions` of features, or what `counted_positions` makes of the others.

    Args:
        features: `token_ids`, and perhaps `positions`, `padding_mask` and `segment_ids`.
        side: What their names begin with, such as `encoder_`.

    Returns:
        int32 [B, T].
    """
    given = features.get(f"{side}positions")
    if given is not None:
        return given
    masks = features.get(f"{side}padding_mask"), features.get(f"{side}segment_ids")
    return counted_positions(features[f"{side}token_ids"], *masks)


def counted_positions(
    token_ids: tf.Tensor, padding_mask: tf.Tensor | None = None, segment_ids: tf.Tensor | None = None
) -> tf.Tensor:
    """Where each token stands among the real tokens of its segment.

    Args:
        token_ids: int32 [B, T].
        padding_mask: bool [B, T], true for real tokens; None where all are.
        segment_ids: int32 [B, T], each segment in one piece; None where a row is one.

    Returns:
        int32 [B, T] from 0; padding has the position of the real token before it, or 0.
    """
    if padding_mask is None and segment_ids is None:
        return tf.range(tf.shape(token_ids)[1])[None, :] + tf.zeros_like(token_ids)
    real = tf.ones_like(token_ids) if padding_mask is None else tf.cast(padding_mask, tf.int32)
    through = tf.cumsum(real, axis=1)
    if segment_ids is not None:
        begins = segment_ids[:, 1:] != segment_ids[:, :-1]
        # Before each segment stand those counted up to its beginning, the most of all beginnings so far.
        before = _running_max(tf.where(begins, through[:, :-1], 0))
        through = through - tf.pad(before, [[0, 0], [1, 0]])
    return tf.maximum(through - 1, 0)


def _running_max(x: tf.Tensor) -> tf.Tensor:
    """Of int32 [B, T] from 0: the largest up to each place, by doubling the reach."""
    length, reach = tf.shape(x)[1], 1
    while reach < (x.shape[1] or _LONGEST):
        x = tf.maximum(x, tf.pad(x, [[0, 0], [reach, 0]])[:, :length])
        reach *= 2
    return x
