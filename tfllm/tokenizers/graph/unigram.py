"""The best way to cut a text into the pieces of a Unigram model, inside a TensorFlow graph.

TensorFlow Text's kernel adds scores in double precision and compares them with sums rounded to single; the
`sentencepiece` library adds in single, the `tokenizers` library in double. Where two ways are as good, such as 9 99 and
99 9, they choose differently. This is the libraries' way, in their order of operations (`Model::EncodeOptimized` in
`unigram_model.cc` of the first, which the other follows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.graph.text import text_bytes
from tfllm.tokenizers.sentencepiece_model import BYTE, NORMAL, UNKNOWN, USER_DEFINED, Model

# What an unknown character scores below the worst piece; `kUnkPenalty` there.
UNKNOWN_PENALTY = 10.0
_NUM_CODE_POINTS = 0x110000
_DEAD = -1


class GraphUnigram(tf.Module):
    """Finds, for normalized texts, the pieces whose scores sum up to most.

    Args:
        pieces: Id and score by name; they are kept as a trie.
        unknown_id: What an unknown character is, and several in a row are together.
        unknown_score: The score of one.
        byte_ids: The ids of the 256 bytes, which an unknown character is written in; None is for none.
        dtype: Of the sums of scores.
    """

    def __init__(
        self,
        pieces: Mapping[str, tuple[int, float]],
        *,
        unknown_id: int,
        unknown_score: float,
        byte_ids: Sequence[int] | None,
        dtype: tf.DType,
    ):
        super().__init__(name="unigram")
        self._longest, self._dtype = max(map(len, pieces), default=1), dtype
        edges, ids, values = _trie(pieces)
        self._edges, self._children = constant(edges[:, 0].copy()), constant(edges[:, 1].astype(np.int32))
        self._piece_ids, self._piece_scores = constant(ids), constant(values.astype(dtype.as_numpy_dtype))
        self._unknown_score, self._unknown_id = unknown_score, unknown_id
        self._byte_ids = None if byte_ids is None else constant(np.array(byte_ids, np.int32))

    @classmethod
    def of_model(cls, model: Model) -> GraphUnigram:
        """The way of the `sentencepiece` library, which adds scores in single precision."""
        normal = [piece.score for piece in model.pieces if piece.type == NORMAL]
        lowest, highest = np.float32(min(normal, default=0.0)), np.float32(max(normal, default=0.0))
        pieces = {
            piece.piece: (i, _score(piece, highest))
            for i, piece in enumerate(model.pieces)
            if piece.type in (NORMAL, USER_DEFINED)
        }
        byte_ids = {
            int(piece.piece[1:-1], 16): i for i, piece in enumerate(model.pieces) if piece.type == BYTE
        }
        return cls(
            pieces,
            unknown_id=next(i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN),
            unknown_score=float(lowest - np.float32(UNKNOWN_PENALTY)),
            byte_ids=[byte_ids[b] for b in range(256)] if byte_ids else None,
            dtype=tf.float32,
        )

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Return int32 [B, None], the ids of the pieces of string [B]."""
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        chosen, row, start, _ = self._chosen(characters)
        if self._byte_ids is not None:
            return self._with_bytes(chosen, tf.gather(characters.flat_values, start), row, characters.nrows())
        # Unknown characters in a row are one unknown piece.
        unknown = chosen == self._unknown_id
        kept = ~(unknown & shifted(unknown, 1, False) & (shifted(row, 1, -1) == row))
        return tf.RaggedTensor.from_value_rowids(chosen[kept], row[kept], characters.nrows(), validate=False)

    def pieces(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Return string [B, None], the pieces of string [B], unknown characters in a row as one, as it is written."""
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        chosen, row, start, length = self._chosen(characters)
        unknown = chosen == self._unknown_id
        goes_on = unknown & shifted(unknown, 1, False) & (shifted(row, 1, -1) == row)
        begins, row = tf.boolean_mask(start, ~goes_on), tf.boolean_mask(row, ~goes_on)
        lengths = tf.math.segment_sum(length, tf.cumsum(tf.cast(~goes_on, tf.int64)) - 1)
        points = tf.gather(characters.flat_values, tf.ragged.range(begins, begins + lengths))
        return tf.RaggedTensor.from_value_rowids(
            tf.strings.unicode_encode(points, "UTF-8"), row, characters.nrows(), validate=False
        )

    def _chosen(self, characters: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return, of the pieces of all texts, int32 [K] ids, int64 [K] texts, int32 [K] first places and lengths."""
        ids, scores = self._matches(characters)
        lengths = self._best_lengths(characters, scores)  # int32 [T, B]
        row, end = self._ends(lengths, tf.cast(characters.row_lengths(), tf.int32))
        length = tf.gather_nd(lengths, tf.stack([end, row], 1))
        start = tf.gather(tf.cast(characters.row_starts(), tf.int32), row) + end + 1 - length
        return tf.gather_nd(ids, tf.stack([length - 1, start], 1)), tf.cast(row, tf.int64), start, length

    def _matches(self, characters: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return int32 and float [L, N]: the pieces of 1 to L characters that begin at each, and their scores."""
        code_points = tf.cast(characters.flat_values, tf.int64)
        ends = tf.cast(tf.gather(characters.row_limits(), characters.value_rowids()), tf.int32)
        index = tf.range(tf.size(code_points))

        def step(length, nodes, ids, scores):
            at = index + length
            key = tf.cast(nodes, tf.int64) * _NUM_CODE_POINTS + tf.gather(
                code_points, tf.minimum(at, tf.size(code_points) - 1)
            )
            found = tf.minimum(tf.searchsorted(self._edges, key), self._edges.shape[0] - 1)
            goes_on = (nodes != _DEAD) & (at < ends) & (tf.gather(self._edges, found) == key)
            nodes = tf.where(goes_on, tf.gather(self._children, found), _DEAD)
            here = tf.gather(self._piece_ids, tf.maximum(nodes, 0))
            is_piece = goes_on & (here >= 0)
            score = tf.where(
                is_piece, tf.gather(self._piece_scores, tf.maximum(nodes, 0)), self._number(-np.inf)
            )
            here = tf.where(is_piece, here, self._unknown_id)
            single = length == 0
            score = tf.where(single & ~is_piece, self._number(self._unknown_score), score)
            return length + 1, nodes, ids.write(length, here), scores.write(length, score)

        arrays = (tf.TensorArray(kind, 0, dynamic_size=True) for kind in (tf.int32, self._dtype))
        _, _, ids, scores = tf.while_loop(
            lambda length, nodes, *_: (length == 0) | tf.reduce_any(nodes != _DEAD),
            step,
            [0, tf.zeros_like(index), *arrays],
            maximum_iterations=self._longest,
        )
        return ids.stack(), scores.stack()

    def _best_lengths(self, characters: tf.RaggedTensor, scores: tf.Tensor) -> tf.Tensor:
        """Return int32 [T, B]: the length of the last piece of the best way to the end of each character."""
        longest, num_characters = tf.shape(scores)[0], tf.shape(scores)[1]
        # There is one more, for texts without a character.
        flat = tf.concat([tf.reshape(scores, [-1]), [self._number(-np.inf)]], 0)
        back = tf.range(longest)  # the length of a piece, less one
        starts = tf.cast(characters.row_starts(), tf.int32)
        steps = tf.cast(tf.reduce_max(tf.concat([[1], characters.row_lengths()], 0)), tf.int32)

        def step(t, before, lengths):
            at = tf.clip_by_value(starts[:, None] + t - back, 0, tf.maximum(num_characters - 1, 0))
            candidates = before + tf.gather(flat, back * num_characters + at)
            candidates = tf.where(back <= t, candidates, self._number(-np.inf))
            best = tf.reduce_max(candidates, 1, keepdims=True)
            # Of equal ones the longest, which starts first.
            length = 1 + tf.reduce_max(tf.where(candidates == best, back, 0), 1)
            return t + 1, tf.concat([best, before[:, :-1]], 1), lengths.write(t, length)

        first = tf.concat([[self._number(0.0)], tf.fill([longest - 1], self._number(-np.inf))], 0)
        before = tf.tile(first[None], [tf.size(starts), 1])
        _, _, lengths = tf.while_loop(
            lambda t, *_: t < steps,
            step,
            [0, before, tf.TensorArray(tf.int32, steps, element_shape=[None])],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, None]), None],
        )
        return tf.reshape(lengths.stack(), [steps, tf.size(starts)])

    def _number(self, value: float) -> tf.Tensor:
        return tf.constant(value, self._dtype)

    def _ends(self, lengths: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return int32 [K] twice: the text and the last character of each piece, in order."""
        steps = tf.shape(lengths)[0]

        def step(t, need, ends):
            is_end = t + 1 == need
            need = tf.where(is_end, need - lengths[t], need)
            return t - 1, need, ends.write(t, is_end)

        _, _, ends = tf.while_loop(
            lambda t, *_: t >= 0,
            step,
            [steps - 1, sizes, tf.TensorArray(tf.bool, steps, element_shape=[None])],
        )
        found = tf.where(tf.transpose(tf.reshape(ends.stack(), [steps, tf.size(sizes)])))
        return tf.cast(found[:, 0], tf.int32), tf.cast(found[:, 1], tf.int32)

    def _with_bytes(self, chosen, characters, row, num_rows):
        """The pieces, an unknown character as its bytes."""
        unknown = chosen == self._unknown_id
        texts = tf.strings.unicode_encode(characters[:, None], "UTF-8")
        values, lengths = text_bytes(tf.where(unknown, texts, ""))
        as_bytes = tf.RaggedTensor.from_row_lengths(
            tf.gather(self._byte_ids, values), lengths, validate=False
        )
        known = tf.RaggedTensor.from_row_lengths(
            chosen[~unknown], tf.cast(~unknown, tf.int64), validate=False
        )
        ids = tf.concat([known, as_bytes], 1)
        by_text = tf.RaggedTensor.from_value_rowids(ids, row, num_rows, validate=False)
        return tf.RaggedTensor.from_row_splits(
            ids.flat_values, tf.gather(ids.row_splits, by_text.row_splits), validate=False
        )


def _score(piece, highest: np.float32) -> float:
    # Pieces that the user gave are to win always: `max_score_` times the bytes, less 0.1.
    return len(piece.piece.encode()) * highest - 0.1 if piece.type == USER_DEFINED else piece.score


def _trie(scores: Mapping[str, tuple[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return int64 [E, 2], node and character to node, ascending; and of each node its piece, or -1, and the score."""
    children: dict[int, int] = {}
    ids, values = [-1], [0.0]
    for name, (piece_id, score) in scores.items():
        node = 0
        for character in name:
            key = node * _NUM_CODE_POINTS + ord(character)
            if key not in children:
                children[key] = len(ids)
                ids.append(-1)
                values.append(0.0)
            node = children[key]
        ids[node], values[node] = piece_id, score
    edges = np.array(sorted(children.items()) or [(_DEAD, 0)], np.int64)
    return edges, np.array(ids, np.int32), np.array(values, np.float64)
