"""Marian's tokenizer inside a TensorFlow graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tensorflow_text

from tfllm.tokenizers.graph.constant import DEVICE, constant
from tfllm.tokenizers.graph.lookup import Lookup
from tfllm.tokenizers.graph.shift import shifted
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer, none_before
from tfllm.tokenizers.graph.unigram import GraphUnigram
from tfllm.tokenizers.sentencepiece_model import UNIGRAM, parsed_model, without_bytes
from tfllm.tokenizers.vocabulary import Vocabulary

_CODE = r"(?s)^>>.*?<<"
# What Python's `str.strip` takes.
_WHITE = r"[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


class GraphMarianTokenizer(GraphTokenizer):
    """`MarianTokenizer` as TensorFlow operations; see `GraphTokenizer`.

    Args:
        vocabulary: as in `GraphTokenizer`.
        sought_names: as in `GraphTokenizer`.
        model: the content of the SentencePiece model of the language of the texts.
        piece_ids: piece to id, without special tokens.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sought_names: Mapping[str, str],
        model: bytes,
        piece_ids: Mapping[str, int],
    ):
        super().__init__(vocabulary, sought_names, name="marian_tokenizer")
        parsed = parsed_model("model", model)
        unigram = parsed.trainer_spec.model_type == UNIGRAM
        self._choose = GraphUnigram.of_model(parsed) if unigram else None
        with tf.init_scope(), tf.device(DEVICE):
            self._kernel = tensorflow_text.SentencepieceTokenizer(
                model=without_bytes(model), out_type=tf.string
            )
        self._pieces = Lookup([name.encode() for name in piece_ids])
        self._ids = constant(np.array([*piece_ids.values()] or [vocabulary.id_of("unk_token")], np.int32))
        special = np.isin(np.arange(vocabulary.vocab_size), list(vocabulary.special_ids))
        self._is_special = constant(special)

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = repair(texts)
        has_code = tf.strings.regex_full_match(texts, _CODE + ".*")
        rest = tf.strings.regex_replace(texts, _CODE, "", replace_global=False)
        code_bytes = tf.strings.length(texts) - tf.strings.length(rest)
        codes = tf.strings.substr(texts, tf.zeros_like(code_bytes), code_bytes)
        pieces = self._kernel.tokenize(rest)
        if self._choose is not None:
            joined = tf.strings.unsorted_segment_join(
                pieces.flat_values, pieces.value_rowids(), pieces.nrows()
            )
            pieces = self._choose.pieces(joined)
        first = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(codes, has_code), tf.cast(has_code, tf.int64), validate=False
        )
        found = tf.concat([first, pieces], 1)
        return found.with_flat_values(self._look_up(found.flat_values))

    def _look_up(self, pieces: tf.Tensor) -> tf.Tensor:
        known, place = self._pieces(pieces)
        return tf.where(known, tf.gather(self._ids, place), self.unk_id)

    def decode(
        self, token_ids: tf.RaggedTensor | tf.Tensor, *, skip_special_tokens: bool = True
    ) -> tf.Tensor:
        """Decode ids to texts, as `GraphTokenizer.decode` says."""
        with tf.device(DEVICE):
            if not isinstance(token_ids, tf.RaggedTensor):
                token_ids = tf.RaggedTensor.from_tensor(token_ids)
            ids, row = token_ids.flat_values, token_ids.value_rowids()
            special = tf.gather(self._is_special, ids)
            texts = tf.gather(self._token_texts, ids)
            if skip_special_tokens:
                ids, row, texts = (tf.boolean_mask(x, ~special) for x in (ids, row, texts))
                special = tf.zeros_like(ids, tf.bool)
            # A text begins anew behind a special token.
            begins = shifted(special, 1, False) | (shifted(row, 1, -1) != row)
            parts = tf.RaggedTensor.from_value_rowids(ids, tf.cumsum(tf.cast(begins, tf.int64)) - 1)
            at_start = none_before(~tf.gather(self._opening_goes_on, ids), parts) & ~special
            texts = tf.where(at_start, tf.gather(self._opening_texts, ids), texts)
            texts = tf.where(special, texts + " ", texts)
            joined = repair(tf.strings.unsorted_segment_join(texts, row, token_ids.nrows()))
            return tf.strings.regex_replace(joined, f"^{_WHITE}+|{_WHITE}+$", "")
