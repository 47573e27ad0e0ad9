"""Vectors for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import bucket
from tfllm.layers.pooling import first_token, mean_pool
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tokenizers import Tokenizer

_POOLINGS = ("mean", "first", "pooler")
_BATCH_SIZE = 32


def embed(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], *, pooling: str = "mean", normalize: bool = True
) -> np.ndarray:
    """See `LanguageModel.embed`: float32 [B, D]. Texts of like lengths are computed together."""
    if pooling not in _POOLINGS:
        raise GenerationError(f"pooling={pooling!r} is not known; use {', '.join(_POOLINGS)}")
    if isinstance(model, EncoderDecoder):
        raise GenerationError("an encoder-decoder has no embedding of a text here; take an encoder")
    before, behind = list(tokenizer.prefix_ids), list(tokenizer.suffix_ids)
    room = model.max_seq_len - len(before) - len(behind)
    rows = [[*before, *ids[:room].tolist(), *behind] for ids in tokenizer.encode_batch(texts)]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    vectors = np.zeros([len(rows), model.hidden_dim], np.float32)
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        vectors[chosen] = _pooled(model, [rows[index] for index in chosen], tokenizer.pad_id, pooling)
    if normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def _pooled(model: Any, rows: Sequence[Sequence[int]], pad_id: int, pooling: str) -> np.ndarray:
    width = min(bucket(max(map(len, rows))), model.max_seq_len)
    token_ids, mask = np.full([len(rows), width], pad_id, np.int32), np.zeros([len(rows), width], bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)], mask[index, : len(row)] = row, True
    outputs = model({"token_ids": tf.constant(token_ids), "padding_mask": tf.constant(mask)})
    if pooling == "pooler" and "pooled" not in outputs:
        raise GenerationError("pooling='pooler' needs a model with a pooler; take mean or first")
    states, padding_mask = outputs["hidden_states"], tf.constant(mask)
    pool = {"mean": mean_pool, "first": first_token}.get(pooling)
    pooled = outputs["pooled"] if pool is None else pool(states, padding_mask)
    return tf.cast(pooled, tf.float32).numpy()
