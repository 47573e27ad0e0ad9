"""Grouped-query attention: one path for training, prefill and cached decoding."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.layers import kv_cache
from tfllm.layers.blockwise_attention import blockwise_attention
from tfllm.layers.causal_attention import causal_attention
from tfllm.layers.dense_attention import dense_attention
from tfllm.layers.masks import Mask
from tfllm.layers.normalization import RMSNorm
from tfllm.layers.positions import rotate
from tfllm.layers.projection import Projection


class Attention(keras.layers.Layer):
    """Multi-head attention with shared key-value heads (Ainslie et al. 2023).

    Args:
        num_heads: Query heads N.
        num_kv_heads: Key and value heads K; divides `num_heads`. None is `num_heads`.
        head_dim: Width H of a head.
        attention_block_size: Meet queries and keys in blocks of this many, so that memory grows with the
            row and not with its square; None computes the scores of many queries at once.
        use_bias: Biases in `query`, `key` and `value`.
        output_bias: A bias in `output`; None is `use_bias`.
        scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        soft_cap: Bound of the scores before the softmax, see `SoftCap`; None does not cap.
        qk_norm: Normalizes each head of queries and keys by `RMSNorm`, before the rotation.
        norm_epsilon: As in `RMSNorm`.
        norm_unit_offset: As in `RMSNorm`.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for `output`; None is `initializer_range`.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        num_kv_heads: int | None = None,
        attention_block_size: int | None = None,
        use_bias: bool = False,
        output_bias: bool | None = None,
        scale: float | None = None,
        soft_cap: float | None = None,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-5,
        norm_unit_offset: bool = False,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        # Keras would cast the float32 rotary angles to the compute type; `x` arrives in it.
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim
        self.attention_block_size = attention_block_size
        if num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={num_heads} must be divisible by num_kv_heads={self.num_kv_heads}")
        self.scale = scale or head_dim**-0.5
        self._rule: dict[str, Any] = {"scale": self.scale, "soft_cap": soft_cap}
        self._output_settings: dict[str, Any] = {
            "use_bias": use_bias if output_bias is None else output_bias,
            "initializer_range": output_initializer_range or initializer_range,
        }
        shared = {"use_bias": use_bias, "initializer_range": initializer_range, "dtype": self.dtype_policy}
        narrow = self.num_kv_heads * head_dim
        self.query = Projection(units=num_heads * head_dim, name="query", **shared)
        self.key = Projection(units=narrow, name="key", **shared)
        self.value = Projection(units=narrow, name="value", **shared)
        self.query_norm: RMSNorm | None = None
        self.key_norm: RMSNorm | None = None
        if qk_norm:
            norms: dict[str, Any] = {
                "epsilon": norm_epsilon,
                "unit_offset": norm_unit_offset,
                "dtype": self.dtype_policy,
            }
            self.query_norm = RMSNorm(name="query_norm", **norms)
            self.key_norm = RMSNorm(name="key_norm", **norms)

    def build(self, input_shape):
        """Makes `query`, `key`, `value` and `output`, and where asked for `query_norm` and `key_norm`."""
        # Keras layers already have an `output` attribute, hence the underscore; the path has none.
        self._output = Projection(
            units=input_shape[-1], name="output", dtype=self.dtype_policy, **self._output_settings
        )
        for projection in (self.query, self.key, self.value):
            projection.build(input_shape)
        for norm in (self.query_norm, self.key_norm):
            if norm is not None:
                norm.build((*input_shape[:-1], 1, self.head_dim))
        self._output.build((*input_shape[:-1], self.num_heads * self.head_dim))

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | Mask,
        angles: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: kv_cache.KVPair | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
        score_bias: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor | None, kv_cache.KVPair | None]:
        """Attends.

        Args:
            x: float [B, T, D].
            attention_mask: Who sees whom: a `Mask`, or bool [1 or B, 1 or T, S], true where attention is
                allowed. A query that sees nobody stays finite.
            angles: Rotary angles of the T positions; None for no rotation.
            cache: Keys and values of S slots; the T = 1 new ones go into `slot` first.
            slot: int32 scalar; needed with `cache`.
            num_slots: Without `cache`: start one with this many slots (prefill).
            return_scores: The scores are wanted, so they are computed as one tensor.
            score_bias: float32 [1 or B, N, T, S], added to the scores before the softmax; computes them as
                one tensor. Needs as many key and value heads as query heads.

        Returns:
            The output float [B, T, D], the attention scores float32 [B, N, T, S] (None unless wanted), and
            the cache (None unless `cache` or `num_slots` was given).
        """
        query = self._heads(self.query(x), self.num_heads)
        key = self._heads(self.key(x), self.num_kv_heads)
        value = self._heads(self.value(x), self.num_kv_heads)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        scores = None
        if cache is not None:
            cache = kv_cache.write(cache, key, value, slot)
            mixed, scores = dense_attention(query, *cache, attention_mask, bias=score_bias, **self._rule)
        elif num_slots is not None:
            cache = kv_cache.from_prefill(key, value, num_slots)
            mixed, scores = self._whole(query, key, value, attention_mask, score_bias)
        elif return_scores or score_bias is not None or not isinstance(attention_mask, Mask):
            mixed, scores = self._whole(query, key, value, attention_mask, score_bias)
        else:
            mixed = self._lean(query, key, value, attention_mask)
        shape = tf.shape(x)
        mixed = tf.reshape(mixed, [shape[0], shape[1], self.num_heads * self.head_dim])
        return self._output(mixed), scores if return_scores else None, cache

    def _heads(self, x: tf.Tensor, count: int) -> tf.Tensor:
        shape = [size if size is not None else tf.shape(x)[axis] for axis, size in enumerate(x.shape[:2])]
        return tf.reshape(x, [*shape, count, self.head_dim])  # [B, T, N * H] -> [B, T, N, H]

    def _lean(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: Mask) -> tf.Tensor:
        if self.attention_block_size is not None:
            return blockwise_attention(
                query, key, value, mask, block_size=self.attention_block_size, **self._rule
            )
        if query.shape[1] is None:
            return self._whole(query, key, value, mask)[0]
        return causal_attention(query, key, value, mask, **self._rule)

    def _whole(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        mask: tf.Tensor | Mask,
        bias: tf.Tensor | None = None,
    ):
        # [B, S, K, H] -> [B, K, S, H]
        key, value = tf.transpose(key, [0, 2, 1, 3]), tf.transpose(value, [0, 2, 1, 3])
        if isinstance(mask, Mask):
            mask = mask.dense(tf.shape(query)[1])
        return dense_attention(query, key, value, mask, bias=bias, **self._rule)
