"""Attention of one sequence to another, whose keys and values are computed once."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.dense_attention import dense_attention
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.projection import Projection


class CrossAttention(keras.layers.Layer):
    """Queries of a decoder meet keys and values of what the encoder made (Vaswani et al. 2017, section 3.2.3).

    Args:
        num_heads: Heads N.
        head_dim: Width H of a head.
        use_bias: Biases in all projections.
        scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for `output`; None is `initializer_range`.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        use_bias: bool = False,
        scale: float | None = None,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.scale = scale or head_dim**-0.5
        self._shared: dict[str, Any] = {"use_bias": use_bias, "dtype": self.dtype_policy}
        self._output_range = output_initializer_range or initializer_range
        of_heads = {
            "units": num_heads * head_dim,
            "initializer_range": initializer_range,
            **self._shared,
        }
        self.query = Projection(name="query", **of_heads)
        self.key = Projection(name="key", **of_heads)
        self.value = Projection(name="value", **of_heads)

    def build(self, input_shape):
        """Makes `query`, `key`, `value` and `output`; both sequences are of the same width."""
        # Keras layers already have an `output` attribute, hence the underscore; the path has none.
        self._output = Projection(
            units=input_shape[-1], name="output", initializer_range=self._output_range, **self._shared
        )
        for projection in (self.query, self.key, self.value):
            projection.build(input_shape)
        self._output.build((*input_shape[:-1], self.num_heads * self.head_dim))

    def remember(self, encoder_states: tf.Tensor) -> KVPair:
        """The keys and values of float [B, S, D], each float [B, N, S, H]: the same for every query."""
        states = (self.key(encoder_states), self.value(encoder_states))
        return tuple(tf.transpose(self._heads(x), [0, 2, 1, 3]) for x in states)

    def call(self, x: tf.Tensor, memory: KVPair, memory_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Attends.

        Args:
            x: float [B, T, D].
            memory: From `remember`.
            memory_mask: bool [1 or B, 1, S], true for real tokens of the other sequence.

        Returns:
            float [B, T, D], and the attention scores float32 [B, N, T, S].
        """
        query = self._heads(self.query(x))
        mixed, scores = dense_attention(query, *memory, memory_mask, scale=self.scale)
        shape = tf.shape(x)
        return self._output(tf.reshape(mixed, [shape[0], shape[1], self.num_heads * self.head_dim])), scores

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        shape = [size if size is not None else tf.shape(x)[axis] for axis, size in enumerate(x.shape[:2])]
        return tf.reshape(x, [*shape, self.num_heads, self.head_dim])  # [B, T, N * H] -> [B, T, N, H]
