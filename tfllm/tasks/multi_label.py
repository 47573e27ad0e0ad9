"""Tell which of several classes a text has: none, one or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.classification import multi_label_metrics
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.class_weights import weights_by_class
from tfllm.tasks.examples.labels import ClassSetLabels
from tfllm.tasks.labelled_text import LabelledTextTask

Features = dict[str, tf.Tensor]


class MultiLabel(LabelledTextTask):
    """The binary cross-entropy of each class, in the mean over the classes, weighed by class and record.

    With equal weights of the classes it is `torch.nn.BCEWithLogitsLoss`, which transformers takes too. With label
    smoothing a share of what is learned of each class is spread over yes and no.

    Args:
        class_names: The classes C, in the order of the model's logits.
        pairs: A record is two texts.
        token_types: The model tells token types apart.
        template: As in `LabelledTextTask`.
        class_weights: What each class counts, by name; those left out count 1.
        label_smoothing: The share that is spread.
        label_separator: What stands between names where a label is one text.

    Raises:
        TaskError: A weight is given to a class that is not there.
    """

    of_examples: ClassVar[Sequence[str]] = ("f1_micro", "f1_macro", "exact_match")
    metric_modes: ClassVar[Mapping[str, str]] = {
        "f1_micro": "max",
        "f1_macro": "max",
        "exact_match": "max",
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
        label_separator: str = ",",
    ):
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing
        self.sets = ClassSetLabels(self.class_names, label_separator)
        super().__init__(self.sets, pairs=pairs, token_types=token_types, template=template)
        self.class_weights = weights_by_class(self.class_names, class_weights)

    def features(self, rows: Features) -> Features:
        """The rows, and of each segment whether it has each class: `labels` float32 [B, S, C]."""
        places = [self.sets.place(index) for index in range(len(self.class_names))]
        bits = [tf.bitwise.right_shift(rows[name], bit) & 1 for name, bit in places]
        kept = {name: value for name, value in rows.items() if name not in self.sets.names}
        return {**kept, "labels": tf.cast(tf.stack(bits, axis=-1), tf.float32)}

    def weights(self, features: Features) -> Features:
        """What all examples count together, float32 scalar."""
        return {"loss": tf.reduce_sum(self.example_weights(features)) * float(self.class_weights.mean())}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum over examples of the mean over classes, in nats, float32 scalar.

        Args:
            model: Not asked.
            features: `labels` float32 [B, S, C], `weights` float32 [B, S], `example_ids` int32 [B, S].
            outputs: `logits` float32 [B, S, C].
        """
        labels = (1.0 - self.label_smoothing) * features["labels"] + 0.5 * self.label_smoothing
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs["logits"])
        own = tf.reduce_mean(losses * tf.constant(self.class_weights), axis=-1)
        return {"loss": tf.reduce_sum(own * self.example_weights(features))}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The probability of each class, and which there are."""
        probabilities = tf.math.sigmoid(outputs["logits"])
        return {"segments": {"probabilities": probabilities, "labels": features["labels"]}}

    def metrics_of(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What `multi_label_metrics` finds."""
        shape = [len(predictions), len(self.class_names)]
        said, meant = (
            np.array([each.values[name] for each in predictions], np.float32).reshape(shape) > 0.5
            for name in ("probabilities", "labels")
        )
        return multi_label_metrics(said, meant)
