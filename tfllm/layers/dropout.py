"""Dropout whose mask belongs to the row, not to the replica."""

from __future__ import annotations

import functools
import operator
import zlib

import keras
import tensorflow as tf

from tfllm.layers import stateless_random
from tfllm.layers.sizes import sizes


class Dropout(keras.layers.Layer):
    """Sets a share of the values to zero and scales the rest (Srivastava et al. 2014).

    The mask is a pure function of the row's seed, this layer's path and the place in the row, so N
    replicas, k microbatches and a resumed run drop what one uninterrupted device would.

    Args:
        rate: Share of values dropped, in [0, 1).
    """

    def __init__(self, *, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.supports_masking = True

    def call(self, x: tf.Tensor, row_seeds: tf.Tensor | None = None) -> tf.Tensor:
        """Drops values.

        Args:
            x: float [B, ...] with static dimensions after the first.
            row_seeds: int32 [B]; None leaves `x` as it is (inference).

        Returns:
            float, the shape of `x`.
        """
        if row_seeds is None or self.rate == 0.0:
            return x
        # Not Python's hash(), which changes from process to process.
        purpose = tf.bitcast(tf.constant(zlib.crc32(self.path.encode()), tf.uint32), tf.int32)
        shape = sizes(x)
        numbers = stateless_random.uniform(
            stateless_random.fold_in(row_seeds, purpose), functools.reduce(operator.mul, shape[1:])
        )
        kept = tf.reshape(numbers, shape) >= self.rate
        return tf.where(kept, x / (1.0 - self.rate), tf.zeros_like(x))
