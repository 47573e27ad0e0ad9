"""A classifier of texts as one SavedModel: text in, names and scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.export.errors import ExportError
from tfllm.export.text_reader import export_text_reader
from tfllm.tokenizers import Tokenizer


def export_classifier(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    pairs: bool = False,
    around: tuple[str, str] | None = None,
    version: int | None = None,
) -> Path:
    """Writes `<folder>/<version>/`, which TensorFlow Serving and any TensorFlow load without tfllm.

    Its signature `serving_default` takes `text` string [B], and of pairs `text_pair` string [B]. It returns `label`
    string [B], the likeliest class; `classes` string [B, C] and `scores` float32 [B, C], the probability of each; and
    `tokens_dropped` int32 [B], how many did not fit into the model's `max_seq_len`, counted from the end.
    Where a text may have any number of classes there is no `label`, and each score is one of yes and no.

    Args:
        model: An `Encoder` or `Decoder` with head sequence_classification.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        class_names: Names of the classes; None is the model's own, or 0, 1, 2, … where it has none.
        pairs: Read two texts.
        around: What stands before a text and behind it, of the template it was trained in; None is nothing.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the model is no classifier of texts, or as for `export_saved_model`.
    """
    if getattr(model, "head", "none") != "sequence_classification":
        raise ExportError(
            "only a model that classifies texts can be exported so; train task.type=classification"
        )
    names = list(class_names or model.class_names or map(str, range(model.classifier.units)))

    def answers(outputs: dict[str, tf.Tensor], mask: tf.Tensor) -> dict[str, tf.Tensor]:
        del mask
        logits = outputs["logits"]
        classes = tf.tile(tf.constant([names]), [tf.shape(logits)[0], 1])
        if model.multi_label:
            return {"classes": classes, "scores": tf.math.sigmoid(logits)}
        likeliest = tf.gather(tf.constant(names), tf.argmax(logits, axis=-1))
        return {"label": likeliest, "classes": classes, "scores": tf.nn.softmax(logits)}

    metadata = {"class_names": names}
    return export_text_reader(
        model,
        tokenizer,
        folder,
        answers=answers,
        pairs=pairs,
        around=around,
        metadata=metadata,
        version=version,
    )
