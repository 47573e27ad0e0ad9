"""A graph that reads texts, or pairs of them, and says what a model makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from tfllm.export.bert_packer import BertPacker
from tfllm.export.errors import ExportError
from tfllm.export.saved_model import in_float32, save_version
from tfllm.tokenizers import Tokenizer

Answers: TypeAlias = Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]


def export_text_reader(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    answers: Answers,
    pairs: bool = False,
    around: tuple[str, str] | None = None,
    longest: int | None = None,
    metadata: dict[str, Any],
    version: int | None,
) -> Path:
    """Writes `<folder>/<version>/` with a signature `serving_default`: `text`, and of pairs `text_pair`, string [B].

    Args:
        model: An `Encoder`, or a `Decoder` with head sequence_classification.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        answers: Makes the outputs, of what the model returns and which tokens are real, bool [B, T]; `tokens_dropped`
            int32 [B], how many did not fit, counted from the end, joins them.
        pairs: Read two texts.
        around: What stands before a text and behind it; None is nothing.
        longest: Tokens that are read, those around a text included; None is the model's `max_seq_len`.
        metadata: What is written beside the graph, the context's length joining it.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the tokenizer is not the model's, or as for `export_saved_model`.
    """
    if tokenizer.vocab_size > model.vocab_size:
        raise ExportError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}; give the model's own"
        )
    if pairs and around is not None:
        raise ExportError("a pair of texts in a template is not exported; call lm.classify or lm.regress")
    longest = min(longest or model.max_seq_len, model.max_seq_len)
    module = _module(in_float32(model), tokenizer, answers, pairs, around, longest)
    return save_version(
        module,
        {"serving_default": module.read},
        folder,
        tokenizer=tokenizer,
        metadata={"context_length": longest, **metadata},
        version=version,
    )


def _module(
    model: Any,
    tokenizer: Tokenizer,
    answers: Answers,
    pairs: bool,
    around: tuple[str, str] | None,
    longest: int,
) -> tf.Module:
    table = getattr(model, "token_type_embedding", None)
    packer = BertPacker(tokenizer, num_token_types=0 if table is None else table.vocab_size)
    end_ids = [] if around is None else tokenizer.encode(around[1])
    special = packer.num_special(2 if pairs else 1)
    module = tf.Module(name="text_reader")
    module.weights = {variable.path: variable.value for variable in model.variables}
    module.tokenizer = graph_tokenizer = tokenizer.in_graph()

    def read(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        if around is not None:
            texts = (tf.strings.join([around[0], texts[0], around[1]]),)
        segments = [graph_tokenizer.encode(text) for text in texts]
        lengths = tf.cast(tf.add_n([segment.row_lengths() for segment in segments]), tf.int32) + special
        width = tf.minimum(tf.reduce_max(tf.concat([lengths, [1]], 0)), longest)
        if end_ids:
            segments = [without_middle(segments[0], end_ids, room=longest - special)]
        packed = packer(segments, width)
        mask = packed["input_mask"] > 0
        features = {"token_ids": packed["input_word_ids"], "padding_mask": mask}
        if table is not None:
            features["token_type_ids"] = packed["input_type_ids"]
        dropped = lengths - tf.reduce_sum(packed["input_mask"], axis=1)
        return {**answers(model(features), mask), "tokens_dropped": dropped}

    inputs = ["text", "text_pair"] if pairs else ["text"]
    specs = [tf.TensorSpec([None], tf.string, name=name) for name in inputs]
    module.read = tf.function(read, input_signature=specs, autograph=False)
    return module


def without_middle(rows: tf.RaggedTensor, end_ids: Sequence[int], *, room: int) -> tf.RaggedTensor:
    """Rows of at most `room` ids: what is too long loses those before the ids that it ends with, of `end_ids`.

    Args:
        rows: int32 [B, None], or [B, None, None], which is made flat.
        end_ids: What most rows end with, of a template; of some a part, where pieces joined.
        room: Ids that there may be, at least as many as `end_ids` has.

    Returns:
        int32 [B, None].
    """
    rows = rows.merge_dims(1, -1) if rows.ragged_rank > 1 else rows
    lengths = tf.cast(rows.row_lengths(), tf.int32)
    count = len(end_ids)
    # Of shorter rows, of which nothing is left out, the ends stand elsewhere; nobody looks at them.
    ends = rows[:, -count:].to_tensor(-1, shape=[None, count])
    same = tf.cast(tf.equal(ends, tf.constant([list(end_ids)], rows.dtype)), tf.int32)
    tail = tf.reduce_sum(tf.math.cumprod(same[:, ::-1], axis=1), axis=1)
    of_row = rows.value_rowids()
    places = tf.range(tf.size(rows.flat_values)) - tf.cast(tf.gather(rows.row_starts(), of_row), tf.int32)
    length, end = tf.gather(lengths, of_row), tf.gather(tail, of_row)
    kept = (length <= room) | (places < room - end) | (places >= length - end)
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(rows.flat_values, kept), tf.cast(tf.minimum(lengths, room), tf.int64)
    )
