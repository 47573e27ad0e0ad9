"""Grouped-query attention: one path for training, prefill and cached decoding, and for reading another sequence."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.layers import kv_cache
from tfllm.layers.blockwise_attention import blockwise_attention
from tfllm.layers.dense_attention import dense_attention
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.masks import Mask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.positions.position_layer import Angles
from tfllm.layers.positions.rotary import rotate
from tfllm.layers.projection import Projection
from tfllm.layers.sizes import sizes
from tfllm.layers.sliced_attention import sliced_attention


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """How heads attend.

    Args:
        num_heads: Query heads N.
        head_dim: Width H of a head.
        num_kv_heads: Key and value heads K; divides `num_heads`. None is `num_heads`.
        use_bias: Biases in `query`, `key` and `value`.
        output_bias: A bias in `output`.
        scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        soft_cap: Bound of the scores before the softmax, see `SoftCap`; None does not cap.
        head_norm: Normalizes each head of queries and keys, before the rotation; None does not.
        block_size: Meet queries and keys in blocks of this many, so that memory grows with the row and not with its
            square; None computes the scores of many queries at once.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    use_bias: bool = False
    output_bias: bool = False
    scale: float | None = None
    soft_cap: float | None = None
    head_norm: NormOptions | None = None
    block_size: int | None = None


@dataclasses.dataclass(frozen=True)
class AttentionContext:
    """Who sees whom, and from where.

    A dataclass: Keras looks into tuples of arguments, and would cast the float32 angles to the compute type.

    Args:
        mask: A `Mask`, or bool [1 or B, 1 or T, S], true where attention is allowed. A query that sees nobody stays
            finite.
        angles: Rotary angles of the T positions; None for no rotation.
        bias: float32 [1 or B, N, T, S], added to the scores before the softmax, which are then computed as one tensor;
            None adds nothing.
        row_seeds: int32 [B], as of `Projection`.
    """

    mask: Mask | tf.Tensor
    angles: Angles | None = None
    bias: tf.Tensor | None = None
    row_seeds: tf.Tensor | None = None


class AttentionOutput(NamedTuple):
    """What `Attention` returns.

    Args:
        mixed: float [B, T, D].
        scores: float32 [B, N, T, S]; None unless wanted.
        cache: Keys and values; None unless a cache was given or asked for.
    """

    mixed: tf.Tensor
    scores: tf.Tensor | None = None
    cache: KVPair | None = None


class Attention(keras.layers.Layer):
    """Multi-head attention with shared key-value heads (Ainslie et al. 2023).

    Args:
        options: How its heads attend.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for `output`; None is `initializer_range`.
    """

    def __init__(
        self,
        options: AttentionOptions,
        *,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        self.num_kv_heads = options.num_kv_heads or options.num_heads
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be divisible by num_kv_heads={self.num_kv_heads}"
            )
        self.options = options
        self.scale = options.scale or self.head_dim**-0.5
        self._rule: dict[str, Any] = {"scale": self.scale, "soft_cap": options.soft_cap}
        self._output_range = output_initializer_range or initializer_range
        policy = self.dtype_policy
        shared = {"use_bias": options.use_bias, "initializer_range": initializer_range, "dtype": policy}
        narrow = self.num_kv_heads * self.head_dim
        self.query = Projection(units=self.num_heads * self.head_dim, name="query", **shared)
        self.key = Projection(units=narrow, name="key", **shared)
        self.value = Projection(units=narrow, name="value", **shared)
        self.query_norm: keras.layers.Layer | None = None
        self.key_norm: keras.layers.Layer | None = None
        if options.head_norm is not None:
            self.query_norm = options.head_norm.make("query_norm", policy)
            self.key_norm = options.head_norm.make("key_norm", policy)

    def build(self, input_shape):
        """Makes `query`, `key`, `value` and `output`, and where asked for `query_norm` and `key_norm`."""
        # Keras layers already have an `output` attribute, hence the underscore; the path has none.
        self._output = Projection(
            units=input_shape[-1],
            use_bias=self.options.output_bias,
            initializer_range=self._output_range,
            name="output",
            dtype=self.dtype_policy,
        )
        for projection in (self.query, self.key, self.value):
            projection.build(input_shape)
        for norm in (self.query_norm, self.key_norm):
            if norm is not None:
                norm.build((*input_shape[:-1], 1, self.head_dim))
        self._output.build((*input_shape[:-1], self.num_heads * self.head_dim))

    def remember(self, states: tf.Tensor, row_seeds: tf.Tensor | None = None) -> KVPair:
        """The keys and values of another sequence, the same for every query: what `call` takes as `memory`.

        Args:
            states: float [B, S, D].
            row_seeds: int32 [B], as of `Projection`.

        Returns:
            Two of float [B, K, S, H].
        """
        key, value = self._keys_and_values(states, row_seeds)
        return tf.transpose(key, [0, 2, 1, 3]), tf.transpose(value, [0, 2, 1, 3])

    def call(
        self,
        x: tf.Tensor,
        context: AttentionContext,
        memory: KVPair | None = None,
        cache: KVPair | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
    ) -> AttentionOutput:
        """Attends.

        Args:
            x: float [B, T, D].
            context: Who sees whom.
            memory: Keys and values to read instead of those of `x`, from `remember`.
            cache: Keys and values of S slots; the T = 1 new ones go into `slot` first.
            slot: int32 scalar; needed with `cache`.
            num_slots: Without `cache`: start one with this many slots (prefill).
            return_scores: The scores are wanted, so they are computed as one tensor.
        """
        query = self._heads(self.query(x, context.row_seeds), self.num_heads)
        if self.query_norm is not None:
            query = self.query_norm(query)
        if memory is not None:
            mixed, scores = dense_attention(query, *memory, context.mask, **self._rule)
            return self._result(x, mixed, scores if return_scores else None, None, context.row_seeds)
        key, value = self._keys_and_values(x, context.row_seeds)
        if context.angles is not None:
            query, key = rotate(query, context.angles), rotate(key, context.angles)
        scores = None
        if cache is not None:
            cache = kv_cache.write(cache, key, value, slot)
            mixed, scores = dense_attention(query, *cache, context.mask, bias=context.bias, **self._rule)
        elif num_slots is not None:
            cache = kv_cache.from_prefill(key, value, num_slots)
            mixed, scores = self._whole(query, key, value, context)
        elif return_scores or context.bias is not None or not isinstance(context.mask, Mask):
            mixed, scores = self._whole(query, key, value, context)
        else:
            mixed = self._lean(query, key, value, context)
        return self._result(x, mixed, scores if return_scores else None, cache, context.row_seeds)

    def _keys_and_values(self, x: tf.Tensor, row_seeds: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Each float [B, S, K, H]."""
        key, value = (self._heads(made(x, row_seeds), self.num_kv_heads) for made in (self.key, self.value))
        return key if self.key_norm is None else self.key_norm(key), value

    def _heads(self, x: tf.Tensor, count: int) -> tf.Tensor:
        rows, places, _ = sizes(x)
        return tf.reshape(x, [rows, places, count, self.head_dim])  # [B, T, N * H] -> [B, T, N, H]

    def _lean(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, context: AttentionContext
    ) -> tf.Tensor:
        if self.options.block_size is not None:
            size = self.options.block_size
            return blockwise_attention(query, key, value, context.mask, block_size=size, **self._rule)
        if query.shape[1] is None:
            return self._whole(query, key, value, context)[0]
        return sliced_attention(query, key, value, context.mask, **self._rule)

    def _whole(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, context: AttentionContext):
        # [B, S, K, H] -> [B, K, S, H]
        key, value = tf.transpose(key, [0, 2, 1, 3]), tf.transpose(value, [0, 2, 1, 3])
        mask = context.mask
        if isinstance(mask, Mask):
            mask = mask.dense(sizes(query)[1])
        return dense_attention(query, key, value, mask, bias=context.bias, **self._rule)

    def _result(
        self,
        x: tf.Tensor,
        mixed: tf.Tensor,
        scores: tf.Tensor | None,
        cache: KVPair | None,
        row_seeds: tf.Tensor | None,
    ) -> AttentionOutput:
        rows, places, _ = sizes(x)
        mixed = tf.reshape(mixed, [rows, places, self.num_heads * self.head_dim])
        return AttentionOutput(self._output(mixed, row_seeds), scores, cache)
