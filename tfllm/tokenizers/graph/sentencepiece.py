"""SentencePiece inside a TensorFlow graph, by TensorFlow Text's kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf
import tensorflow_text

from tfllm.tokenizers.graph.constant import DEVICE
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.graph.unigram import GraphUnigram
from tfllm.tokenizers.sentencepiece_model import UNIGRAM, without_bytes

if TYPE_CHECKING:
    from tfllm.tokenizers.sentencepiece import SentencePieceTokenizer


class GraphSentencePieceTokenizer(GraphTokenizer):
    """`SentencePieceTokenizer` as TensorFlow operations; see `GraphTokenizer`."""

    def __init__(self, tokenizer: SentencePieceTokenizer):
        super().__init__(tokenizer)
        unigram = tokenizer.model.trainer_spec.model_type == UNIGRAM
        self._choose = GraphUnigram.of_model(tokenizer.model) if unigram else None
        self._kernel = self._kernel_of(tokenizer.model_bytes)
        same = tokenizer.inside_bytes == tokenizer.model_bytes
        self._inside = self._kernel if same else self._kernel_of(tokenizer.inside_bytes)

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
