"""Tokens of one or two texts in one row, as BERT packs them, in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class BertPacker(tf.Module):
    """Puts special tokens around segments, and cuts and fills rows to a length.

    `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` (Devlin et al. 2019), with whatever tokens the tokenizer puts in
    these places. What is too long loses tokens from the end of the longer segment first, which leaves what taking
    turns from the front would take.

    Args:
        tokenizer: Gives `prefix_ids`, `separator_ids`, `suffix_ids` and `pad_id`.
        num_token_types: Kinds of tokens that the encoder tells apart; with one, all are of kind 0.
    """

    def __init__(self, tokenizer: Any, *, num_token_types: int = 2):
        super().__init__(name="bert_packer")
        self.prefix_ids, self.suffix_ids = tokenizer.prefix_ids, tokenizer.suffix_ids
        self.separator_ids, self.pad_id = tokenizer.separator_ids, tokenizer.pad_id
        self.num_token_types = num_token_types

    def num_special(self, num_segments: int) -> int:
        """How many special tokens a row of that many segments holds."""
        separators = len(self.separator_ids) if num_segments == 2 else 0
        return len(self.prefix_ids) + separators + len(self.suffix_ids)

    def __call__(self, segments: Sequence[tf.RaggedTensor], seq_len: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Packs.

        Args:
            segments: One or two, each int32 [B, None] or [B, None, None], which is made flat.
            seq_len: Length of the rows.

        Returns:
            `input_word_ids`, `input_mask` (1 for real tokens) and `input_type_ids` (the index of the segment, 0 in
            padding), each int32 [B, seq_len].
        """
        segments = [x.merge_dims(1, -1) if x.ragged_rank > 1 else x for x in segments]
        room = tf.maximum(seq_len - self.num_special(len(segments)), 0)
        segments = _trimmed(segments, room)
        batch = segments[0].nrows(out_type=tf.int32)

        def special(ids: Sequence[int]) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_tensor(tf.tile(tf.constant([ids], tf.int32), [batch, 1]))

        first = [special(self.prefix_ids), segments[0]]
        rest = [special(self.suffix_ids)]
        if len(segments) == 2:
            first, rest = [*first, special(self.separator_ids)], [segments[1], *rest]
        else:
            first, rest = [*first, *rest], []
        row = tf.concat([*first, *rest], axis=1)
        token_ids = row.to_tensor(self.pad_id, shape=[None, None])[:, :seq_len]
        token_ids = tf.pad(
            token_ids, [[0, 0], [0, seq_len - tf.shape(token_ids)[1]]], constant_values=self.pad_id
        )
        places = tf.range(seq_len)[None, :]
        mask = places < tf.cast(row.row_lengths(), tf.int32)[:, None]
        second = places >= tf.cast(tf.add_n([x.row_lengths() for x in first]), tf.int32)[:, None]
        types = tf.cast(mask & second, tf.int32) if self.num_token_types > 1 else tf.zeros_like(token_ids)
        return {"input_word_ids": token_ids, "input_mask": tf.cast(mask, tf.int32), "input_type_ids": types}


def _trimmed(segments: Sequence[tf.RaggedTensor], room: tf.Tensor) -> list[tf.RaggedTensor]:
    """The segments, cut to `room` tokens together; an odd one goes to the first."""
    lengths = [tf.cast(x.row_lengths(), tf.int32) for x in segments]
    if len(segments) == 1:
        return [_cut(segments[0], tf.minimum(lengths[0], room))]
    halves = [(room + 1) // 2, room // 2]
    others = lengths[::-1]
    return [
        _cut(x, tf.minimum(length, tf.maximum(half, room - other)))
        for x, length, half, other in zip(segments, lengths, halves, others, strict=True)
    ]


def _cut(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The first `lengths` int32 [B] of each row."""
    places = tf.cast(tf.ragged.range(tf.cast(rows.row_lengths(), tf.int32)).flat_values, tf.int32)
    kept = places < tf.gather(lengths, rows.value_rowids())
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(rows.flat_values, kept), tf.cast(lengths, tf.int64)
    )
