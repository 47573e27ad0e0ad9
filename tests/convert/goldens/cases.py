"""Tiny checkpoints with odd settings: what the goldens are made of. Needs NumPy only."""

from __future__ import annotations

import zlib

import numpy as np

VOCAB, LENGTH, NEW_TOKENS = 61, 24, 64
_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 128,
}
_GEMMA = {**_LLAMA, "head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 5, "rms_norm_eps": 1e-5}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 128}
_NEOX = {**_LLAMA, "num_attention_heads": 3, "num_hidden_layers": 2}
del _NEOX["num_key_value_heads"]

# Name to `model_type` and what differs from the family's defaults.
CASES: dict[str, tuple[str, dict]] = {
    "gpt2": ("gpt2", {**_GPT2, "layer_norm_epsilon": 1e-3}),
    "gpt2_untied": (
        "gpt2",
        {**_GPT2, "n_inner": 36, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "llama": (
        "llama",
        {
            **_LLAMA,
            "head_dim": 10,
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-3,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "llama_tied_linear": (
        "llama",
        {**_LLAMA, "tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    ),
    "llama_yarn": (
        "llama",
        {
            **_LLAMA,
            "num_key_value_heads": 1,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 8.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 5, "head_dim": 8}),
    "qwen2": (
        "qwen2",
        {**_LLAMA, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 10, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**_GEMMA, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5}),
    "gemma3": (
        "gemma3_text",
        {
            **_GEMMA,
            "sliding_window_pattern": 2,
            "rope_theta": 2000.0,
            "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        },
    ),
    "gpt_neox": ("gpt_neox", {**_NEOX, "rotary_pct": 0.5, "rotary_emb_base": 300}),
    "gpt_neox_sequential": (
        "gpt_neox",
        {
            **_NEOX,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": True,
        },
    ),
}


# Of encoder-decoders, whose rows would say one token for ever too: what changes from token to token is large, and what
# does not, the logits' bias and what comes from the encoder, is small.
_SIZES = {
    "model.shared": 0.5,
    "shared": 1.0,
    "coder.embed_tokens": 0.5,
    "final_logits_bias": 0.15,
    "encoder_attn.out_proj.weight": 0.4,
    "EncDecAttention.o.weight": 0.4,
    "decoder.layers.0.fc": 4.0,
    "layer.2.DenseReluDense": 3.0,
    "Attention.q.weight": 0.6,  # T5 does not scale its scores
}


def weight(name: str, shape: tuple[int, ...], *, unit_offset: bool) -> np.ndarray:
    """Numbers that follow from the name, large enough for every part to show: float32."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    for part, size in _SIZES.items():
        if part in name and len(shape) == 2:
            return (drawn * size / shape[1] ** 0.5).astype(np.float32)
    if "embed_tokens" in name or "embed_in" in name or "wte" in name:
        # Small beside what the blocks add, or a model with tied embeddings says one token for ever.
        return (drawn * 0.25 / shape[1] ** 0.5).astype(np.float32)
    if len(shape) == 2:
        return (drawn * 1.6 / shape[1] ** 0.5).astype(np.float32)
    is_scale = "norm" in name.lower() or "ln_" in name
    base = 1.0 if is_scale and name.endswith("weight") and not unit_offset else 0.0
    return (base + 0.3 * drawn).astype(np.float32)


def direction(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a gradient is multiplied by, to compare it in one number: float64."""
    return np.random.RandomState(zlib.crc32(f"direction of {name}".encode())).standard_normal(shape)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """int64 [3, T] tokens and mask: a whole row, one padded at its end, and one at its beginning."""
    tokens = np.random.RandomState(5).randint(0, VOCAB, [3, LENGTH])
    places = np.arange(LENGTH)
    mask = np.stack([places >= 0, places < LENGTH - 9, places >= 7]).astype(np.int64)
    return tokens, mask


def prompts() -> tuple[np.ndarray, np.ndarray]:
    """int64 [2, 9] left-padded prompts and their mask."""
    tokens = np.random.RandomState(6).randint(0, VOCAB, [2, 9])
    return tokens, np.stack([np.arange(9) >= 0, np.arange(9) >= 4]).astype(np.int64)
