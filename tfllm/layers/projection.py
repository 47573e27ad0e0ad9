"""A matrix product over the last axis."""

from __future__ import annotations

import keras
import tensorflow as tf


class Projection(keras.layers.Layer):
    """Multiplies the last axis by a learned matrix, and adds a bias where asked for.

    Args:
        units: Width of the result.
        use_bias: Adds a learned offset.
        initializer_range: Standard deviation of the new kernel.
    """

    def __init__(self, *, units: int, use_bias: bool = False, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer_range = initializer_range

    def build(self, input_shape):
        """Makes `kernel`, float [D, F], and `bias`, float [F]."""
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.units), initializer=initializer
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] -> float [B, T, F]."""
        x = tf.einsum("BTD,DF->BTF", x, tf.cast(self.kernel, x.dtype))
        return x + tf.cast(self.bias, x.dtype) if self.use_bias else x
