"""Attention for training, causal or not: nothing kept but the output, nothing computed above the diagonal.

Autodiff keeps the scores of every layer for the backward pass, computes the half that the mask then throws
away, and transposes whole score matrices on the way back. Here the queries are cut into a few groups, known when
the graph is built; a group meets the keys from the first it may see up to its own last one, and the backward
pass computes its scores again from the log of their sum (Dao et al. 2022, "FlashAttention", without the
inner loop).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfllm.layers.masks import Mask, Range
from tfllm.layers.recompute import not_before
from tfllm.layers.sizes import sizes
from tfllm.layers.soft_cap import MASKED, SoftCap

_LARGE_TABLE = 2**18  # entries of a mask; a smaller one the compiler may store, which is a little faster

_Three = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def sliced_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: Mask,
    *,
    group_size: int | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> tf.Tensor:
    """Attends.

    Args:
        query: float [B, T, N, H] with T known.
        key: float [B, T, K, H]; K divides N.
        value: float [B, T, K, H].
        mask: Who sees whom. A query that sees nobody gets zeros.
        group_size: Queries in a group; None is 128, or an eighth of T where that is more.
        scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        soft_cap: See `SoftCap`; None does not cap.

    Returns:
        float [B, T, N, H], of the dtype of `query`; the softmax is computed in float32.
    """
    length = query.shape[1]
    size = group_size or group_size_for(length)
    groups = [(start, min(start + size, length)) for start in range(0, length, size)]
    rule = _Rule(mask, scale or query.shape[3] ** -0.5, SoftCap(soft_cap))

    @tf.custom_gradient
    def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Callable[..., _Three]]:
        parts: list[_Three] = []
        for start, end in groups:
            # One group after the other, here and below, or XLA holds the scores of all of them at a time.
            group = query[:, start:end]
            group = not_before(parts[-1][0], group) if parts else group
            parts.append(_forward(group, key, value, rule, start, end))
        mixed, totals = (tf.concat([part[i] for part in parts], axis=1) for i in (0, 1))
        # The quotient comes last: XLA would make a concatenation, but not a quotient, once for each use, and
        # keep two copies for the backward pass.
        output = tf.cast(tf.cast(mixed, tf.float32) / totals, query.dtype)

        def gradient(upstream: tf.Tensor) -> _Three:
            # sum(P * dP) of a query, from what is at hand (Dao et al. 2022, eq. 4)
            products = tf.cast(upstream, tf.float32) * tf.cast(output, tf.float32)
            inner = tf.reduce_sum(products, axis=-1)
            keys, values = (not_before(upstream, x) for x in (key, value))
            grads: list[_Three] = []
            for (start, end), (*_, log_sum) in zip(groups, parts, strict=True):
                before = grads[-1][0] if grads else upstream
                queries, slopes = (not_before(before, x[:, start:end]) for x in (query, upstream))
                rest = (rule, start, end, log_sum, inner[:, start:end])
                grads.append(_backward(queries, slopes, keys, values, *rest))
            starts = [mask.keys_of(start, end, length)[0] for start, end in groups]
            return (
                tf.concat([grad[0] for grad in grads], axis=1),
                _add([grad[1] for grad in grads], starts, length, key.dtype),
                _add([grad[2] for grad in grads], starts, length, value.dtype),
            )

        return output, gradient

    return attend(query, key, value)


def group_size_for(length: int) -> int:
    """Queries in a group, where no number is asked for."""
    return max(128, -(-length // 8))


class _Rule(NamedTuple):
    """How queries and keys meet."""

    mask: Mask
    scale: float
    cap: SoftCap


def _forward(query, key, value, rule: _Rule, start: int, end: int) -> _Three:
    """Attends from the queries from `start` to `end`.

    Returns:
        The sums of weighted values [B, t, N, H], what to divide them by, float32 [B, t, N, 1], and the logs
        of the sums of the exponentials, float32 [B, K, G t, 1].
    """
    groups, (first, last) = query.shape[2] // key.shape[2], rule.mask.keys_of(start, end, key.shape[1])
    scale = tf.cast(rule.scale, query.dtype)
    logits = tf.matmul(_queries(query * scale, groups), _transposed(key[:, first:last]))
    seen = _seen(rule.mask, (start, end), (first, last), groups, query)
    logits = tf.where(seen, rule.cap(tf.cast(logits, tf.float32)), MASKED)
    top = tf.reduce_max(logits, axis=-1, keepdims=True)
    weights = tf.where(seen, tf.exp(logits - top), 0.0)
    total = tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1e-30)
    mixed = tf.matmul(tf.cast(weights, value.dtype), tf.transpose(value[:, first:last], [0, 2, 1, 3]))
    mixed, totals = (_back(x, end - start, groups) for x in (mixed, total))
    return mixed, totals, top + tf.math.log(total)


def _backward(query, upstream, key, value, rule: _Rule, start: int, end: int, log_sum, inner) -> _Three:
    """Gradients of the queries [B, t, N, H], and of the keys and values they see, float32 [B, K, H, s]."""
    groups, dtype = query.shape[2] // key.shape[2], query.dtype
    first, last = rule.mask.keys_of(start, end, key.shape[1])
    key = key[:, first:last] * tf.cast(rule.scale, dtype)
    logits = rule.cap(tf.cast(tf.matmul(_queries(query, groups), _transposed(key)), tf.float32))
    seen = _seen(rule.mask, (start, end), (first, last), groups, query)
    weights = tf.where(seen, tf.exp(logits - log_sum), 0.0)
    slopes = tf.cast(tf.matmul(_queries(upstream, groups), _transposed(value[:, first:last])), tf.float32)
    slopes = weights * (slopes - _queries(inner[..., None], groups))
    slopes = tf.cast(rule.cap.slope(slopes, logits), dtype)
    # Transposing queries and upstream, which are narrow, spares transposing the scores, which are wide.
    value_grad = tf.matmul(_queries_transposed(upstream, groups), tf.cast(weights, dtype))
    key_grad = tf.matmul(_queries_transposed(query, groups), slopes)
    query_grad = tf.matmul(slopes, tf.transpose(key, [0, 2, 1, 3]))
    key_grad = tf.cast(key_grad, tf.float32) * rule.scale
    return _back(query_grad, end - start, groups), key_grad, tf.cast(value_grad, tf.float32)


def _seen(mask: Mask, queries: Range, keys: Range, groups: int, query: tf.Tensor) -> tf.Tensor:
    """bool [1 or B, 1, 1 or G t, s]."""
    (start, end), (first, last) = queries, keys
    after = query if (end - start) * (last - first) > _LARGE_TABLE else None
    seen = mask.block(start, end - start, first, last - first, after=after)[:, None]
    return seen if groups == 1 or seen.shape[2] == 1 else tf.tile(seen, [1, 1, groups, 1])


def _queries(x: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, t, N, H] -> [B, K, G t, H]: the queries of one key-value head together."""
    batch = sizes(x)[0]
    length, heads, width = x.shape[1:]
    x = tf.reshape(x, [batch, length, heads // groups, groups, width])
    return tf.reshape(tf.transpose(x, [0, 2, 3, 1, 4]), [batch, heads // groups, groups * length, width])


def _queries_transposed(x: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, t, N, H] -> [B, K, H, G t]."""
    batch = sizes(x)[0]
    length, heads, width = x.shape[1:]
    x = tf.reshape(x, [batch, length, heads // groups, groups, width])
    return tf.reshape(tf.transpose(x, [0, 2, 4, 3, 1]), [batch, heads // groups, width, groups * length])


def _transposed(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [0, 2, 3, 1])  # [B, S, K, H] -> [B, K, H, S]


def _back(x: tf.Tensor, length: int, groups: int) -> tf.Tensor:
    """[B, K, G t, H] -> [B, t, N, H]."""
    batch = sizes(x)[0]
    heads, _, width = x.shape[1:]
    x = tf.reshape(x, [batch, heads, groups, length, width])
    return tf.reshape(tf.transpose(x, [0, 3, 1, 2, 4]), [batch, length, heads * groups, width])


def _add(parts: list[tf.Tensor], starts: list[int], length: int, dtype: Any) -> tf.Tensor:
    """Sum of [B, K, H, s], each from its start on -> [B, T, K, H]."""
    padded = [
        tf.pad(part, [[0, 0]] * 3 + [[start, length - start - part.shape[3]]])
        for start, part in zip(starts, parts, strict=True)
    ]
    return tf.cast(tf.transpose(tf.add_n(padded), [0, 3, 1, 2]), dtype)
