"""Where a token stands, as sines and cosines added to its embedding."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class SinusoidalPositions(keras.layers.Layer):
    """Vectors that are computed and not learned (Vaswani et al. 2017, section 3.5), as Marian orders them.

    Args:
        max_seq_len: Number of positions.
        hidden_dim: Width D of a vector, even.
    """

    def __init__(self, *, max_seq_len: int, hidden_dim: int, **kwargs):
        super().__init__(**kwargs)
        self._table = sinusoidal_table(max_seq_len, hidden_dim)

    def build(self, input_shape=None):
        """Makes nothing."""

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        """Looks up int32 [B, T] -> float [B, T, D]."""
        return tf.cast(tf.gather(tf.constant(self._table), positions), self.compute_dtype)


def sinusoidal_table(max_seq_len: int, hidden_dim: int) -> np.ndarray:
    """All sines in the first half of a vector and all cosines in the second: float32 [max_seq_len, D].

    Raises:
        ValueError: when the width is odd.
    """
    if hidden_dim % 2:
        raise ValueError(f"hidden_dim={hidden_dim} must be even: half of a position is sines, half cosines")
    frequencies = 10_000.0 ** (-np.arange(0, hidden_dim, 2) / hidden_dim)
    angles = np.arange(max_seq_len)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
