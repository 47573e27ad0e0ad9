"""One vector for a row, from those of its tokens."""

from __future__ import annotations

from collections.abc import Mapping

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


def last_token(hidden_states: tf.Tensor, padding_mask: tf.Tensor | None = None) -> tf.Tensor:
    """The last real token, which has seen all others where each sees those before it.

    Args:
        hidden_states: float [B, T, D].
        padding_mask: bool [B, T], true for real tokens, wherever they stand; None where all are.

    Returns:
        float [B, D].
    """
    if padding_mask is None:
        return hidden_states[:, -1]
    places = tf.cast(padding_mask, tf.int32) * tf.range(tf.shape(padding_mask)[1])
    return tf.gather(hidden_states, tf.reduce_max(places, axis=1), batch_dims=1)


# The vector of a row; each takes `hidden_states` and `padding_mask`.
ROW_POOLINGS = {"first": first_token, "mean": mean_pool, "last": last_token}


def text_vectors(hidden_states: tf.Tensor, features: Mapping[str, tf.Tensor], pooling: str) -> tf.Tensor:
    """One vector for each text: for each segment, where `example_ids` int32 [B, S] say how many there are, else one a
    row.

    Args:
        hidden_states: float [B, T, D].
        features: `segment_ids` int32 [B, T] and `example_ids`; or what `row_vectors` reads.
        pooling: first, mean or last.

    Returns:
        float [B, S, D], or [B, D].
    """
    if "example_ids" in features:
        count = features["example_ids"].shape[1]
        return segment_vectors(hidden_states, features["segment_ids"], count, pooling)
    return row_vectors(hidden_states, features, pooling)


def row_vectors(hidden_states: tf.Tensor, features: Mapping[str, tf.Tensor], pooling: str) -> tf.Tensor:
    """One vector for each row, whatever segments there are: float [B, T, D] -> float [B, D].

    Args:
        hidden_states: float [B, T, D].
        features: `padding_mask` bool [B, T], or `segment_ids` int32 [B, T], or neither where all tokens are real.
        pooling: first, mean or last.
    """
    mask = features.get("padding_mask")
    if mask is None and "segment_ids" in features:
        mask = features["segment_ids"] > 0
    return ROW_POOLINGS[pooling](hidden_states, mask)


def segment_vectors(
    hidden_states: tf.Tensor, segment_ids: tf.Tensor, num_segments: int, pooling: str
) -> tf.Tensor:
    """One vector for each segment of packed rows, as `mean_pool` and its like give of a row that is it alone.

    Args:
        hidden_states: float [B, T, D].
        segment_ids: int32 [B, T], from 1; 0 is padding, wherever it stands.
        num_segments: Segments S in a row, at most.
        pooling: first, mean or last: token of the segment.

    Returns:
        float [B, S, D] of the dtype of `hidden_states`, means summed in float32; zeros where there is no segment.

    Raises:
        ValueError: when `pooling` is not known.
    """
    if pooling not in ROW_POOLINGS:
        raise ValueError(f"pooling={pooling!r} is not known; use {', '.join(ROW_POOLINGS)}")
    own = segment_ids[:, None, :] == tf.range(1, num_segments + 1)[None, :, None]  # bool [B, S, T]
    if pooling == "mean":
        # Not a product with zero: what stands in padding need not be finite.
        states = tf.where(segment_ids[:, :, None] > 0, tf.cast(hidden_states, tf.float32), 0.0)
        mask = tf.cast(own, tf.float32)
        count = tf.maximum(tf.reduce_sum(mask, axis=-1, keepdims=True), 1.0)
        return tf.cast(tf.einsum("BST,BTD->BSD", mask, states) / count, hidden_states.dtype)
    places = tf.cast(own, tf.int32)
    if pooling == "first":
        place = tf.argmax(places, axis=-1, output_type=tf.int32)
    else:
        place = tf.reduce_max(places * tf.range(tf.shape(segment_ids)[1]), axis=-1)
    chosen = tf.gather(hidden_states, place, batch_dims=1)
    return tf.where(tf.reduce_any(own, axis=-1, keepdims=True), chosen, tf.zeros_like(chosen))
