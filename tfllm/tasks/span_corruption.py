"""Write the spans that were taken out of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.long_text import LongText
from tfllm.tasks.spans import SpanRate, corrupted, spans_of
from tfllm.tasks.target_tokens import TargetTokens

Features = dict[str, tf.Tensor]

_SENTINEL = "<extra_id_{}>".format


class SpanCorruption(TargetTokens):
    """Cross-entropy of what was taken out of a text, written by a decoder that reads the rest (Raffel et al. 2020).

    Which spans are taken out is drawn anew wherever a row comes in the sequence of training, from its place in it; in
    evaluation it is always the same. Rows are long enough for the encoder to read `seq_len` tokens at most.

    Args:
        tokenizer: The tokenizer, which has the sentinels <extra_id_0>, <extra_id_1>, …
        corruption_rate: Share of the tokens that are taken out.
        mean_span_length: Tokens of a span, on the average.
        decoder_start_id: What the decoder's text begins behind.
        loss_chunk_tokens: As in `CausalLM`.

    Raises:
        TaskError: the tokenizer has no sentinels.
    """

    aligned: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        tokenizer: Any,
        corruption_rate: float = 0.15,
        mean_span_length: float = 3.0,
        decoder_start_id: int = 0,
        loss_chunk_tokens: int | None = None,
    ):
        super().__init__(loss_chunk_tokens=loss_chunk_tokens)
        special = tokenizer.special_tokens
        self.sentinels = [special[name] for name in map(_SENTINEL, range(len(special))) if name in special]
        if not self.sentinels:
            raise TaskError(
                "task.type=span_corruption needs a tokenizer with sentinels <extra_id_0>, <extra_id_1>, …, and this one"
                " has none; take tokenizer.type sentencepiece, byte_bpe or wordpiece, which learn some, or that of a T5"
            )
        self.rate = SpanRate(corruption_rate, mean_span_length)
        self.eos_id, self.pad_id = int(tokenizer.eos_id), int(tokenizer.pad_id)
        self.decoder_start_id = decoder_start_id

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> LongText:
        """What tokenises and cuts documents.

        Raises:
            TaskError: no text fits, or there are more spans than sentinels.
        """
        row_len = self.rate.text_length(seq_len)
        if row_len < 2:
            raise TaskError(
                f"data.seq_len={seq_len} leaves no room for a text of two tokens, of which one is taken out; raise it"
            )
        spans = int(self.rate.table(row_len)[:, 1].max())
        if spans >= len(self.sentinels):
            raise TaskError(
                f"data.seq_len={seq_len} has up to {spans} spans, which need {spans + 1} sentinels, and the tokenizer"
                f" has {len(self.sentinels)}; lower it, or raise task.mean_span_length={self.rate.mean_length:g}"
            )
        return LongText(tokenizer, row_len=row_len, packing=packing)

    def features(self, rows: Features) -> Features:
        """Takes spans out: what the encoder reads, what the decoder reads, `targets` and `loss_weights`."""
        row_len = rows["token_ids"].shape[1]
        lengths = tf.reduce_sum(rows["segment_ids"], axis=1)
        widths = self.rate.widths(row_len)
        (read, read_size), (written, written_size) = corrupted(
            rows["token_ids"],
            lengths,
            spans_of(lengths, rows["row_seeds"], self.rate, row_len),
            sentinels=self.sentinels,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
            widths=widths,
        )
        start = tf.fill([tf.shape(written)[0], 1], self.decoder_start_id)
        marks = tf.sequence_mask(written_size, widths[1], dtype=tf.int32)
        return {
            "encoder_token_ids": read,
            "encoder_segment_ids": tf.sequence_mask(read_size, widths[0], dtype=tf.int32),
            "decoder_token_ids": tf.concat([start, written[:, :-1]], axis=1),
            "decoder_segment_ids": marks,
            "targets": written,
            "loss_weights": tf.cast(marks, tf.float32),
            "row_seeds": rows["row_seeds"],
        }
