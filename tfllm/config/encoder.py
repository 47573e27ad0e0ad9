"""The model section of encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from tfllm.config.attention import head_problems, relative_problems, rotary_problems, window_problems
from tfllm.config.classes import class_problems
from tfllm.config.errors import Problem
from tfllm.config.model import MODELS
from tfllm.config.rope_scaling import ROPE_SCALINGS
from tfllm.config.setting import setting

GATED = ("swiglu", "geglu")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu")


@MODELS.register("encoder", builds="tfllm.models.encoder:Encoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A Transformer in which every token sees every other: BERT and its like."""

    kind: ClassVar[str | None] = "encoder"

    type: str = "encoder"
    source: str | None = setting(None, "a run folder or checkpoint whose weights are the start")
    new_head: bool = setting(False, "do not take the output layer from source")
    vocab_size: int | None = setting(None, "tokens; null: those of the tokenizer", minimum=1)
    num_layers: int = setting(4, "blocks", minimum=1)
    hidden_dim: int = setting(192, "width", minimum=1)
    num_heads: int = setting(6, "query heads", minimum=1)
    num_kv_heads: int | None = setting(None, "key and value heads; null: num_heads", minimum=1)
    head_dim: int | None = setting(None, "width of a head; null: hidden_dim / num_heads", minimum=1)
    intermediate_dim: int | None = setting(
        None, "feed-forward width; null: 4 x hidden_dim, 8/3 x when gated", minimum=1
    )
    max_seq_len: int | None = setting(None, "longest row in tokens; null: data.seq_len", minimum=1)
    num_token_types: int = setting(2, "kinds of tokens, such as those of two sentences; 0: one", minimum=0)
    positions: str = setting(
        "learned", "position information", choices=("learned", "sinusoidal", "rotary", "relative", "none")
    )
    position_offset: int = setting(
        0, "rows of a learned table of positions before that of the first token", minimum=0
    )
    rotary_dim: int | None = setting(None, "how much of a head is turned; null: all of it", minimum=2)
    rope_theta: float = setting(10_000.0, "base of the rotary frequencies", above=0.0)
    rope_scaling: Any | None = setting(None, "how they are stretched for longer rows", registry=ROPE_SCALINGS)
    rope_local_theta: float | None = setting(
        None,
        "base of the frequencies of blocks with a sliding window, not stretched; null: as the others",
        above=0.0,
    )
    relative_num_buckets: int = setting(32, "buckets of relative positions", minimum=2)
    relative_max_distance: int = setting(128, "distance from which all share a bucket", minimum=1)
    sliding_window: int | None = setting(
        None, "a token sees itself and one less than this many to either side; null: all", minimum=1
    )
    sliding_layers: tuple[int, ...] | None = setting(
        None, "indexes of the blocks with that window; null: all blocks"
    )
    norm_placement: str = setting("post", "where blocks normalize", choices=("post", "pre"))
    norm_epsilon: float = setting(1e-12, "added to the variance", above=0.0)
    activation: str = setting("gelu", "feed-forward", choices=ACTIVATIONS)
    pooling: str = setting(
        "first", "which tokens a row's vector is made of", choices=("first", "mean", "last")
    )
    pooler: str = setting("none", "a dense layer on that vector", choices=("none", "tanh", "relu"))
    head: str = setting(
        "none",
        "what the logits are",
        choices=("none", "masked_lm", "sequence_classification", "token_classification", "span"),
    )
    num_classes: int | None = setting(None, "classes of a classification", minimum=1)
    class_names: tuple[str, ...] | None = setting(None, "their names")
    multi_label: bool = setting(False, "a text may have any number of them")
    head_activation: str | None = setting(
        None,
        "inside the masked_lm head; null: activation",
        choices=tuple(name for name in ACTIVATIONS if name not in GATED),
    )
    tie_embeddings: bool = setting(True, "the masked_lm head shares the token embedding")
    next_sentence_head: bool = setting(False, "tells also whether the second sentence follows the first")
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)
    initializer_range: float = setting(0.02, "standard deviation of new weights", above=0.0)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        yield from head_problems(self, path)
        yield from rotary_problems(self, path)
        yield from window_problems(self, path)
        yield from relative_problems(self, path, causal=False)
        if self.head == "masked_lm" and self.head_activation is None and self.activation in GATED:
            rule = f"has a gate, which the masked_lm head has not, and {path}.head_activation is null"
            yield Problem(f"{path}.activation", self.activation, rule, f"write {path}.head_activation=gelu")
        yield from class_problems(self, path, ("sequence_classification", "token_classification"))
        if self.next_sentence_head and self.pooler == "none":
            rule = f"is read by {path}.next_sentence_head"
            yield Problem(f"{path}.pooler", self.pooler, rule, "write tanh, as BERT has it")
