"""What a model tells of the words of texts: the probability of each tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.generation.errors import GenerationError
from tfllm.language_model.text_logits import row_logits
from tfllm.tasks.examples.tagged_text import TextWindows
from tfllm.tasks.examples.words import Place, joined, word_places
from tfllm.tasks.tags import mark_spans, spans_of
from tfllm.tokenizers import Tokenizer
from tfllm.tokenizers.repair import repair_text

_BATCH_SIZE = 32


def entities(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """The spans of each text that are something, in order; where tags mark no spans, each word.

    Args:
        model: An encoder with head token_classification.
        tokenizer: Its tokenizer.
        texts: The texts.
        names: The tags, in the order of its logits.
    """
    if not all(isinstance(text, str) for text in texts):
        raise GenerationError("give a text, or a list of texts; words are given to lm.tag")
    texts = [repair_text(text) for text in texts]
    places = [word_places(text) for text in texts]
    said = _said(model, tokenizer, list(zip(texts, places, strict=True)))
    return [
        _spans(text, words, probabilities, names)
        for text, words, probabilities in zip(texts, places, said, strict=True)
    ]


def tags(
    model: Any, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], names: Sequence[str]
) -> list[list[str]]:
    """The likeliest tag of each word.

    Args:
        model: An encoder with head token_classification.
        tokenizer: Its tokenizer.
        sentences: Words.
        names: The tags, in the order of its logits.
    """
    for words in sentences:
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise GenerationError(f"give the words of a sentence, a list of texts, and not {words!r}")
    said = _said(model, tokenizer, [joined(words) for words in sentences])
    return [[names[int(place)] for place in row.argmax(axis=1)] for row in said]


def _said(model: Any, tokenizer: Tokenizer, texts: Sequence[tuple[str, Sequence[Place]]]) -> list[np.ndarray]:
    """The probability of each tag for each word, float32 [n, C]; of a word without a token the first tag is sure."""
    cut = TextWindows(tokenizer, model.max_seq_len)
    windows = [(index, window) for index, each in enumerate(texts) for window in cut.of(*each)]
    count = model.classifier.units
    found = [np.tile(np.eye(1, count, dtype=np.float32), [len(places), 1]) for _, places in texts]
    windows.sort(key=lambda each: len(each[1].token_ids))
    for start in range(0, len(windows), _BATCH_SIZE):
        chosen = windows[start : start + _BATCH_SIZE]
        framed = [(window.token_ids, np.zeros_like(window.token_ids)) for _, window in chosen]
        rows = tf.nn.softmax(row_logits(model, framed, tokenizer.pad_id)).numpy()
        for (index, window), row in zip(chosen, rows, strict=True):
            own = np.nonzero(window.words)[0]
            found[index][window.words[own] - 1] = row[own]
    return found


def _spans(
    text: str, places: Sequence[Place], probabilities: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    said = probabilities.argmax(axis=1).tolist() if len(places) else []
    sure = probabilities.max(axis=1) if len(places) else np.zeros(0)
    named = [names[place] for place in said]
    spans = spans_of(named) if mark_spans(names) else [(i, i + 1, name) for i, name in enumerate(named)]
    return [
        {
            "label": kind,
            "text": text[places[start][0] : places[stop - 1][1]],
            "start": places[start][0],
            "end": places[stop - 1][1],
            "score": float(sure[start:stop].mean()),
        }
        for start, stop, kind in spans
    ]
