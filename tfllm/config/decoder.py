"""The model section of decoders, and their named sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfllm.config.attention import head_problems, rotary_problems, window_problems
from tfllm.config.classes import class_problems
from tfllm.config.errors import Problem
from tfllm.config.model import MODELS
from tfllm.config.rope_scaling import ROPE_SCALINGS
from tfllm.config.setting import setting

_GPT2 = {
    "norm": "layer_norm",
    "positions": "learned",
    "activation": "gelu_tanh",
    "use_bias": True,
    "tie_embeddings": True,
    "max_seq_len": 1024,
}
_LLAMA = {"norm": "rms_norm", "positions": "rotary", "activation": "swiglu", "use_bias": False}

# Shapes as published: GPT-2 (Radford et al. 2019, table 2), SmolLM2 (Allal et al. 2025, config.json),
# Llama 3.2 1B (Meta 2024, config.json). `tiny` and `mini` are ours, for a CPU and a coffee break.
DECODER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**_LLAMA, "num_layers": 4, "hidden_dim": 192, "num_heads": 6, "tie_embeddings": True},
    "mini": {**_LLAMA, "num_layers": 6, "hidden_dim": 384, "num_heads": 6, "tie_embeddings": True},
    "gpt2-small": {**_GPT2, "num_layers": 12, "hidden_dim": 768, "num_heads": 12},
    "gpt2-medium": {**_GPT2, "num_layers": 24, "hidden_dim": 1024, "num_heads": 16},
    "gpt2-large": {**_GPT2, "num_layers": 36, "hidden_dim": 1280, "num_heads": 20},
    "gpt2-xl": {**_GPT2, "num_layers": 48, "hidden_dim": 1600, "num_heads": 25},
    "smollm2-135m": {
        **_LLAMA,
        "num_layers": 30,
        "hidden_dim": 576,
        "num_heads": 9,
        "num_kv_heads": 3,
        "intermediate_dim": 1536,
        "rope_theta": 100_000.0,
        "tie_embeddings": True,
        "max_seq_len": 8192,
    },
    "llama-3.2-1b": {
        **_LLAMA,
        "num_layers": 16,
        "hidden_dim": 2048,
        "num_heads": 32,
        "num_kv_heads": 8,
        "intermediate_dim": 8192,
        "rope_theta": 500_000.0,
        "tie_embeddings": True,
        "max_seq_len": 8192,
    },
}


@MODELS.register("decoder", builds="tfllm.models.decoder:Decoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A causal Transformer; `size` fills in what is not written."""

    kind: ClassVar[str | None] = "decoder"

    type: str = "decoder"
    size: str | None = setting(None, "a named size", choices=tuple(DECODER_SIZES))
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
    max_seq_len: int | None = setting(None, "longest context in tokens; null: data.seq_len", minimum=1)
    norm: str = setting("rms_norm", "normalization", choices=("layer_norm", "rms_norm"))
    norm_epsilon: float = setting(1e-5, "added to the variance", above=0.0)
    norm_unit_offset: bool = setting(False, "scales of rms_norm are what is added to one")
    branch_norms: bool = setting(False, "normalize also what attention and feed-forward add")
    parallel_branches: bool = setting(False, "attention and feed-forward both read a block's input")
    positions: str = setting("rotary", "position information", choices=("learned", "rotary", "none"))
    rotary_dim: int | None = setting(None, "how much of a head is turned; null: all of it", minimum=2)
    rope_theta: float = setting(10_000.0, "base of the rotary frequencies", above=0.0)
    rope_scaling: Any | None = setting(None, "how they are stretched for longer rows", registry=ROPE_SCALINGS)
    rope_local_theta: float | None = setting(
        None,
        "base of the frequencies of blocks with a sliding window, not stretched; null: as the others",
        above=0.0,
    )
    sliding_window: int | None = setting(
        None, "tokens that a token sees, itself included; null: all", minimum=1
    )
    sliding_layers: tuple[int, ...] | None = setting(
        None, "indexes of the blocks with that window; null: all blocks"
    )
    activation: str = setting(
        "swiglu", "feed-forward", choices=("gelu", "gelu_tanh", "relu", "swiglu", "geglu")
    )
    use_bias: bool = setting(False, "biases in projections and LayerNorm")
    qkv_bias: bool | None = setting(None, "biases in queries, keys and values; null: use_bias")
    attention_output_bias: bool | None = setting(None, "a bias in attention's output; null: use_bias")
    feed_forward_bias: bool | None = setting(None, "biases in the feed-forward; null: use_bias")
    qk_norm: bool = setting(False, "normalize each head of queries and keys by rms_norm")
    attention_scale: float | None = setting(
        None, "what products of queries and keys are multiplied by; null: 1 / sqrt(head_dim)", above=0.0
    )
    attention_soft_cap: float | None = setting(None, "bound of attention scores; null: none", above=0.0)
    logit_soft_cap: float | None = setting(None, "bound of the logits; null: none", above=0.0)
    scale_embeddings: bool = setting(False, "multiply token embeddings by the root of hidden_dim")
    tie_embeddings: bool = setting(True, "the output layer shares the token embedding")
    head: str = setting("causal_lm", "what the logits are", choices=("causal_lm", "sequence_classification"))
    pooling: str = setting(
        "last",
        "which tokens the vector is made of that a classification reads",
        choices=("first", "mean", "last"),
    )
    num_classes: int | None = setting(None, "classes of a classification", minimum=1)
    class_names: tuple[str, ...] | None = setting(None, "their names")
    multi_label: bool = setting(False, "a text may have any number of them")
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)
    initializer_range: float = setting(0.02, "standard deviation of new weights", above=0.0)

    @classmethod
    def expand(cls, mapping: Mapping[str, Any], path: str, problems: list[Problem]) -> Mapping[str, Any]:
        """Fills in the named size under the keys that are written."""
        del path, problems  # an unknown size is reported where `size` itself is checked
        return {**DECODER_SIZES.get(str(mapping.get("size")), {}), **mapping}

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        yield from head_problems(self, path)
        yield from rotary_problems(self, path)
        yield from window_problems(self, path)
        yield from class_problems(self, path, ("sequence_classification",))
