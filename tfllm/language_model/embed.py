"""Vectors for texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.convert.sentence_modules import SentenceModules, unit
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import bucket
from tfllm.generation.model import generates
from tfllm.tokenizers import Tokenizer

# What is asked for by name to what it is called in folders of sentence-transformers.
_POOLINGS = {"mean": "mean", "first": "cls", "last": "lasttoken", "pooler": "pooler"}
_BATCH_SIZE = 32


def embed(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    modules: SentenceModules | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    prompt_name: str | None = None,
) -> np.ndarray:
    """See `LanguageModel.embed`: float32 [B, E]. Texts of like lengths are computed together.

    Args:
        model: An encoder or a decoder.
        tokenizer: Its tokenizer.
        texts: The texts.
        modules: How the checkpoint makes vectors; None is the mean, of length 1.
        pooling: As in `LanguageModel.embed`.
        normalize: As in `LanguageModel.embed`.
        prompt_name: As in `LanguageModel.embed`.

    Raises:
        GenerationError: as `LanguageModel.embed`.
    """
    if generates(model) and model.reads_prompt_with == "encoder":
        raise GenerationError("an encoder-decoder has no embedding of a text here; take an encoder")
    modules = _asked(modules, pooling, normalize)
    prompt = _prompt(modules, prompt_name)
    before, behind = list(tokenizer.prefix_ids), list(tokenizer.suffix_ids)
    longest = min(modules.max_seq_length or model.max_seq_len, model.max_seq_len)
    room = max(0, longest - len(before) - len(behind))
    encoded = [
        ids.tolist() for ids in tokenizer.encode_batch([modules.prepared(prompt + text) for text in texts])
    ]
    cut = [ids[max(0, len(ids) - room) :] if modules.cut_left else ids[:room] for ids in encoded]
    rows = [[*before, *ids, *behind] for ids in cut]
    prompt_length = len(before) + len(tokenizer.encode(modules.prepared(prompt))) if prompt else 0
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    found: list[tuple[list[int], np.ndarray]] = []
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        made = _vectors(model, [rows[index] for index in chosen], tokenizer.pad_id, modules, prompt_length)
        found.append((chosen, made))
    vectors = np.zeros([len(rows), found[0][1].shape[1] if found else model.hidden_dim], np.float32)
    for chosen, made in found:
        vectors[chosen] = made
    return vectors


def _asked(modules: SentenceModules | None, pooling: str | None, normalize: bool | None) -> SentenceModules:
    """How vectors are made: as the checkpoint does, but for what is asked for."""
    if pooling is not None and pooling not in _POOLINGS:
        raise GenerationError(f"pooling={pooling!r} is not known; use {', '.join(_POOLINGS)}")
    modules = modules or SentenceModules(layers=(None,))
    if pooling is not None:
        modules = dataclasses.replace(modules, poolings=(_POOLINGS[pooling],), layers=(None,))
    if normalize is False and modules.normalizes:
        return dataclasses.replace(modules, layers=modules.layers[:-1])
    if normalize and not modules.normalizes:
        return dataclasses.replace(modules, layers=(*modules.layers, None))
    return modules


def _prompt(modules: SentenceModules, name: str | None) -> str:
    name = modules.default_prompt if name is None else name
    if name is None:
        return ""
    if name not in modules.prompts:
        known = ", ".join(modules.prompts) or "none"
        raise GenerationError(
            f"prompt_name={name!r} is not one of the checkpoint's prompts; there are {known}"
        )
    return modules.prompts[name]


def _vectors(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, modules: SentenceModules, prompt_length: int
) -> np.ndarray:
    width = min(bucket(max(map(len, rows))), model.max_seq_len)
    token_ids, mask = np.full([len(rows), width], pad_id, np.int32), np.zeros([len(rows), width], bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)], mask[index, : len(row)] = row, True
    outputs = model({"token_ids": tf.constant(token_ids), "padding_mask": tf.constant(mask)})
    if modules.poolings == ("pooler",):
        if "pooled" not in outputs:
            raise GenerationError("pooling='pooler' needs a model with a pooler; take mean or first")
        made = tf.cast(outputs["pooled"], tf.float32).numpy()
        return unit(made) if modules.normalizes else made
    states = tf.cast(outputs["hidden_states"], tf.float32).numpy()
    try:
        return modules.vectors(states, mask, prompt_length)
    except ValueError as error:  # a layer of another width
        raise GenerationError(f"the modules of the checkpoint do not fit its model ({error})") from None
