"""The exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from tfllm.training.replica import chosen, local


class WeightAverage:
    """Averages the weights over the updates (Polyak & Juditsky 1992), exponentially.

    The decay of update n, counted from 0, is min(decay, (1+n)/(10+n)), so that the first weights are
    soon forgotten; the rule is that of `tf.train.ExponentialMovingAverage(num_updates=n)`. The average
    starts as the weights after the first update.

    Args:
        variables: The model's.
        decay: The largest decay, between 0 and 1.
    """

    def __init__(self, variables: Sequence[keras.Variable], *, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay={decay} must lie between 0 and 1, e.g. 0.999")
        self.decay = decay
        self._pairs = [
            (v, keras.Variable("zeros", shape=v.shape, dtype="float32", trainable=False, name="average"))
            for v in variables
        ]
        self._exchanged = False

    @property
    def named_variables(self) -> dict[str, keras.Variable]:
        """The averages, by `ema/<path>`."""
        return {f"ema/{variable.path}": average for variable, average in self._pairs}

    def update(
        self, weights: Sequence[tf.Tensor], updates: tf.Tensor, applied: tf.Tensor | None = None
    ) -> None:
        """Takes in new weights. Call in a replica context.

        Args:
            weights: The variables' values after an update.
            updates: Updates before this one, int64 scalar.
            applied: bool scalar; where false the average stays. None is true.
        """
        count = tf.cast(updates, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + count) / (10.0 + count))
        pull = tf.where(updates == 0, 1.0, 1.0 - decay)
        for weight, (_, mirrored) in zip(weights, self._pairs, strict=True):
            variable = local(mirrored)
            average = tf.convert_to_tensor(variable)
            variable.assign(chosen(applied, average + pull * (weight - average), average))

    @contextlib.contextmanager
    def exchanged(self) -> Iterator[None]:
        """Exchanges weights and averages, and exchanges them back at the end, whatever happens inside.

        Call outside graphs and replicas.
        """
        if self._exchanged:
            raise RuntimeError("the weights are their average already; leave the inner `averaged()` out")
        done: list[tuple[keras.Variable, keras.Variable]] = []
        self._exchanged = True
        try:
            for pair in self._pairs:
                _exchange(*pair)
                done.append(pair)
            yield
        finally:
            for pair in done:
                _exchange(*pair)
            self._exchanged = False


def _exchange(variable: keras.Variable, average: keras.Variable) -> None:
    weight = tf.identity(variable.value)
    variable.assign(tf.identity(average.value))
    average.assign(weight)
