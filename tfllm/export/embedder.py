"""A sentence encoder as one SavedModel: text in, a vector out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.export.errors import ExportError
from tfllm.export.text_reader import export_text_reader
from tfllm.layers.pooling import ROW_POOLINGS
from tfllm.tokenizers import Tokenizer


def export_embedder(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_seq_len: int | None = None,
    prompt: str = "",
    version: int | None = None,
) -> Path:
    """Writes `<folder>/<version>/`, which TensorFlow Serving and any TensorFlow load without tfllm.

    Its signature `serving_default` takes `text` string [B]. It returns `vector` float32 [B, D], and `tokens_dropped`
    int32 [B], how many did not fit, counted from the end.

    Args:
        model: An `Encoder`.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        pooling: Of which tokens a vector is made: the mean of all, the first, or the last.
        normalize: Divide each vector by its length, so that a product of two is their cosine.
        max_seq_len: Tokens of a text that are read; None is as many as the model reads.
        prompt: What stands before each text.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the pooling is not known, or as for `export_saved_model`.
    """
    if pooling not in ROW_POOLINGS:
        raise ExportError(f"pooling={pooling!r} is not known; use {', '.join(ROW_POOLINGS)}")

    def answers(outputs: dict[str, tf.Tensor], mask: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = tf.cast(ROW_POOLINGS[pooling](outputs["hidden_states"], mask), tf.float32)
        # A text without tokens has no direction: its vector stays zero.
        return {"vector": tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-24) if normalize else vectors}

    return export_text_reader(
        model,
        tokenizer,
        folder,
        answers=answers,
        around=(prompt, "") if prompt else None,
        longest=max_seq_len,
        metadata={"pooling": pooling, "normalize": normalize},
        version=version,
    )
