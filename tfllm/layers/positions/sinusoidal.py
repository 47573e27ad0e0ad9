"""Where a token stands, as sines and cosines added to its embedding."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.layers.positions.position_layer import PositionLayer


class SinusoidalPositions(PositionLayer):
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

    def added(self, positions: tf.Tensor) -> tf.Tensor:
        """See `PositionLayer`."""
        return self(positions)


def sinusoidal_table(max_seq_len: int, hidden_dim: int) -> Any:
    """All sines in the first half of a vector and all cosines in the second: a NumPy array, float32 [max_seq_len, D].

    Raises:
        ValueError: when the width is odd.
    """
    if hidden_dim % 2:
        raise ValueError(f"hidden_dim={hidden_dim} must be even: half of a position is sines, half cosines")
    with tf.init_scope():
        # Positions times frequencies are hundreds, of which float32 would lose the digits that count.
        exponents = tf.range(0, hidden_dim, 2, dtype=tf.float64) / hidden_dim
        angles = tf.range(max_seq_len, dtype=tf.float64)[:, None] * 10_000.0**-exponents
        return tf.cast(tf.concat([tf.sin(angles), tf.cos(angles)], axis=1), tf.float32).numpy()
