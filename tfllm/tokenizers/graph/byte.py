"""The byte tokenizer inside a TensorFlow graph."""

from collections.abc import Mapping

import tensorflow as tf

from tfllm.tokenizers.graph.text import repair, text_bytes
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.vocabulary import Vocabulary


class GraphByteTokenizer(GraphTokenizer):
    """`ByteTokenizer` as TensorFlow operations; arguments as those of `GraphTokenizer`."""

    def __init__(self, vocabulary: Vocabulary, sought_names: Mapping[str, str]):
        super().__init__(vocabulary, sought_names, name="byte_tokenizer")

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        token_ids, lengths = text_bytes(repair(texts))
        return tf.RaggedTensor.from_row_lengths(token_ids, lengths, validate=False)
