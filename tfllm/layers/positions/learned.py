"""Learned vectors, added to embeddings."""

from __future__ import annotations

import tensorflow as tf

from tfllm.layers.embedding import lookup
from tfllm.layers.positions.position_layer import PositionLayer
from tfllm.layers.projection import new_weights


class LearnedPositions(PositionLayer):
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

    def added(self, positions: tf.Tensor) -> tf.Tensor:
        """See `PositionLayer`."""
        return self(positions)
