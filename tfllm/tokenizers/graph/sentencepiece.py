"""SentencePiece inside a TensorFlow graph, by TensorFlow Text's kernel."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_text

from tfllm.tokenizers.graph.constant import DEVICE
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.graph.unigram import GraphUnigram
from tfllm.tokenizers.sentencepiece_model import UNIGRAM, parsed_model, without_bytes
from tfllm.tokenizers.vocabulary import Vocabulary


class GraphSentencePieceTokenizer(GraphTokenizer):
    """`SentencePieceTokenizer` as TensorFlow operations; see `GraphTokenizer`.

    Args:
        vocabulary: as in `GraphTokenizer`.
        sought_names: as in `GraphTokenizer`.
        model: the content of a `tokenizer.model`.
        inside: the same for what stands behind an added token.
    """

    def __init__(self, vocabulary: Vocabulary, sought_names: Mapping[str, str], model: bytes, inside: bytes):
        super().__init__(vocabulary, sought_names, name="sentencepiece_tokenizer")
        parsed = parsed_model("model", model)
        unigram = parsed.trainer_spec.model_type == UNIGRAM
        self._choose = GraphUnigram.of_model(parsed) if unigram else None
        self._kernel = self._kernel_of(model)
        self._inside = self._kernel if inside == model else self._kernel_of(inside)

    def _kernel_of(self, model: bytes) -> tensorflow_text.SentencepieceTokenizer:
        with tf.init_scope(), tf.device(DEVICE):
            if self._choose is None:
                return tensorflow_text.SentencepieceTokenizer(model=model, out_type=tf.int32)
            return tensorflow_text.SentencepieceTokenizer(model=without_bytes(model), out_type=tf.string)

    def _encode_piece(self, pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
        if self._inside is self._kernel:
            return self._encode_normalized(pieces)
        first = self._run(self._kernel, tf.where(at_start, pieces, ""))
        return tf.concat([first, self._run(self._inside, tf.where(at_start, "", pieces))], 1)

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._run(self._kernel, repair(texts))

    def _run(self, kernel: tensorflow_text.SentencepieceTokenizer, texts: tf.Tensor) -> tf.RaggedTensor:
        pieces = kernel.tokenize(texts)
        if self._choose is None:
            return pieces
        # The kernel's pieces, joined, are the normalized text.
        joined = tf.strings.unsorted_segment_join(pieces.flat_values, pieces.value_rowids(), pieces.nrows())
        return self._choose(joined)
