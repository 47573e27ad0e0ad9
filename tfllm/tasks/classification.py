"""Tell classes of texts apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.classification import classification_metrics, confusion_matrix
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.class_weights import weights_by_class
from tfllm.tasks.examples.labels import ClassLabels
from tfllm.tasks.labelled_text import LabelledTextTask
from tfllm.tasks.multi_label import MultiLabel

Features = dict[str, tf.Tensor]


def classification(
    *,
    tokenizer: Any,
    multi_label: bool,
    balanced: bool,
    label_separator: str,
    loss_chunk_tokens: int | None,
    **settings: Any,
) -> Classification | MultiLabel:
    """Make the task of a config: one class of each text, or any number."""
    del tokenizer, balanced, loss_chunk_tokens  # the classes and their weights were found
    if multi_label:
        return MultiLabel(label_separator=label_separator, **settings)
    return Classification(**settings)


class Classification(LabelledTextTask):
    """Cross-entropy of the class of each text, weighed by class and record.

    What a record counts is its own weight times its class's, in the loss and in what the loss is divided by, as in
    PyTorch. With label smoothing (Szegedy et al. 2016) a share of what is learned is spread over all classes, each
    weighed as its own.

    Args:
        class_names: The classes C, in the order of the model's logits.
        pairs: A record is two texts.
        token_types: The model tells token types apart.
        template: As in `LabelledTextTask`.
        class_weights: What each class counts, by name; those left out count 1.
        label_smoothing: The share that is spread.

    Raises:
        TaskError: A weight is given to a class that is not there.
    """

    of_examples: ClassVar[Sequence[str]] = ("accuracy", "f1_macro", "mcc", "calibration_error")
    metric_modes: ClassVar[Mapping[str, str]] = {
        "accuracy": "max",
        "f1_macro": "max",
        "mcc": "max",
        "calibration_error": "min",
        "loss": "min",
    }

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        pairs: bool = False,
        token_types: bool = True,
        template: str | None = None,
        class_weights: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
    ):
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        super().__init__(
            ClassLabels(self.class_names), pairs=pairs, token_types=token_types, template=template
        )
        self.class_weights = weights_by_class(self.class_names, class_weights)

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: Not asked.
            features: `labels` int32 [B, S], `weights` float32 [B, S], `example_ids` int32 [B, S].
            outputs: `logits` float32 [B, S, C].
        """
        losses = -tf.nn.log_softmax(outputs["logits"])  # [B, S, C]
        labels, by_class = features["labels"], tf.constant(self.class_weights)
        own = tf.gather(losses, labels, batch_dims=2) * tf.gather(by_class, labels)
        if self.label_smoothing:
            spread = tf.reduce_mean(losses * by_class, axis=-1)
            own = (1.0 - self.label_smoothing) * own + self.label_smoothing * spread
        counted = tf.where(features["example_ids"] >= 0, own * features["weights"], 0.0)
        return {"loss": tf.reduce_sum(counted)}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The probability of each class, and the label."""
        probabilities = tf.nn.softmax(outputs["logits"])
        return {"segments": {"probabilities": probabilities, "label": features["labels"]}}

    def metrics_of(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What `classification_metrics` finds."""
        probabilities = np.array([each.values["probabilities"] for each in predictions], np.float32)
        labels = np.array([each.values["label"] for each in predictions], np.int32)
        return classification_metrics(probabilities.reshape([len(labels), -1]), labels)

    def confusion(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """How many examples of each class, a row, were taken for which, a column: int64 [C, C]."""
        said = np.array([each.values["probabilities"] for each in predictions], np.float32).argmax(axis=1)
        labels = np.array([each.values["label"] for each in predictions], np.int32)
        return confusion_matrix(said, labels, len(self.class_names))

    def example_weights(self, features: Features) -> tf.Tensor:
        """The weight of each segment, times its class's."""
        return super().example_weights(features) * tf.gather(
            tf.constant(self.class_weights), features["labels"]
        )
