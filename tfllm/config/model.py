"""The model section, and the named sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

MODELS = Registry("model", default="decoder")
ROPE_SCALINGS = Registry("rope_scaling")

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


@ROPE_SCALINGS.register("linear")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRopeScalingConfig:
    """All rotary wavelengths become longer by one factor."""

    type: str = "linear"
    factor: float = setting(help="how much longer", minimum=1.0)


@ROPE_SCALINGS.register("llama3")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3RopeScalingConfig:
    """Long rotary wavelengths become longer, short ones stay (Llama 3.1)."""

    type: str = "llama3"
    factor: float = setting(help="how much longer", minimum=1.0)
    original_max_seq_len: int = setting(help="context before the stretching, in tokens", minimum=1)
    low_freq_factor: float = setting(1.0, "turns in that context below which waves are stretched", above=0.0)
    high_freq_factor: float = setting(4.0, "turns in that context above which they stay", above=0.0)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.high_freq_factor <= self.low_freq_factor:
            rule = f"must be greater than {path}.low_freq_factor={self.low_freq_factor}"
            yield Problem(f"{path}.high_freq_factor", self.high_freq_factor, rule, "Llama 3.1 has 1 and 4")


@ROPE_SCALINGS.register("yarn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnRopeScalingConfig:
    """As llama3, by the index of the pair, with stronger attention (Peng et al. 2023)."""

    type: str = "yarn"
    factor: float = setting(help="how much longer", minimum=1.0)
    original_max_seq_len: int = setting(help="context before the stretching, in tokens", minimum=1)
    beta_fast: float = setting(32.0, "turns in that context above which waves stay", above=0.0)
    beta_slow: float = setting(1.0, "turns in that context below which they are stretched", above=0.0)
    attention_factor: float | None = setting(
        None, "what queries and keys are multiplied by; null: 0.1 ln(factor) + 1", above=0.0
    )
    truncate: bool = setting(True, "the two bounds are rounded to whole pairs")


@ROPE_SCALINGS.register("factors")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorsRopeScalingConfig:
    """Each rotary wavelength becomes longer by a factor of its own."""

    type: str = "factors"
    factors: tuple[float, ...] = setting(help="how much longer, a number for each pair that is turned")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        for index, factor in enumerate(self.factors):
            if factor <= 0:
                yield Problem(
                    f"{path}.factors[{index}]", factor, "must be greater than 0", "1 leaves a wave as it is"
                )


@MODELS.register("decoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A causal Transformer; `size` fills in what is not written."""

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
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)
    initializer_range: float = setting(0.02, "standard deviation of new weights", above=0.0)

    @classmethod
    def expand(cls, mapping: Mapping[str, Any], path: str, problems: list[Problem]) -> Mapping[str, Any]:
        """Fills in the named size under the keys that are written."""
        del path, problems  # an unknown size is reported where `size` itself is checked
        return {**DECODER_SIZES.get(str(mapping.get("size")), {}), **mapping}

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.head_dim is None and self.hidden_dim % self.num_heads:
            rule = f"must divide {path}.hidden_dim={self.hidden_dim}"
            mend = f"try {_near_divisors(self.hidden_dim, self.num_heads)}, or set {path}.head_dim"
            yield Problem(f"{path}.num_heads", self.num_heads, rule, mend)
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            rule = f"must be divisible by {path}.num_kv_heads={self.num_kv_heads}"
            mend = f"try {path}.num_kv_heads {_near_divisors(self.num_heads, self.num_kv_heads)}"
            yield Problem(f"{path}.num_heads", self.num_heads, rule, mend)
        head_dim = self.head_dim or self.hidden_dim // self.num_heads
        if self.positions == "rotary" and head_dim % 2:
            name, value = ("head_dim", self.head_dim) if self.head_dim else ("num_heads", self.num_heads)
            rule = f"gives heads of width {head_dim}, and rotary positions turn pairs"
            yield Problem(f"{path}.{name}", value, rule, "make the width of a head even")
        if self.rotary_dim and (self.rotary_dim % 2 or self.rotary_dim > head_dim):
            rule = f"must be even and at most {head_dim}, the width of a head"
            yield Problem(f"{path}.rotary_dim", self.rotary_dim, rule, f"try {head_dim // 4 * 2}")
        turned, scaling = (self.rotary_dim or head_dim) // 2, self.rope_scaling
        if isinstance(scaling, FactorsRopeScalingConfig) and len(scaling.factors) != turned:
            rule = f"must be one for each of the {turned} pairs that are turned"
            yield Problem(
                f"{path}.rope_scaling.factors", list(scaling.factors), rule, f"write {turned} numbers"
            )
        for index in self.sliding_layers or ():
            if not 0 <= index < self.num_layers:
                rule = f"must be the index of one of {path}.num_layers={self.num_layers} blocks"
                yield Problem(f"{path}.sliding_layers", index, rule, f"write 0 to {self.num_layers - 1}")
        if self.sliding_window is None and (self.sliding_layers is not None or self.rope_local_theta):
            name = "rope_local_theta" if self.sliding_layers is None else "sliding_layers"
            rule = f"means nothing without {path}.sliding_window"
            value = getattr(self, name)
            yield Problem(f"{path}.{name}", value, rule, f"set {path}.sliding_window, or leave it out")


@MODELS.register("keras_nlp")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasNlpConfig:
    """A causal or masked language model of KerasHub: a preset, or a backbone with new weights."""

    type: str = "keras_nlp"
    preset: str | None = setting(
        None, "a preset's name, hf://org/name, kaggle://..., or the folder of a preset"
    )
    backbone: str | None = setting(
        None, "a class of keras_hub.models, such as LlamaBackbone, for new weights"
    )
    arguments: dict[str, Any] = setting({}, "further arguments of the backbone, such as dropout")
    source: str | None = setting(None, "a run folder whose weights are the start")
    vocab_size: int | None = setting(None, "tokens; null: those of the tokenizer or preset", minimum=1)
    max_seq_len: int | None = setting(None, "longest context in tokens; null: data.seq_len", minimum=1)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if (self.preset is None) == (self.backbone is None):
            rule = f"and {path}.backbone={self.backbone}: one of both must be given"
            yield Problem(
                f"{path}.preset", self.preset, rule, "a preset has weights, a backbone draws new ones"
            )
        if self.preset is not None and self.vocab_size is not None:
            rule = "is that of the preset"
            yield Problem(f"{path}.vocab_size", self.vocab_size, rule, "leave it out")
        if "vocabulary_size" in self.arguments:
            rule, value = "is set by the tokenizer", self.arguments["vocabulary_size"]
            yield Problem(
                f"{path}.arguments.vocabulary_size", value, rule, f"leave it out, or write {path}.vocab_size"
            )


@MODELS.register("pretrained")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """The model of a checkpoint, and its weights as the start; in a run's config it stands as the model it is."""

    type: str = "pretrained"
    source: str = setting(
        help="a folder of transformers, a .gguf file, hf://org/name, keras_nlp://preset, or a run folder"
    )
    new_head: bool = setting(False, "draw an output layer of its own instead of taking that of source")
    vocab_size: int | None = setting(
        None,
        "tokens; null: as many as source or its tokenizer has; new ones begin as the mean of the others",
        minimum=1,
    )
    max_seq_len: int | None = setting(None, "longest context in tokens; null: that of source", minimum=1)
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)


def _near_divisors(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return " or ".join(str(d) for d in sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:2]))
