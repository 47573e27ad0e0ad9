"""The small Llama as a GGUF file, written byte by byte, so that any byte can be a wrong one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scripts.checks.small_llama import END, FEED, HEADS, LAYERS, WIDTH, byte_characters, tensors


def text(value: str | bytes) -> bytes:
    """A text of GGUF."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_of(value: Any) -> bytes:
    """A value of GGUF with its type before it; bytes are as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value) if value < 2**31 else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    kind, entries = (
        (8, b"".join(map(text, value))) if isinstance(value[0], str) else (5, np.int32(value).tobytes())
    )
    return struct.pack("<IIQ", 9, kind, len(value)) + entries


def gguf_metadata() -> dict[str, Any]:
    """The keys of the same checkpoint as a GGUF file."""
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 64,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": FEED,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*byte_characters(), "th", END],
        "tokenizer.ggml.token_type": [*[1] * 257, 3],
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": 257,
    }


_GGUF_NAMES = {
    **{"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    "mlp.down_proj": "ffn_down",
}


def gguf_tensors() -> list[tuple[str, np.ndarray]]:
    """The weights under GGUF's names; rows of queries and keys stand as they are, which nobody here minds."""
    named = []
    for name, array in tensors().items():
        name = (
            name.replace("model.layers.", "blk.").replace("model.norm", "output_norm").replace("model.", "")
        )
        for theirs, own in _GGUF_NAMES.items():
            name = name.replace(theirs, own)
        named.append((name, array))
    return named


def gguf_bytes(
    metadata: Mapping[str, Any] | list[tuple[str | bytes, Any]],
    held: list[tuple[str, np.ndarray]],
    *,
    version: int = 3,
    keys: int | None = None,
    count: int | None = None,
    info: Callable[[str, list[int], int], bytes] | None = None,
) -> bytes:
    """A GGUF file; `keys` and `count` are what it says of their numbers, `info` writes a tensor's entry."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else metadata
    out = b"GGUF" + struct.pack(
        "<IQQ", version, len(held) if count is None else count, len(pairs) if keys is None else keys
    )
    out += b"".join(text(key) + value_of(value) for key, value in pairs)
    data, entries = b"", b""
    for name, array in held:
        dims = list(reversed(array.shape))
        entries += (info or tensor_info)(name, dims, len(data))
        data += array.tobytes() + b"\0" * (-array.nbytes % 32)
    out += entries
    return out + b"\0" * (-len(out) % 32) + data


def tensor_info(name: str, dims: list[int], offset: int, kind: int = 0) -> bytes:
    """The entry of a tensor."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
