"""The model section of encoder-decoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from tfllm.config.attention import head_problems, relative_problems, rotary_problems, window_problems
from tfllm.config.encoder import ACTIVATIONS
from tfllm.config.errors import Problem
from tfllm.config.model import MODELS
from tfllm.config.rope_scaling import ROPE_SCALINGS
from tfllm.config.setting import setting


@MODELS.register("encoder_decoder", builds="tfllm.models.encoder_decoder:EncoderDecoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """An encoder that reads a text, and a decoder that writes another: T5, BART, Marian."""

    kind: ClassVar[str | None] = "encoder_decoder"

    type: str = "encoder_decoder"
    source: str | None = setting(None, "a run folder or checkpoint whose weights are the start")
    new_head: bool = setting(False, "do not take the output layer from source")
    vocab_size: int | None = setting(None, "tokens; null: those of the tokenizer", minimum=1)
    source_vocab_size: int | None = setting(
        None, "tokens of an embedding of the encoder's own; null: it shares the decoder's", minimum=1
    )
    num_encoder_layers: int = setting(4, "blocks of the encoder", minimum=1)
    num_decoder_layers: int = setting(4, "blocks of the decoder", minimum=1)
    hidden_dim: int = setting(192, "width", minimum=1)
    num_heads: int = setting(6, "heads of the encoder", minimum=1)
    decoder_num_heads: int | None = setting(None, "heads of the decoder; null: num_heads", minimum=1)
    num_kv_heads: int | None = setting(
        None,
        "key and value heads of both, and of attention to the encoder; null: as many as heads",
        minimum=1,
    )
    head_dim: int | None = setting(None, "width of a head; null: hidden_dim / heads", minimum=1)
    intermediate_dim: int | None = setting(
        None, "feed-forward width of the encoder; null: 4 x hidden_dim, 8/3 x when gated", minimum=1
    )
    decoder_intermediate_dim: int | None = setting(None, "the decoder's; null: intermediate_dim", minimum=1)
    max_seq_len: int | None = setting(
        None, "longest text in tokens; null: data.seq_len, or no limit with relative positions", minimum=1
    )
    decoder_start_id: int = setting(0, "id of the token that the decoder starts from", minimum=0)
    norm: str = setting("layer_norm", "normalization", choices=("layer_norm", "rms_norm"))
    norm_placement: str = setting("pre", "where blocks normalize", choices=("pre", "post"))
    norm_epsilon: float = setting(1e-5, "added to the variance", above=0.0)
    embedding_norm: bool = setting(False, "normalize embeddings")
    final_norm: bool = setting(True, "normalize what encoder and decoder put out")
    positions: str = setting(
        "learned", "position information", choices=("learned", "sinusoidal", "rotary", "relative")
    )
    position_offset: int = setting(0, "rows of learned tables before that of position 0", minimum=0)
    relative_num_buckets: int = setting(32, "buckets of relative positions", minimum=2)
    relative_max_distance: int = setting(128, "distance from which all share a bucket", minimum=1)
    rotary_dim: int | None = setting(None, "how much of a head is turned; null: all of it", minimum=2)
    rope_theta: float = setting(10_000.0, "base of the rotary frequencies", above=0.0)
    rope_scaling: Any | None = setting(None, "how they are stretched for longer rows", registry=ROPE_SCALINGS)
    sliding_window: int | None = setting(
        None,
        "tokens that a token of the decoder sees, itself included, and of the encoder to either side; null: all",
        minimum=1,
    )
    sliding_layers: tuple[int, ...] | None = setting(
        None, "indexes of the blocks with that window, in both; null: all blocks"
    )
    activation: str = setting("gelu", "feed-forward", choices=ACTIVATIONS)
    use_bias: bool = setting(True, "biases in projections and LayerNorm")
    attention_scale: float | None = setting(
        None, "what products of queries and keys are multiplied by; null: 1 / sqrt(head_dim)", above=0.0
    )
    scale_embeddings: bool = setting(False, "multiply token embeddings by the root of hidden_dim")
    tie_embeddings: bool = setting(True, "the output layer shares the token embedding")
    scale_logits: bool = setting(
        False, "divide what is projected onto the vocabulary by the root of hidden_dim"
    )
    logits_bias: bool = setting(False, "a number a token, added to its logit")
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)
    initializer_range: float = setting(0.02, "standard deviation of new weights", above=0.0)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        for name in ("num_heads", "decoder_num_heads"):
            if getattr(self, name) is not None:
                yield from head_problems(self, path, name)
                yield from rotary_problems(self, path, name)
        deeper = max("num_encoder_layers", "num_decoder_layers", key=lambda key: getattr(self, key))
        yield from window_problems(self, path, deeper)
        yield from relative_problems(self, path, causal=True)
