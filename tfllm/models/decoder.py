"""The decoder-only Transformer."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.causal_attention import SoftCap
from tfllm.layers.dropout import Dropout
from tfllm.layers.embedding import TokenEmbedding
from tfllm.layers.feed_forward import GATED
from tfllm.layers.kv_cache import KVCache
from tfllm.layers.masks import CausalMask
from tfllm.layers.normalization import make_norm
from tfllm.layers.positions import LearnedPositions, default_positions, rotary_angles
from tfllm.layers.projection import Projection
from tfllm.layers.transformer_block import TransformerBlock, blocks_wanted, run_block

# What a block takes by the same name.
_OF_A_BLOCK = frozenset(
    name
    for name, parameter in inspect.signature(TransformerBlock.__init__).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)


@keras.saving.register_keras_serializable(package="tfllm")
class Decoder(keras.Model):
    """A causal language model; GPT-2, Llama and their like are settings of it.

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
        dropout: float = 0.0,
        attention_block_size: int | None = None,
        remat: str = "none",
        initializer_range: float = 0.02,
        name: str = "decoder",
        **kwargs,
    ):
        # What get_config returns: the constructor's own arguments, whatever they come to be.
        arguments = {
            key: value for key, value in locals().items() if key not in ("self", "kwargs", "__class__")
        }
        super().__init__(name=name, **kwargs)
        self._arguments = arguments
        if positions not in ("learned", "rotary", "none"):
            raise ValueError(f"positions={positions!r} is not known; use learned, rotary or none")
        if remat not in ("none", "attention", "block"):
            raise ValueError(f"remat={remat!r} is not known; use none, attention or block")
        if head_dim is None and hidden_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide hidden_dim={hidden_dim}, or give head_dim")
        self.vocab_size = vocab_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or hidden_dim // num_heads
        self.intermediate_dim = intermediate_dim or default_intermediate_dim(hidden_dim, activation)
        self.max_seq_len = max_seq_len
        self.position_kind = positions
        self.sliding_window = sliding_window
        self.logit_soft_cap = logit_soft_cap
        self.embedding_scale = hidden_dim**0.5 if scale_embeddings else 1.0
        self._rotary: dict[str, Any] = {
            "rotary_dim": rotary_dim or self.head_dim,
            "theta": rope_theta,
            "scaling": None if rope_scaling is None else dict(rope_scaling),
        }
        local = {} if rope_local_theta is None else {"theta": rope_local_theta, "scaling": None}
        self._local_rotary = {**self._rotary, **local}
        sliding = range(num_layers) if sliding_layers is None else sliding_layers
        self._slides = [sliding_window is not None and index in sliding for index in range(num_layers)]
        self.remat = remat
        self.attention_block_size = attention_block_size
        self.tie_embeddings = tie_embeddings
        policy = self.dtype_policy
        shared = {"initializer_range": initializer_range, "dtype": policy}
        self.token_embedding = TokenEmbedding(
            vocab_size=vocab_size, hidden_dim=hidden_dim, name="token_embedding", **shared
        )
        self.position_embedding = None
        if positions == "learned":
            self.position_embedding = LearnedPositions(
                max_seq_len=max_seq_len, hidden_dim=hidden_dim, name="position_embedding", **shared
            )
        self.embedding_dropout = Dropout(rate=dropout, name="embedding_dropout", dtype=policy)
        for_blocks = {
            **{key: value for key, value in arguments.items() if key in _OF_A_BLOCK},
            "head_dim": self.head_dim,
            "intermediate_dim": self.intermediate_dim,
            "output_initializer_range": initializer_range / (2 * num_layers) ** 0.5,
            "dtype": policy,
        }
        self.blocks = [TransformerBlock(name=f"block_{i:02d}", **for_blocks) for i in range(num_layers)]
        self.block_names = [block.name for block in self.blocks]  # what `attention_scores` may name
        self.final_norm = make_norm(
            norm,
            epsilon=norm_epsilon,
            use_bias=use_bias,
            unit_offset=norm_unit_offset,
            name="final_norm",
            dtype=policy,
        )
        self.output_projection = None
        if not tie_embeddings:
            self.output_projection = Projection(units=vocab_size, name="output_projection", **shared)

    def build(self, input_shape=None):
        """Makes every variable; the shape of the features does not matter."""
        hidden = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        if self.position_embedding is not None:
            self.position_embedding.build((None, None))
        for layer in (*self.blocks, self.final_norm):
            layer.build(hidden)
        if self.output_projection is not None:
            self.output_projection.build(hidden)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras serialization."""
        return {**super().get_config(), **self._arguments}

    def call(
        self,
        features: dict[str, tf.Tensor],
        training: bool = False,
        attention_scores: bool | Collection[str] = False,
    ) -> dict[str, Any]:
        """Runs the whole sequence.

        Args:
            features: `token_ids` int32 [B, T]; optional `padding_mask` bool [B, T], `segment_ids` int32
                [B, T], `positions` int32 [B, T] (default 0, 1, 2 …, counted past left padding), and
                `row_seeds` int32 [B], without which nothing is dropped.
            training: Apply dropout.
            attention_scores: True, or the names of the blocks wanted, e.g. `["block_00"]`.

        Returns:
            `hidden_states` float [B, T, D] after the last norm, `logits` float32 [B, T, V], and on
            request `attention_scores`: {"block_00": float32 [B, N, T, S], …}. In a graph the logits
            cost nothing when nobody reads them.

        Raises:
            ValueError: when `attention_scores` names a block that is not there.
        """
        token_ids = features["token_ids"]
        padding_mask, segment_ids = features.get("padding_mask"), features.get("segment_ids")
        positions = features.get("positions")
        if positions is None:
            positions = default_positions(token_ids, padding_mask)
        row_seeds = features.get("row_seeds") if training else None
        wanted = blocks_wanted(self.blocks, attention_scores)
        x = self.embedding_dropout(self._embed(token_ids, positions), row_seeds)
        masks = self._global_and_local(CausalMask(padding_mask, segment_ids))
        angles = self._angles(positions)
        captured = {}
        for block, slides in zip(self.blocks, self._slides, strict=True):
            remat = self.remat if training and block.name not in wanted else "none"
            x, scores = run_block(
                block,
                x,
                row_seeds,
                remat,
                attention_mask=masks[slides],
                angles=angles[slides],
                return_scores=block.name in wanted,
            )
            if scores is not None:
                captured[block.name] = scores
        hidden_states = self.final_norm(x)
        outputs: dict[str, Any] = {"hidden_states": hidden_states, "logits": self.logits(hidden_states)}
        return {**outputs, "attention_scores": captured} if captured else outputs

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] onto the vocabulary -> float32 [B, T, V]."""
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
        positions = default_positions(token_ids, padding_mask)
        masks, angles = self._global_and_local(CausalMask(padding_mask)), self._angles(positions)
        x = self._embed(token_ids, positions)
        caches = []
        for block, slides in zip(self.blocks, self._slides, strict=True):
            x, _, cache = block(x, attention_mask=masks[slides], angles=angles[slides], num_slots=num_slots)
            caches.append(cache)
        return self.final_norm(x[:, -1:]), tuple(caches)

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
        x, angles = self._embed(token_ids, positions), self._angles(positions)
        masks = [slot_mask[:, None, :]] * 2
        if self.sliding_window is not None:
            recent = tf.range(tf.shape(slot_mask)[1]) > slot - self.sliding_window
            masks[True] = masks[True] & recent[None, None, :]
        caches = []
        for block, slides, pair in zip(self.blocks, self._slides, cache, strict=True):
            where = {"attention_mask": masks[slides], "angles": angles[slides]}
            x, _, pair = block(x, cache=pair, slot=slot, **where)
            caches.append(pair)
        return self.final_norm(x), tuple(caches)

    def _embed(self, token_ids: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        x = self.token_embedding(token_ids)
        if self.embedding_scale != 1.0:
            x = x * tf.cast(self.embedding_scale, x.dtype)
        return x if self.position_embedding is None else x + self.position_embedding(positions)

    def _angles(self, positions: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor] | None]:
        """Those of blocks that see everything, and those of blocks with a sliding window."""
        if self.position_kind != "rotary":
            return [None, None]
        everywhere = rotary_angles(positions, **self._rotary)
        if self._local_rotary == self._rotary:
            return [everywhere, everywhere]
        return [everywhere, rotary_angles(positions, **self._local_rotary)]

    def _global_and_local(self, mask: CausalMask) -> list[CausalMask]:
        return [mask, dataclasses.replace(mask, window=self.sliding_window)]


def default_intermediate_dim(hidden_dim: int, activation: str) -> int:
    """Feed-forward width where none is given: 4 D, or 8/3 D rounded up to 64 when gated."""
    return -(-8 * hidden_dim // 3 // 64) * 64 if activation in GATED else 4 * hidden_dim
