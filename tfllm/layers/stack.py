"""The trunk of every model: blocks one after another, from embedded tokens to hidden states."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.layers.attention import AttentionContext
from tfllm.layers.dropout import Dropout
from tfllm.layers.kv_cache import BlockCache, KVCache
from tfllm.layers.masks import Mask
from tfllm.layers.positions.options import PositionOptions
from tfllm.layers.recompute import recompute
from tfllm.layers.transformer_block import BlockOptions, BlockOutput, Memory, TransformerBlock

REMAT = ("none", "attention", "block")


@dataclasses.dataclass(frozen=True)
class Window:
    """A sliding window of attention.

    Args:
        size: As in `Mask`; None has none.
        layers: Indexes of the blocks with it; None is all of them.
    """

    size: int | None = None
    layers: Sequence[int] | None = None

    def slides(self, index: int) -> bool:
        """Whether a block has it."""
        return self.size is not None and (self.layers is None or index in self.layers)


class StackOutput(NamedTuple):
    """What `Stack` returns.

    Args:
        hidden_states: float [B, T, D].
        block_outputs: float [B, T, D] of each block; the last is `hidden_states`.
        scores: By the names of blocks wanted, float32 [B, N, T, T].
        cross_scores: The same of what they read of an encoder, float32 [B, N, T, S].
    """

    hidden_states: tf.Tensor
    block_outputs: list[tf.Tensor]
    scores: dict[str, tf.Tensor]
    cross_scores: dict[str, tf.Tensor]


class Stack(keras.layers.Layer):
    """Positions, blocks and norms.

    Args:
        num_layers: Blocks.
        hidden_dim: Width D.
        block: What each is made of.
        positions: How it knows where a token stands.
        window: Which blocks see near tokens only.
        embedding_norm: Normalizes what comes in, before dropout.
        final_norm: Normalizes what the last block puts out.
        remat: What a training step computes again in the backward pass instead of keeping it: none, attention (norm,
            projections and what attention does with them) or block (all but each block's input). Attention scores are
            never kept.

    Raises:
        ValueError: when `remat` is not known, or what is asked for does not go together.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        hidden_dim: int,
        block: BlockOptions,
        positions: PositionOptions,
        window: Window = Window(),
        embedding_norm: bool = False,
        final_norm: bool = True,
        remat: str = "none",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if remat not in REMAT:
            raise ValueError(f"remat={remat!r} is not known; use {', '.join(REMAT)}")
        if positions.kind == "relative" and block.attention.block_size is not None:
            raise ValueError(
                f"attention_block_size={block.attention.block_size} keeps no table of scores, to which"
                " positions='relative' adds; leave one of them out"
            )
        self.block, self.window, self.remat = block, window, remat
        policy = self.dtype_policy
        self.positions = positions.make(
            hidden_dim=hidden_dim,
            num_heads=block.attention.num_heads,
            head_dim=block.attention.head_dim,
            initializer_range=block.initializer_range,
            dtype=policy,
        )
        self.embedding_norm = block.norm.make("embedding_norm", policy) if embedding_norm else None
        self.embedding_dropout = Dropout(rate=block.dropout, name="embedding_dropout", dtype=policy)
        self.blocks = [
            TransformerBlock(block, name=f"block_{index:02d}", dtype=policy) for index in range(num_layers)
        ]
        self._slides = [window.slides(index) for index in range(num_layers)]
        self.final_norm = block.norm.make("final_norm", policy) if final_norm else None

    def build(self, input_shape):
        """Builds every part under this layer's own name."""
        self.build_parts(input_shape)

    def build_parts(self, input_shape) -> None:
        """Builds every part under the name of the layer that calls, and is built.

        So the paths of a model's variables have no place for the stack in them, and neither have those of its dropout
        layers, which their masks follow from.

        Args:
            input_shape: (None, None, D).
        """
        for layer in (
            *(self.positions, self.embedding_norm, self.embedding_dropout),
            *(*self.blocks, self.final_norm),
        ):
            if layer is not None:
                layer.build(input_shape)
        self.built = True

    def wanted(self, attention_scores: bool | Collection[str]) -> Collection[str]:
        """The names of the blocks whose scores are asked for: all, none, or those given.

        Raises:
            ValueError: when one of them is not there.
        """
        return wanted_blocks([block.name for block in self.blocks], attention_scores)

    def call(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        attention_mask: Mask,
        memory: Memory | None = None,
        row_seeds: tf.Tensor | None = None,
        training: bool = False,
        wanted: Collection[str] = (),
    ) -> StackOutput:
        """Runs a whole sequence.

        Args:
            x: float [B, T, D], embedded tokens.
            positions: int32 [B, T].
            attention_mask: Who sees whom where there is no window.
            memory: What an encoder made, where blocks read one.
            row_seeds: int32 [B] for dropout; None drops nothing.
            training: A backward pass follows, for which `remat` holds.
            wanted: Names of the blocks whose attention scores are returned.
        """
        contexts = self._contexts(self._masks(attention_mask), positions, tf.shape(x)[1], tf.shape(x)[1])
        x = self._embed(x, positions, row_seeds)
        outputs: list[tf.Tensor] = []
        scores: dict[str, tf.Tensor] = {}
        cross_scores: dict[str, tf.Tensor] = {}
        for block, slides in zip(self.blocks, self._slides, strict=True):
            seen = block.name in wanted
            remat = self.remat if training and not seen else "none"
            output = _run(block, x, contexts[slides], memory, row_seeds, remat, seen)
            x = output.hidden_states
            outputs.append(x)
            if output.scores is not None:
                scores[block.name] = output.scores
            if output.cross_scores is not None:
                cross_scores[block.name] = output.cross_scores
        x = self._finish(x)
        return StackOutput(x, [*outputs[:-1], x], scores, cross_scores)

    def prefill(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        attention_mask: Mask,
        num_slots: int | tf.Tensor,
        memory: Memory | None = None,
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads first tokens into a new cache of `num_slots`; otherwise as `call`.

        Returns:
            The hidden state of the last token, float [B, 1, D], and the cache.
        """
        contexts = self._contexts(self._masks(attention_mask), positions, tf.shape(x)[1], tf.shape(x)[1])
        x = self._embed(x, positions, None)
        return self._cached(x, contexts, [None] * len(self.blocks), memory, num_slots=num_slots)

    def step(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        slot: tf.Tensor,
        slot_mask: tf.Tensor,
        cache: KVCache,
        memory_mask: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs one new token a row against the cache.

        Args:
            x: float [B, 1, D], embedded tokens.
            positions: int32 [B, 1].
            slot: int32 scalar, where the token goes in the cache.
            slot_mask: bool [B, S'], the slots each row may see, the new one included.
            cache: From `prefill` or the step before.
            memory_mask: bool [1 or B, 1, S], what may be read of the encoder, where blocks read one.

        Returns:
            The hidden state, float [B, 1, D], and the cache.
        """
        masks = [slot_mask[:, None, :]] * 2
        if self.window.size is not None:
            recent = tf.range(tf.shape(slot_mask)[1]) > slot - self.window.size
            masks[True] = masks[True] & recent[None, None, :]
        contexts = self._contexts(masks, positions, 1, tf.shape(slot_mask)[1], first_query=slot)
        memory = None if memory_mask is None else Memory(None, memory_mask)
        return self._cached(self._embed(x, positions, None), contexts, cache, memory, slot=slot)

    def _cached(
        self,
        x: tf.Tensor,
        contexts: list[AttentionContext],
        caches: Sequence[BlockCache | None],
        memory: Memory | None,
        **where: Any,
    ) -> tuple[tf.Tensor, KVCache]:
        kept = []
        for block, slides, cache in zip(self.blocks, self._slides, caches, strict=True):
            output = block(x, context=contexts[slides], memory=memory, cache=cache, **where)
            x = output.hidden_states
            kept.append(output.cache)
        return self._finish(x[:, -1:]), tuple(kept)

    def _masks(self, mask: Mask) -> list[Mask]:
        """That of blocks that see everything, and that of blocks with a window."""
        return [mask, dataclasses.replace(mask, window=self.window.size)]

    def _contexts(
        self,
        masks: Sequence[Mask | tf.Tensor],
        positions: tf.Tensor,
        num_queries: int | tf.Tensor,
        num_keys: int | tf.Tensor,
        first_query: int | tf.Tensor = 0,
    ) -> list[AttentionContext]:
        """The same two, with angles and bias."""
        bias = self.positions.bias(num_queries, num_keys, first_query)
        angles = self.positions.angles(positions)
        return [AttentionContext(mask, turned, bias) for mask, turned in zip(masks, angles, strict=True)]

    def _embed(self, x: tf.Tensor, positions: tf.Tensor, row_seeds: tf.Tensor | None) -> tf.Tensor:
        added = self.positions.added(positions)
        x = x if added is None else x + added
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return self.embedding_dropout(x, row_seeds)

    def _finish(self, x: tf.Tensor) -> tf.Tensor:
        return x if self.final_norm is None else self.final_norm(x)


def wanted_blocks(names: list[str], attention_scores: bool | Collection[str]) -> Collection[str]:
    """See `Stack.wanted`."""
    if isinstance(attention_scores, bool):
        return names if attention_scores else ()
    for name in attention_scores:
        if name not in names:
            raise ValueError(f"attention_scores={name!r} is not a block; there are {', '.join(names)}")
    return attention_scores


def _run(
    block: TransformerBlock,
    x: tf.Tensor,
    context: AttentionContext,
    memory: Memory | None,
    row_seeds: tf.Tensor | None,
    remat: str,
    return_scores: bool,
) -> BlockOutput:
    if remat != "block":
        return block(
            x,
            context=context,
            memory=memory,
            row_seeds=row_seeds,
            return_scores=return_scores,
            recompute_attention=remat == "attention",
        )

    # What a gradient goes to is handed in; masks of integers and booleans may be referred to.
    def again(x: tf.Tensor, states: Any, bias: Any, seeds: Any) -> tf.Tensor:
        read = None if memory is None else memory._replace(states=states)
        return block(
            x, context=dataclasses.replace(context, bias=bias), memory=read, row_seeds=seeds
        ).hidden_states

    states = None if memory is None else memory.states
    return BlockOutput(recompute(again, x, states, context.bias, row_seeds))
