"""Runs of byte tokens inside a TensorFlow graph, as `ByteRuns` makes texts of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.byte_runs import FAULT, ByteRuns
from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.graph.text import repair

_NO_BYTE = -1


class GraphByteRuns(tf.Module):
    """Replaces faults in runs of bytes.

    Args:
        runs: Which tokens are bytes, and how faults are replaced.
        token_bytes: The text of each token, by id.
    """

    def __init__(self, runs: ByteRuns, token_bytes: tuple[bytes, ...]):
        super().__init__(name="byte_runs")
        values = np.full(len(token_bytes), _NO_BYTE, np.int32)
        for i in runs.ids:
            values[i] = token_bytes[i][0]
        self._values, self._whole = constant(values), runs.whole

    def __call__(self, ids: tf.Tensor, texts: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Replace faults.

        Args:
            ids: int32 [N].
            texts: string [N], what each stands for.
            row: int64 [N], the text each stands in, ascending.

        Returns:
            string [M] and int64 [M]: texts to be joined, and the text each stands in.
        """
        kept = texts != ""  # what stands for nothing does not part a run
        ids, texts, row = (tf.boolean_mask(x, kept) for x in (ids, texts, row))
        values = tf.gather(self._values, ids)
        is_byte = values != _NO_BYTE
        goes_on = is_byte & shifted(is_byte, 1, False) & (shifted(row, 1, -1) == row)
        run = tf.cumsum(tf.cast(~goes_on, tf.int64)) - 1
        if not self._whole:
            return tf.where(is_byte & ~_in_character(values, run), FAULT, texts), row
        first = tf.boolean_mask(tf.stack([row, tf.cast(is_byte, tf.int64)], 1), ~goes_on)
        joined, faults = (
            tf.strings.unsorted_segment_join(x, run, tf.shape(first, tf.int64)[0])
            for x in (texts, tf.where(is_byte, FAULT, texts))
        )
        return tf.where((first[:, 1] == 1) & (repair(joined) != joined), faults, joined), first[:, 0]


def _in_character(values: tf.Tensor, run: tf.Tensor) -> tf.Tensor:
    """Return bool [N]: whether each byte is part of a character of valid UTF-8 (Unicode 3.9, table 3-7)."""

    def behind(by: int) -> tf.Tensor:
        return tf.where(shifted(run, -by, -1) == run, shifted(values, -by, _NO_BYTE), _NO_BYTE)

    def within(x: tf.Tensor, low: int, high: int) -> tf.Tensor:
        return (x >= low) & (x <= high)

    second = behind(1)
    trails = [within(behind(by), 0x80, 0xBF) for by in (1, 2, 3)]
    low = tf.where(values == 0xE0, 0xA0, tf.where(values == 0xF0, 0x90, 0x80))
    high = tf.where(values == 0xED, 0x9F, tf.where(values == 0xF4, 0x8F, 0xBF))
    well = trails[0] & (second >= low) & (second <= high)
    two = within(values, 0xC2, 0xDF) & trails[0]
    three = within(values, 0xE0, 0xEF) & well & trails[1]
    four = within(values, 0xF0, 0xF4) & well & trails[1] & trails[2]
    inside = within(values, 0, 0x7F)
    for begins, length in ((two, 2), (three, 3), (four, 4)):
        for by in range(length):
            inside |= begins if by == 0 else shifted(begins, by, False)
    return inside
