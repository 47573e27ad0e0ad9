"""A small whole Llama, as transformers writes one, and its parts, to be spoiled."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH, HEADS, FEED, VOCABULARY = 2, 16, 4, 32, 258
END = "<|end|>"


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """GPT-2's alphabet of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return tuple(names[byte] for byte in range(256))


def config() -> dict[str, Any]:
    """Of a small Llama."""
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FEED,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 257,
    }


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json of bytes, one merge and one special token."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    return {
        "added_tokens": [{"id": 257, "content": END, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {**vocab, "th": 256}, "merges": [["t", "h"]]},
    }


@functools.cache
def tensors() -> Mapping[str, np.ndarray]:
    """Its weights."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for index in range(LAYERS):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{index}.self_attn.{name}_proj"] = (WIDTH, WIDTH)
        for name in ("gate", "up"):
            shapes[f"model.layers.{index}.mlp.{name}_proj"] = (FEED, WIDTH)
        shapes[f"model.layers.{index}.mlp.down_proj"] = (WIDTH, FEED)
        for name in ("input", "post_attention"):
            shapes[f"model.layers.{index}.{name}_layernorm"] = (WIDTH,)
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path) -> Path:
    """The whole checkpoint, as transformers writes it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    save_file(dict(tensors()), folder / "model.safetensors")
    return folder
