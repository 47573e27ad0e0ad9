"""One block of a decoder that reads what an encoder made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.attention import Attention
from tfllm.layers.cross_attention import CrossAttention
from tfllm.layers.dropout import Dropout
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.masks import Mask
from tfllm.layers.normalization import make_norm

Scores = tuple[tf.Tensor, tf.Tensor]


class DecoderBlock(keras.layers.Layer):
    """Attention, attention to the encoder, then feed-forward, each added back, with a norm before each or after.

    Args:
        num_heads: Heads.
        head_dim: Width of a head.
        intermediate_dim: Feed-forward width.
        norm: layer_norm or rms_norm.
        norm_placement: pre or post, as in `TransformerBlock`.
        norm_epsilon: Added to the variance.
        activation: As in `FeedForward`.
        use_bias: Biases in projections and LayerNorm.
        attention_scale: `scale` of `Attention` and `CrossAttention`.
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
        norm: str = "layer_norm",
        norm_placement: str = "pre",
        norm_epsilon: float = 1e-5,
        activation: str = "gelu",
        use_bias: bool = False,
        attention_scale: float | None = None,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement={norm_placement!r} is not known; use pre or post")
        self.norm_placement = norm_placement
        policy = self.dtype_policy
        norms: dict[str, Any] = {"epsilon": norm_epsilon, "use_bias": use_bias, "dtype": policy}
        shared: dict[str, Any] = {
            "use_bias": use_bias,
            "initializer_range": initializer_range,
            "output_initializer_range": output_initializer_range,
            "dtype": policy,
        }
        heads: dict[str, Any] = {"num_heads": num_heads, "head_dim": head_dim, "scale": attention_scale}
        self.attention_norm = make_norm(norm, name="attention_norm", **norms)
        self.attention = Attention(name="attention", **heads, **shared)
        self.attention_dropout = Dropout(rate=dropout, name="attention_dropout", dtype=policy)
        self.cross_attention_norm = make_norm(norm, name="cross_attention_norm", **norms)
        self.cross_attention = CrossAttention(name="cross_attention", **heads, **shared)
        self.cross_attention_dropout = Dropout(rate=dropout, name="cross_attention_dropout", dtype=policy)
        self.feed_forward_norm = make_norm(norm, name="feed_forward_norm", **norms)
        self.feed_forward = FeedForward(
            intermediate_dim=intermediate_dim, activation=activation, name="feed_forward", **shared
        )
        self.feed_forward_dropout = Dropout(rate=dropout, name="feed_forward_dropout", dtype=policy)

    def build(self, input_shape):
        """Builds every part."""
        for layer in (
            self.attention_norm,
            self.attention,
            self.cross_attention_norm,
            self.cross_attention,
            self.feed_forward_norm,
            self.feed_forward,
        ):
            layer.build(input_shape)

    def remember(self, encoder_states: tf.Tensor) -> KVPair:
        """What `call` takes as `memory`; as `CrossAttention.remember`."""
        return self.cross_attention.remember(encoder_states)

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | Mask,
        memory: KVPair,
        memory_mask: tf.Tensor,
        score_bias: tf.Tensor | None = None,
        row_seeds: tf.Tensor | None = None,
        cache: KVPair | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
    ) -> tuple[tf.Tensor, Scores | None, KVPair | None]:
        """Transforms a sequence.

        Args:
            x: float [B, T, D].
            attention_mask: A `Mask`, or bool [1 or B, 1 or T, S'].
            memory: From `remember`.
            memory_mask: bool [1 or B, 1, S], the encoder's real tokens.
            score_bias: As in `Attention.call`; of the attention among the decoder's own tokens.
            row_seeds: int32 [B] for dropout; None drops nothing.
            cache: The block's keys and values, or None.
            slot: Where the new token goes in `cache`.
            num_slots: Size of a cache to start.
            return_scores: The attention scores are wanted.

        Returns:
            float [B, T, D]; the scores of attention float32 [B, N, T, S'] and of attention to the encoder
            float32 [B, N, T, S], or None; and the cache or None.
        """
        scores: tf.Tensor | None = None
        cross_scores: tf.Tensor | None = None

        def attend(x: tf.Tensor) -> tf.Tensor:
            nonlocal scores, cache
            mixed, scores, cache = self.attention(
                x,
                attention_mask=attention_mask,
                score_bias=score_bias,
                cache=cache,
                slot=slot,
                num_slots=num_slots,
                return_scores=return_scores,
            )
            return self.attention_dropout(mixed, row_seeds)

        def attend_to_encoder(x: tf.Tensor) -> tf.Tensor:
            nonlocal cross_scores
            mixed, cross_scores = self.cross_attention(x, memory=memory, memory_mask=memory_mask)
            return self.cross_attention_dropout(mixed, row_seeds)

        def feed(x: tf.Tensor) -> tf.Tensor:
            return self.feed_forward_dropout(self.feed_forward(x), row_seeds)

        x = self._add(self.attention_norm, attend, x)
        x = self._add(self.cross_attention_norm, attend_to_encoder, x)
        x = self._add(self.feed_forward_norm, feed, x)
        return x, (scores, cross_scores) if return_scores else None, cache

    def _add(
        self, norm: keras.layers.Layer, branch: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
    ) -> tf.Tensor:
        if self.norm_placement == "pre":
            return x + branch(norm(x))
        return norm(x + branch(x))
