"""Where a token stands: learned vectors added, or rotary angles turned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.embedding import lookup
from tfllm.layers.projection import new_weights
from tfllm.layers.rotary_scaling import scaled_frequencies


class LearnedPositions(keras.layers.Layer):
    """One learned vector a position (GPT-2, BERT).

    Args:
        max_seq_len: Number of positions.
        hidden_dim: Width of a vector.
        offset: Rows of the table before that of position 0 (RoBERTa, BART).
        initializer_range: Standard deviation of the new table.
    """

    def __init__(
        self,
        *,
        max_seq_len: int,
        hidden_dim: int,
        offset: int = 0,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_seq_len = max_seq_len
        self.hidden_dim = hidden_dim
        self.offset = offset
        self.initializer_range = initializer_range

    def build(self, input_shape):
        """Makes `embeddings`, float [offset + max_seq_len, D]."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.offset + self.max_seq_len, self.hidden_dim),
            initializer=new_weights(self.initializer_range),
            autocast=False,
        )

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        """Looks up int32 [B, T] -> float [B, T, D]."""
        rows = positions + self.offset if self.offset else positions
        return lookup(tf.convert_to_tensor(self.embeddings), rows, self.compute_dtype)


def rotary_angles(
    positions: tf.Tensor, rotary_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The rotation of each position (Su et al. 2021).

    Args:
        positions: int32 [B, T].
        rotary_dim: How much of a head is turned, even.
        theta: Base of the geometric series of wavelengths.
        scaling: How the wavelengths are stretched for longer rows; see `scaled_frequencies`.

    Returns:
        Cosine and sine, float32 [B, T, 1, rotary_dim / 2].
    """
    frequencies, magnitude = scaled_frequencies(rotary_dim, theta, scaling)
    angles = tf.cast(positions, tf.float32)[..., None, None] * tf.constant(frequencies, tf.float32)
    cosine, sine = tf.cos(angles), tf.sin(angles)
    return (cosine, sine) if magnitude == 1.0 else (cosine * magnitude, sine * magnitude)


def rotate(x: tf.Tensor, angles: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Turns the pairs (i, i + rotary_dim / 2) of each head, the order Llama checkpoints use.

    Args:
        x: float [B, T, N, H].
        angles: From `rotary_angles`. What is behind the part they turn stays as it is.

    Returns:
        float [B, T, N, H], of the dtype of `x`; computed in float32.
    """
    cosine, sine = angles
    half = cosine.shape[-1]
    y = tf.cast(x, tf.float32)
    first, second = y[..., :half], y[..., half : 2 * half]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    rest = [y[..., 2 * half :]] if 2 * half < x.shape[-1] else []
    return tf.cast(tf.concat([*turned, *rest], axis=-1), x.dtype)


def default_positions(token_ids: tf.Tensor, padding_mask: tf.Tensor | None) -> tf.Tensor:
    """0, 1, 2 …, counted past padding at the left: int32 [B, T]."""
    if padding_mask is None:
        return tf.range(tf.shape(token_ids)[1])[None, :] + tf.zeros_like(token_ids)
    return tf.maximum(tf.cumsum(tf.cast(padding_mask, tf.int32), axis=1) - 1, 0)
