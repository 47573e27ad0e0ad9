"""A classifier of texts as one SavedModel: text in, names and scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.export.bert_packer import BertPacker
from tfllm.export.errors import ExportError
from tfllm.export.saved_model import in_float32, save_version
from tfllm.tokenizers import Tokenizer


def export_classifier(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    pairs: bool = False,
    version: int | None = None,
) -> Path:
    """Writes `<folder>/<version>/`, which TensorFlow Serving and any TensorFlow load without tfllm.

    Its signature `serving_default` takes `text` string [B], and of pairs `text_pair` string [B]. It returns `label`
    string [B], the likeliest class; `classes` string [B, C] and `scores` float32 [B, C], the probability of each; and
    `tokens_dropped` int32 [B], how many did not fit into the model's `max_seq_len`, counted from the end.

    Args:
        model: An `Encoder` with head sequence_classification.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        class_names: Names of the classes; None is the model's own, or 0, 1, 2, … where it has none.
        pairs: Read two texts.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the model is no classifier of texts, or as for `export_saved_model`.
    """
    if getattr(model, "head", "none") != "sequence_classification":
        raise ExportError(
            "only an encoder that classifies texts can be exported so; train task.type=classification"
        )
    names = list(class_names or model.class_names or map(str, range(model.classifier.units)))
    if tokenizer.vocab_size > model.vocab_size:
        raise ExportError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}; give the model's own"
        )
    module = _module(in_float32(model), tokenizer, names, pairs)
    metadata = {"context_length": model.max_seq_len, "class_names": names}
    return save_version(
        module,
        {"serving_default": module.classify},
        folder,
        tokenizer=tokenizer,
        metadata=metadata,
        version=version,
    )


def _module(model: Any, tokenizer: Tokenizer, names: Sequence[str], pairs: bool) -> tf.Module:
    table = model.token_type_embedding
    packer = BertPacker(tokenizer, num_token_types=0 if table is None else table.vocab_size)
    special = packer.num_special(2 if pairs else 1)
    module = tf.Module(name="classifier")
    module.weights = {variable.path: variable.value for variable in model.variables}
    module.tokenizer = graph_tokenizer = tokenizer.in_graph()

    def classify(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        segments = [graph_tokenizer.encode(text) for text in texts]
        lengths = tf.cast(tf.add_n([segment.row_lengths() for segment in segments]), tf.int32) + special
        width = tf.minimum(tf.reduce_max(tf.concat([lengths, [1]], 0)), model.max_seq_len)
        packed = packer(segments, width)
        mask = packed["input_mask"] > 0
        features = {"token_ids": packed["input_word_ids"], "padding_mask": mask}
        if table is not None:
            features["token_type_ids"] = packed["input_type_ids"]
        scores = tf.nn.softmax(model(features)["logits"])
        classes = tf.tile(tf.constant([list(names)]), [tf.shape(scores)[0], 1])
        return {
            "label": tf.gather(tf.constant(list(names)), tf.argmax(scores, axis=-1)),
            "classes": classes,
            "scores": scores,
            "tokens_dropped": lengths - tf.reduce_sum(packed["input_mask"], axis=1),
        }

    inputs = ["text", "text_pair"] if pairs else ["text"]
    specs = [tf.TensorSpec([None], tf.string, name=name) for name in inputs]
    module.classify = tf.function(classify, input_signature=specs, autograph=False)
    return module
