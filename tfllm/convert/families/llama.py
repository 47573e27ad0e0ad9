"""Llama 2 and 3, SmolLM2, Mistral, Qwen 2 and 3: one table of weights, options that differ."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.convert.classes import DecoderHead, classifier_rows
from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, HeadDim, Key, TrainingOnly
from tfllm.convert.family import Family
from tfllm.convert.rope_keys import Rope
from tfllm.convert.weight_table import Row, embedding, linear, rms_norm

SHAPE = (
    Key("vocab_size", "vocab_size"),
    Key("hidden_size", "hidden_dim"),
    Key("num_hidden_layers", "num_layers"),
    Key("num_attention_heads", "num_heads"),
    Key("num_key_value_heads", "num_kv_heads", default=None),
    Key("intermediate_size", "intermediate_dim"),
    Key("max_position_embeddings", "max_seq_len"),
    Always("norm", "rms_norm"),
    Key("rms_norm_eps", "norm_epsilon", float, 1e-6),
    TrainingOnly("attention_dropout"),
)
_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_SHAPE = (
    *SHAPE,
    Key("hidden_act", "activation", str, "silu", words=_GATES),
    Key("tie_word_embeddings", "tie_embeddings", bool, False),
)
NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
BUFFERS = (".rotary_emb.inv_freq",)


def rows(arguments: Arguments, norms: dict[str, str] | None = None) -> list[Row]:
    """The table of weights.

    Args:
        arguments: Of the model.
        norms: The norms of a block, ours to theirs.
    """
    tied = arguments["tie_embeddings"]
    table = [
        embedding("model.embed_tokens.weight", tied_to="lm_head.weight" if tied else None),
        rms_norm("model.norm", "final_norm"),
    ]
    qkv, output, feed = (arguments[f"{name}_bias"] for name in ("qkv", "attention_output", "feed_forward"))
    for index in range(arguments["num_layers"]):
        theirs, ours = f"model.layers.{index}", f"block_{index:02d}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        table += [rms_norm(f"{theirs}.{name}", f"{ours}/{own}") for own, name in (norms or NORMS).items()]
        table += linear(f"{attention}.q_proj", f"{ours}/attention/query", bias=qkv)
        table += linear(f"{attention}.k_proj", f"{ours}/attention/key", bias=qkv)
        table += linear(f"{attention}.v_proj", f"{ours}/attention/value", bias=qkv)
        table += linear(f"{attention}.o_proj", f"{ours}/attention/output", bias=output)
        if arguments["qk_norm"]:
            table.append(rms_norm(f"{attention}.q_norm", f"{ours}/attention/query_norm"))
            table.append(rms_norm(f"{attention}.k_norm", f"{ours}/attention/key_norm"))
        table += linear(f"{mlp}.gate_proj", f"{ours}/feed_forward/gate", bias=feed)
        table += linear(f"{mlp}.up_proj", f"{ours}/feed_forward/up", bias=feed)
        table += linear(f"{mlp}.down_proj", f"{ours}/feed_forward/down", bias=feed)
    if not tied:
        table += linear("lm_head", "output_projection", bias=False)
    return table + classifier_rows(arguments)


class _EveryLayerSlides:
    """Mistral's `sliding_window`: null sees everything; a `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        window = config.size("sliding_window", 4096, null=None)
        return {"sliding_window": window, "sliding_layers": tuple(range(arguments["num_layers"]))}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        return {"sliding_window": arguments["sliding_window"]}


@dataclasses.dataclass(frozen=True)
class LayerTypes:
    """A window, and a list that says which blocks have it; a `ConfigRow`.

    Without the list, Qwen's rule holds: the blocks from `max_window_layers` on, if `use_sliding_window`.
    """

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        window = config.size("sliding_window", 4096, null=None)
        first = config.take("max_window_layers", int, 28)
        count = arguments["num_layers"]
        listed = read_layer_types(config, count)
        if not config.take("use_sliding_window", bool, False):
            return {"sliding_window": None}
        return {
            "sliding_window": window,
            "sliding_layers": tuple(range(first, count)) if listed is None else listed,
        }

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        window = arguments["sliding_window"]
        if window is None:
            return {"use_sliding_window": False, "sliding_window": None}
        types = write_layer_types(arguments)
        first = types["layer_types"].index("sliding_attention")
        return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": first, **types}


def read_layer_types(config: ConfigReader, num_layers: int) -> tuple[int, ...] | None:
    """The indexes of the blocks with a window that `layer_types` lists, or None."""
    listed = config.take("layer_types", list, None)
    if listed is None:
        return None
    if len(listed) != num_layers:
        raise config.refuse("layer_types", listed, f"it must name {num_layers} layers")
    for kind in listed:
        if kind not in ("sliding_attention", "full_attention"):
            raise config.refuse("layer_types", kind, "sliding_attention and full_attention are")
    return tuple(index for index, kind in enumerate(listed) if kind == "sliding_attention")


def write_layer_types(arguments: Arguments) -> dict[str, Any]:
    """The inverse of `read_layer_types`."""
    slides = arguments["sliding_layers"] or ()
    kinds = ("full_attention", "sliding_attention")
    return {"layer_types": [kinds[index in slides] for index in range(arguments["num_layers"])]}


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    rows=rows,
    keys=(
        DecoderHead("LlamaForSequenceClassification"),
        *_SHAPE,
        HeadDim(),
        Rope(),
        Key("attention_bias", "qkv_bias", bool, False),
        Key("attention_bias", "attention_output_bias", bool, False),
        Key("mlp_bias", "feed_forward_bias", bool, False),
    ),
    buffers=BUFFERS,
    ignored=("pretraining_tp", "rope_interleaved"),
)
MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    prefix="model.",
    rows=rows,
    keys=(
        DecoderHead("MistralForSequenceClassification"),
        *_SHAPE,
        HeadDim(),
        Rope(),
        _EveryLayerSlides(),
    ),
    buffers=BUFFERS,
)
QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    prefix="model.",
    rows=rows,
    keys=(
        DecoderHead("Qwen2ForSequenceClassification"),
        *_SHAPE,
        HeadDim(),
        Rope(),
        LayerTypes(),
        Always("qkv_bias", True),
    ),
    buffers=BUFFERS,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    rows=rows,
    keys=(
        DecoderHead("Qwen3ForSequenceClassification"),
        *_SHAPE,
        HeadDim(default=128),
        Rope(),
        LayerTypes(),
        Always("qk_norm", True),
        Key("attention_bias", "qkv_bias", bool, False),
        Key("attention_bias", "attention_output_bias", bool, False),
    ),
    buffers=BUFFERS,
)
