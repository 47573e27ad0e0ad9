"""Token embedding, and the tied projection back to the vocabulary."""

from __future__ import annotations

import keras
import tensorflow as tf


class TokenEmbedding(keras.layers.Layer):
    """Looks token ids up in a table, and projects hidden states onto it.

    Args:
        vocab_size: Rows of the table.
        hidden_dim: Width of a row.
        initializer_range: Standard deviation of the new table.
    """

    def __init__(self, *, vocab_size: int, hidden_dim: int, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_dim = hidden_dim
        self.initializer_range = initializer_range

    def build(self, input_shape):
        """Makes `embeddings`, float [V, D]."""
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.vocab_size, self.hidden_dim), initializer=initializer
        )

    def call(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Looks up int32 [B, T] -> float [B, T, D]."""
        return tf.gather(tf.cast(self.embeddings, self.compute_dtype), token_ids)

    def project(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [..., D] -> float [..., V] with the same table."""
        table = tf.cast(self.embeddings, hidden_states.dtype)
        return tf.einsum("...D,VD->...V", hidden_states, table)
