"""What a model tells of a text, or of a pair: logits of its classes, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.data.record import Record
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import bucket
from tfllm.tasks.examples.labelled_text import LabelledText, text_pieces
from tfllm.tasks.examples.labels import NumberLabels
from tfllm.tasks.examples.marked_text import HEAD, TAIL, MarkedText, place_of
from tfllm.tokenizers import Tokenizer
from tfllm.tokenizers.repair import repair_text

_BATCH_SIZE = 32


def text_logits(
    model: Any, tokenizer: Tokenizer, texts: Sequence[Any], *, template: str | None = None
) -> np.ndarray:
    """Logits of texts, float32 [B, C]. Texts of like lengths are computed together.

    Args:
        model: An encoder or decoder with head sequence_classification.
        tokenizer: Its tokenizer.
        texts: Texts, or pairs of them.
        template: What it was trained to read them in.

    Raises:
        GenerationError: when a text is neither.
    """
    parts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    sizes = {len(each) for each in parts}
    if (not sizes <= {1} and not sizes <= {2}) or not all(
        isinstance(text, str) for each in parts for text in each
    ):
        raise GenerationError("give texts, or pairs of texts, and not both in one call")
    pairs = sizes == {2}
    try:
        pieces = text_pieces(template, pairs=pairs)
    except ValueError as error:
        raise GenerationError(
            f"task.template={template!r} {error}; give {'texts' if pairs else 'pairs of texts'}, as it was trained"
        ) from None
    maker = LabelledText(
        tokenizer,
        seq_len=model.max_seq_len,
        packing=False,
        labels=NumberLabels(),  # of which none is asked
        pairs=pairs,
        token_types=num_token_types(model) > 1,
        template=pieces,
    )
    rows = [(ids, types) for ids, types, _ in maker.framed(parts)]
    return _in_batches(model, rows, tokenizer.pad_id)


def num_token_types(model: Any) -> int:
    """How many types of tokens a model tells apart; 0 where none."""
    table = getattr(model, "token_type_embedding", None)
    return 0 if table is None else int(table.vocab_size)


def relation_logits(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], heads: Sequence[Any], tails: Sequence[Any]
) -> np.ndarray:
    """Logits of how two places of each text are related, float32 [B, C].

    Args:
        model: An encoder or decoder with head sequence_classification.
        tokenizer: Its tokenizer.
        texts: The texts.
        heads: The first character of each head and the one behind its last.
        tails: Those of the tails.

    Raises:
        GenerationError: when something else is given.
        DataError: when a place is not in its text, or both do not fit into the model's context.
    """
    if not all(isinstance(text, str) for text in texts):
        raise GenerationError("give texts, and two places in each")
    maker = MarkedText(tokenizer, seq_len=model.max_seq_len, packing=False, labels=NumberLabels())
    ids = []
    for text, head, tail in zip(texts, heads, tails, strict=True):
        record = Record({HEAD: head, TAIL: tail})
        ids.append(maker.marked(repair_text(text), place_of(record, HEAD), place_of(record, TAIL)))
    return _in_batches(model, [(each, np.zeros_like(each)) for each in ids], tokenizer.pad_id)


def _in_batches(model: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]], pad_id: int) -> np.ndarray:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    found = np.zeros([len(rows), model.classifier.units], np.float32)
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        found[chosen] = row_logits(model, [rows[index] for index in chosen], pad_id)
    return found


def row_logits(model: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]], pad_id: int) -> np.ndarray:
    """What a model's head says of framed rows, padded to the longest's bucket: float32 [B, C] or [B, T, C].

    Args:
        model: An encoder, or a decoder that classifies.
        rows: The ids of each, int32 [n], and their types, which are left out where the model tells none apart.
        pad_id: The id behind their ends.
    """
    width = min(bucket(max(len(ids) for ids, _ in rows)), model.max_seq_len)
    token_ids = np.full([len(rows), width], pad_id, np.int32)
    types, mask = np.zeros_like(token_ids), np.zeros([len(rows), width], bool)
    for index, (ids, kinds) in enumerate(rows):
        token_ids[index, : len(ids)], types[index, : len(ids)], mask[index, : len(ids)] = ids, kinds, True
    features = {"token_ids": tf.constant(token_ids), "padding_mask": tf.constant(mask)}
    if num_token_types(model) > 1:
        features["token_type_ids"] = tf.constant(types)
    return model(features)["logits"].numpy()
