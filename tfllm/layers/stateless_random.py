"""Random numbers as a pure function of (row seed, purpose, counter).

TensorFlow's stateless ops take one seed for a whole tensor, so a row's numbers would depend on the
rows beside it, and Keras's dropout draws the same mask on every replica. Here every row carries a seed
of its own: its numbers are the same on one device or eight, alone or in a batch, compiled by XLA or
not. The generator is a counter hash, two rounds of the 32-bit finalizer `lowbias32` (Wellons 2018,
"Prospecting for Hash Functions"); it is statistical, not cryptographic.
"""

from __future__ import annotations

import tensorflow as tf


def fold_in(seeds: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """Derives new seeds.

    Args:
        seeds: int32 or uint32, any shape.
        data: int32 or uint32 that broadcasts against `seeds`: what the new seeds are for.

    Returns:
        uint32 of the broadcast shape.
    """
    return _mix(_mix(_uint32(seeds)) ^ (_uint32(data) * tf.constant(0x9E3779B9, tf.uint32)))


def uniform(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Draws uniform numbers for each row.

    Args:
        seeds: int32 or uint32 [B].
        size: How many numbers a row gets.

    Returns:
        float32 [B, size] in [0, 1), multiples of 2**-24.
    """
    counters = tf.range(size, dtype=tf.int32)
    bits = fold_in(_uint32(seeds)[:, None], counters[None, :])
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _mix(x: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32))) * tf.constant(factor, tf.uint32)
    return x ^ tf.bitwise.right_shift(x, tf.constant(16, tf.uint32))


def _uint32(x: tf.Tensor | int) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return x if x.dtype == tf.uint32 else tf.bitcast(tf.cast(x, tf.int32), tf.uint32)
