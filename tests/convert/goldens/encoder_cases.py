"""Tiny checkpoints of encoders, and of decoders that classify, with odd settings. Needs NumPy only."""

from __future__ import annotations

import numpy as np

from tests.convert.goldens.cases import LENGTH, VOCAB

_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 33,
}
_DISTIL = {
    "vocab_size": VOCAB,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 40,
    "max_position_embeddings": 33,
}
_CLASSES = {"id2label": {"0": "bad", "1": "middling", "2": "good"}}

_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    **_CLASSES,
}

# Name to `model_type`, transformers' class, and what differs from the family's defaults.
ENCODER_CASES: dict[str, tuple[str, str, dict]] = {
    "bert": ("bert", "BertModel", {**_BERT, "type_vocab_size": 3, "layer_norm_eps": 1e-3}),
    "bert_masked_lm": ("bert", "BertForMaskedLM", {**_BERT, "hidden_act": "gelu_new"}),
    "bert_pretraining_untied": (
        "bert",
        "BertForPreTraining",
        {**_BERT, "hidden_act": "relu", "tie_word_embeddings": False, "type_vocab_size": 1},
    ),
    "bert_sentences": ("bert", "BertForSequenceClassification", {**_BERT, **_CLASSES}),
    "bert_tokens": ("bert", "BertForTokenClassification", {**_BERT, **_CLASSES}),
    "bert_span": ("bert", "BertForQuestionAnswering", _BERT),
    "roberta": (
        "roberta",
        "RobertaForMaskedLM",
        {**_BERT, "pad_token_id": 3, "type_vocab_size": 1, "hidden_act": "relu", "layer_norm_eps": 1e-5},
    ),
    "roberta_untied": ("roberta", "RobertaForMaskedLM", {**_BERT, "tie_word_embeddings": False}),
    "roberta_sentences": ("roberta", "RobertaForSequenceClassification", {**_BERT, **_CLASSES}),
    "xlm_roberta": ("xlm-roberta", "XLMRobertaModel", {**_BERT, "type_vocab_size": 1}),
    "distilbert": ("distilbert", "DistilBertForMaskedLM", {**_DISTIL, "activation": "relu"}),
    "distilbert_untied": (
        "distilbert",
        "DistilBertForMaskedLM",
        {**_DISTIL, "tie_word_embeddings": False, "activation": "silu"},
    ),
    "distilbert_sentences": ("distilbert", "DistilBertForSequenceClassification", {**_DISTIL, **_CLASSES}),
    "distilbert_span": ("distilbert", "DistilBertForQuestionAnswering", _DISTIL),
    "llama_sentences": ("llama", "LlamaForSequenceClassification", {**_LLAMA, "attention_bias": True}),
    "qwen3_sentences": ("qwen3", "Qwen3ForSequenceClassification", {**_LLAMA, "head_dim": 8}),
    "gemma2_sentences": (
        "gemma2",
        "Gemma2ForSequenceClassification",
        {**_LLAMA, "head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 7},
    ),
    "gpt2_sentences": (
        "gpt2",
        "GPT2ForSequenceClassification",
        {
            **{"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 33},
            **{"pad_token_id": 0, "problem_type": "multi_label_classification", **_CLASSES},
        },
    ),
    "gpt_neox_sentences": (
        "gpt_neox",
        "GPTNeoXForSequenceClassification",
        {**_BERT, "pad_token_id": 0, "rotary_pct": 0.5, **_CLASSES},
    ),
}
_TYPES = ("bert", "roberta", "xlm-roberta")  # of models that tell types of tokens apart
# Of an output layer that is not the embedding, transformers adds one bias and does not read the other.
UNREAD = ("cls.predictions.bias", "lm_head.bias")


def encoder_batch(name: str) -> dict[str, np.ndarray]:
    """int64 [3, T] arrays: a whole row, one padded at its end, and one padded in its middle.

    Returns:
        `tokens`, `mask`, `types` where there are several, and `positions`, counted over real tokens.
    """
    model_type, _, settings = ENCODER_CASES[name]
    rng = np.random.RandomState(7)
    padding = settings.get("pad_token_id", 1 if "roberta" in model_type else 0)
    tokens, places = rng.randint(0, VOCAB, [3, LENGTH]), np.arange(LENGTH)
    mask = np.stack([places >= 0, places < LENGTH - 9, (places < 5) | (places > 11)])
    # transformers gives no gradient to the embedding of padding.
    tokens = np.where(tokens == padding, padding + 1, tokens)
    batch = {
        "tokens": np.where(mask, tokens, padding),
        "mask": mask.astype(np.int64),
        "positions": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    num_types = settings.get("type_vocab_size", 2) if model_type in _TYPES else 0
    return {**batch, "types": rng.randint(0, num_types, [3, LENGTH])} if num_types > 1 else batch


def targets(shape: tuple[int, ...]) -> np.ndarray:
    """What logits of a shape [..., C] are compared with: int64 [...]."""
    return np.random.RandomState(8).randint(0, shape[-1], shape[:-1])
