"""Tell a number from a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.regression import regression_metrics
from tfllm.tasks.examples.labelled_text import LabelledText
from tfllm.tasks.examples.labels import NumberLabels

Features = dict[str, tf.Tensor]


class Regression:
    """The square of what is missed, weighed by record.

    Args:
        tokenizer: Of no use here.
        pairs: A record is two texts.
        loss_chunk_tokens: Of no use here.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}
    of_examples: ClassVar[Sequence[str]] = ("pearson", "spearman", "mean_absolute_error")
    metric_modes: ClassVar[Mapping[str, str]] = {
        "pearson": "max",
        "spearman": "max",
        "mean_absolute_error": "min",
        "loss": "min",
    }

    def __init__(self, *, tokenizer: Any, pairs: bool = False, loss_chunk_tokens: int | None = None):
        del tokenizer, loss_chunk_tokens
        self.pairs = pairs

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> LabelledText:
        """What tokenises the texts of a record."""
        labels = NumberLabels()
        return LabelledText(tokenizer, seq_len=seq_len, packing=packing, labels=labels, pairs=self.pairs)

    def features(self, rows: Features) -> Features:
        """The rows as they are."""
        return rows

    def weights(self, features: Features) -> Features:
        """What all examples count together, float32 scalar."""
        return {"loss": tf.reduce_sum(_weights(features))}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of squares, float32 scalar.

        Args:
            model: Not asked.
            features: `labels` float32 [B, S], `weights` float32 [B, S], `example_ids` int32 [B, S].
            outputs: `logits` float32 [B, S, 1].
        """
        missed = tf.square(outputs["logits"][..., 0] - features["labels"])
        return {"loss": tf.reduce_sum(missed * _weights(features))}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """`loss` and `weight`, float32 scalars: all else is computed of predictions."""
        return {
            "loss": self.loss(model, features, outputs)["loss"],
            "weight": self.weights(features)["loss"],
        }

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The number said, and the label."""
        return {"segments": {"value": outputs["logits"][..., 0], "label": features["labels"]}}

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`loss`, what `regression_metrics` finds, where every example counts 1, and `examples`."""
        values, labels = (
            np.array([each.values[name] for each in predictions], np.float64) for name in ("value", "label")
        )
        return {
            "loss": sums["loss"] / sums["weight"] if sums["weight"] else float("nan"),
            **regression_metrics(values, labels),
            "examples": float(len(labels)),
        }


def _weights(features: Features) -> tf.Tensor:
    return tf.where(features["example_ids"] >= 0, features["weights"], 0.0)
