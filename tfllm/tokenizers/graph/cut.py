"""Cutting added tokens out of texts inside a TensorFlow graph, as the `tokenizers` library does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tokenizers
from tokenizers import models

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.lookup import hashes, nearest, sorted_hashes
from tfllm.tokenizers.graph.shift import shifted

# Never in UTF-8, so it can stand between the pieces of a text.
MARK = b"\xff"
# Unicode's White_Space.
WHITE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


class Pieces(NamedTuple):
    """What texts are cut into.

    Args:
        texts: string [P], the plain pieces; empty where a token was cut out.
        token_ids: int32 [P], the ids of those tokens, -1 at plain pieces.
        splits: int64 [B+1], where the pieces of each text begin.
    """

    texts: tf.Tensor
    token_ids: tf.Tensor
    splits: tf.Tensor


class GraphCut(tf.Module):
    """Cuts tokens out of texts: the leftmost one, and of those the longest.

    Names of special tokens are found as well, and then count as text: what begins inside of one is not found.

    Args:
        tokens: The tokens to look for, special ones included.
        names: How each is written in the texts.
    """

    def __init__(self, tokens: Sequence[AddedToken], names: Sequence[str]):
        super().__init__(name="cut")
        longest_first = sorted(names, key=lambda name: -len(name.encode()))
        self._pattern = "(" + "|".join(map(escaped, longest_first)) + ")"
        known = np.array([name.encode() for name in names], dtype=object)
        self._hashes, order = sorted_hashes(known)
        tokens = [tokens[i] for i in order]
        self._ids = constant(np.array([-1 if token.special else token.id for token in tokens], np.int32))
        self._strips = [
            constant(np.array([getattr(token, name) for token in tokens])) for name in ("lstrip", "rstrip")
        ]
        self._any_strip = any(token.lstrip or token.rstrip for token in tokens if not token.special)
        self._single = constant(np.array([token.single_word for token in tokens]))
        self._any_single = any(token.single_word for token in tokens if not token.special)

    def __call__(self, texts: tf.Tensor) -> Pieces:
        """Cut string [B], valid UTF-8."""
        pieces = marked_pieces(texts, self._pattern)
        parts, row = pieces.flat_values, pieces.value_rowids()
        place = tf.range(tf.size(parts, tf.int64)) - tf.gather(pieces.row_starts(), row)
        which = nearest(self._hashes, hashes(parts))
        ids = tf.where(place % 2 == 1, tf.gather(self._ids, which), -1)
        if self._any_single:
            ids = tf.where(tf.gather(self._single, which) & self._in_word(parts, row), -1, ids)
        # What turned out to be text is joined to the text around it.
        is_token = ids >= 0
        starts = is_token | shifted(is_token, 1, False) | (shifted(row, 1, -1) != row)
        first = tf.where(starts)[:, 0]
        segment = tf.cumsum(tf.cast(starts, tf.int64)) - 1
        texts = tf.strings.unsorted_segment_join(
            tf.where(is_token, "", parts), segment, tf.size(first, tf.int64)
        )
        ids, which = tf.gather(ids, first), tf.gather(which, first)
        if self._any_strip:
            texts = self._stripped(texts, ids, which)
        before = tf.concat([[0], tf.cumsum(tf.cast(starts, tf.int64))], 0)
        return Pieces(texts, ids, tf.gather(before, pieces.row_splits))

    def _stripped(self, texts, ids, which):
        """Take the white space away that tokens beside the plain pieces take."""
        takes_left, takes_right = ((ids >= 0) & tf.gather(strip, which) for strip in self._strips)
        right, left = (tf.strings.regex_replace(texts, p, "") for p in (f"{WHITE}+$", f"^{WHITE}+"))
        both = tf.strings.regex_replace(right, f"^{WHITE}+", "")
        # A token is the neighbour of a piece of its own text only: each text begins and ends with a plain piece.
        before_token, after_token = shifted(takes_left, -1, False), shifted(takes_right, 1, False)
        texts = tf.where(before_token & after_token, both, tf.where(before_token, right, texts))
        return tf.where(after_token & ~before_token, left, texts)

    def _in_word(self, parts, row):
        """Return bool [P]: whether a letter or digit stands beside the piece."""
        word = _word_class()
        inside = []
        for by, pattern in ((1, f"(?s).*{word}"), (-1, f"(?s){word}.*")):
            touches = tf.strings.regex_full_match(parts, pattern)
            # Beyond an empty piece lies another token.
            beside = tf.where(
                shifted(parts, by, "") == "", shifted(touches, 2 * by, False), shifted(touches, by, False)
            )
            near, far = shifted(row, by, -1) == row, shifted(row, 2 * by, -1) == row
            inside.append(beside & near & (far | (shifted(parts, by, "") != "")))
        return inside[0] | inside[1]


def cut_and_encode(
    cut: GraphCut,
    texts: tf.Tensor,
    encode: Callable[[tf.Tensor, tf.Tensor], tf.RaggedTensor],
    at_start: tf.Tensor | None = None,
) -> tf.RaggedTensor:
    """Encode string [B] to int32 [B, None], the plain pieces by `encode`.

    That gets string [P] and bool [P], those that begin a text, and must give nothing for nothing. `at_start`, bool [B],
    tells which texts are beginnings themselves; None is all.
    """
    pieces = cut(texts)
    is_token = pieces.token_ids >= 0
    tokens = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(pieces.token_ids, is_token), tf.cast(is_token, tf.int64), validate=False
    )
    number = tf.range(tf.size(is_token, tf.int64))
    row = tf.ragged.row_splits_to_segment_ids(pieces.splits)
    begins = number == tf.gather(pieces.splits, row)
    if at_start is not None:
        begins &= tf.gather(at_start, row)
    ids = tf.concat([tokens, encode(pieces.texts, begins)], 1)  # of each piece, one of the two is empty
    return tf.RaggedTensor.from_row_splits(
        ids.flat_values, tf.gather(ids.row_splits, pieces.splits), validate=False
    )


def marked_pieces(texts: tf.Tensor, pattern: str) -> tf.RaggedTensor:
    """Return string [B, None]: what lies between matches, and, at odd places, what matches."""
    marked = tf.strings.regex_replace(texts, pattern, MARK + rb"\1" + MARK)
    return tf.strings.split(marked, MARK)


def escaped(name: str) -> str:
    """The name as a regular expression of RE2."""
    return "".join(c if c.isascii() and c.isalnum() else rf"\x{{{ord(c):x}}}" for c in name)


def character_class(code_points: Sequence[int]) -> str:
    """The code points, ascending, as a class of RE2."""
    runs = np.split(np.asarray(code_points), np.flatnonzero(np.diff(code_points) != 1) + 1)
    return "[" + "".join(rf"\x{{{run[0]:x}}}-\x{{{run[-1]:x}}}" for run in runs) + "]"


@cache
def _word_class() -> str:
    """What the library takes for a part of a word, found by asking it, which takes seconds."""
    library = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    library.add_tokens([tokenizers.AddedToken("\n", single_word=True, normalized=False)])
    points = [i for i in range(0x110000) if not 0xD800 <= i < 0xE000 and i != ord("\n")]
    encoding = library.encode("".join(f"{chr(i)}\n " for i in points))
    cut = {start for (start, _), i in zip(encoding.offsets, encoding.ids, strict=True) if i == 1}
    return character_class([point for i, point in enumerate(points) if 3 * i + 1 not in cut])
