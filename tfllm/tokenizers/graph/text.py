"""Texts and their bytes inside a TensorFlow graph."""

from __future__ import annotations

import tensorflow as tf


def repair(texts: tf.Tensor) -> tf.Tensor:
    """Return string [B] as valid UTF-8: `repair_text`, in the graph, and the same on any bytes."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False
    )


def text_bytes(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the bytes of string [B], joined, as int32 [N], and the bytes a text as int64 [B]."""
    joined = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
    return tf.cast(joined, tf.int32), tf.cast(tf.strings.length(texts, unit="BYTE"), tf.int64)
