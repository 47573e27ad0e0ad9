"""Tell a number from a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.regression import regression_metrics
from tfllm.tasks.examples.labels import NumberLabels
from tfllm.tasks.labelled_text import LabelledTextTask

Features = dict[str, tf.Tensor]


class Regression(LabelledTextTask):
    """The square of what is missed, weighed by record.

    Args:
        tokenizer: Of no use here.
        pairs: A record is two texts.
        token_types: The model tells token types apart.
        template: As in `LabelledTextTask`.
        loss_chunk_tokens: Of no use here.
    """

    of_examples: ClassVar[Sequence[str]] = ("pearson", "spearman", "mean_absolute_error")
    metric_modes: ClassVar[Mapping[str, str]] = {
        "pearson": "max",
        "spearman": "max",
        "mean_absolute_error": "min",
        "loss": "min",
    }

    def __init__(
        self,
        *,
        tokenizer: Any,
        pairs: bool = False,
        token_types: bool = True,
        template: str | None = None,
        loss_chunk_tokens: int | None = None,
    ):
        del tokenizer, loss_chunk_tokens
        super().__init__(NumberLabels(), pairs=pairs, token_types=token_types, template=template)

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of squares, float32 scalar.

        Args:
            model: Not asked.
            features: `labels` float32 [B, S], `weights` float32 [B, S], `example_ids` int32 [B, S].
            outputs: `logits` float32 [B, S, 1].
        """
        missed = tf.square(outputs["logits"][..., 0] - features["labels"])
        return {"loss": tf.reduce_sum(missed * self.example_weights(features))}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The number said, and the label."""
        return {"segments": {"value": outputs["logits"][..., 0], "label": features["labels"]}}

    def metrics_of(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What `regression_metrics` finds."""
        values, labels = (
            np.array([each.values[name] for each in predictions], np.float64) for name in ("value", "label")
        )
        return regression_metrics(values, labels)
