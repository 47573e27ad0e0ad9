"""Gemma 2 (Gemma Team 2024) and the text models of Gemma 3 (Gemma Team 2025)."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.convert.classes import DecoderHead
from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, Constant, HeadDim, Key
from tfllm.convert.families.llama import BUFFERS, SHAPE, read_layer_types, rows, write_layer_types
from tfllm.convert.family import Family
from tfllm.convert.rope_keys import Rope, above_zero, read_scaling, write_scaling
from tfllm.convert.weight_table import Row

_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}


def _rows(arguments: Arguments) -> list[Row]:
    return rows(arguments, _NORMS)


@dataclasses.dataclass(frozen=True)
class _Sliding:
    """A window, and which blocks have it: as listed, or all but every `pattern`-th; a `ConfigRow`."""

    pattern: int

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        count, listed = arguments["num_layers"], read_layer_types(config, arguments["num_layers"])
        pattern = config.size("sliding_window_pattern", self.pattern)
        by_pattern = tuple(index for index in range(count) if (index + 1) % pattern)
        return {
            "sliding_window": config.size("sliding_window", 4096, null=None),
            "sliding_layers": by_pattern if listed is None else listed,
        }

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        return {"sliding_window": arguments["sliding_window"], **write_layer_types(arguments)}


class _QueryScale:
    """`query_pre_attn_scalar`: products are divided by its root; a `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        scalar = config.take("query_pre_attn_scalar", float, 256.0)
        if scalar <= 0:
            raise config.refuse("query_pre_attn_scalar", scalar, "it must be above 0")
        return {"attention_scale": scalar**-0.5}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        scalar = arguments["attention_scale"] ** -2
        nearest = round(scalar)
        whole = nearest > 0 and nearest**-0.5 == arguments["attention_scale"]
        return {"query_pre_attn_scalar": nearest if whole else scalar}


class _TwoRopes:
    """One base for blocks that see everything, stretched or not, and one for the others; a `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        theta = config.take("rope_theta", float, 1_000_000.0)
        local = config.take("rope_local_base_freq", float, 10_000.0)
        scaling, section, newer = None, config.nested("rope_scaling"), config.nested("rope_parameters")
        if newer is not None:
            section, sliding = newer.nested("full_attention") or section, newer.nested("sliding_attention")
            for key, value in newer.unread().items():
                raise newer.refuse(key, value, "full_attention and sliding_attention are known")
            if sliding is not None:
                local = sliding.take("rope_theta", float, local)
                if read_scaling(sliding, arguments["max_seq_len"]) is not None:
                    kind = sliding.take("rope_type", str, None)
                    raise sliding.refuse("rope_type", kind, "blocks with a window have default")
        if section is not None:
            theta = section.take("rope_theta", float, theta)
            scaling = read_scaling(section, arguments["max_seq_len"])
        return {
            "positions": "rotary",
            "rotary_dim": arguments["head_dim"],
            "rope_theta": above_zero(config, "rope_theta", theta),
            "rope_scaling": scaling,
            "rope_local_theta": above_zero(config, "rope_local_base_freq", local),
        }

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        if arguments["positions"] != "rotary":
            return {}
        theta, local = arguments["rope_theta"], arguments["rope_local_theta"]
        return {
            "rope_theta": theta,
            "rope_local_base_freq": theta if local is None else local,
            "rope_scaling": write_scaling(arguments["rope_scaling"]),
        }


_KEYS = (
    *SHAPE,
    HeadDim(default=256),
    Key("hidden_activation", "activation", str, "gelu_pytorch_tanh", words={"gelu_pytorch_tanh": "geglu"}),
    Key("tie_word_embeddings", "tie_embeddings", bool, True),
    Key("attention_bias", "qkv_bias", bool, False),
    Key("attention_bias", "attention_output_bias", bool, False),
    Always("norm_unit_offset", True),
    Always("branch_norms", True),
    Always("scale_embeddings", True),
    _QueryScale(),
    Constant("use_bidirectional_attention", False),
)
# `hidden_act` stands in some files beside `hidden_activation`, and transformers does not look at it.
_IGNORED = ("hidden_act", "cache_implementation")

GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    prefix="model.",
    rows=_rows,
    keys=(
        DecoderHead("Gemma2ForSequenceClassification"),
        *_KEYS,
        Rope(),
        _Sliding(pattern=2),
        Key("attn_logit_softcapping", "attention_soft_cap", float, 50.0, null=None),
        Key("final_logit_softcapping", "logit_soft_cap", float, 30.0, null=None),
    ),
    buffers=BUFFERS,
    ignored=_IGNORED,
)
GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    prefix="model.",
    rows=_rows,
    keys=(
        DecoderHead("Gemma3TextForSequenceClassification"),
        *_KEYS,
        _TwoRopes(),
        _Sliding(pattern=6),
        Always("qk_norm", True),
        Constant("attn_logit_softcapping", None),  # transformers knows the key and does not cap
        Key("final_logit_softcapping", "logit_soft_cap", float, None),
    ),
    buffers=BUFFERS,
    ignored=_IGNORED,
)
