"""What a task is: rows, loss, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from tfllm.data.examples import ExampleMaker
from tfllm.evaluation.predictions import Prediction

Features = dict[str, tf.Tensor]


class Task(Protocol):
    """Turns records into examples, examples into features, and a model's outputs into a loss and into predictions.

    A loss has named terms. Each is a sum over a batch and has a weight, a sum too, that follows from the features
    alone: the train step divides once, by each term's weight over the whole global batch, so that neither replicas nor
    microbatches show. A mean of means is a bug.

    A task whose predictions are of examples one by one names in `of_examples` the metrics that are made of them alone:
    of these intervals can be told.
    """

    @property
    def coefficients(self) -> Mapping[str, float]:
        """What the mean of each term is multiplied by in the loss; its keys are the terms, in order."""
        ...

    @property
    def metric_modes(self) -> Mapping[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        ...

    @property
    def aligned(self) -> Mapping[str, str]:
        """The side of each feature that `features` adds and that goes with tokens, [B, T, …]."""
        ...

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> ExampleMaker:
        """Return what makes examples of records, offline and without TensorFlow."""
        ...

    def features(self, rows: Features) -> Features:
        """Return the features of a batch, from its rows at their full length; part of the input pipeline's graph.

        Args:
            rows: What the rows' layout holds, `positions` and `row_seeds` int32 [B], from which alone what is random
                is drawn: so a row is masked alike whatever the batch size, the replicas, or a restart.
        """
        ...

    def weights(self, features: Features) -> Features:
        """Return the weight of each term, float32 scalars, from the features alone."""
        ...

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """Return the sum of each term over the batch, float32 scalars."""
        ...

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Return sums over a batch, float32 scalars, that metrics are made of."""
        ...

    def predictions(self, model: Any, features: Features, outputs: Features) -> Mapping[str, Features]:
        """Return what the model says of each example: `segments` [B, S, …] and `tokens` [B, T, …]; or nothing."""
        ...

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Return what is said of each example, of what is said of its segments: all of a split, in order."""
        ...

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """Return the metrics of a whole split."""
        ...
