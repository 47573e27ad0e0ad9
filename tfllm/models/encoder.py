"""The encoder-only Transformer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.attention import AttentionOptions
from tfllm.layers.dropout import Dropout
from tfllm.layers.embedding import TokenEmbedding
from tfllm.layers.feed_forward import GATED, FeedForwardOptions, default_intermediate_dim
from tfllm.layers.masks import BidirectionalMask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.pooling import ROW_POOLINGS, row_vectors, text_vectors
from tfllm.layers.positions.counting import positions_of
from tfllm.layers.positions.options import PositionOptions
from tfllm.layers.projection import Projection
from tfllm.layers.stack import REMAT, Stack, Window
from tfllm.layers.transformer_block import BlockOptions, TransformerBlock
from tfllm.models.configured import ConfiguredModel
from tfllm.models.heads import MaskedLMHead, Pooler, of_rows, wrong_classes

HEADS = ("none", "masked_lm", "sequence_classification", "token_classification", "span")
POOLERS = ("none", "tanh", "relu")


@keras.saving.register_keras_serializable(package="tfllm")
class Encoder(ConfiguredModel):
    """Every token sees every other; BERT, RoBERTa and DistilBERT are settings of it.

    Args:
        vocab_size: Tokens V.
        num_layers: Blocks.
        hidden_dim: Width D.
        num_heads: Heads N.
        max_seq_len: Longest row in tokens.
        head_dim: Width of a head H; None is `hidden_dim // num_heads`.
        intermediate_dim: Feed-forward width F; None is 4 D, or 8/3 D rounded up to 64 when gated.
        num_token_types: Kinds of tokens, such as those of a first and a second sentence; 0 tells none apart.
        num_kv_heads: Key and value heads K; None is `num_heads`.
        positions: learned, sinusoidal, rotary, relative or none.
        position_offset: Rows of a learned table before that of the first token (RoBERTa).
        rotary_dim: How much of a head is turned; None is all of it.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: How they are stretched for longer rows, see `scaled_frequencies`; None does not stretch.
        rope_local_theta: Base of the frequencies of the blocks with a sliding window; None is as in the others
            (ModernBERT).
        relative_num_buckets: As in `RelativeBias`.
        relative_max_distance: The same.
        sliding_window: A token sees itself and `sliding_window - 1` tokens to either side; None is all.
        sliding_layers: Indexes of the blocks with that window; None is all of them.
        norm_placement: post normalizes after each branch is added (BERT), pre before it, and once at the end.
        norm_epsilon: Added to the variance.
        activation: As in `FeedForward`.
        pooling: What a row's vector is made of: the first real token (BERT), the mean of all, or the last.
        pooler: none, or a dense layer on that vector: tanh (BERT) or relu (DistilBERT's classifier).
        head: What `logits` are: none, masked_lm (of the vocabulary), sequence_classification (of the row, from
            its vector), token_classification (of each token), or span (how likely a token is the first of an
            answer, and the last).
        num_classes: Classes C of the two classifications.
        class_names: Their names, carried along; None has none.
        multi_label: A row may have any number of the classes of a sequence_classification: each logit is one of yes
            and no. Carried along too.
        head_activation: Inside the masked_lm head; None is `activation`.
        tie_embeddings: The masked_lm head shares the token embedding.
        next_sentence_head: Adds `next_sentence_logits`, from the pooler: the second sentence follows the first,
            or does not.
        dropout: Share of embedding, residual and classified values dropped in training.
        attention_block_size: Compute attention in blocks of this many tokens, for long rows; None does not.
        remat: As in `Decoder`.
        initializer_range: Standard deviation of new weights. Zero draws nothing.

    Example:
        >>> model = Encoder(vocab_size=300, num_layers=2, hidden_dim=64, num_heads=4, max_seq_len=32, head="masked_lm")
        >>> model({"token_ids": tf.constant([[1, 2, 3]])})["logits"].shape
        TensorShape([1, 3, 300])
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        max_seq_len: int,
        head_dim: int | None = None,
        intermediate_dim: int | None = None,
        num_kv_heads: int | None = None,
        num_token_types: int = 2,
        positions: str = "learned",
        position_offset: int = 0,
        rotary_dim: int | None = None,
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rope_local_theta: float | None = None,
        relative_num_buckets: int = 32,
        relative_max_distance: int = 128,
        sliding_window: int | None = None,
        sliding_layers: Sequence[int] | None = None,
        norm_placement: str = "post",
        norm_epsilon: float = 1e-12,
        activation: str = "gelu",
        pooling: str = "first",
        pooler: str = "none",
        head: str = "none",
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        multi_label: bool = False,
        head_activation: str | None = None,
        tie_embeddings: bool = True,
        next_sentence_head: bool = False,
        dropout: float = 0.0,
        attention_block_size: int | None = None,
        remat: str = "none",
        initializer_range: float = 0.02,
        name: str = "encoder",
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
        self.pooling, self.head = pooling, head
        self.class_names = None if class_names is None else tuple(class_names)
        self.multi_label = multi_label
        self.remat = remat
        self.attention_block_size = attention_block_size
        policy = self.dtype_policy
        shared: dict[str, Any] = {"initializer_range": initializer_range, "dtype": policy}
        self.token_embedding = TokenEmbedding(
            vocab_size=vocab_size, hidden_dim=hidden_dim, name="token_embedding", **shared
        )
        self.token_type_embedding = None
        if num_token_types:
            self.token_type_embedding = TokenEmbedding(
                vocab_size=num_token_types, hidden_dim=hidden_dim, name="token_type_embedding", **shared
            )
        block = BlockOptions(
            attention=AttentionOptions(
                num_heads=num_heads,
                head_dim=self.head_dim,
                num_kv_heads=num_kv_heads,
                use_bias=True,
                output_bias=True,
                block_size=attention_block_size,
            ),
            feed_forward=FeedForwardOptions(
                intermediate_dim=self.intermediate_dim, activation=activation, use_bias=True
            ),
            norm=NormOptions(kind="layer_norm", epsilon=norm_epsilon, use_bias=True),
            norm_placement=norm_placement,
            dropout=dropout,
            initializer_range=initializer_range,
        )
        self.stack = Stack(
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            block=block,
            positions=PositionOptions(
                kind=positions,
                max_seq_len=max_seq_len,
                offset=position_offset,
                rotary_dim=rotary_dim,
                theta=rope_theta,
                scaling=rope_scaling,
                local_theta=rope_local_theta,
                num_buckets=relative_num_buckets,
                max_distance=relative_max_distance,
            ),
            window=Window(sliding_window, sliding_layers),
            embedding_norm=True,
            final_norm=norm_placement == "pre",
            remat=remat,
            name="stack",
            dtype=policy,
        )
        self.pooler = None if pooler == "none" else Pooler(activation=pooler, name="pooler", **shared)
        self.masked_lm_head = self.classifier = self.next_sentence = None
        if head == "masked_lm":
            self.masked_lm_head = MaskedLMHead(
                vocab_size=vocab_size,
                activation=head_activation or activation,
                norm_epsilon=norm_epsilon,
                tie_embeddings=tie_embeddings,
                name="masked_lm_head",
                **shared,
            )
        elif head != "none":
            units = 2 if head == "span" else num_classes or 0  # checked above
            self.classifier = Projection(units=units, use_bias=True, name="classifier", **shared)
        if next_sentence_head:
            self.next_sentence = Projection(units=2, use_bias=True, name="next_sentence", **shared)
        self.classifier_dropout = Dropout(rate=dropout, name="classifier_dropout", dtype=policy)

    def build(self, input_shape=None):
        """Makes every variable; the shape of the features does not matter."""
        hidden = (None, None, self.hidden_dim)
        for layer in (self.token_embedding, self.token_type_embedding):
            if layer is not None:
                layer.build(hidden)
        self.stack.build_parts(hidden)
        for layer in (self.pooler, self.masked_lm_head, self.classifier, self.next_sentence):
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
        without_head: bool = False,
    ) -> dict[str, Any]:
        """Runs the whole row.

        Args:
            features: `token_ids` int32 [B, T]; optional `padding_mask` bool [B, T], `token_type_ids` int32
                [B, T] (default 0), `segment_ids` int32 [B, T] (packed rows), `positions` int32 [B, T]
                (default 0, 1, 2 …, counted over the real tokens of each segment), and `row_seeds` int32 [B],
                without which nothing is dropped. With `example_ids` int32 [B, S], one for each segment of a packed
                row, `sequence_classification` speaks of every segment.
            training: Apply dropout.
            attention_scores: True, or the names of the blocks wanted, e.g. `["block_00"]`.
            without_head: Return what each block says, and nothing of a head.

        Returns:
            `hidden_states` float [B, T, D]; where there is a pooler `pooled`, float [B, D]; where there is a head
            `logits`, float32 [B, T, V], [B, T, C], [B, C] or [B, T, 2], of segments [B, S, C] and `pooled`
            [B, S, D]; `next_sentence_logits` float32 [B, 2]; and on request `attention_scores`: {"block_00": float32
            [B, N, T, T], …}. In a graph, what nobody reads costs nothing. Without head also `block_outputs`, a
            list of float [B, T, D], of which the last is `hidden_states`.

        Raises:
            ValueError: when `attention_scores` names a block that is not there, a row without segments is longer than
                `max_seq_len`, or there are `token_type_ids` and the model tells none apart.
        """
        padding_mask = features.get("padding_mask")
        row_seeds = features.get("row_seeds") if training else None
        output = self.stack(
            self._embed(features),
            positions=positions_of(features),
            attention_mask=BidirectionalMask(padding_mask, features.get("segment_ids")),
            row_seeds=row_seeds,
            training=training,
            wanted=self.stack.wanted(attention_scores),
        )
        hidden_states = output.hidden_states
        outputs: dict[str, Any] = {"hidden_states": hidden_states}
        if without_head:
            outputs["block_outputs"] = output.block_outputs
            if self.pooler is not None:
                outputs["pooled"] = self.pooler(row_vectors(hidden_states, features, self.pooling))
        else:
            outputs |= self._on_top(hidden_states, features, row_seeds)
        return {**outputs, "attention_scores": output.scores} if output.scores else outputs

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """What the head says of hidden states.

        Args:
            hidden_states: float [B, T, D]; for sequence_classification vectors of rows or segments, float
                [B, D] or [B, S, D].

        Returns:
            float32 [B, T, V], [B, T, C], [B, T, 2], [B, C] or [B, S, C].

        Raises:
            ValueError: when there is no head.
        """
        if self.masked_lm_head is not None:
            table = tf.convert_to_tensor(self.token_embedding.embeddings)
            return tf.cast(self.masked_lm_head(hidden_states, table), tf.float32)
        if self.classifier is None:
            raise ValueError(f"head='none' has no logits; use one of {', '.join(HEADS[1:])}")
        if hidden_states.shape.rank == 2:
            return of_rows(self.classifier, hidden_states)
        return tf.cast(self.classifier(hidden_states), tf.float32)

    def _embed(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        token_ids, token_type_ids = features["token_ids"], features.get("token_type_ids")
        whole = "segment_ids" not in features  # of segments each begins at position 0
        if whole and token_ids.shape[1] is not None and token_ids.shape[1] > self.max_seq_len:
            raise ValueError(
                f"a row of {token_ids.shape[1]} tokens is longer than max_seq_len={self.max_seq_len}; cut it"
            )
        x = self.token_embedding(token_ids)
        if self.token_type_embedding is not None:
            types = tf.zeros_like(token_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type_embedding(types)
        elif token_type_ids is not None:
            raise ValueError("num_token_types=0 tells no tokens apart; leave token_type_ids out")
        return x

    def _on_top(
        self, hidden_states: tf.Tensor, features: Mapping[str, tf.Tensor], row_seeds: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """`pooled`, `logits` and `next_sentence_logits`, as far as there are layers for them."""
        outputs, classified = {}, hidden_states
        of_texts = self.head == "sequence_classification"
        if self.pooler is not None or of_texts:
            vectors_of = text_vectors if of_texts else row_vectors
            vectors = vectors_of(hidden_states, features, self.pooling)
            if self.pooler is not None:
                outputs["pooled"] = vectors = self.pooler(vectors)
            classified = vectors if of_texts else hidden_states
            if self.next_sentence is not None:
                outputs["next_sentence_logits"] = of_rows(self.next_sentence, vectors)
        if self.classifier is not None:
            classified = self.classifier_dropout(classified, row_seeds)
        if self.head != "none":
            outputs["logits"] = self.logits(classified)
        return outputs


def wrong_settings(arguments: dict[str, Any]) -> str | None:
    """What is wrong about an encoder's arguments, or None."""
    head, pooler = arguments.get("head", "none"), arguments.get("pooler", "none")
    for name, value, known in (
        ("head", head, HEADS),
        ("pooling", arguments.get("pooling", "first"), tuple(ROW_POOLINGS)),
        ("pooler", pooler, POOLERS),
        ("remat", arguments.get("remat", "none"), REMAT),
    ):
        if value not in known:
            return f"{name}={value!r} is not known; use {', '.join(known)}"
    if arguments.get("head_dim") is None and arguments["hidden_dim"] % arguments["num_heads"]:
        return f"num_heads={arguments['num_heads']} must divide hidden_dim={arguments['hidden_dim']}, or give head_dim"
    inside = arguments.get("head_activation") or arguments.get("activation")
    if head == "masked_lm" and inside in GATED:
        return f"activation={inside!r} has a gate, which the masked_lm head has not; give head_activation"
    wrong = wrong_classes(arguments, ("sequence_classification", "token_classification"))
    if wrong is not None:
        return wrong
    if arguments.get("next_sentence_head") and pooler == "none":
        return "next_sentence_head=True reads the pooler; use pooler='tanh'"
    return None
