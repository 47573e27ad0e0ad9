"""Token embedding, and the tied projection back to the vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tfllm.layers.projection import new_weights, project


def lookup(table: tf.Tensor, ids: tf.Tensor, dtype: str | None = None) -> tf.Tensor:
    """Takes rows of a table, with a dense gradient.

    `tf.gather`'s own gradient is sparse, and a table that is also the output layer then has its dense
    gradient turned into a sparse one of all its rows before the two are added.

    Args:
        table: float [V, D].
        ids: int32 [B, T].
        dtype: Type of the result; None is the table's. The gradient is summed in float32: a frequent token
            adds up thousands of rows, and bfloat16 stops counting at 256.

    Returns:
        float [B, T, D].
    """
    num_rows, width = table.shape

    @tf.custom_gradient
    def gather(table: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(tf.cast(upstream, tf.float32), [-1, width])
            total = tf.math.unsorted_segment_sum(rows, tf.reshape(ids, [-1]), num_rows)
            return tf.cast(total, table.dtype)

        return tf.cast(tf.gather(table, ids), dtype or table.dtype), gradient

    return gather(table)


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
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocab_size, self.hidden_dim),
            initializer=new_weights(self.initializer_range),
            autocast=False,
        )

    def call(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Looks up int32 [B, T] -> float [B, T, D]."""
        return lookup(tf.convert_to_tensor(self.embeddings), token_ids, self.compute_dtype)

    def project(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] -> float [B, T, V] with the same table."""
        return project(hidden_states, tf.convert_to_tensor(self.embeddings), transpose_kernel=True)
