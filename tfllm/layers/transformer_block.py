"""One Transformer block."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.layers.attention import Attention, AttentionContext, AttentionOptions, AttentionOutput
from tfllm.layers.dropout import Dropout
from tfllm.layers.feed_forward import FeedForwardOptions
from tfllm.layers.kv_cache import BlockCache, KVPair
from tfllm.layers.normalization import NormOptions
from tfllm.layers.recompute import recompute


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """What a block is made of.

    Args:
        attention: Attention among a sequence's own tokens.
        feed_forward: What follows it.
        cross_attention: Attention to what an encoder made, between the two; None has none.
        norm: The norm of each branch.
        norm_placement: pre normalizes what a branch reads, post what comes of adding it back (Vaswani et al. 2017;
            BERT).
        branch_norms: Normalizes also what attention and feed-forward add (Gemma 2).
        parallel_branches: Both read the block's input and are added together (GPT-J, GPT-NeoX).
        dropout: Share of each branch's output dropped.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for what is added to the residual stream; None is `initializer_range`.

    Raises:
        ValueError: when the placement is not known, or does not go with the branches.
    """

    attention: AttentionOptions
    feed_forward: FeedForwardOptions
    cross_attention: AttentionOptions | None = None
    norm: NormOptions = NormOptions()
    norm_placement: str = "pre"
    branch_norms: bool = False
    parallel_branches: bool = False
    dropout: float = 0.0
    initializer_range: float = 0.02
    output_initializer_range: float | None = None

    def __post_init__(self):
        if self.norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement={self.norm_placement!r} is not known; use pre or post")
        if self.parallel_branches and self.norm_placement == "post":
            raise ValueError("parallel_branches=True reads a normalized input; use norm_placement='pre'")
        if self.cross_attention is not None and (self.parallel_branches or self.branch_norms):
            raise ValueError("a block with cross_attention has no parallel_branches and no branch_norms")


class Memory(NamedTuple):
    """What a decoder reads of an encoder.

    Args:
        states: float [B, S, D]; None where a cache holds the keys and values made of them.
        mask: bool [1 or B, 1 or T, S], true for what may be read.
    """

    states: tf.Tensor | None
    mask: tf.Tensor


class BlockOutput(NamedTuple):
    """What `TransformerBlock` returns; None where it was not wanted.

    Args:
        hidden_states: float [B, T, D].
        scores: float32 [B, N, T, S'], of the tokens among each other.
        cross_scores: float32 [B, N, T, S], of what they read of the encoder.
        cache: Keys and values of the block.
    """

    hidden_states: tf.Tensor
    scores: tf.Tensor | None = None
    cross_scores: tf.Tensor | None = None
    cache: BlockCache | None = None


class TransformerBlock(keras.layers.Layer):
    """Attention, perhaps attention to an encoder, then feed-forward, each added back.

    Args:
        options: What it is made of.
    """

    def __init__(self, options: BlockOptions, **kwargs):
        # Keras would cast the float32 rotary angles to the compute type; `x` arrives in it.
        super().__init__(autocast=False, **kwargs)
        self.options = options
        policy = self.dtype_policy
        kernels = {
            "initializer_range": options.initializer_range,
            "output_initializer_range": options.output_initializer_range,
            "dtype": policy,
        }
        dropout = {"rate": options.dropout, "dtype": policy}
        self.attention_norm = options.norm.make("attention_norm", policy)
        self.attention = Attention(options.attention, name="attention", **kernels)
        self.attention_dropout = Dropout(name="attention_dropout", **dropout)
        self.cross_attention_norm: Any = None
        self.cross_attention: Any = None
        self.cross_attention_dropout: Any = None
        if options.cross_attention is not None:
            self.cross_attention_norm = options.norm.make("cross_attention_norm", policy)
            self.cross_attention = Attention(options.cross_attention, name="cross_attention", **kernels)
            self.cross_attention_dropout = Dropout(name="cross_attention_dropout", **dropout)
        self.feed_forward_norm = options.norm.make("feed_forward_norm", policy)
        self.feed_forward = options.feed_forward.make("feed_forward", **kernels)
        self.feed_forward_dropout = Dropout(name="feed_forward_dropout", **dropout)
        self.attention_output_norm = self.feed_forward_output_norm = None
        if options.branch_norms:
            self.attention_output_norm = options.norm.make("attention_output_norm", policy)
            self.feed_forward_output_norm = options.norm.make("feed_forward_output_norm", policy)

    def build(self, input_shape):
        """Builds every part, in the order in which new weights are drawn."""
        for layer in (
            *(self.attention_norm, self.attention, self.attention_output_norm, self.attention_dropout),
            *(self.cross_attention_norm, self.cross_attention, self.cross_attention_dropout),
            *(self.feed_forward_norm, self.feed_forward, self.feed_forward_output_norm),
            self.feed_forward_dropout,
        ):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self,
        x: tf.Tensor,
        context: AttentionContext,
        memory: Memory | None = None,
        row_seeds: tf.Tensor | None = None,
        cache: BlockCache | None = None,
        slot: tf.Tensor | None = None,
        num_slots: int | tf.Tensor | None = None,
        return_scores: bool = False,
        recompute_attention: bool = False,
    ) -> BlockOutput:
        """Transforms a sequence.

        Args:
            x: float [B, T, D].
            context: Who sees whom.
            memory: What an encoder made; needed where there is cross-attention.
            row_seeds: int32 [B] for dropout; None drops nothing.
            cache: The block's keys and values, into which the T = 1 new ones go first.
            slot: int32 scalar, where in `cache`.
            num_slots: Without `cache`: start one with this many slots (prefill).
            return_scores: The scores are wanted.
            recompute_attention: The backward pass computes attention, and the norms around it, again; there are then
                no scores and no cache.
        """
        own, read = AttentionOutput(x), AttentionOutput(x)
        context = dataclasses.replace(context, row_seeds=row_seeds)
        if recompute_attention:
            attended = recompute(
                lambda x, bias: self._attend(x, dataclasses.replace(context, bias=bias)).mixed,
                x,
                context.bias,
            )
        else:
            kept = {"slot": slot, "num_slots": num_slots, "return_scores": return_scores}
            own = self._attend(x, context, cache=None if cache is None else cache.own, **kept)
            attended = own.mixed
        attended = self.attention_dropout(attended, row_seeds)
        if self.options.parallel_branches:
            x = x + (attended + self._feed(x, row_seeds))
            return BlockOutput(x, own.scores, None, _cache_of(own, ()))
        x = self._join(self.attention_norm, x, attended)
        remembered: Any = ()
        if self.cross_attention is not None:
            assert memory is not None
            if recompute_attention:
                crossed = recompute(
                    lambda x, states: (
                        self._read(
                            x, self.cross_attention.remember(states, row_seeds), memory.mask, row_seeds
                        ).mixed
                    ),
                    x,
                    memory.states,
                )
            else:
                remembered = (
                    cache.memory
                    if cache is not None
                    else self.cross_attention.remember(memory.states, row_seeds)
                )
                read = self._read(x, remembered, memory.mask, row_seeds, return_scores=return_scores)
                crossed = read.mixed
            x = self._join(self.cross_attention_norm, x, self.cross_attention_dropout(crossed, row_seeds))
        x = self._join(self.feed_forward_norm, x, self._feed(x, row_seeds))
        return BlockOutput(x, own.scores, read.scores, _cache_of(own, remembered))

    def _attend(self, x: tf.Tensor, context: AttentionContext, **kept: Any) -> AttentionOutput:
        output = self.attention(self._before(self.attention_norm, x), context=context, **kept)
        norm = self.attention_output_norm
        return output if norm is None else output._replace(mixed=norm(output.mixed))

    def _read(
        self,
        x: tf.Tensor,
        remembered: KVPair,
        mask: tf.Tensor,
        row_seeds: tf.Tensor | None,
        return_scores: bool = False,
    ) -> AttentionOutput:
        x = self._before(self.cross_attention_norm, x)
        context = AttentionContext(mask, row_seeds=row_seeds)
        return self.cross_attention(x, context=context, memory=remembered, return_scores=return_scores)

    def _feed(self, x: tf.Tensor, row_seeds: tf.Tensor | None) -> tf.Tensor:
        x = self.feed_forward(self._before(self.feed_forward_norm, x), row_seeds)
        norm = self.feed_forward_output_norm
        return self.feed_forward_dropout(x if norm is None else norm(x), row_seeds)

    def _before(self, norm: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        return norm(x) if self.options.norm_placement == "pre" else x

    def _join(self, norm: keras.layers.Layer, x: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
        return norm(x + added) if self.options.norm_placement == "post" else x + added


def _cache_of(own: AttentionOutput, remembered: KVPair | tuple[()]) -> BlockCache | None:
    return None if own.cache is None else BlockCache(own.cache, remembered)
