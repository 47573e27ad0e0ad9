"""One pre-norm Transformer block."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.layers.attention import Attention
from tfllm.layers.dropout import Dropout
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.masks import CausalMask
from tfllm.layers.normalization import make_norm
from tfllm.layers.recompute import recompute


class TransformerBlock(keras.layers.Layer):
    """Attention, then feed-forward, each on a normalized input and added back.

    Args:
        num_heads: Query heads.
        num_kv_heads: Key and value heads; None is `num_heads`.
        head_dim: Width of a head.
        intermediate_dim: Feed-forward width.
        attention_block_size: As in `Attention`.
        norm: layer_norm or rms_norm.
        norm_epsilon: Added to the variance.
        activation: As in `FeedForward`.
        use_bias: Biases in projections and LayerNorm.
        dropout: Share of each branch's output dropped.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for what is added to the residual stream.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        intermediate_dim: int,
        num_kv_heads: int | None = None,
        attention_block_size: int | None = None,
        norm: str = "rms_norm",
        norm_epsilon: float = 1e-5,
        activation: str = "swiglu",
        use_bias: bool = False,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        # Keras would cast the float32 rotary angles to the compute type; `x` arrives in it.
        super().__init__(autocast=False, **kwargs)
        norms = {"epsilon": norm_epsilon, "use_bias": use_bias, "dtype": self.dtype_policy}
        shared = {
            "use_bias": use_bias,
            "initializer_range": initializer_range,
            "output_initializer_range": output_initializer_range,
            "dtype": self.dtype_policy,
        }
        self.attention_norm = make_norm(norm, name="attention_norm", **norms)
        self.attention = Attention(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            attention_block_size=attention_block_size,
            name="attention",
            **shared,
        )
        self.attention_dropout = Dropout(rate=dropout, name="attention_dropout", dtype=self.dtype_policy)
        self.feed_forward_norm = make_norm(norm, name="feed_forward_norm", **norms)
        self.feed_forward = FeedForward(
            intermediate_dim=intermediate_dim, activation=activation, name="feed_forward", **shared
        )
        self.feed_forward_dropout = Dropout(
            rate=dropout, name="feed_forward_dropout", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        """Builds every part."""
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward):
            layer.build(input_shape)

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | CausalMask,
        angles: tuple[tf.Tensor, tf.Tensor] | None = None,
        row_seeds: tf.Tensor | None = None,
        cache: KVPair | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
        recompute_attention: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor | None, KVPair | None]:
        """Transforms a sequence; arguments and results as in `Attention.call`.

        Args:
            x: float [B, T, D].
            attention_mask: A `CausalMask`, or bool [1 or B, T, S].
            angles: Rotary angles, or None.
            row_seeds: int32 [B] for dropout; None drops nothing.
            cache: The block's keys and values, or None.
            slot: Where the new token goes in `cache`.
            num_slots: Size of a cache to start.
            return_scores: The attention scores are wanted.
            recompute_attention: The backward pass computes attention and its norm again.

        Returns:
            float [B, T, D], attention scores float32 [B, N, T, S] or None, and the cache or None.
        """
        if recompute_attention:
            mixed = recompute(
                lambda x: self.attention(
                    self.attention_norm(x), attention_mask=attention_mask, angles=angles
                )[0],
                x,
            )
            scores = None
        else:
            mixed, scores, cache = self.attention(
                self.attention_norm(x),
                attention_mask=attention_mask,
                angles=angles,
                cache=cache,
                slot=slot,
                num_slots=num_slots,
                return_scores=return_scores,
            )
        x = x + self.attention_dropout(mixed, row_seeds)
        x = x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)), row_seeds)
        return x, scores, cache
