"""Where a token stands: learned vectors added, or rotary angles turned."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.layers.embedding import lookup


class LearnedPositions(keras.layers.Layer):
    """One learned vector a position (GPT-2, BERT).

    Args:
        max_seq_len: Number of positions.
        hidden_dim: Width of a vector.
        initializer_range: Standard deviation of the new table.
    """

    def __init__(self, *, max_seq_len: int, hidden_dim: int, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.max_seq_len = max_seq_len
        self.hidden_dim = hidden_dim
        self.initializer_range = initializer_range

    def build(self, input_shape):
        """Makes `embeddings`, float [max_seq_len, D]."""
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_seq_len, self.hidden_dim),
            initializer=initializer,
            autocast=False,
        )

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        """Looks up int32 [B, T] -> float [B, T, D]."""
        return lookup(tf.convert_to_tensor(self.embeddings), positions, self.compute_dtype)


def rotary_angles(positions: tf.Tensor, head_dim: int, theta: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The rotation of each position (Su et al. 2021).

    Args:
        positions: int32 [B, T].
        head_dim: Width of a head, even.
        theta: Base of the geometric series of wavelengths.

    Returns:
        Cosine and sine, float32 [B, T, 1, head_dim / 2].
    """
    exponents = tf.range(0, head_dim, 2, dtype=tf.float32) / head_dim
    angles = tf.cast(positions, tf.float32)[..., None, None] / tf.pow(
        tf.constant(theta, tf.float32), exponents
    )
    return tf.cos(angles), tf.sin(angles)


def rotate(x: tf.Tensor, angles: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Turns the pairs (i, i + head_dim / 2) of each head, the order Llama checkpoints use.

    Args:
        x: float [B, T, N, H].
        angles: From `rotary_angles`.

    Returns:
        float [B, T, N, H], of the dtype of `x`; computed in float32.
    """
    cosine, sine = angles
    first, second = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
    turned = tf.concat([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return tf.cast(turned, x.dtype)
