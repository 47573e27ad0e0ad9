"""One pass over a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Evaluator:
    """Computes a task's metrics, each token counted once whatever the batch size.

    Sums are added in float64 on the host and divided once at the end.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `evaluation_sums` and `evaluation_metrics`.
        batches: Returns the dataset of feature dicts, from the start.
        jit_compile: Compile the forward pass with XLA.
    """

    def __init__(
        self, *, model: Any, task: Any, batches: Callable[[], tf.data.Dataset], jit_compile: bool = True
    ):
        self.task = task
        self.batches = batches

        @tf.function(jit_compile=jit_compile, reduce_retracing=True)
        def batch_sums(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return task.evaluation_sums(model, features, model(features, training=False))

        self._batch_sums = batch_sums

    def evaluate(self) -> dict[str, float]:
        """Runs over the split and returns the task's metrics by name."""
        totals: dict[str, float] = {}
        for features in self.batches():
            for name, value in self._batch_sums(features).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return self.task.evaluation_metrics(totals)
