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
    soon forgotten; the rule is that of `tf.train.ExponentialMovingAverage(num_updates=n)`. Before the
    first update the average is the weights, however they were set.

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
        self, index: int, old: tf.Tensor, new: tf.Tensor, updates: tf.Tensor, applied: tf.Tensor | None
    ) -> None:
        """Takes in a new weight. Call in a replica context.

        Args:
            index: Which of the variables.
            old: The weight before the update.
            new: The weight after it.
            updates: Updates before this one, int64 scalar.
            applied: bool scalar; where false the average stays. None is true.
        """
        variable = local(self._pairs[index][1])
        average = tf.convert_to_tensor(variable)
        count = tf.cast(updates, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + count) / (10.0 + count))
        start = tf.where(updates == 0, old, average)
        variable.assign(chosen(applied, start + (1.0 - decay) * (new - start), average))

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
