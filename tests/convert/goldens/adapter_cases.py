"""Adapters as PEFT writes them, beside checkpoints of the other cases. Needs NumPy only."""

from __future__ import annotations

import numpy as np

from tests.convert.goldens.cases import weight

# Name to the case of the base, and what PEFT's LoraConfig is told.
ADAPTER_CASES: dict[str, tuple[str, dict]] = {
    "llama_adapter": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 5},
            "alpha_pattern": {r".*\.2\.self_attn\.o_proj": 3.0},
            "task_type": "CAUSAL_LM",
        },
    ),
    "qwen3_adapter": (
        "qwen3",  # of tied embeddings
        {
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["q_proj", "down_proj"],
            "use_rslora": True,
            "bias": "lora_only",
            "task_type": "CAUSAL_LM",
        },
    ),
    "llama_adalora": (
        "llama_tied_linear",
        {
            **{"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 10, "tinit": 1, "tfinal": 1},
            **{"target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"},
        },
    ),
    "gpt2_adapter": (
        "gpt2",
        {
            "r": 3,
            "lora_alpha": 6,
            "target_modules": ["c_attn", "mlp.c_proj"],
            "fan_in_fan_out": True,
            "modules_to_save": ["ln_f"],
            "task_type": "CAUSAL_LM",
        },
    ),
    "gpt_neox_adapter": (
        "gpt_neox",
        {"r": 4, "target_modules": ["query_key_value", "dense_h_to_4h"], "task_type": "CAUSAL_LM"},
    ),
    "t5_adapter": ("t5", {"r": 4, "target_modules": ["q", "v", "wi"], "task_type": "SEQ_2_SEQ_LM"}),
    "bart_adapter": (
        "bart",
        {"r": 4, "target_modules": ["q_proj", "v_proj", "fc1"], "bias": "all", "task_type": "SEQ_2_SEQ_LM"},
    ),
    "bert_adapter": ("bert", {"r": 4, "target_modules": ["key"], "task_type": "FEATURE_EXTRACTION"}),
    "bert_sentences_adapter": (
        "bert_sentences",
        {"r": 4, "target_modules": ["query", "intermediate.dense"], "task_type": "SEQ_CLS"},
    ),
    "bert_tokens_adapter": ("bert_tokens", {"r": 4, "target_modules": ["value"], "task_type": "TOKEN_CLS"}),
    "roberta_sentences_adapter": (
        "roberta_sentences",
        {"r": 4, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    ),
    "llama_sentences_adapter": (
        "llama_sentences",
        {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"},
    ),
}


def adapter_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that follow from the name: float32; what is added is smaller than what it stands beside."""
    return weight(key, shape, unit_offset=False) * np.float32(0.4 if "lora_" in key else 1.0)
