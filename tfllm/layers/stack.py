"""One side of an encoder-decoder: positions, blocks and norms, from embedded tokens to hidden states."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.decoder_block import DecoderBlock
from tfllm.layers.dropout import Dropout
from tfllm.layers.kv_cache import KVPair
from tfllm.layers.masks import Mask
from tfllm.layers.normalization import make_norm
from tfllm.layers.positions import LearnedPositions
from tfllm.layers.recompute import recompute
from tfllm.layers.relative_bias import RelativeBias
from tfllm.layers.sinusoidal_positions import SinusoidalPositions
from tfllm.layers.transformer_block import TransformerBlock

Captured = dict[str, tf.Tensor]
# Of each block, the keys and values of its own tokens and those of the encoder's.
StackCache = tuple[tuple[KVPair, KVPair], ...]


class Stack(keras.layers.Layer):
    """The encoder, or the decoder, of an `EncoderDecoder`, whose arguments these are.

    Args:
        reads_encoder: This is the decoder: its blocks attend to the encoder too, and its tokens see those before
            them only.
        num_layers: Blocks.
        hidden_dim: Width D.
        num_heads: Heads N.
        head_dim: Width of a head; None is D / N.
        positions: learned, sinusoidal or relative.
        max_seq_len: Rows of the table of positions.
        position_offset: Rows of a learned table before that of position 0.
        relative_num_buckets: As in `RelativeBias`.
        relative_max_distance: The same.
        norm: layer_norm or rms_norm.
        norm_epsilon: Added to the variance.
        use_bias: Biases in projections and LayerNorm.
        embedding_norm: Normalizes embeddings.
        final_norm: Normalizes what the last block puts out.
        dropout: Share of embedding and residual values dropped in training.
        remat: none or block.
        initializer_range: Standard deviation of new weights.
        of_blocks: Further arguments of the blocks.
    """

    def __init__(
        self,
        *,
        reads_encoder: bool,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        head_dim: int | None,
        positions: str,
        max_seq_len: int | None,
        position_offset: int,
        relative_num_buckets: int,
        relative_max_distance: int,
        norm: str,
        norm_epsilon: float,
        use_bias: bool,
        embedding_norm: bool,
        final_norm: bool,
        dropout: float,
        remat: str,
        initializer_range: float,
        of_blocks: dict[str, Any],
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if head_dim is None and hidden_dim % num_heads:
            raise ValueError(f"{num_heads} heads must divide hidden_dim={hidden_dim}, or give head_dim")
        self.reads_encoder = reads_encoder
        self.remat = remat
        policy = self.dtype_policy
        drawn: dict[str, Any] = {"initializer_range": initializer_range, "dtype": policy}
        norms: dict[str, Any] = {"epsilon": norm_epsilon, "use_bias": use_bias, "dtype": policy}
        table: dict[str, Any] = {"max_seq_len": max_seq_len, "hidden_dim": hidden_dim}
        self.position_embedding: keras.layers.Layer | None = None
        if positions == "learned":
            self.position_embedding = LearnedPositions(
                offset=position_offset, name="position_embedding", **table, **drawn
            )
        elif positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions(name="position_embedding", dtype=policy, **table)
        self.relative_bias: RelativeBias | None = None
        if positions == "relative":
            self.relative_bias = RelativeBias(
                num_heads=num_heads,
                num_buckets=relative_num_buckets,
                max_distance=relative_max_distance,
                bidirectional=not reads_encoder,
                name="relative_bias",
                **drawn,
            )
        self.embedding_norm = make_norm(norm, name="embedding_norm", **norms) if embedding_norm else None
        self.embedding_dropout = Dropout(rate=dropout, name="embedding_dropout", dtype=policy)
        branches = num_layers * (3 if reads_encoder else 2)
        for_blocks = {
            "num_heads": num_heads,
            "head_dim": head_dim or hidden_dim // num_heads,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            "use_bias": use_bias,
            "dropout": dropout,
            "output_initializer_range": initializer_range / branches**0.5,
            **drawn,
            **of_blocks,
        }
        block = DecoderBlock if reads_encoder else TransformerBlock
        self.blocks = [block(name=f"block_{i:02d}", **for_blocks) for i in range(num_layers)]
        self.final_norm = make_norm(norm, name="final_norm", **norms) if final_norm else None

    def build(self, input_shape):
        """Builds every part."""
        for layer in (
            self.position_embedding,
            self.relative_bias,
            self.embedding_norm,
            *self.blocks,
            self.final_norm,
        ):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        attention_mask: Mask,
        encoder_states: tf.Tensor | None = None,
        encoder_mask: tf.Tensor | None = None,
        row_seeds: tf.Tensor | None = None,
        training: bool = False,
        wanted: Collection[str] = (),
    ) -> tuple[tf.Tensor, Captured, Captured]:
        """Runs a whole sequence.

        Args:
            x: float [B, T, D], embedded tokens.
            positions: int32 [B, T].
            attention_mask: Who sees whom.
            encoder_states: float [B, S, D]; needed by a decoder.
            encoder_mask: bool [1 or B, 1, S]; needed by a decoder.
            row_seeds: int32 [B] for dropout; None drops nothing.
            training: A backward pass follows, for which `remat` holds.
            wanted: Names of the blocks whose attention scores are returned.

        Returns:
            float [B, T, D]; and by the names of blocks, scores float32 [B, N, T, T], and, of a decoder, those
            of attention to the encoder, float32 [B, N, T, S].
        """
        x = self._embed(x, positions, row_seeds)
        bias = self._bias(tf.shape(x)[1], tf.shape(x)[1])
        captured: Captured = {}
        crossed: Captured = {}

        def run(block: Any, x: tf.Tensor, states: Any, bias: Any, seeds: Any, return_scores: bool = False):
            more: dict[str, Any] = {}
            if states is not None:
                more = {"memory": block.remember(states), "memory_mask": encoder_mask}
            return block(
                x,
                attention_mask=attention_mask,
                score_bias=bias,
                row_seeds=seeds,
                return_scores=return_scores,
                **more,
            )

        for block in self.blocks:
            if training and self.remat == "block" and block.name not in wanted:
                # What a gradient goes to is handed in; the mask of integers and booleans may be referred to.
                x = recompute(
                    lambda *inputs, block=block: run(block, *inputs)[0], x, encoder_states, bias, row_seeds
                )
                continue
            seen = block.name in wanted
            x, scores, _ = run(block, x, encoder_states, bias, row_seeds, return_scores=seen)
            if seen and self.reads_encoder:
                captured[block.name], crossed[block.name] = scores
            elif seen:
                captured[block.name] = scores
        return self._finish(x), captured, crossed

    def start(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        attention_mask: Mask,
        encoder_states: tf.Tensor,
        encoder_mask: tf.Tensor,
        num_slots: int | tf.Tensor,
    ) -> tuple[tf.Tensor, StackCache]:
        """A decoder's first tokens, into a new cache of `num_slots`; otherwise as `call`.

        Returns:
            Hidden states float [B, T, D] and the cache.
        """
        x = self._embed(x, positions, None)
        bias = self._bias(tf.shape(x)[1], tf.shape(x)[1])
        caches = []
        for block in self.blocks:
            memory = block.remember(encoder_states)
            x, _, cache = block(
                x,
                attention_mask=attention_mask,
                memory=memory,
                memory_mask=encoder_mask,
                score_bias=bias,
                num_slots=num_slots,
            )
            caches.append((cache, memory))
        return self._finish(x), tuple(caches)

    def step(
        self,
        x: tf.Tensor,
        positions: tf.Tensor,
        slot: tf.Tensor,
        slot_mask: tf.Tensor,
        encoder_mask: tf.Tensor,
        cache: StackCache,
    ) -> tuple[tf.Tensor, StackCache]:
        """One new token a row of a decoder against the cache.

        Args:
            x: float [B, 1, D], embedded tokens.
            positions: int32 [B, 1].
            slot: int32 scalar, where the token goes in the cache.
            slot_mask: bool [B, S'], the slots each row may see, the new one included.
            encoder_mask: bool [1 or B, 1, S].
            cache: From `start` or the step before.

        Returns:
            Hidden states float [B, 1, D] and the cache.
        """
        x = self._embed(x, positions, None)
        bias = self._bias(1, tf.shape(slot_mask)[1], first_query=slot)
        caches = []
        for block, (pair, memory) in zip(self.blocks, cache, strict=True):
            x, _, pair = block(
                x,
                attention_mask=slot_mask[:, None, :],
                memory=memory,
                memory_mask=encoder_mask,
                score_bias=bias,
                cache=pair,
                slot=slot,
            )
            caches.append((pair, memory))
        return self._finish(x), tuple(caches)

    def _embed(self, x: tf.Tensor, positions: tf.Tensor, row_seeds: tf.Tensor | None) -> tf.Tensor:
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return self.embedding_dropout(x, row_seeds)

    def _bias(self, num_queries: Any, num_keys: Any, first_query: Any = 0) -> tf.Tensor | None:
        if self.relative_bias is None:
            return None
        return self.relative_bias(num_queries=num_queries, num_keys=num_keys, first_query=first_query)

    def _finish(self, x: tf.Tensor) -> tf.Tensor:
        return x if self.final_norm is None else self.final_norm(x)
