"""Norms over all of a model's tensors, fast under XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

_LANES = 16  # streams added side by side; measured: with 8 or 64 it takes two to three times as long
SMALL = 65536  # numbers that a plain reduction may add: many such tensors are compiled four times as fast


def global_norm(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The L2 norm of all elements together.

    XLA on CPU does not vectorise the reduction of a tensor to one number, and takes ten times as long as
    reading it. Sixteen streams added elementwise are vectorised, run on every core, and round less.

    Args:
        tensors: float32, of known shapes; at least one.

    Returns:
        float32 scalar.
    """
    return tf.sqrt(tf.add_n([_sum(tf.square, tf.reshape(tensor, [-1])) for tensor in tensors]))


def _sum(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """The sum of `function` of each element of a vector."""
    if x.shape[0] <= SMALL:
        return tf.reduce_sum(function(x))
    lanes, last = _lanes(x)
    total = _sum(lambda sums: sums, tf.add_n([function(lane) for lane in lanes]))
    return total if last is None else total + tf.reduce_sum(function(last))


def _lanes(x: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor | None]:
    """A vector in 16 equal parts, and what 16 does not divide."""
    width, rest = divmod(x.shape[0], _LANES)
    if not rest:
        return tf.split(x, _LANES), None
    *lanes, last = tf.split(x, [width] * _LANES + [rest])
    return lanes, last
