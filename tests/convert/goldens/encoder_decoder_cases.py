"""The cases of `cases.py` that are encoder-decoders, and what they read and write. Needs NumPy only."""

from __future__ import annotations

import numpy as np

VOCAB, SOURCE_LENGTH, TARGET_LENGTH = 61, 24, 17
_T5 = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 10,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,  # less than the rows are long
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 96,
    "decoder_start_token_id": 2,
}
_MARIAN = {
    **_BART,
    "d_model": 28,
    "decoder_layers": 1,
    "decoder_ffn_dim": 52,
    "activation_function": "swish",
    "scale_embedding": True,
    "decoder_vocab_size": VOCAB,
    "pad_token_id": VOCAB - 1,
    "decoder_start_token_id": VOCAB - 1,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
}

# Name to `model_type` and what differs from the family's defaults.
ENCODER_DECODER_CASES: dict[str, tuple[str, dict]] = {
    "t5": ("t5", {**_T5, "d_ff": 36, "layer_norm_epsilon": 1e-3}),
    "t5_gated_untied": (
        "t5",
        {
            **_T5,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_num_buckets": 9,
        },
    ),
    "mt5": ("mt5", {**_T5, "tie_word_embeddings": False}),
    "bart": ("bart", _BART),
    "bart_uneven": (
        "bart",
        {
            **_BART,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 3,
            "scale_embedding": True,
            "activation_function": "relu",
        },
    ),
    "marian": ("marian", _MARIAN),
    "marian_two_vocabularies": (
        "marian",
        {
            **_MARIAN,
            "vocab_size": 47,
            "pad_token_id": 46,
            "decoder_start_token_id": 46,
            "share_encoder_decoder_embeddings": False,
            "tie_word_embeddings": False,
            "decoder_ffn_dim": 44,
            "scale_embedding": False,
            "activation_function": "gelu",
        },
    ),
}

# PyTorch gives the embedding of the padding token no gradient, and we do: it stands in no row here.
_FIRST, _END = 2, 46


def sources() -> tuple[np.ndarray, np.ndarray]:
    """int64 [3, S] tokens and mask: a whole row, and two padded at their ends, as the library's tokenizers pad."""
    tokens = np.random.RandomState(7).randint(_FIRST, _END, [3, SOURCE_LENGTH])
    places = np.arange(SOURCE_LENGTH)
    return tokens, np.stack([places >= 0, places < 15, places < 4]).astype(np.int64)


def targets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 [3, T] what the decoder reads, what it should say, and the mask of both."""
    tokens = np.random.RandomState(8).randint(_FIRST, _END, [3, TARGET_LENGTH + 1])
    places = np.arange(TARGET_LENGTH)
    mask = np.stack([places < 9, places >= 0, places < 14]).astype(np.int64)
    return tokens[:, :-1], tokens[:, 1:], mask
