"""What every kind of positions can be asked for."""

from __future__ import annotations

import keras
import tensorflow as tf

Angles = tuple[tf.Tensor, tf.Tensor]


class PositionLayer(keras.layers.Layer):
    """How a model knows where a token stands. A kind does one of three things; the others stay as they are here."""

    def added(self, positions: tf.Tensor) -> tf.Tensor | None:
        """What is added to the embeddings at int32 [B, T]: float [B, T, D], or nothing."""
        del positions
        return None

    def angles(self, positions: tf.Tensor) -> tuple[Angles | None, Angles | None]:
        """How far heads are turned at int32 [B, T], in blocks that see everything and in those with a window.

        Returns:
            Twice a cosine and a sine, float32 [B, T, 1, part of H / 2], or nothing.
        """
        del positions
        return None, None

    def bias(
        self, num_queries: int | tf.Tensor, num_keys: int | tf.Tensor, first_query: int | tf.Tensor = 0
    ) -> tf.Tensor | None:
        """What is added to the scores of queries against keys: float32 [1, N, T, S], or nothing.

        Args:
            num_queries: T, side by side.
            num_keys: S, from the first on.
            first_query: int32 scalar, the place of the first query among the keys.
        """
        del num_queries, num_keys, first_query
        return None
