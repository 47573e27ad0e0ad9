"""The face of a tokenizer inside a TensorFlow graph, and decoding, which all kinds share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.graph.byte_runs import GraphByteRuns
from tfllm.tokenizers.graph.constant import DEVICE, constant
from tfllm.tokenizers.graph.cut import GraphCut, cut_and_encode
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.has_vocabulary import HasVocabulary
from tfllm.tokenizers.vocabulary import Vocabulary


class GraphTokenizer(HasVocabulary, tf.Module):
    """A tokenizer made of stateless TensorFlow operations on constants: no tables, no Python, and no kernels but
    TensorFlow's and TensorFlow Text's.

    It works eagerly, in `tf.function`, in `ds.map` and in a SavedModel that is loaded without tfllm, and
    gives the ids and texts of the `Tokenizer` it was made from. Made by `Tokenizer.in_graph`.

    Args:
        vocabulary: what the ids stand for, and which of them play which part.
        sought_names: name to how it is written in normalized text, of the added tokens that are looked for there.
        name: of the module.
    """

    def __init__(self, vocabulary: Vocabulary, sought_names: Mapping[str, str], *, name: str):
        super().__init__(name=name)
        self.vocabulary = vocabulary
        self._token_texts = constant(np.array(vocabulary.token_bytes, dtype=object))  # string [V]
        skipped = np.isin(np.arange(vocabulary.vocab_size), list(vocabulary.skipped_ids))
        self._is_skipped = constant(skipped)  # bool [V]
        self._opening_texts = self._opening_goes_on = None
        if vocabulary.opening is not None:
            opening = np.array(vocabulary.opening.token_bytes, dtype=object)
            self._opening_texts = constant(opening)  # string [V]
            self._opening_goes_on = constant(np.array(vocabulary.opening.goes_on))  # bool [V]
        runs = vocabulary.byte_runs
        self._byte_runs = None if runs is None else GraphByteRuns(runs, vocabulary.token_bytes)
        self._blanks_taken = vocabulary.blanks_taken
        self._cuts = _cuts(vocabulary, sought_names)
        # Made from the bound method: a decorator would hold this object by a weak reference only, and
        # `tokenizer.in_graph().encode(texts)` must work, where nothing else holds it.
        self._encode_function = tf.function(
            self._encode, input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False
        )

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Encode texts.

        Args:
            texts: string [B], UTF-8; what is not valid is repaired with U+FFFD first.

        Returns:
            int32 [B, None], without special tokens; the row splits are int64.
        """
        return self._encode_function(texts)

    def _encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Trace the operations of `encode`."""
        with tf.device(DEVICE):
            if self._cuts is None:
                return self._encode_normalized(self._normalize(texts))
            raw, normalized = self._cuts

            def encode_piece(pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
                if normalized is None:
                    return self._encode_piece(pieces, at_start)
                return cut_and_encode(normalized, self._normalize(pieces), self._encode_inner, at_start)

            texts = repair(texts)
            if raw is None:
                return encode_piece(texts, tf.ones_like(texts, tf.bool))
            return cut_and_encode(raw, texts, encode_piece)

    def _encode_piece(self, pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
        """Encode string [P], pieces between added tokens; `at_start` tells those that begin a text."""
        return self._encode_normalized(self._normalize(pieces))

    def _encode_inner(self, pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
        """The same for pieces of normalized texts."""
        return self._encode_normalized(pieces)

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        """What is done to texts, string [B], before tokens that are looked for in normalized text are."""
        return texts

    @abstractmethod
    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Encode string [B], repaired or not, without added tokens, to int32 [B, None]."""

    def decode(
        self, token_ids: tf.RaggedTensor | tf.Tensor, *, skip_special_tokens: bool = True
    ) -> tf.Tensor:
        """Decode ids to texts.

        Args:
            token_ids: int32 [B, None] ragged or [B, T] dense.
            skip_special_tokens: leave special tokens, padding among them, out; otherwise they appear by name.

        Returns:
            string [B], valid UTF-8: parts of characters that do not join to whole ones become U+FFFD.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside [0, vocab_size).
        """
        with tf.device(DEVICE):
            if not isinstance(token_ids, tf.RaggedTensor):
                token_ids = tf.RaggedTensor.from_tensor(token_ids)
            ids = token_ids.flat_values
            texts = tf.gather(self._token_texts, ids)
            skipped = tf.gather(self._is_skipped, ids) if skip_special_tokens else tf.zeros_like(ids, tf.bool)
            if self._opening_goes_on is not None:
                before = tf.where(skipped, True, tf.gather(self._opening_goes_on, ids))
                at_start = none_before(~before, token_ids)
                texts = tf.where(at_start, tf.gather(self._opening_texts, ids), texts)
            texts, row = tf.where(skipped, "", texts), token_ids.value_rowids()
            if self._byte_runs is not None:
                texts, row = self._byte_runs(ids, texts, row)
            joined = repair(tf.strings.unsorted_segment_join(texts, row, token_ids.nrows()))
            if self._blanks_taken:
                joined = tf.strings.regex_replace(joined, f"^ {{1,{self._blanks_taken}}}", "")
            return joined


def _cuts(
    vocabulary: Vocabulary, sought_names: Mapping[str, str]
) -> tuple[GraphCut | None, GraphCut | None] | None:
    """What cuts added tokens out of texts as they come, and out of normalized ones; None if nothing is to be."""
    if not vocabulary.cut_tokens:
        return None
    kinds = []
    for normalized in (False, True):
        first: dict[str, AddedToken] = {}  # of several that are written alike, special ones before others
        for token in sorted(vocabulary.added_tokens, key=lambda token: not token.special):
            if token.normalized == normalized:
                first.setdefault(sought_names[token.content] if normalized else token.content, token)
        tokens, names = list(first.values()), list(first)
        kinds.append(GraphCut(tokens, names) if any(not token.special for token in tokens) else None)
    return kinds[0], kinds[1]


def none_before(flags: tf.Tensor, rows: tf.RaggedTensor) -> tf.Tensor:
    """Return bool [N]: whether no entry before this one in its row is flagged."""
    counts = tf.concat([[0], tf.cumsum(tf.cast(flags, tf.int64))], 0)
    return counts[:-1] == tf.gather(tf.gather(counts, rows.row_starts()), rows.value_rowids())
