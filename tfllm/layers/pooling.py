"""One vector for a row, from those of its tokens."""

from __future__ import annotations

import tensorflow as tf


def mean_pool(hidden_states: tf.Tensor, padding_mask: tf.Tensor | None = None) -> tf.Tensor:
    """The mean over real tokens; divided by its length, the sentence embedding of Reimers & Gurevych 2019.

    Args:
        hidden_states: float [B, T, D].
        padding_mask: bool [B, T], true for real tokens; None where all are.

    Returns:
        float [B, D], of the dtype of `hidden_states`, summed in float32; zeros for a row of padding.
    """
    states = tf.cast(hidden_states, tf.float32)
    if padding_mask is None:
        return tf.cast(tf.reduce_mean(states, axis=1), hidden_states.dtype)
    # Not a product with zero: what stands in padding need not be finite.
    total = tf.reduce_sum(tf.where(padding_mask[:, :, None], states, 0.0), axis=1)
    count = tf.reduce_sum(tf.cast(padding_mask, tf.float32), axis=1, keepdims=True)
    return tf.cast(total / tf.maximum(count, 1.0), hidden_states.dtype)


def first_token(hidden_states: tf.Tensor, padding_mask: tf.Tensor | None = None) -> tf.Tensor:
    """The first real token, where BERT has its `[CLS]`.

    Args:
        hidden_states: float [B, T, D].
        padding_mask: bool [B, T], true for real tokens; None where all are.

    Returns:
        float [B, D].
    """
    if padding_mask is None:
        return hidden_states[:, 0]
    place = tf.argmax(tf.cast(padding_mask, tf.int32), axis=1, output_type=tf.int32)
    return tf.gather(hidden_states, place, batch_dims=1)
