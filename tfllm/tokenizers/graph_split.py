r"""GPT-2's split of a text into words, inside a TensorFlow graph.

The split is the regular expression

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

of GPT-2's encoder.py. TensorFlow's regular expressions have no look-ahead, but whether a word starts at a
code point follows from its neighbours alone, so the rules below find all starts of a batch at once. Tests
hold them against the `tokenizers` library on every string of a small alphabet.
"""

from __future__ import annotations

import tensorflow as tf

from tfllm.tokenizers.code_point_classes import SPACE, code_point_classes
from tfllm.tokenizers.graph_shift import shifted
from tfllm.tokenizers.graph_tokenizer import constant

# The class of what stands before and after a text.
EDGE = 4
# What may follow an apostrophe to make a contraction.
SHORT_ENDINGS = ("s", "t", "m", "d")
LONG_ENDINGS = ("re", "ve", "ll")


class GraphSplit(tf.Module):
    """Splits texts into words as GPT-2 does; its constants are the classes of code points."""

    def __init__(self):
        super().__init__(name="gpt2_split")
        starts, classes = code_point_classes()
        self._range_starts = constant(starts)
        self._range_classes = constant(classes)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Split string [B], which is repaired on the way, into words: string [B, None]."""
        characters = tf.strings.unicode_decode(
            texts, "UTF-8", errors="replace", replace_control_characters=False
        )
        code_points = characters.flat_values  # int32 [N]
        text_splits = characters.row_splits  # int64 [B+1]
        starts = self._word_starts(code_points, text_splits)
        # The splits of the words in the code points, and of the texts in the words.
        word_splits = tf.concat([tf.where(starts)[:, 0], text_splits[-1:]], 0)
        words_before = tf.concat([[0], tf.cumsum(tf.cast(starts, tf.int64))], 0)
        words = tf.RaggedTensor.from_row_splits(code_points, word_splits, validate=False)
        return tf.RaggedTensor.from_row_splits(
            tf.strings.unicode_encode(words, "UTF-8"), tf.gather(words_before, text_splits), validate=False
        )

    def _word_starts(self, code_points: tf.Tensor, text_splits: tf.Tensor) -> tf.Tensor:
        """Return bool [N]: whether a word starts at each code point."""
        kind = tf.gather(
            self._range_classes, tf.searchsorted(self._range_starts, code_points, side="right") - 1
        )
        text = tf.ragged.row_splits_to_segment_ids(text_splits)
        first = shifted(text, 1, -1) != text
        last = shifted(text, -1, -1) != text
        previous_kind = tf.where(first, EDGE, shifted(kind, 1, EDGE))
        next_kind = tf.where(last, EDGE, shifted(kind, -1, EDGE))
        after_blank = ~first & (shifted(code_points, 1, 0) == ord(" "))

        # A run of spaces leaves its last one to the word that follows: "\s+(?!\S)". U+0020 joins that word.
        space_starts = (previous_kind != SPACE) | ((next_kind != SPACE) & (next_kind != EDGE))
        other_starts = (previous_kind != kind) & ~after_blank
        starts = tf.where(kind == SPACE, space_starts, other_starts)

        short, long = self._contractions(code_points, starts, text)
        inside = shifted(short | long, 1, False) | shifted(long, 2, False)
        after = shifted(short, 2, False) | shifted(long, 3, False)
        return first | (starts | after) & ~inside

    def _contractions(
        self, code_points: tf.Tensor, starts: tf.Tensor, text: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return bool [N] twice: where contractions of two, and of three, characters begin."""
        apostrophe = starts & (code_points == ord("'"))
        # 0 stands for the end of the text; it is in no ending.
        second = tf.where(shifted(text, -1, -1) == text, shifted(code_points, -1, 0), 0)
        third = tf.where(shifted(text, -2, -1) == text, shifted(code_points, -2, 0), 0)
        short = tf.reduce_any([second == ord(e) for e in SHORT_ENDINGS], 0)
        long = tf.reduce_any([(second == ord(e[0])) & (third == ord(e[1])) for e in LONG_ENDINGS], 0)
        return apostrophe & short, apostrophe & long
