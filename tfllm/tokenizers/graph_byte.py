"""The byte tokenizer inside a TensorFlow graph."""

import tensorflow as tf

from tfllm.tokenizers.graph_tokenizer import DEVICE, GraphTokenizer, repair, text_bytes


class GraphByteTokenizer(GraphTokenizer):
    """`ByteTokenizer` as TensorFlow operations; see `GraphTokenizer`."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False)
    def encode(self, texts):
        """Encode string [B] to int32 [B, None]; see `GraphTokenizer.encode`."""
        with tf.device(DEVICE):
            token_ids, lengths = text_bytes(repair(texts))
            return tf.RaggedTensor.from_row_lengths(token_ids, lengths, validate=False)
