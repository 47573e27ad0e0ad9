"""A matrix of a rank that falls, beside another: what AdaLoRA adds to a projection."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.layers.low_rank import LowRank
from tfllm.layers.projection import project

PARTS = ("a", "e", "b")


class AdaptiveLowRank(LowRank):
    """Multiplies by two narrow matrices with a scale for each direction between: x·A·diag(E)·B (Zhang et al. 2023).

    E begins as zeros, so that nothing is added before the first update. What a direction is worth is kept beside it,
    that a training may be stopped and gone on with.

    Args:
        units: Width F of the result.
        rank: Directions at the start.
        scale: What the result is multiplied by.
        dropout: Share of `x` that is dropped.
    """

    def build(self, input_shape):
        """Makes `a` float [D, r], `e` float [r], `b` float [r, F]; each with its `_worth` and `_doubt`; and `kept`."""
        self.dropout.build(input_shape)
        shapes = {"a": (input_shape[-1], self.rank), "e": (self.rank,), "b": (self.rank, self.units)}
        for name, shape in shapes.items():
            start = "zeros" if name == "e" else keras.initializers.RandomNormal(stddev=0.02)
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=start, autocast=False))
        for name, shape in shapes.items():
            for state in ("worth", "doubt"):
                weight = self.add_weight(
                    name=f"{name}_{state}", shape=shape, initializer="zeros", trainable=False, autocast=False
                )
                setattr(self, f"{name}_{state}", weight)
        self.kept = self.add_weight(
            name="kept", shape=(self.rank,), initializer="ones", trainable=False, autocast=False
        )

    def call(
        self, x: tf.Tensor, result: tf.Tensor | None = None, row_seeds: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Transforms float [B, T, D] -> float [B, T, F]; as `LowRank.call`."""
        del result
        narrow = project(self.dropout(x, row_seeds), tf.convert_to_tensor(self.a))
        narrow = narrow * tf.cast(tf.convert_to_tensor(self.e), x.dtype)
        return project(narrow, tf.convert_to_tensor(self.b)) * tf.cast(self.scale, x.dtype)

    def pair(self) -> tuple[tf.Tensor, tf.Tensor]:
        """A·diag(E) float32 [D, k] and B float32 [k, F] of the k directions that are left."""
        a, e, b = (tf.cast(tf.convert_to_tensor(getattr(self, name)), tf.float32) for name in PARTS)
        left = tf.not_equal(e, 0.0)
        return tf.boolean_mask(a * e, left, axis=1), tf.boolean_mask(b, left)
