"""A matrix product over the last axis."""

from __future__ import annotations

import keras
import tensorflow as tf


def project(x: tf.Tensor, kernel: tf.Tensor, *, transpose_kernel: bool = False) -> tf.Tensor:
    """Multiplies the last axis by a matrix, as one product of two matrices.

    `einsum("BTD,DF->BTF")` says the same, but its gradient contracts B and T together, and XLA on CPU
    lowers that to a broadcast of all four axes: forty times the memory and a hundredth of the speed.

    Args:
        x: float [B, T, D].
        kernel: float [D, F], or [F, D] when transposed.
        transpose_kernel: Multiply by the transpose.

    Returns:
        float [B, T, F].
    """
    shape = tf.shape(x)
    width = kernel.shape[0 if transpose_kernel else 1]
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel, transpose_b=transpose_kernel)
    return tf.reshape(flat, [shape[0], shape[1], width])


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
        x = project(x, tf.cast(self.kernel, x.dtype))
        return x + tf.cast(self.bias, x.dtype) if self.use_bias else x
