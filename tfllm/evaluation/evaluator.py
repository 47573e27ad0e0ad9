"""One pass over a whole split."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Evaluator:
    """Computes a task's metrics, each token counted once whatever the batch size and the devices.

    Sums are added in float64 on the host and divided once at the end.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `evaluation_sums` and `evaluation_metrics`.
        batches: Returns the (distributed) dataset of feature dicts, from the start. Every replica gets
            the same number of batches, the last one filled up with rows of weight 0.
        strategy: The strategy that the model was made under.
        averaged: Makes the context in which the model holds the weights to evaluate.
        jit_compile: Compile the forward pass with XLA.
    """

    def __init__(
        self,
        *,
        model: Any,
        task: Any,
        batches: Callable[[], Any],
        strategy: tf.distribute.Strategy | None = None,
        averaged: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        jit_compile: bool = True,
    ):
        self.task = task
        self.batches = batches
        self.averaged = averaged
        strategy = strategy or tf.distribute.get_strategy()
        replicated = strategy.num_replicas_in_sync > 1

        @tf.function(jit_compile=jit_compile, reduce_retracing=True)
        def own_sums(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return task.evaluation_sums(model, features, model(features, training=False))

        def all_sums(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            sums = own_sums(features)
            with _own_device(strategy):
                sums = {name: tf.identity(value) for name, value in sums.items()}
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

        @tf.function(reduce_retracing=True)
        def batch_sums(features: Any) -> dict[str, tf.Tensor]:
            results = strategy.run(all_sums, args=(features,))
            return {name: strategy.experimental_local_results(x)[0] for name, x in results.items()}

        self._batch_sums = batch_sums if replicated else own_sums

    def evaluate(self) -> dict[str, float]:
        """Runs over the split and returns the task's metrics by name."""
        totals: dict[str, float] = {}
        with self.averaged():
            for features in self.batches():
                for name, value in self._batch_sums(features).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
        return self.task.evaluation_metrics(totals)


def _own_device(strategy: tf.distribute.Strategy) -> contextlib.AbstractContextManager[Any]:
    """A tensor without a device has no destination to be reduced to; replicas of one machine have theirs."""
    devices = strategy.extended.worker_devices
    return tf.device(devices[0]) if len(devices) == 1 else contextlib.nullcontext()
