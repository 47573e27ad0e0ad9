"""The decoder-only Transformer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.attention import AttentionOptions
from tfllm.layers.embedding import TokenEmbedding
from tfllm.layers.feed_forward import FeedForwardOptions, default_intermediate_dim
from tfllm.layers.kv_cache import KVCache
from tfllm.layers.masks import CausalMask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.pooling import ROW_POOLINGS, text_vectors
from tfllm.layers.positions.counting import counted_positions, positions_of
from tfllm.layers.positions.options import PositionOptions
from tfllm.layers.projection import Projection
from tfllm.layers.soft_cap import SoftCap
from tfllm.layers.stack import Stack, Window
from tfllm.layers.transformer_block import BlockOptions, TransformerBlock
from tfllm.models.configured import ConfiguredModel
from tfllm.models.heads import of_rows, wrong_classes

DECODER_HEADS = ("causal_lm", "sequence_classification")


@keras.saving.register_keras_serializable(package="tfllm")
class Decoder(ConfiguredModel):
    """A causal language model, or a classifier on one; GPT-2, Llama and their like are settings of it.

    Args:
        vocab_size: Tokens V.
        num_layers: Blocks.
        hidden_dim: Width D.
        num_heads: Query heads N.
        num_kv_heads: Key and value heads K; None is `num_heads`.
        head_dim: Width of a head H; None is `hidden_dim // num_heads`.
        intermediate_dim: Feed-forward width F; None is 4 D, or 8/3 D rounded up to 64 when gated.
        max_seq_len: Longest context in tokens.
        norm: layer_norm or rms_norm.
        norm_epsilon: Added to the variance.
        norm_unit_offset: Learned scales of RMSNorm are what is added to one (Gemma).
        branch_norms: Normalizes also what attention and feed-forward add (Gemma 2).
        parallel_branches: Attention and feed-forward both read a block's input (GPT-NeoX).
        positions: learned, rotary or none.
        rotary_dim: How much of a head is turned; None is all of it.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: How they are stretched for longer rows, see `scaled_frequencies`; None does not stretch.
        rope_local_theta: Base of the frequencies, not stretched, of the blocks with a sliding window; None is
            as in the others (Gemma 3).
        sliding_window: Tokens that a token sees, itself included; None is all.
        sliding_layers: Indexes of the blocks with that window; None is all of them.
        activation: gelu, gelu_tanh, relu, silu, swiglu or geglu.
        use_bias: Biases in projections and LayerNorm.
        qkv_bias: Biases in queries, keys and values; None is `use_bias`.
        attention_output_bias: A bias in attention's output; None is `use_bias`.
        feed_forward_bias: Biases in the feed-forward; None is `use_bias`.
        qk_norm: Normalizes each head of queries and keys by RMSNorm (Qwen 3, Gemma 3).
        attention_scale: What products of queries and keys are multiplied by; None is head_dim ** -0.5.
        attention_soft_cap: Bound of attention scores, see `SoftCap`; None does not cap.
        logit_soft_cap: The same for the logits.
        scale_embeddings: Multiplies token embeddings by the root of `hidden_dim` (Gemma).
        tie_embeddings: The output layer shares the token embedding.
        head: What `logits` are: causal_lm, of the vocabulary; or sequence_classification, of a text, from its vector.
        pooling: What a text's vector is made of, where it is classified: its last token, which has seen all others, the
            mean of all, or the first.
        num_classes: Classes C of the classification.
        class_names: Their names, carried along; None has none.
        multi_label: A text may have any number of the classes: each logit is one of yes and no. Carried along too.
        dropout: Share of embedding and residual values dropped in training.
        attention_block_size: Compute attention in blocks of this many tokens, for long rows; None does not.
        remat: What a training step computes again in the backward pass instead of keeping it: none, attention
            (norm, projections and what attention does with them) or block (all but each block's input).
            Attention scores are never kept.
        initializer_range: Standard deviation of new weights; what is added to the residual stream
            gets it divided by sqrt(2 num_layers) (Radford et al. 2019). Zero draws nothing.

    Example:
        >>> model = Decoder(vocab_size=300, num_layers=2, hidden_dim=64, num_heads=4, max_seq_len=32)
        >>> model({"token_ids": tf.constant([[1, 2, 3]])})["logits"].shape
        TensorShape([1, 3, 300])
    """

    reads_prompt_with = "decoder"

    def __init__(
        self,
        *,
        vocab_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        max_seq_len: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_dim: int | None = None,
        norm: str = "rms_norm",
        norm_epsilon: float = 1e-5,
        norm_unit_offset: bool = False,
        branch_norms: bool = False,
        parallel_branches: bool = False,
        positions: str = "rotary",
        rotary_dim: int | None = None,
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rope_local_theta: float | None = None,
        sliding_window: int | None = None,
        sliding_layers: Sequence[int] | None = None,
        activation: str = "swiglu",
        use_bias: bool = False,
        qkv_bias: bool | None = None,
        attention_output_bias: bool | None = None,
        feed_forward_bias: bool | None = None,
        qk_norm: bool = False,
        attention_scale: float | None = None,
        attention_soft_cap: float | None = None,
        logit_soft_cap: float | None = None,
        scale_embeddings: bool = False,
        tie_embeddings: bool = True,
        head: str = "causal_lm",
        pooling: str = "last",
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        multi_label: bool = False,
        dropout: float = 0.0,
        attention_block_size: int | None = None,
        remat: str = "none",
        initializer_range: float = 0.02,
        name: str = "decoder",
        **kwargs,
    ):
        arguments = dict(locals())
        super().__init__(arguments, name=name, **kwargs)
        wrong = wrong_settings(arguments)
        if wrong is not None:
            raise ValueError(wrong)
        self.vocab_size = vocab_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.intermediate_dim = intermediate_dim or default_intermediate_dim(hidden_dim, activation)
        self.max_seq_len = max_seq_len
        self.sliding_window = sliding_window
        self.logit_soft_cap = logit_soft_cap
        self.embedding_scale = hidden_dim**0.5 if scale_embeddings else 1.0
        self.remat = remat
        self.attention_block_size = attention_block_size
        self.tie_embeddings = tie_embeddings
        shared = {"initializer_range": initializer_range, "dtype": self.dtype_policy}
        self.token_embedding = TokenEmbedding(
            vocab_size=vocab_size, hidden_dim=hidden_dim, name="token_embedding", **shared
        )
        norms: dict[str, Any] = {"epsilon": norm_epsilon, "unit_offset": norm_unit_offset}
        block = BlockOptions(
            attention=AttentionOptions(
                num_heads=num_heads,
                head_dim=self.head_dim,
                num_kv_heads=num_kv_heads,
                use_bias=_either(qkv_bias, use_bias),
                output_bias=_either(attention_output_bias, use_bias),
                scale=attention_scale,
                soft_cap=attention_soft_cap,
                head_norm=NormOptions(kind="rms_norm", **norms) if qk_norm else None,
                block_size=attention_block_size,
            ),
            feed_forward=FeedForwardOptions(
                intermediate_dim=self.intermediate_dim,
                activation=activation,
                use_bias=_either(feed_forward_bias, use_bias),
            ),
            norm=NormOptions(kind=norm, use_bias=use_bias, **norms),
            branch_norms=branch_norms,
            parallel_branches=parallel_branches,
            dropout=dropout,
            initializer_range=initializer_range,
            output_initializer_range=initializer_range / (2 * num_layers) ** 0.5,
        )
        self.stack = Stack(
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            block=block,
            positions=PositionOptions(
                kind=positions,
                max_seq_len=max_seq_len,
                rotary_dim=rotary_dim,
                theta=rope_theta,
                scaling=rope_scaling,
                local_theta=rope_local_theta,
            ),
            window=Window(sliding_window, sliding_layers),
            remat=remat,
            name="stack",
            dtype=self.dtype_policy,
        )
        self.head, self.pooling, self.multi_label = head, pooling, multi_label
        self.class_names = None if class_names is None else tuple(class_names)
        self.output_projection = self.classifier = None
        if head == "sequence_classification":
            units = num_classes or 0  # checked above
            self.classifier = Projection(units=units, use_bias=False, name="classifier", **shared)
        elif not tie_embeddings:
            self.output_projection = Projection(units=vocab_size, name="output_projection", **shared)

    def build(self, input_shape=None):
        """Makes every variable; the shape of the features does not matter."""
        hidden = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        self.stack.build_parts(hidden)
        for layer in (self.output_projection, self.classifier):
            if layer is not None:
                layer.build(hidden)

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The blocks, in order."""
        return self.stack.blocks

    @property
    def block_names(self) -> list[str]:
        """What `attention_scores` may name."""
        return [block.name for block in self.blocks]

    def call(
        self,
        features: dict[str, tf.Tensor],
        training: bool = False,
        attention_scores: bool | Collection[str] = False,
    ) -> dict[str, Any]:
        """Runs the whole sequence.

        Args:
            features: `token_ids` int32 [B, T]; optional `padding_mask` bool [B, T], `segment_ids` int32
                [B, T], `positions` int32 [B, T] (default 0, 1, 2 …, counted over the real tokens of each
                segment), and `row_seeds` int32 [B], without which nothing is dropped. With `example_ids` int32
                [B, S], one for each segment of a packed row, a classification speaks of every segment.
            training: Apply dropout.
            attention_scores: True, or the names of the blocks wanted, e.g. `["block_00"]`.

        Returns:
            `hidden_states` float [B, T, D] after the last norm; `logits` float32 [B, T, V], or of classes [B, C], of
            segments [B, S, C]; and on request `attention_scores`: {"block_00": float32 [B, N, T, S], …}. In a graph
            the logits cost nothing when nobody reads them.

        Raises:
            ValueError: when `attention_scores` names a block that is not there.
        """
        output = self.stack(
            self._embed(features["token_ids"]),
            positions=positions_of(features),
            attention_mask=CausalMask(features.get("padding_mask"), features.get("segment_ids")),
            row_seeds=features.get("row_seeds") if training else None,
            training=training,
            wanted=self.stack.wanted(attention_scores),
        )
        hidden_states = output.hidden_states
        if self.classifier is None:
            logits = self.logits(hidden_states)
        else:
            logits = of_rows(self.classifier, text_vectors(hidden_states, features, self.pooling))
        outputs: dict[str, Any] = {"hidden_states": hidden_states, "logits": logits}
        return {**outputs, "attention_scores": output.scores} if output.scores else outputs

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] onto the vocabulary -> float32 [B, T, V].

        Raises:
            ValueError: when the model classifies instead.
        """
        if self.classifier is not None:
            raise ValueError(
                "head='sequence_classification' says nothing of the vocabulary; take a causal_lm"
            )
        project = self.token_embedding.project if self.output_projection is None else self.output_projection
        return SoftCap(self.logit_soft_cap)(tf.cast(project(hidden_states), tf.float32))

    def decoder_prompt(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What generated tokens follow: the prompt itself."""
        return token_ids, padding_mask

    def room_after(self, prompt_length: int) -> int:
        """How many tokens can be generated after a prompt of that many."""
        return self.max_seq_len - prompt_length

    def prefill(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor, num_slots: int | tf.Tensor
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads left-padded prompts into a new cache.

        Args:
            token_ids: int32 [B, T], prompts at the right end.
            padding_mask: bool [B, T], true for real tokens.
            num_slots: Slots of the cache, at least T.

        Returns:
            Hidden states of the last position, float [B, 1, D], and the cache.
        """
        positions = counted_positions(token_ids, padding_mask)
        return self.stack.prefill(self._embed(token_ids), positions, CausalMask(padding_mask), num_slots)

    def decode_step(
        self,
        token_ids: tf.Tensor,
        positions: tf.Tensor,
        slot: tf.Tensor,
        slot_mask: tf.Tensor,
        cache: KVCache,
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs one new token a row against the cache.

        Args:
            token_ids: int32 [B, 1].
            positions: int32 [B, 1].
            slot: int32 scalar, where the token goes in the cache.
            slot_mask: bool [B, S], the slots each row may see, the new one included.
            cache: From `prefill` or the step before.

        Returns:
            Hidden states float [B, 1, D] and the cache.
        """
        return self.stack.step(self._embed(token_ids), positions, slot, slot_mask, cache)

    def _embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        x = self.token_embedding(token_ids)
        return x if self.embedding_scale == 1.0 else x * tf.cast(self.embedding_scale, x.dtype)


def wrong_settings(arguments: Mapping[str, Any]) -> str | None:
    """What is wrong about a decoder's arguments, or None."""
    for name, usual, known in (
        ("positions", "rotary", ("learned", "rotary", "none")),
        ("head", "causal_lm", DECODER_HEADS),
        ("pooling", "last", tuple(ROW_POOLINGS)),
    ):
        value = arguments.get(name, usual)
        if value not in known:
            return f"{name}={value!r} is not known; use {', '.join(known[:-1])} or {known[-1]}"
    if arguments.get("head_dim") is None and arguments["hidden_dim"] % arguments["num_heads"]:
        return f"num_heads={arguments['num_heads']} must divide hidden_dim={arguments['hidden_dim']}, or give head_dim"
    return wrong_classes(arguments, ("sequence_classification",))


def _either(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked
