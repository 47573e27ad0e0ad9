"""Attention, causal or not, whose memory does not grow with the square of the row.

Queries and keys are cut into blocks, and a loop meets one block of queries with one block of keys at a time;
the softmax is kept as a running maximum and sum (Rabe & Staats 2021, "Self-attention Does Not Need O(n^2)
Memory"; Dao et al. 2022, "FlashAttention"). Blocks above the diagonal, or out of every query's window, are
never met. For the backward pass only the output and the log of the sums are kept; scores are computed again,
block by block.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfllm.layers.masks import Mask
from tfllm.layers.sizes import sizes
from tfllm.layers.soft_cap import MASKED, SoftCap

_Three = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def blockwise_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: Mask,
    *,
    block_size: int,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> tf.Tensor:
    """Attends.

    Args:
        query: float [B, T, N, H].
        key: float [B, T, K, H]; K divides N.
        value: float [B, T, K, H].
        mask: Who sees whom. A query that sees nobody gets zeros.
        block_size: Queries, and keys, in a block.
        scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        soft_cap: See `SoftCap`; None does not cap.

    Returns:
        float [B, T, N, H], of the dtype of `query`; softmax and sums are kept in float32.
    """
    shape, num_kv_heads = tf.shape(query), key.shape[2]
    extra = -shape[1] % block_size
    count = (shape[1] + extra) // block_size
    scale = scale or query.shape[3] ** -0.5
    blocks = _Blocks(mask.padded(shape[1], extra), block_size, count, scale, SoftCap(soft_cap))

    @tf.custom_gradient
    def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Callable[..., _Three]]:
        # Where a block is computed again, the tape around it would ask for the loops' own gradients, which XLA cannot.
        fixed = [tf.stop_gradient(x) for x in (query, key, value)]
        parts = [_cut(x, num_kv_heads, extra, block_size) for x in fixed]
        output, log_sums = blocks.forward(*parts)

        def gradient(upstream: tf.Tensor) -> _Three:
            upstream = _cut(upstream, num_kv_heads, extra, block_size)
            products = tf.cast(upstream, tf.float32) * tf.cast(output, tf.float32)
            inner = tf.reduce_sum(products, axis=-1, keepdims=True)
            parts = [_cut(x, num_kv_heads, extra, block_size) for x in (query, key, value)]
            query_blocks, key_blocks, value_blocks = parts
            grads = blocks.backward(query_blocks, key_blocks, value_blocks, log_sums, upstream, inner)
            return tuple(
                tf.cast(_join(grad, shape[1], *x.shape[2:]), x.dtype)
                for grad, x in zip(grads, (query, key, value), strict=True)
            )

        return _join(output, shape[1], *query.shape[2:]), gradient

    return attend(query, key, value)


class _Blocks:
    """The loops, over arrays cut into blocks: [n, B, K, G, block, H], with G = 1 for keys and values."""

    def __init__(self, mask: Mask, size: int, count: tf.Tensor, scale: float, cap: SoftCap):
        self._mask, self._size, self._count = mask, size, count
        self._scale, self._cap = scale, cap

    def forward(self, query, key, value) -> tuple[tf.Tensor, tf.Tensor]:
        """Output, and log of the sums, float32 [n, B, K, G, block, 1]."""
        query = query * tf.cast(self._scale, query.dtype)
        column = tf.shape(query[0])[:-1]

        def row(i, outputs, log_sums):
            def column_step(j, mixed, top, total):
                logits = self._logits(query[i], key[j], i, j)
                new_top = tf.maximum(top, tf.reduce_max(logits, axis=-1, keepdims=True))
                weights = tf.where(logits > 0.5 * MASKED, tf.exp(logits - new_top), 0.0)
                shrink = tf.exp(top - new_top)
                total = total * shrink + tf.reduce_sum(weights, axis=-1, keepdims=True)
                part = _float(_product(tf.cast(weights, value.dtype), value[j]))
                return j + 1, mixed * shrink + part, new_top, total

            nothing = tf.zeros(tf.shape(query[0]), tf.float32)
            first, last = self._mask.key_blocks_of(i, self._size, self._count)
            start = (first, nothing, tf.fill(column, MASKED)[..., None], tf.zeros(column)[..., None])
            _, mixed, top, total = tf.while_loop(lambda j, *_: j < last, column_step, start)
            total = tf.maximum(total, 1e-30)
            outputs = outputs.write(i, tf.cast(mixed / total, query.dtype))
            return i + 1, outputs, log_sums.write(i, top + tf.math.log(total))

        arrays = tf.TensorArray(query.dtype, self._count), tf.TensorArray(tf.float32, self._count)
        _, outputs, log_sums = tf.while_loop(lambda i, *_: i < self._count, row, (0, *arrays))
        return outputs.stack(), log_sums.stack()

    def backward(self, query, key, value, log_sums, upstream, inner) -> _Three:
        """Gradients of query, key and value, float32."""
        key = key * tf.cast(self._scale, key.dtype)
        dtype = query.dtype

        def column(j, query_grads, key_grads, value_grads):
            def row_step(i, query_grads, key_grad, value_grad):
                logits = self._logits(query[i], key[j], i, j)
                weights = tf.where(logits > 0.5 * MASKED, tf.exp(logits - log_sums[i]), 0.0)
                slopes = _float(_product(upstream[i], value[j], transpose=True)) - inner[i]
                slopes = tf.cast(self._cap.slope(weights * slopes, logits), dtype)
                value_grad += _over_queries(upstream[i], tf.cast(weights, dtype))
                key_grad += _over_queries(query[i], slopes)
                more = _float(_product(slopes, key[j]))
                query_grads = query_grads.write(i, query_grads.read(i) + more)
                return i + 1, query_grads, key_grad, value_grad

            zeros = tf.zeros(tf.gather(tf.shape(key), [1, 2, 5, 4]))  # [B, K, H, block]
            first, end = self._mask.query_blocks_of(j, self._size, self._count)
            start = (first, query_grads, zeros, zeros)
            _, query_grads, key_grad, value_grad = tf.while_loop(lambda i, *_: i < end, row_step, start)
            key_grads = key_grads.write(j, key_grad * self._scale)
            return j + 1, query_grads, key_grads, value_grads.write(j, value_grad)

        zeros = tf.zeros(tf.shape(query), tf.float32)
        arrays = [tf.TensorArray(tf.float32, self._count, clear_after_read=False) for _ in range(3)]
        arrays[0] = arrays[0].unstack(zeros)
        _, *grads = tf.while_loop(lambda j, *_: j < self._count, column, (0, *arrays))
        query_grad, *rest = (grad.stack() for grad in grads)
        return (query_grad, *(tf.transpose(grad, [0, 1, 2, 4, 3])[:, :, :, None] for grad in rest))

    def _logits(self, query, key, i, j) -> tf.Tensor:
        size = self._size
        seen = self._mask.block(i * size, size, j * size, size)[:, None, None]
        return tf.where(seen, self._cap(_float(_product(query, key, transpose=True))), MASKED)


def _product(x: tf.Tensor, y: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
    """[B, K, G, t, a] times [B, K, 1, a, b] (or its transpose), with the G t rows as one matrix."""
    shape, y = sizes(x), y[:, :, 0]
    rows = tf.reshape(x, [shape[0], shape[1], -1, shape[4]])
    result = tf.matmul(rows, y, transpose_b=transpose)
    return tf.reshape(result, [shape[0], shape[1], shape[2], shape[3], sizes(result)[3]])


def _over_queries(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """[B, K, G, t, H] and [B, K, G, t, s] -> float32 [B, K, H, s], summed over G and t."""
    shape = sizes(x)
    flat = tf.reshape(x, [shape[0], shape[1], -1, x.shape[-1]])
    rows = tf.reshape(weights, [shape[0], shape[1], -1, sizes(weights)[4]])
    return _float(tf.matmul(flat, rows, transpose_a=True))


def _cut(x: tf.Tensor, num_kv_heads: int, extra: tf.Tensor, size: int) -> tf.Tensor:
    """[B, T, N, H] -> [n, B, K, G, block, H]; the last block is filled up with zeros."""
    heads, width = x.shape[2:]
    x = tf.pad(x, [[0, 0], [0, extra], [0, 0], [0, 0]])
    x = tf.reshape(x, [sizes(x)[0], -1, size, num_kv_heads, heads // num_kv_heads, width])
    return tf.transpose(x, [1, 0, 3, 4, 2, 5])


def _join(x: tf.Tensor, length: tf.Tensor, heads: int, width: int) -> tf.Tensor:
    """[n, B, K, G, block, H] -> [B, T, N, H]."""
    shape = sizes(x)
    x = tf.reshape(tf.transpose(x, [1, 0, 4, 2, 3, 5]), [shape[1], shape[0] * shape[4], heads, width])
    return x[:, :length]


def _float(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)
