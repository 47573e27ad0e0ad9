"""The encoder-decoder Transformer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.attention import AttentionOptions
from tfllm.layers.embedding import TokenEmbedding
from tfllm.layers.feed_forward import FeedForwardOptions, default_intermediate_dim
from tfllm.layers.kv_cache import KVCache
from tfllm.layers.masks import BidirectionalMask, CausalMask, cross_mask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.positions.counting import positions_of
from tfllm.layers.positions.options import PositionOptions
from tfllm.layers.projection import Projection
from tfllm.layers.stack import Stack, StackOutput, Window, wanted_blocks
from tfllm.layers.transformer_block import BlockOptions, Memory
from tfllm.models.configured import ConfiguredModel

# The decoder's keys and values, and the encoder's padding mask.
CrossCache = tuple[KVCache, tf.Tensor]
_POSITIONS = ("learned", "sinusoidal", "rotary", "relative")


@keras.saving.register_keras_serializable(package="tfllm")
class EncoderDecoder(ConfiguredModel):
    """A sequence-to-sequence model (Vaswani et al. 2017); T5, BART and Marian are settings of it.

    Args:
        vocab_size: Tokens V of the logits, and of the shared embedding.
        source_vocab_size: Tokens of an embedding of the encoder's own; None shares the decoder's.
        num_encoder_layers: Blocks of the encoder.
        num_decoder_layers: Blocks of the decoder.
        hidden_dim: Width D.
        num_heads: Heads N of the encoder.
        decoder_num_heads: Heads of the decoder; None is `num_heads`.
        num_kv_heads: Key and value heads K of both, and of attention to the encoder; None is as many as heads.
        head_dim: Width of a head H; None is `hidden_dim` divided by the heads.
        intermediate_dim: Feed-forward width F of the encoder; None is 4 D, or 8/3 D rounded up to 64 when gated.
        decoder_intermediate_dim: The decoder's; None is the encoder's.
        max_seq_len: Longest source and longest target in tokens; None only with relative positions, which have
            no limit.
        decoder_start_id: The token that generation starts from.
        norm: layer_norm or rms_norm.
        norm_placement: pre or post, as in `TransformerBlock`.
        norm_epsilon: Added to the variance.
        embedding_norm: Normalizes embeddings (BART).
        final_norm: Normalizes what encoder and decoder put out (T5).
        positions: learned, sinusoidal, rotary, or relative: T5's buckets, one table for the encoder and one for the
            decoder, shared by all of their blocks.
        position_offset: Rows of learned tables before that of position 0 (BART).
        relative_num_buckets: As in `RelativeBias`.
        relative_max_distance: The same.
        rotary_dim: How much of a head is turned; None is all of it.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: How they are stretched for longer rows, see `scaled_frequencies`; None does not stretch.
        sliding_window: In the decoder, tokens that a token sees, itself included; in the encoder it sees as many to
            either side. None is all. What a decoder reads of an encoder has no window.
        sliding_layers: Indexes of the blocks with that window, in both; None is all of them.
        activation: gelu, gelu_tanh, relu, silu, swiglu or geglu.
        use_bias: Biases in projections and LayerNorm.
        attention_scale: What products of queries and keys are multiplied by; None is H ** -0.5.
        scale_embeddings: Multiplies token embeddings by the root of `hidden_dim`.
        tie_embeddings: The output layer shares the decoder's token embedding.
        scale_logits: Divides what is projected onto the vocabulary by the root of `hidden_dim` (T5).
        logits_bias: A number a token, added to its logit and not trained (Marian).
        dropout: Share of embedding and residual values dropped in training.
        attention_block_size: As in `Decoder`; not with relative positions.
        remat: As in `Decoder`.
        initializer_range: Standard deviation of new weights; what is added to the residual stream gets it
            divided by the root of the number of branches of its stack. Zero draws nothing.

    Example:
        >>> sizes = {"vocab_size": 300, "num_encoder_layers": 2, "num_decoder_layers": 2, "hidden_dim": 64}
        >>> model = EncoderDecoder(num_heads=4, max_seq_len=32, **sizes)
        >>> features = {"encoder_token_ids": tf.constant([[5, 6]]), "decoder_token_ids": tf.constant([[0, 7, 8]])}
        >>> model(features)["logits"].shape
        TensorShape([1, 3, 300])
    """

    reads_prompt_with = "encoder"

    def __init__(
        self,
        *,
        vocab_size: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        hidden_dim: int,
        num_heads: int,
        max_seq_len: int | None = None,
        source_vocab_size: int | None = None,
        decoder_num_heads: int | None = None,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_dim: int | None = None,
        decoder_intermediate_dim: int | None = None,
        decoder_start_id: int = 0,
        norm: str = "layer_norm",
        norm_placement: str = "pre",
        norm_epsilon: float = 1e-5,
        embedding_norm: bool = False,
        final_norm: bool = True,
        positions: str = "learned",
        position_offset: int = 0,
        relative_num_buckets: int = 32,
        relative_max_distance: int = 128,
        rotary_dim: int | None = None,
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        sliding_window: int | None = None,
        sliding_layers: Sequence[int] | None = None,
        activation: str = "gelu",
        use_bias: bool = True,
        attention_scale: float | None = None,
        scale_embeddings: bool = False,
        tie_embeddings: bool = True,
        scale_logits: bool = False,
        logits_bias: bool = False,
        dropout: float = 0.0,
        attention_block_size: int | None = None,
        remat: str = "none",
        initializer_range: float = 0.02,
        name: str = "encoder_decoder",
        **kwargs,
    ):
        super().__init__(locals(), name=name, **kwargs)
        if positions not in _POSITIONS:
            raise ValueError(f"positions={positions!r} is not known; use {', '.join(_POSITIONS)}")
        if max_seq_len is None and positions != "relative":
            raise ValueError(f"positions={positions!r} needs max_seq_len; relative positions have no limit")
        self.vocab_size = vocab_size
        self.hidden_dim = hidden_dim
        self.max_seq_len = max_seq_len
        self.remat = remat
        self.attention_block_size = attention_block_size
        self.decoder_start_id = decoder_start_id
        self.tie_embeddings = tie_embeddings
        self.embedding_scale = hidden_dim**0.5 if scale_embeddings else 1.0
        self.logit_scale = hidden_dim**-0.5 if scale_logits else 1.0
        shared: dict[str, Any] = {"initializer_range": initializer_range, "dtype": self.dtype_policy}
        self.token_embedding = TokenEmbedding(
            vocab_size=vocab_size, hidden_dim=hidden_dim, name="token_embedding", **shared
        )
        self.source_embedding: TokenEmbedding | None = None
        if source_vocab_size is not None:
            self.source_embedding = TokenEmbedding(
                vocab_size=source_vocab_size, hidden_dim=hidden_dim, name="source_embedding", **shared
            )
        feed = intermediate_dim or default_intermediate_dim(hidden_dim, activation)

        def attention(heads: int, **more: Any) -> AttentionOptions:
            if head_dim is None and hidden_dim % heads:
                raise ValueError(f"{heads} heads must divide hidden_dim={hidden_dim}, or give head_dim")
            return AttentionOptions(
                num_heads=heads,
                head_dim=head_dim or hidden_dim // heads,
                num_kv_heads=num_kv_heads,
                use_bias=use_bias,
                output_bias=use_bias,
                scale=attention_scale,
                **more,
            )

        block = BlockOptions(
            attention=attention(num_heads, block_size=attention_block_size),
            feed_forward=FeedForwardOptions(intermediate_dim=feed, activation=activation, use_bias=use_bias),
            norm=NormOptions(kind=norm, epsilon=norm_epsilon, use_bias=use_bias),
            norm_placement=norm_placement,
            dropout=dropout,
            initializer_range=initializer_range,
            output_initializer_range=initializer_range / (2 * num_encoder_layers) ** 0.5,
        )
        heads = decoder_num_heads or num_heads
        decoder_block = dataclasses.replace(
            block,
            attention=attention(heads, block_size=attention_block_size),
            cross_attention=attention(heads),
            feed_forward=dataclasses.replace(
                block.feed_forward, intermediate_dim=decoder_intermediate_dim or feed
            ),
            output_initializer_range=initializer_range / (3 * num_decoder_layers) ** 0.5,
        )
        places = PositionOptions(
            kind=positions,
            max_seq_len=max_seq_len,
            offset=position_offset,
            rotary_dim=rotary_dim,
            theta=rope_theta,
            scaling=rope_scaling,
            num_buckets=relative_num_buckets,
            max_distance=relative_max_distance,
        )
        of_both: dict[str, Any] = {
            "hidden_dim": hidden_dim,
            "window": Window(sliding_window, sliding_layers),
            "embedding_norm": embedding_norm,
            "final_norm": final_norm,
            "remat": remat,
            "dtype": self.dtype_policy,
        }
        self.encoder = Stack(
            num_layers=num_encoder_layers, block=block, positions=places, name="encoder", **of_both
        )
        self.decoder = Stack(
            num_layers=num_decoder_layers,
            block=decoder_block,
            positions=dataclasses.replace(places, bidirectional=False),
            name="decoder",
            **of_both,
        )
        self.output_projection: Projection | None = None
        if not tie_embeddings:
            self.output_projection = Projection(units=vocab_size, name="output_projection", **shared)
        self._has_logits_bias = logits_bias
        self.logits_bias: tf.Variable | None = None

    def build(self, input_shape=None):
        """Makes every variable; the shape of the features does not matter."""
        hidden = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        if self.source_embedding is not None:
            self.source_embedding.build((None, None))
        self.encoder.build(hidden)
        self.decoder.build(hidden)
        if self.output_projection is not None:
            self.output_projection.build(hidden)
        if self._has_logits_bias:
            self.logits_bias = self.add_weight(
                name="logits_bias",
                shape=(self.vocab_size,),
                initializer="zeros",
                trainable=False,
                autocast=False,
            )

    @property
    def block_names(self) -> list[str]:
        """What `attention_scores` may name."""
        return [
            f"{stack.name}/{block.name}" for stack in (self.encoder, self.decoder) for block in stack.blocks
        ]

    def call(
        self,
        features: dict[str, tf.Tensor],
        training: bool = False,
        attention_scores: bool | Collection[str] = False,
    ) -> dict[str, Any]:
        """Runs both sequences.

        Args:
            features: `encoder_token_ids` int32 [B, S]; `decoder_token_ids` int32 [B, T], the target shifted
                right behind the start token; optional `encoder_padding_mask` bool [B, S] and
                `decoder_padding_mask` bool [B, T], true for real tokens, with padding at either end;
                `encoder_segment_ids` int32 [B, S] and `decoder_segment_ids` int32 [B, T] (packed rows: a segment
                reads the encoder's segment of the same number); `encoder_positions` and `decoder_positions`, int32
                (default 0, 1, 2 …, counted over the real tokens of each segment); and `row_seeds` int32 [B], without
                which nothing is dropped.
            training: Apply dropout.
            attention_scores: True, or the names of the blocks wanted, e.g. `["decoder/block_00"]`.

        Returns:
            `hidden_states` float [B, T, D] of the decoder, `logits` float32 [B, T, V], `encoder_hidden_states`
            float [B, S, D], and on request `attention_scores`: {"encoder/block_00": float32 [B, N, S, S],
            "decoder/block_00": float32 [B, N, T, T], …} and `cross_attention_scores`: {"decoder/block_00":
            float32 [B, N, T, S], …}. In a graph the logits cost nothing when nobody reads them.

        Raises:
            ValueError: when `attention_scores` names a block that is not there.
        """
        wanted = self._blocks_wanted(attention_scores)
        how: dict[str, Any] = {
            "row_seeds": features.get("row_seeds") if training else None,
            "training": training,
        }
        read = self._encode(features, wanted=wanted["encoder"], **how)
        states = read.hidden_states
        mask, segment_ids = features.get("decoder_padding_mask"), features.get("decoder_segment_ids")
        made = self.decoder(
            self._embed(self.token_embedding, features["decoder_token_ids"]),
            positions=positions_of(features, "decoder_"),
            attention_mask=CausalMask(mask, segment_ids),
            memory=Memory(states, cross_mask(features)),
            wanted=wanted["decoder"],
            **how,
        )
        outputs: dict[str, Any] = {
            "hidden_states": made.hidden_states,
            "logits": self.logits(made.hidden_states),
            "encoder_hidden_states": states,
        }
        if read.scores or made.scores:
            outputs["attention_scores"] = {**_named("encoder", read.scores), **_named("decoder", made.scores)}
            outputs["cross_attention_scores"] = _named("decoder", made.cross_scores)
        return outputs

    def encode(self, token_ids: tf.Tensor, padding_mask: tf.Tensor | None = None) -> tf.Tensor:
        """The encoder alone: int32 [B, S], and bool [B, S], true for real tokens -> float [B, S, D]."""
        return self._encode(
            {"encoder_token_ids": token_ids, "encoder_padding_mask": padding_mask}
        ).hidden_states

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] of the decoder onto the vocabulary -> float32 [B, T, V]."""
        if self.logit_scale != 1.0:
            hidden_states = hidden_states * tf.cast(self.logit_scale, hidden_states.dtype)
        project = self.token_embedding.project if self.output_projection is None else self.output_projection
        logits = tf.cast(project(hidden_states), tf.float32)
        return logits if self.logits_bias is None else logits + tf.cast(self.logits_bias, tf.float32)

    def decoder_prompt(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What generated tokens follow, whatever the source is: `decoder_start_id`, int32 and bool [B, 1]."""
        del padding_mask
        first = token_ids[:, :1]
        return tf.fill(tf.shape(first), self.decoder_start_id), tf.ones_like(first, tf.bool)

    def room_after(self, prompt_length: int) -> int | None:
        """How many tokens can be generated for a source of that many; None is any number."""
        if self.max_seq_len is None:
            return None
        return self.max_seq_len - 1 if prompt_length <= self.max_seq_len else 0

    def prefill(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor, num_slots: int | tf.Tensor
    ) -> tuple[tf.Tensor, CrossCache]:
        """Reads sources, and the start token into a new cache.

        Args:
            token_ids: int32 [B, S], sources, padded at either end.
            padding_mask: bool [B, S], true for real tokens.
            num_slots: Slots for the decoder's tokens, at least one.

        Returns:
            Hidden states of the start token, float [B, 1, D], and the cache.
        """
        states = self.encode(token_ids, padding_mask)
        first, mask = self.decoder_prompt(token_ids, padding_mask)
        hidden, cache = self.decoder.prefill(
            self._embed(self.token_embedding, first),
            tf.zeros_like(first),
            CausalMask(mask),
            num_slots,
            Memory(states, padding_mask[:, None, :]),
        )
        return hidden, (cache, padding_mask)

    def decode_step(
        self,
        token_ids: tf.Tensor,
        positions: tf.Tensor,
        slot: tf.Tensor,
        slot_mask: tf.Tensor,
        cache: CrossCache,
    ) -> tuple[tf.Tensor, CrossCache]:
        """Runs one new token a row against the cache.

        Args:
            token_ids: int32 [B, 1].
            positions: int32 [B, 1].
            slot: int32 scalar, where the token goes in the cache.
            slot_mask: bool [B, S'], the slots each row may see, the new one included.
            cache: From `prefill` or the step before.

        Returns:
            Hidden states float [B, 1, D] and the cache.
        """
        kept, padding_mask = cache
        x = self._embed(self.token_embedding, token_ids)
        hidden, kept = self.decoder.step(x, positions, slot, slot_mask, kept, padding_mask[:, None, :])
        return hidden, (kept, padding_mask)

    def _encode(self, features: Mapping[str, tf.Tensor | None], **how: Any) -> StackOutput:
        embedding = self.token_embedding if self.source_embedding is None else self.source_embedding
        mask, segment_ids = features.get("encoder_padding_mask"), features.get("encoder_segment_ids")
        return self.encoder(
            self._embed(embedding, features["encoder_token_ids"]),
            positions=positions_of(features, "encoder_"),
            attention_mask=BidirectionalMask(mask, segment_ids),
            **how,
        )

    def _embed(self, embedding: TokenEmbedding, token_ids: tf.Tensor) -> tf.Tensor:
        x = embedding(token_ids)
        return x if self.embedding_scale == 1.0 else x * tf.cast(self.embedding_scale, x.dtype)

    def _blocks_wanted(self, attention_scores: bool | Collection[str]) -> dict[str, list[str]]:
        """The names of blocks, without their stack's, by stack."""
        names = wanted_blocks(self.block_names, attention_scores)
        pairs = [name.split("/") for name in names]
        return {stack: [block for side, block in pairs if side == stack] for stack in ("encoder", "decoder")}


def _named(stack: str, scores: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {f"{stack}/{name}": value for name, value in scores.items()}
