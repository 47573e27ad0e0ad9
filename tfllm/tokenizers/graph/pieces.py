"""Byte-pair encoding of characters inside a TensorFlow graph, with bytes for those that are unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.merge import GraphMerge
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.graph.text import text_bytes

_UNKNOWN = -1


class GraphPieces(tf.Module):
    """Turns words into pieces.

    Args:
        vocab: Piece to id.
        merges: Pairs of pieces, the first to be merged first.
        byte_ids: The id of each of the 256 bytes, -1 for none; None where unknown characters are not written in bytes.
        unknown_id: What an unknown character is; None drops it.
        fuse_unknown: Several in a row are one.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        byte_ids: Sequence[int] | None,
        unknown_id: int | None,
        fuse_unknown: bool,
    ):
        super().__init__(name="pieces")
        points = sorted((ord(name), i) for name, i in vocab.items() if len(name) == 1) or [(-1, 0)]
        self._points, self._ids = (
            constant(np.array(column, np.int32)) for column in zip(*points, strict=True)
        )
        lengths = np.ones(1 + max(vocab.values()), np.int32)
        for name, i in vocab.items():
            lengths[i] = max(len(name), 1)
        self._merge = GraphMerge([(vocab[a], vocab[b], vocab[a + b]) for a, b in merges], lengths)
        self._byte_ids = None if byte_ids is None else constant(np.array(byte_ids, np.int32))
        self._unknown_id, self._fuse = unknown_id, fuse_unknown

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Return int32 [W, None], the ids of string [W]."""
        characters = tf.strings.unicode_decode(words, "UTF-8")
        points, word = characters.flat_values, tf.cast(characters.value_rowids(), tf.int32)
        found = tf.minimum(tf.searchsorted(self._points, points), self._points.shape[0] - 1)
        tokens = tf.where(tf.gather(self._points, found) == points, tf.gather(self._ids, found), _UNKNOWN)
        if self._byte_ids is not None:
            tokens, word = self._in_bytes(tokens, points, word)
        unknown = tokens == _UNKNOWN
        if self._unknown_id is None:
            kept = ~unknown
        else:
            tokens = tf.where(unknown, self._unknown_id, tokens)
            kept = ~(unknown & shifted(unknown, 1, False) & (shifted(word, 1, -1) == word) & self._fuse)
        return self._merge(
            tf.boolean_mask(tokens, kept), tf.boolean_mask(word, kept), tf.size(words, tf.int64)
        )

    def _in_bytes(self, tokens, points, word):
        """Write unknown characters in bytes, where there is a token for each."""
        unknown = tokens == _UNKNOWN
        values, lengths = text_bytes(
            tf.where(unknown, tf.strings.unicode_encode(points[:, None], "UTF-8"), "")
        )
        byte_tokens = tf.RaggedTensor.from_row_lengths(
            tf.gather(self._byte_ids, values), lengths, validate=False
        )
        written = unknown & (tf.reduce_min(byte_tokens, 1) >= 0)
        single = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(tokens, ~written), tf.cast(~written, tf.int64), validate=False
        )
        in_bytes = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(byte_tokens.flat_values, tf.repeat(written, lengths)),
            tf.where(written, lengths, 0),
            validate=False,
        )
        joined = tf.concat([single, in_bytes], 1)
        return joined.flat_values, tf.repeat(word, joined.row_lengths())
