"""Byte-level BPE inside a TensorFlow graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS
from tfllm.tokenizers.byte_bpe_rules import ByteBPERules
from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.lookup import hashes, nearest, sorted_hashes
from tfllm.tokenizers.graph.merge import GraphMerge
from tfllm.tokenizers.graph.normal_form import NormalForm
from tfllm.tokenizers.graph.split import GraphSplit
from tfllm.tokenizers.graph.text import text_bytes
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.vocabulary import Vocabulary


class GraphByteBPETokenizer(GraphTokenizer):
    """`ByteBPETokenizer` as TensorFlow operations; see `GraphTokenizer`.

    Texts are split into words; each different word of a batch is looked up in the vocabulary, and merged byte
    by byte only if it is not a token by itself.

    Args:
        vocabulary: as in `GraphTokenizer`.
        sought_names: as in `GraphTokenizer`.
        rules: how texts become tokens.
        whole_ids: the tokens that their own bytes merge to.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sought_names: Mapping[str, str],
        rules: ByteBPERules,
        whole_ids: Sequence[int],
    ):
        super().__init__(vocabulary, sought_names, name="byte_bpe_tokenizer")
        vocab = rules.vocab
        self._normal_form = NormalForm("NFC") if rules.nfc else None
        self._add_prefix_space = rules.add_prefix_space
        self._split = GraphSplit(rules.split)
        self._merge = GraphMerge(
            [(vocab[left], vocab[right], vocab[left + right]) for left, right in rules.merges],
            vocabulary.token_byte_lengths(),
        )
        byte_ids = np.array([vocab.get(c, -1) for c in BYTE_CHARACTERS], np.int32)
        self._byte_ids, self._drops = constant(byte_ids), bool((byte_ids < 0).any())
        whole_texts = np.array([vocabulary.token_bytes[i] for i in whole_ids], dtype=object)
        self._whole_hashes, order = sorted_hashes(whole_texts)
        self._whole_ids = constant(np.array(whole_ids, np.int32)[order])

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        return texts if self._normal_form is None else self._normal_form(texts)

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        if self._add_prefix_space:
            texts = tf.where((texts == "") | (tf.strings.substr(texts, 0, 1) == " "), texts, " " + texts)
        words = self._split(texts)  # string [B, None]
        distinct, which = tf.unique(words.flat_values, out_idx=tf.int64)  # string [U], int64 [words]
        pool, starts, lengths = self._encode_words(distinct)
        starts, lengths = tf.gather(starts, which), tf.gather(lengths, which)
        taken = tf.ragged.range(starts, starts + lengths)  # int64 [words, None], places in the pool
        return tf.RaggedTensor.from_row_splits(
            tf.gather(pool, taken.flat_values), tf.gather(taken.row_splits, words.row_splits), validate=False
        )

    def _encode_words(self, words):
        """Return a pool of ids, int32 [P], and for words, string [U], their starts and lengths in it."""
        whole_ids = self._look_up(words)  # int32 [U], -1 where there is none
        rest = tf.where(whole_ids < 0)
        merged = self._merged(*text_bytes(tf.gather(words, rest[:, 0])))
        num_words = tf.size(words, out_type=tf.int64)
        starts = tf.tensor_scatter_nd_update(tf.range(num_words), rest, num_words + merged.row_starts())
        lengths = tf.tensor_scatter_nd_update(tf.ones_like(starts), rest, merged.row_lengths())
        return tf.concat([whole_ids, merged.flat_values], 0), starts, lengths

    def _merged(self, text, lengths):
        """Return int32 [W, None]: the ids of words, of int32 [N] bytes in all and int64 [W] each, none of them 0."""
        tokens = tf.gather(self._byte_ids, text)
        words = tf.ragged.row_splits_to_segment_ids(
            tf.concat([[0], tf.cumsum(lengths)], 0), out_type=tf.int32
        )
        if self._drops:  # bytes for which there is no token
            known = tokens >= 0
            tokens, words = tf.boolean_mask(tokens, known), tf.boolean_mask(words, known)
        return self._merge(tokens, words, tf.size(lengths, tf.int64))

    def _look_up(self, words):
        """Return int32 [U]: the id of each word that is one token, else -1."""
        ids = tf.gather(self._whole_ids, nearest(self._whole_hashes, hashes(words)))
        # Comparing the text as well makes a collision of hashes a miss, never a wrong id.
        return tf.where(tf.gather(self._token_texts, ids) == words, ids, -1)
