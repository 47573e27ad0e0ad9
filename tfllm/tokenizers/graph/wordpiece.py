"""WordPiece inside a TensorFlow graph: BERT's normalization by tables, and TensorFlow Text's kernel for the pieces."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import tensorflow as tf
import tensorflow_text
from tokenizers import normalizers, pre_tokenizers

from tfllm.tokenizers.assigned import asked_about
from tfllm.tokenizers.graph.code_points import CodePointMap, mapped_runs
from tfllm.tokenizers.graph.constant import DEVICE, constant
from tfllm.tokenizers.graph.normal_form import NormalForm
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.vocabulary import Vocabulary
from tfllm.tokenizers.wordpiece_rules import WordPieceRules

# Classes of characters.
_OTHER, _WHITE, _PUNCTUATION = range(3)
# What no word can be: it begins with a blank.
_UNUSED = " %d"


class GraphWordPieceTokenizer(GraphTokenizer):
    """`WordPieceTokenizer` as TensorFlow operations; see `GraphTokenizer`.

    TensorFlow Text normalizes and splits by a newer Unicode than the `tokenizers` library, so both are done here by
    tables that are found by asking the library.

    Args:
        vocabulary: as in `GraphTokenizer`; it has a token for what is unknown.
        sought_names: as in `GraphTokenizer`.
        rules: how texts become words, and words pieces.
        pieces: piece to id.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sought_names: Mapping[str, str],
        rules: WordPieceRules,
        pieces: Mapping[str, int],
    ):
        super().__init__(vocabulary, sought_names, name="wordpiece_tokenizer")
        with tf.init_scope():  # asks TensorFlow Text what it knows
            self._decomposed = NormalForm("NFD") if rules.strip_accents else None
        self._before_form, self._behind_form = (CodePointMap(table) for table in _tables(rules))
        starts, classes = _classes()
        self._class_starts, self._classes = constant(starts), constant(classes)
        tokens = [_UNUSED % i for i in range(vocabulary.vocab_size)]
        for token, token_id in pieces.items():
            tokens[token_id] = token
        unknown = vocabulary.roles["unk_token"]
        tokens[vocabulary.id_of("unk_token")] = unknown
        self._max_word_length = rules.max_word_length
        with tf.init_scope(), tf.device(DEVICE):
            self._pieces = tensorflow_text.FastWordpieceTokenizer(
                vocab=tokens,
                suffix_indicator=rules.subword_prefix,
                max_bytes_per_word=4 * rules.max_word_length,
                token_out_type=tf.int32,
                unknown_token=unknown,
                no_pretokenization=True,
            )

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        texts = self._mapped(texts, self._before_form)
        if self._decomposed is not None:
            texts = self._decomposed(texts)
        return self._mapped(texts, self._behind_form)

    def _mapped(self, texts: tf.Tensor, mapping: CodePointMap) -> tf.Tensor:
        characters = _code_points(texts)
        code_points, text = mapping(characters.flat_values, characters.value_rowids())
        rows = tf.RaggedTensor.from_value_rowids(code_points, text, characters.nrows(), validate=False)
        return tf.strings.unicode_encode(rows, "UTF-8")

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        characters = _code_points(texts)
        code_points, text = characters.flat_values, characters.value_rowids()
        run = tf.searchsorted(self._class_starts, code_points, side="right") - 1
        kind = tf.gather(self._classes, run)
        apart = (shifted(kind, 1, _WHITE) != _OTHER) | (kind == _PUNCTUATION) | (shifted(text, 1, -1) != text)
        is_word = kind != _WHITE
        starts = tf.boolean_mask(apart, is_word)
        word = tf.cumsum(tf.cast(starts, tf.int64)) - 1  # the number of each character's word
        text = tf.boolean_mask(tf.boolean_mask(text, is_word), starts)
        words = tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(code_points, is_word), word, tf.size(text, tf.int64), validate=False
        )
        pieces = self._word_pieces(words)
        by_text = tf.RaggedTensor.from_value_rowids(pieces, text, tf.size(texts, tf.int64), validate=False)
        return tf.RaggedTensor.from_row_splits(
            pieces.flat_values, tf.gather(pieces.row_splits, by_text.row_splits), validate=False
        )

    def _word_pieces(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
        """Return int32 [W, None] for words, int32 [W, None] code points."""
        too_long = words.row_lengths() > self._max_word_length
        texts = tf.where(too_long, "", tf.strings.unicode_encode(words, "UTF-8"))
        unknown = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(tf.cast(too_long, tf.int32))], self.unk_id),
            tf.cast(too_long, tf.int64),
            validate=False,
        )
        return tf.concat([unknown, self._pieces.tokenize(texts)], 1)


def _code_points(texts: tf.Tensor) -> tf.RaggedTensor:
    return tf.strings.unicode_decode(texts, "UTF-8", errors="replace", replace_control_characters=False)


@cache
def _tables(rules: WordPieceRules) -> tuple[np.ndarray, np.ndarray]:
    """What is done to characters before they are decomposed, and behind that."""
    before = rules.normalizer(strip_accents=False, lowercase=False)
    behind = rules.normalizer(clean_text=False, handle_chinese_chars=False)
    decomposed = normalizers.NFD().normalize_str if rules.strip_accents else None
    return mapped_runs(before.normalize_str), mapped_runs(behind.normalize_str, only=decomposed)


@cache
def _classes() -> tuple[np.ndarray, np.ndarray]:
    """Return the class of every character as runs of equal class: int32 [R] first ones, ascending, and int32 [R]."""
    points = np.array(asked_about(), np.int32)
    text = "a".join(map(chr, points)) + "a"  # characters stand at even places
    kinds = np.full(len(points), _OTHER, np.int32)
    seen = np.zeros(len(text), bool)
    for piece, (start, end) in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text):
        seen[start:end] = True
        if len(piece) == 1 and start % 2 == 0:
            kinds[start // 2] = _PUNCTUATION
    kinds[~seen[::2]] = _WHITE
    changes = np.flatnonzero(np.diff(kinds, prepend=-1))
    return points[changes], kinds[changes]
