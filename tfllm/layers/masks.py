"""Who may attend to whom, as bool tensors where true allows."""

from __future__ import annotations

import tensorflow as tf


def causal_mask(
    length: int | tf.Tensor,
    *,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
) -> tf.Tensor:
    """Each token sees itself and what stands before it in its own segment.

    Args:
        length: T.
        padding_mask: bool [B, T], true for real tokens; padding is seen by nobody.
        segment_ids: int32 [B, T]; tokens of different segments do not see each other.

    Returns:
        bool [1 or B, T, S].
    """
    order = tf.range(length)
    mask = (order[None, :] <= order[:, None])[None]
    if padding_mask is not None:
        mask = mask & padding_mask[:, None, :]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return mask
