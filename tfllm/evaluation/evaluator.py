"""One pass over a whole split."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfllm.evaluation.predictions import Prediction, predictions_of_batch

_PLACES = ("example_ids", "segment_ids")  # features that say whose a prediction is


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of a pass over a split.

    Args:
        metrics: By name.
        predictions: What the model said of each example, in the order of the source; of tasks that have some.
        sums: What else the metrics are made of.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    sums: dict[str, float]


class Evaluator:
    """Computes a task's metrics, each token and example counted once whatever the batch size and the devices.

    Sums are added in float64 on the host and divided once at the end. Predictions are gathered from all replicas, put
    in the order of the source, and rows that only fill up a batch are left out.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `evaluation_sums`, `predictions`, `joined` and `evaluation_metrics` (see `tfllm.tasks.task.Task`).
        batches: Returns the (distributed) dataset of feature dicts, from the start. Every replica gets
            the same number of batches, the last one filled up with rows of weight 0.
        strategy: The strategy that the model was made under.
        averaged: Makes the context in which the model holds the weights to evaluate.
        jit_compile: Compile the forward pass with XLA.
        records: Returns the records of the split's source by number, for tasks that read them.
        write: Returns predictions that are written one token after another, in the place of the task's own.
        metrics: Those to tell, beside `loss`; none named are all.
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
        records: Callable[[], Iterable[tuple[int, Any]]] | None = None,
        write: Callable[[], list[Prediction]] | None = None,
        metrics: Collection[str] = (),
    ):
        self.task = task
        self.write = write
        self.metrics = metrics
        self.records = records
        self.batches = batches
        self.averaged = averaged
        strategy = strategy or tf.distribute.get_strategy()
        replicated = strategy.num_replicas_in_sync > 1

        @tf.function(jit_compile=jit_compile, reduce_retracing=True, autograph=False)
        def own(features: dict[str, tf.Tensor]) -> tuple[Any, Any]:
            outputs = model(features, training=False)
            predictions = task.predictions(model, features, outputs)
            if predictions:
                predictions = {**predictions, **{name: features[name] for name in _PLACES}}
            return task.evaluation_sums(model, features, outputs), predictions

        def everybodys(features: dict[str, tf.Tensor]) -> tuple[Any, Any]:
            sums, predictions = own(features)
            context = tf.distribute.get_replica_context()
            with _own_device(strategy):
                sums, predictions = tf.nest.map_structure(tf.identity, (sums, predictions))
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
            return sums, context.all_gather(predictions, axis=0) if predictions else predictions

        @tf.function(reduce_retracing=True, autograph=False)
        def batch(features: Any) -> tuple[Any, Any]:
            results = strategy.run(everybodys, args=(features,))
            return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], results)

        self._batch = batch if replicated else own

    def evaluate(self) -> dict[str, float]:
        """Runs over the split and returns the task's metrics by name."""
        return self.run().metrics

    def run(self) -> Evaluation:
        """Runs over the split."""
        totals: dict[str, float] = {}
        predictions: list[Prediction] = []
        with self.averaged():
            for features in self.batches():
                sums, said = self._batch(features)
                for name, value in sums.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                predictions += _of_batch(tf.nest.map_structure(lambda x: x.numpy(), said))
            if self.write is not None:
                predictions = self.write()
        predictions = self.task.joined(self._with_records(sorted(predictions, key=lambda each: each.number)))
        metrics = self.task.evaluation_metrics(totals, predictions)
        if self.metrics:
            metrics = {name: value for name, value in metrics.items() if name in (*self.metrics, "loss")}
        return Evaluation(metrics, predictions, totals)

    def _with_records(self, predictions: list[Prediction]) -> list[Prediction]:
        if self.records is None:
            return predictions
        wanted = {each.number for each in predictions}
        records = {number: record for number, record in self.records() if number in wanted}
        return [dataclasses.replace(each, record=records[each.number]) for each in predictions]


def _of_batch(said: dict[str, Any]) -> Iterator[Prediction]:
    if said:
        example_ids, segment_ids = (said[name] for name in _PLACES)
        segments, tokens = said.get("segments", {}), said.get("tokens", {})
        yield from predictions_of_batch(example_ids, segment_ids, segments, tokens)


def _own_device(strategy: tf.distribute.Strategy) -> contextlib.AbstractContextManager[Any]:
    """A tensor without a device has no destination to be reduced to; replicas of one machine have theirs."""
    devices = strategy.extended.worker_devices
    return tf.device(devices[0]) if len(devices) == 1 else contextlib.nullcontext()
