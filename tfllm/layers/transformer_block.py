"""One Transformer block."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.attention import Attention
from tfllm.layers.dropout import Dropout
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.masks import Mask
from tfllm.layers.normalization import make_norm
from tfllm.layers.recompute import recompute


class TransformerBlock(keras.layers.Layer):
    """Attention, then feed-forward, each added back, with a norm before each or after.

    Args:
        num_heads: Query heads.
        num_kv_heads: Key and value heads; None is `num_heads`.
        head_dim: Width of a head.
        intermediate_dim: Feed-forward width.
        attention_block_size: As in `Attention`.
        norm: layer_norm or rms_norm.
        norm_placement: pre normalizes what attention and feed-forward read, post what comes of adding them back
            (Vaswani et al. 2017; BERT).
        norm_epsilon: Added to the variance.
        norm_unit_offset: As in `RMSNorm`.
        branch_norms: Normalizes also what attention and feed-forward add (Gemma 2).
        parallel_branches: Both read the block's input and are added together (GPT-J, GPT-NeoX).
        activation: As in `FeedForward`.
        use_bias: Biases in projections and LayerNorm.
        qkv_bias: Biases in `query`, `key` and `value`; None is `use_bias`.
        attention_output_bias: A bias in attention's `output`; None is `use_bias`.
        feed_forward_bias: Biases in the feed-forward; None is `use_bias`.
        qk_norm: As in `Attention`.
        attention_scale: `scale` of `Attention`.
        attention_soft_cap: `soft_cap` of `Attention`.
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
        norm_placement: str = "pre",
        norm_epsilon: float = 1e-5,
        norm_unit_offset: bool = False,
        branch_norms: bool = False,
        parallel_branches: bool = False,
        activation: str = "swiglu",
        use_bias: bool = False,
        qkv_bias: bool | None = None,
        attention_output_bias: bool | None = None,
        feed_forward_bias: bool | None = None,
        qk_norm: bool = False,
        attention_scale: float | None = None,
        attention_soft_cap: float | None = None,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        # Keras would cast the float32 rotary angles to the compute type; `x` arrives in it.
        super().__init__(autocast=False, **kwargs)
        if norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement={norm_placement!r} is not known; use pre or post")
        if parallel_branches and norm_placement == "post":
            raise ValueError("parallel_branches=True reads a normalized input; use norm_placement='pre'")
        self.norm_placement = norm_placement
        self.parallel_branches = parallel_branches
        policy = self.dtype_policy
        norms = {
            "epsilon": norm_epsilon,
            "use_bias": use_bias,
            "unit_offset": norm_unit_offset,
            "dtype": policy,
        }
        shared = {
            "initializer_range": initializer_range,
            "output_initializer_range": output_initializer_range,
            "dtype": policy,
        }
        self.attention_norm = make_norm(norm, name="attention_norm", **norms)
        self.attention = Attention(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            attention_block_size=attention_block_size,
            use_bias=use_bias if qkv_bias is None else qkv_bias,
            output_bias=use_bias if attention_output_bias is None else attention_output_bias,
            scale=attention_scale,
            soft_cap=attention_soft_cap,
            qk_norm=qk_norm,
            norm_epsilon=norm_epsilon,
            norm_unit_offset=norm_unit_offset,
            name="attention",
            **shared,
        )
        self.attention_dropout = Dropout(rate=dropout, name="attention_dropout", dtype=policy)
        self.feed_forward_norm = make_norm(norm, name="feed_forward_norm", **norms)
        self.feed_forward = FeedForward(
            intermediate_dim=intermediate_dim,
            activation=activation,
            use_bias=use_bias if feed_forward_bias is None else feed_forward_bias,
            name="feed_forward",
            **shared,
        )
        self.feed_forward_dropout = Dropout(rate=dropout, name="feed_forward_dropout", dtype=policy)
        self.attention_output_norm = self.feed_forward_output_norm = None
        if branch_norms:
            self.attention_output_norm = make_norm(norm, name="attention_output_norm", **norms)
            self.feed_forward_output_norm = make_norm(norm, name="feed_forward_output_norm", **norms)

    def build(self, input_shape):
        """Builds every part."""
        for layer in (
            self.attention_norm,
            self.attention,
            self.attention_output_norm,
            self.feed_forward_norm,
            self.feed_forward,
            self.feed_forward_output_norm,
        ):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | Mask,
        angles: tuple[tf.Tensor, tf.Tensor] | None = None,
        row_seeds: tf.Tensor | None = None,
        cache: KVPair | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
        recompute_attention: bool = False,
        score_bias: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor | None, KVPair | None]:
        """Transforms a sequence; arguments and results as in `Attention.call`.

        Args:
            x: float [B, T, D].
            attention_mask: A `Mask`, or bool [1 or B, T, S].
            angles: Rotary angles, or None.
            row_seeds: int32 [B] for dropout; None drops nothing.
            cache: The block's keys and values, or None.
            slot: Where the new token goes in `cache`.
            num_slots: Size of a cache to start.
            return_scores: The attention scores are wanted.
            recompute_attention: The backward pass computes attention and the norm before it again.
            score_bias: As in `Attention.call`, or None.

        Returns:
            float [B, T, D], attention scores float32 [B, N, T, S] or None, and the cache or None.
        """
        if recompute_attention:
            attended = recompute(
                lambda x, bias: self._attend(x, attention_mask, angles, score_bias=bias)[0], x, score_bias
            )
            scores = None
        else:
            attended, scores, cache = self._attend(
                x,
                attention_mask,
                angles,
                cache=cache,
                slot=slot,
                num_slots=num_slots,
                return_scores=return_scores,
                score_bias=score_bias,
            )
        attended = self.attention_dropout(attended, row_seeds)
        if self.parallel_branches:
            return x + (attended + self._feed(x, row_seeds)), scores, cache
        x = self._after(self.attention_norm, x + attended)
        return self._after(self.feed_forward_norm, x + self._feed(x, row_seeds)), scores, cache

    def _attend(self, x: tf.Tensor, attention_mask: tf.Tensor | Mask, angles: Any, **arguments: Any):
        x = self._before(self.attention_norm, x)
        mixed, scores, cache = self.attention(x, attention_mask=attention_mask, angles=angles, **arguments)
        norm = self.attention_output_norm
        return mixed if norm is None else norm(mixed), scores, cache

    def _feed(self, x: tf.Tensor, row_seeds: tf.Tensor | None) -> tf.Tensor:
        x = self.feed_forward(self._before(self.feed_forward_norm, x))
        norm = self.feed_forward_output_norm
        return self.feed_forward_dropout(x if norm is None else norm(x), row_seeds)

    def _before(self, norm: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        return norm(x) if self.norm_placement == "pre" else x

    def _after(self, norm: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        return norm(x) if self.norm_placement == "post" else x


def run_block(
    block: TransformerBlock, x: tf.Tensor, row_seeds: tf.Tensor | None, remat: str, **arguments: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Runs a block of a model that has no cache.

    Args:
        block: The block.
        x: float [B, T, D].
        row_seeds: int32 [B] for dropout, or None.
        remat: What its backward pass computes again: none, attention or block.
        arguments: Further arguments of the block.

    Returns:
        float [B, T, D] and, where asked for, the attention scores.
    """
    if remat == "block":
        return recompute(lambda x, seeds: block(x, row_seeds=seeds, **arguments)[0], x, row_seeds), None
    return block(x, row_seeds=row_seeds, recompute_attention=remat == "attention", **arguments)[:2]


def blocks_wanted(
    blocks: Sequence[TransformerBlock], attention_scores: bool | Collection[str]
) -> Collection[str]:
    """The names of the blocks whose scores are asked for: all, none, or those given.

    Raises:
        ValueError: when one of them is not there.
    """
    names = [block.name for block in blocks]
    if isinstance(attention_scores, bool):
        return names if attention_scores else ()
    for name in attention_scores:
        if name not in names:
            raise ValueError(f"attention_scores={name!r} is not a block; there are {', '.join(names)}")
    return attention_scores
