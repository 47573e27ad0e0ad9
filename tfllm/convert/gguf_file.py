"""GGUF files, llama.cpp's format: one file with config, tokenizer and weights, often quantized.

The `gguf` package undoes the quantization. What comes out are the config keys and the tensor names of
transformers, so that a family's tables serve both formats. Three things differ
(llama.cpp's `convert_hf_to_gguf.py`): queries and keys of `llama` are stored with the rows of a head interleaved, for a
rotation of neighbours; scales of Gemma's norms are stored with one added; and a model without an output layer
uses its embedding, which no key says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_parts import GgufParts
from tfllm.convert.gguf_rope import FACTORS, OF_LENGTHS, rope_section_of
from tfllm.convert.gguf_tensor import numbers_at

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_BLOCK = {
    **_BLOCK,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """What llama.cpp calls by one `general.architecture`."""

    model_type: str
    block: Mapping[str, str]
    interleaved: bool = False
    norms_plus_one: bool = False
    blocks_of_27b: int | None = None


_ARCHITECTURES = {
    "llama": _Architecture("llama", _BLOCK, interleaved=True),
    "qwen2": _Architecture("qwen2", _BLOCK),
    "qwen3": _Architecture("qwen3", _BLOCK),
    "gemma2": _Architecture("gemma2", _GEMMA_BLOCK, norms_plus_one=True, blocks_of_27b=46),
    "gemma3": _Architecture("gemma3_text", _GEMMA_BLOCK, norms_plus_one=True, blocks_of_27b=62),
}
# Keys behind the architecture's name, and transformers' for them.
_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "vocab_size": "vocab_size",
}


class GgufFile:
    """The tensors of a GGUF file, under transformers' names.

    Args:
        path: The file, or one of its parts.

    Raises:
        ConvertError: when it is not a GGUF file, is damaged, lacks a part, or is of an architecture that is not
            known.

    Attributes:
        metadata: Every key of the file to its value, but for lists.
        shapes: Name to shape of every tensor.
        types: Name to type, as GGUF names it.
    """

    def __init__(self, path: Path):
        self.path = path
        header = GgufParts(path)
        self.metadata, self._lists = header.metadata, header.lists
        kind = self.metadata.get("general.architecture")
        if kind not in _ARCHITECTURES:
            known = ", ".join(sorted(_ARCHITECTURES))
            raise ConvertError(f"{path}: general.architecture={shown(kind)} is not known; known are {known}")
        self._prefix, self._architecture = kind, _ARCHITECTURES[kind]
        for name in OF_LENGTHS:
            if name in header.tensors:
                raise ConvertError(f"{path}: {name} is not implemented in tfllm; take another model")
        self._factors = header.tensors.pop(FACTORS, None) if kind == "llama" else None
        self._places = {self._their_name(name): place for name, place in header.tensors.items()}
        self.shapes = {name: place.shape for name, place in self._places.items()}
        self.types = {name: place.type for name, place in self._places.items()}

    def config(self) -> dict[str, Any]:
        """What `config.json` would say.

        Raises:
            ConvertError: when the file says something that has no such word.
        """
        mapping: dict[str, Any] = {"model_type": self._architecture.model_type}
        known = set()
        for ours, theirs in _KEYS.items():
            known.add(key := f"{self._prefix}.{ours}")
            if key in self.metadata or key in self._lists:
                mapping[theirs] = self._value(key)
        embedding = self.shapes.get("model.embed_tokens.weight", (0,))
        mapping.setdefault("vocab_size", embedding[0] if embedding else 0)
        mapping["tie_word_embeddings"] = "lm_head.weight" not in self.shapes
        mapping.update(self._rope(known))
        if self._factors is not None:
            mapping["rope_scaling"] = rope_section_of(
                self.path,
                numbers_at(self._factors, FACTORS),
                mapping.get("rope_scaling", {}),
                mapping.get("rope_theta", 10_000.0),
            )
        if self._architecture.model_type.startswith("qwen"):
            mapping["use_sliding_window"] = False
        if self._architecture.blocks_of_27b is not None:
            mapping["query_pre_attn_scalar"] = self._query_scalar(mapping)
        for name in ("attn_q", "attn_output", "ffn_up"):
            theirs = f"model.layers.0.{self._architecture.block[name]}.bias"
            if theirs in self.shapes:
                mapping["mlp_bias" if name == "ffn_up" else "attention_bias"] = True
        for key in (*self.metadata, *self._lists):
            if key.startswith(f"{self._prefix}.") and key not in known and key not in _harmless(self._prefix):
                mapping[key] = self._value(key)  # for the family to report
        return mapping

    def read(self, name: str) -> np.ndarray:
        """One tensor in transformers' layout, in the type of float it is stored in, float32 where it is quantized.

        Raises:
            ConvertError: when its quantization is not known, or the file cannot be read any more.
        """
        array = numbers_at(self._places[name], name)
        if self._architecture.interleaved and (".q_proj." in name or ".k_proj." in name):
            return self._not_interleaved(name, array)
        if self._architecture.norms_plus_one and name.endswith("norm.weight"):
            return array.astype(np.float32) - 1.0
        return array

    def list_of(self, key: str) -> list[Any]:
        """The list under a key, such as a vocabulary; empty where there is none."""
        held = self._lists.get(key, [])
        return held.tolist() if isinstance(held, np.ndarray) else held

    def _value(self, key: str) -> Any:
        """A key's value, a list too: a number for each layer is not implemented, and is said and not dropped."""
        return self.metadata[key] if key in self.metadata else self.list_of(key)

    def _their_name(self, name: str) -> str:
        parts = name.split(".")
        if parts[0] == "blk" and len(parts) == 4 and parts[2] in self._architecture.block:
            return f"model.layers.{parts[1]}.{self._architecture.block[parts[2]]}.{parts[3]}"
        if len(parts) == 2 and parts[0] in _OUTSIDE:
            return f"{_OUTSIDE[parts[0]]}.{parts[1]}"
        return name

    def _not_interleaved(self, name: str, array: np.ndarray) -> np.ndarray:
        """Rows 0, 2, 4 … of a head, then rows 1, 3, 5 …: the order for a rotation of halves."""
        query = ".q_proj." in name
        heads = _size(self.metadata.get(f"{self._prefix}.attention.head_count"))
        if not query:
            heads = _size(self.metadata.get(f"{self._prefix}.attention.head_count_kv", heads))
        if heads is None or array.size == 0 or array.shape[0] % (2 * heads):
            raise ConvertError(
                f"{self.path}: {name} has {list(array.shape)}, which {shown(heads)} heads do not divide"
            )
        pairs = array.reshape(heads, -1, 2, *array.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)

    def _query_scalar(self, mapping: Mapping[str, Any]) -> int | None:
        """No key says it: the width of a head, but in Gemma's largest models (llama.cpp's `llama-model.cpp`)."""
        width, heads = (_size(mapping.get(key)) for key in ("hidden_size", "num_attention_heads"))
        if mapping.get("num_hidden_layers") == self._architecture.blocks_of_27b and width and heads:
            return width // heads
        return mapping.get("head_dim")

    def _rope(self, known: set[str]) -> dict[str, Any]:
        names = {
            "rope.scaling.type": "rope_type",
            "rope.scaling.factor": "factor",
            "rope.scaling.original_context_length": "original_max_position_embeddings",
            "rope.scaling.attn_factor": "attention_factor",
            "rope.scaling.yarn_beta_fast": "beta_fast",
            "rope.scaling.yarn_beta_slow": "beta_slow",
        }
        section = {}
        for ours, theirs in names.items():
            known.add(key := f"{self._prefix}.{ours}")
            if key in self.metadata:
                section[theirs] = self.metadata[key]
        known.add(key := f"{self._prefix}.rope.dimension_count")
        rotary = _size(self.metadata.get(key))
        if rotary is None and key in self.metadata:
            raise ConvertError(
                f"{self.path}: {key}={shown(self.metadata[key])} must be a whole number of at least 1"
            )
        head_dim = _size(self.metadata.get(f"{self._prefix}.attention.key_length"))
        share = {"partial_rotary_factor": rotary / head_dim} if rotary and head_dim else {}
        if section.get("rope_type", "none") == "none":
            return share
        return {**share, "rope_scaling": section}


def _harmless(prefix: str) -> frozenset[str]:
    """Keys that say again what others say."""
    return frozenset(f"{prefix}.{name}" for name in ("attention.value_length", "rope.scaling.finetuned"))


def _size(value: Any) -> int | None:
    """A whole number of at least one, or None; what is not one is reported where it is read as a config."""
    return value if type(value) is int and value > 0 else None
