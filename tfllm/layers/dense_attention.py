"""Attention that computes the scores of all queries and keys as one tensor."""

from __future__ import annotations

import tensorflow as tf

from tfllm.layers.sizes import sizes
from tfllm.layers.soft_cap import MASKED, SoftCap


def dense_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor,
    *,
    scale: float,
    soft_cap: float | None = None,
    bias: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attends.

    Args:
        query: float [B, T, N, H].
        key: float [B, K, S, H]; K divides N.
        value: float [B, K, S, H].
        mask: bool [1 or B, 1 or T, S], true where attention is allowed. A query that sees nobody stays finite.
        scale: What products of queries and keys are multiplied by.
        soft_cap: See `SoftCap`; None does not cap.
        bias: float32 [1 or B, N, T, S], added to the scores before the softmax.

    Returns:
        float [B, T, K, N / K, H], and the attention scores float32 [B, N, T, S].
    """
    shape, kv_heads = sizes(query), key.shape[1]
    num_heads, head_dim = query.shape[2:]
    query = tf.reshape(query, [shape[0], shape[1], kv_heads, num_heads // kv_heads, head_dim])
    query = query * tf.cast(scale, query.dtype)
    logits = tf.cast(tf.einsum("BTKGH,BKSH->BKGTS", query, key), tf.float32)
    if bias is not None:
        rows, _, *places = sizes(bias)
        logits = logits + tf.reshape(bias, [rows, kv_heads, num_heads // kv_heads, *places])
    logits = SoftCap(soft_cap)(logits)
    scores = tf.nn.softmax(tf.where(mask[:, None, None], logits, MASKED), axis=-1)
    mixed = tf.einsum("BKGTS,BKSH->BTKGH", tf.cast(scores, value.dtype), value)
    return mixed, tf.reshape(scores, [shape[0], num_heads, shape[1], sizes(key)[2]])
