"""The byte tokenizer inside a TensorFlow graph."""

import tensorflow as tf

from tfllm.tokenizers.graph.text import repair, text_bytes
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer


class GraphByteTokenizer(GraphTokenizer):
    """`ByteTokenizer` as TensorFlow operations; see `GraphTokenizer`."""

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        token_ids, lengths = text_bytes(repair(texts))
        return tf.RaggedTensor.from_row_lengths(token_ids, lengths, validate=False)
