"""A matrix of low rank beside another: what LoRA adds to a projection."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.layers.dropout import Dropout
from tfllm.layers.projection import project


class LowRank(keras.layers.Layer):
    """Multiplies by two narrow matrices, one after the other: x·A·B (Hu et al. 2021, LoRA).

    B begins as zeros, so that nothing is added before the first update.

    Args:
        units: Width F of the result.
        rank: Width r between the two.
        scale: What the result is multiplied by.
        dropout: Share of `x` that is dropped.
    """

    def __init__(self, *, units: int, rank: int, scale: float = 1.0, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank, self.scale = units, rank, scale
        self.dropout = Dropout(rate=dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """Makes `a`, float [D, r], and `b`, float [r, F]."""
        self.dropout.build(input_shape)
        width = input_shape[-1]
        self.a = self.add_weight(
            name="a",
            shape=(width, self.rank),
            # PEFT's: Kaiming's uniform with a slope of the root of 5, which is this bound.
            initializer=keras.initializers.RandomUniform(-(width**-0.5), width**-0.5),
            autocast=False,
        )
        self.b = self.add_weight(name="b", shape=(self.rank, self.units), initializer="zeros", autocast=False)

    def call(
        self, x: tf.Tensor, result: tf.Tensor | None = None, row_seeds: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Transforms float [B, T, D] -> float [B, T, F].

        Args:
            x: The input of the projection.
            result: Its output, which is not read.
            row_seeds: int32 [B] for dropout; None drops nothing.
        """
        del result
        narrow = project(self.dropout(x, row_seeds), tf.convert_to_tensor(self.a))
        return project(narrow, tf.convert_to_tensor(self.b)) * tf.cast(self.scale, x.dtype)

    def pair(self) -> tuple[tf.Tensor, tf.Tensor]:
        """A float32 [D, r] and B float32 [r, F]."""
        a, b = (tf.cast(tf.convert_to_tensor(each), tf.float32) for each in (self.a, self.b))
        return a, b

    def product(self) -> tf.Tensor:
        """What it adds to the kernel beside it, float32 [D, F]."""
        return tf.matmul(*self.pair()) * self.scale
