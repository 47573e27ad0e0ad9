"""The face of a tokenizer inside a TensorFlow graph, and decoding, which all kinds share."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.tokenizer import Tokenizer

# Strings live on the CPU; so does the rest here, else a machine with a GPU would copy each small tensor back
# and forth.
DEVICE = "/CPU:0"


class GraphTokenizer(tf.Module):
    """A tokenizer made of stateless core TensorFlow operations on constants: no tables, no Python, no custom
    kernels.

    It works eagerly, in `tf.function`, in `ds.map` and in a SavedModel that is loaded without tfllm, and
    gives the ids and texts of the `Tokenizer` it was made from. Made by `Tokenizer.in_graph`.

    Attributes:
        vocab_size: number of ids.
        bos_id: id of the token that begins a document; `eos_id` and `pad_id` likewise.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(name=f"{tokenizer.type}_tokenizer")
        self.vocab_size = tokenizer.vocab_size
        self.bos_id, self.eos_id, self.pad_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        self._token_texts = constant(np.array(tokenizer.token_bytes, dtype=object))  # string [V]
        special = np.isin(np.arange(self.vocab_size), list(tokenizer.special_ids))
        self._is_special = constant(special)  # bool [V]
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

    @abstractmethod
    def _encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Trace the operations of `encode`."""

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
            if skip_special_tokens:
                texts = tf.where(tf.gather(self._is_special, ids), "", texts)
            joined = tf.strings.unsorted_segment_join(texts, token_ids.value_rowids(), token_ids.nrows())
            return repair(joined)


def repair(texts: tf.Tensor) -> tf.Tensor:
    """Return string [B] as valid UTF-8: `repair_text`, in the graph, and the same on any bytes."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False
    )


def text_bytes(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the bytes of string [B], joined, as int32 [N], and the bytes a text as int64 [B]."""
    joined = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
    return tf.cast(joined, tf.int32), tf.cast(tf.strings.length(texts, unit="BYTE"), tf.int64)


def constant(array: np.ndarray) -> tf.Tensor:
    """Return an eager constant on the CPU, also while a graph is traced; bytes come as objects."""
    with tf.init_scope(), tf.device(DEVICE):
        return tf.constant(array)
