r"""Splitting texts into words inside a TensorFlow graph, as `word_split` does.

TensorFlow's regular expressions have no look-ahead, but whether a word starts at a code point follows from its
neighbours and from the run of like characters it stands in, so the rules below find all starts of a batch at
once. Tests hold them against the `tokenizers` library on every string of a small alphabet.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.tokenizers.code_point_classes import LETTER, NUMBER, OTHER, SPACE, code_point_classes
from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.word_split import GPT2, WordSplit

# The class of what stands before and after a text.
EDGE = 4
# What may follow an apostrophe to make a contraction.
SHORT_ENDINGS = ("s", "t", "m", "d")
LONG_ENDINGS = ("re", "ve", "ll")
# Beside upper case, what matches a letter of those where case does not count.
LONG_S = "\u017f"


class _Characters(NamedTuple):
    """The characters of all texts: int32 and bool [N].

    Args:
        code_points: What they are.
        text: The number of the text each stands in, ascending.
        kind: Class of each.
        before: Class of the one before it, EDGE at the start of a text.
        after: Class of the one after it, EDGE at the end of a text.
    """

    code_points: tf.Tensor
    text: tf.Tensor
    kind: tf.Tensor
    before: tf.Tensor
    after: tf.Tensor

    @classmethod
    def of(cls, code_points: tf.Tensor, text: tf.Tensor, kind: tf.Tensor) -> _Characters:
        """Looks at the neighbours."""
        first = shifted(text, 1, -1) != text
        last = shifted(text, -1, -1) != text
        before = tf.where(first, EDGE, shifted(kind, 1, EDGE))
        return cls(code_points, text, kind, before, tf.where(last, EDGE, shifted(kind, -1, EDGE)))

    @property
    def first(self) -> tf.Tensor:
        """Those that begin a text."""
        return self.before == EDGE

    @property
    def after_blank(self) -> tf.Tensor:
        """Those behind a U+0020 of their text."""
        return ~self.first & (shifted(self.code_points, 1, 0) == ord(" "))


class GraphSplit(tf.Module):
    """Splits texts into words; its constants are the classes of code points.

    Args:
        split: The way.
    """

    def __init__(self, split: WordSplit = GPT2):
        super().__init__(name=f"{split.name}_split")
        self._way = split
        starts, classes = code_point_classes(split.own_digits)
        self._range_starts = constant(starts)
        self._range_classes = constant(classes)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Split string [B], which is repaired on the way, into words: string [B, None]."""
        characters = tf.strings.unicode_decode(
            texts, "UTF-8", errors="replace", replace_control_characters=False
        )
        code_points = characters.flat_values  # int32 [N]
        text_splits = characters.row_splits  # int64 [B+1]
        starts = self._word_starts(code_points, tf.ragged.row_splits_to_segment_ids(text_splits))
        # The splits of the words in the code points, and of the texts in the words.
        word_splits = tf.concat([tf.where(starts)[:, 0], text_splits[-1:]], 0)
        words_before = tf.concat([[0], tf.cumsum(tf.cast(starts, tf.int64))], 0)
        words = tf.RaggedTensor.from_row_splits(code_points, word_splits, validate=False)
        return tf.RaggedTensor.from_row_splits(
            tf.strings.unicode_encode(words, "UTF-8"), tf.gather(words_before, text_splits), validate=False
        )

    def _word_starts(self, code_points: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        """Return bool [N]: whether a word starts at each code point."""
        kind = tf.gather(
            self._range_classes, tf.searchsorted(self._range_starts, code_points, side="right") - 1
        )
        characters = _Characters.of(code_points, text, kind)
        if self._way.cl100k:
            return _cl100k_starts(characters, self._way.digits)
        if self._way.digits is not None:  # each digit, and each piece between digits, is a text of its own
            ends = characters.first | (kind == NUMBER) | (characters.before == NUMBER)
            characters = _Characters.of(code_points, tf.cumsum(tf.cast(ends, tf.int32)), kind)
        return _gpt2_starts(characters)


def _gpt2_starts(x: _Characters) -> tf.Tensor:
    # A run of spaces leaves its last one to the word that follows: "\s+(?!\S)". U+0020 joins that word.
    space_starts = (x.before != SPACE) | ((x.after != SPACE) & (x.after != EDGE))
    other_starts = (x.before != x.kind) & ~x.after_blank
    starts = tf.where(x.kind == SPACE, space_starts, other_starts)
    short, long = _contractions(x, starts, any_case=False)
    return x.first | _without_contractions(starts, short, long)


def _cl100k_starts(x: _Characters, digits: int | None) -> tf.Tensor:
    index = tf.range(tf.size(x.kind))
    run_starts = x.before != x.kind
    run = tf.cumsum(tf.cast(run_starts, tf.int32)) - 1  # runs of one class, numbered
    run_first = tf.gather(tf.boolean_mask(index, run_starts), run)

    # Punctuation: a run is a word, with the blank before it.
    other_starts = run_starts & ~x.after_blank
    # A single one is joined by the letters behind it, unless it makes a contraction with them.
    single = (x.kind == OTHER) & other_starts & (x.after == LETTER)
    short, long = _contractions(x, single, any_case=True)

    # White space. Line breaks directly behind punctuation belong to it: " ?[^\s\p{L}\p{N}]+[\r\n]*".
    line_break = (x.code_points == ord("\r")) | (x.code_points == ord("\n"))
    not_break = tf.cumsum(tf.cast(~line_break, tf.int32))
    leading = line_break & tf.gather(line_break, run_first) & (not_break == tf.gather(not_break, run_first))
    swallowed = leading & (tf.gather(x.before, run_first) == OTHER)
    after_swallowed = shifted(swallowed, 1, False) & ~run_starts
    # "\s*[\r\n]+" goes to the last line break of the run; what is left of it is a word but for its last one.
    last_break = tf.gather(tf.math.segment_max(tf.where(line_break, index, -1), run), run)
    after_breaks = (index == last_break + 1) & ~run_starts
    last_of_run = (x.after != SPACE) & (x.after != EDGE) & ~line_break
    space_starts = ~swallowed & (run_starts | after_swallowed | after_breaks | last_of_run)

    # Letters: a run is a word, with the one space or the single punctuation before it.
    joined = (x.before == SPACE) & ~shifted(line_break, 1, False) | shifted(single, 1, False)
    letter_starts = run_starts & ~joined
    number_starts = run_starts if digits is None else (index - run_first) % digits == 0

    starts = tf.where(x.kind == SPACE, space_starts, other_starts)
    starts = tf.where(x.kind == LETTER, letter_starts, starts)
    starts = tf.where(x.kind == NUMBER, number_starts, starts)
    return x.first | _without_contractions(starts, short, long)


def _without_contractions(starts: tf.Tensor, short: tf.Tensor, long: tf.Tensor) -> tf.Tensor:
    """Starts, none within contractions of two or three characters, but one behind each."""
    inside = shifted(short | long, 1, False) | shifted(long, 2, False)
    after = shifted(short, 2, False) | shifted(long, 3, False)
    return (starts | after) & ~inside


def _contractions(x: _Characters, starts: tf.Tensor, *, any_case: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Return bool [N] twice: where contractions of two, and of three, characters begin."""
    apostrophe = starts & (x.code_points == ord("'"))
    # 0 stands for the end of the text; it is in no ending.
    second = tf.where(shifted(x.text, -1, -1) == x.text, shifted(x.code_points, -1, 0), 0)
    third = tf.where(shifted(x.text, -2, -1) == x.text, shifted(x.code_points, -2, 0), 0)

    def matches(code_points: tf.Tensor, letter: str) -> tf.Tensor:
        allowed = {letter, letter.upper(), LONG_S if letter == "s" else letter} if any_case else {letter}
        return tf.reduce_any([code_points == ord(each) for each in sorted(allowed)], 0)

    short = tf.reduce_any([matches(second, ending) for ending in SHORT_ENDINGS], 0)
    long = tf.reduce_any([matches(second, e[0]) & matches(third, e[1]) for e in LONG_ENDINGS], 0)
    return apostrophe & short, apostrophe & long
