"""What a model answers to questions about contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfllm.generation.errors import GenerationError
from tfllm.language_model.text_logits import row_logits
from tfllm.tasks.examples.asked_record import Asked
from tfllm.tasks.examples.asked_text import ContextWindows
from tfllm.tasks.span_qa import answer_of
from tfllm.tokenizers import Tokenizer
from tfllm.tokenizers.repair import repair_text

_BATCH_SIZE = 16


def answers(
    model: Any,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[str, str]],
    *,
    stride: int,
    max_answer_tokens: int,
    unanswerable: bool,
) -> list[dict[str, Any]]:
    """The answer to each question, or none.

    Args:
        model: An encoder with head span.
        tokenizer: Its tokenizer.
        asked: Questions and contexts.
        stride: Tokens that a window of a long context shares with the next.
        max_answer_tokens: Tokens of an answer, at most.
        unanswerable: Give no answer where none is likelier.

    Raises:
        GenerationError: when something else than texts is given.
        DataError: when a question leaves no room for its context.
    """
    for each in asked:
        if not all(isinstance(text, str) for text in each):
            raise GenerationError(
                "give a question and its context, or a list of questions and one of contexts"
            )
    cut = ContextWindows(tokenizer, model.max_seq_len, stride)
    texts = [tuple(map(repair_text, each)) for each in asked]
    windows = [
        (index, window)
        for index, (question, context) in enumerate(texts)
        for window in cut.of(Asked(question, context, (), None, False))
    ]
    said: list[list[dict[str, np.ndarray]]] = [[] for _ in asked]
    order = sorted(windows, key=lambda each: len(each[1].token_ids))
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        framed = [(window.token_ids, window.token_type_ids) for _, window in chosen]
        logits = row_logits(model, framed, tokenizer.pad_id)
        for (index, window), row in zip(chosen, logits, strict=True):
            row = row[: len(window.token_ids)]
            said[index].append(
                {"start": row[:, 0], "end": row[:, 1], "begins": window.begins, "ends": window.ends}
            )
    return [
        _answer(context, each, max_answer_tokens, unanswerable)
        for (_, context), each in zip(texts, said, strict=True)
    ]


def _answer(
    context: str, windows: Sequence[dict[str, np.ndarray]], longest: int, unanswerable: bool
) -> dict[str, Any]:
    start, end, score, null = answer_of(windows, max_answer_tokens=longest)
    total = sum(_total(each["start"]) * _total(each["end"]) for each in windows)
    probability = float(np.exp(score) / total) if np.isfinite(score) else 0.0
    if start == end or (unanswerable and null > score):
        return {"answer": "", "start": 0, "end": 0, "score": probability, "null_odds": null - score}
    return {
        "answer": context[start:end],
        "start": start,
        "end": end,
        "score": probability,
        "null_odds": null - score,
    }


def _total(logits: np.ndarray) -> float:
    return float(np.exp(logits.astype(np.float64)).sum())
