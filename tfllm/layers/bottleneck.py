"""A narrow network behind a projection: the adapter of Houlsby et al. (2019)."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.layers.feed_forward import activate
from tfllm.layers.projection import project


class Bottleneck(keras.layers.Layer):
    """Adds up(act(down(y))) to what a projection made, y.

    `up` begins as zeros, so that nothing is added before the first update.

    Args:
        units: Width F of y.
        width: Width W inside.
        activation: A name that `activate` knows.
    """

    def __init__(self, *, units: int, width: int, activation: str = "gelu", **kwargs):
        super().__init__(**kwargs)
        self.units, self.width, self.activation = units, width, activation

    def build(self, input_shape):
        """Makes `down` and `up`, float [F, W] and [W, F], and their biases; the shape is that of the projection's."""
        del input_shape
        drawn = keras.initializers.TruncatedNormal(stddev=0.01)  # Houlsby et al.: near the identity
        shapes = {
            "down": (self.units, self.width),
            "down_bias": (self.width,),
            "up": (self.width, self.units),
            "up_bias": (self.units,),
        }
        for name, shape in shapes.items():
            start = drawn if name == "down" else "zeros"
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=start, autocast=False))

    def call(self, x: tf.Tensor, result: tf.Tensor, row_seeds: tf.Tensor | None = None) -> tf.Tensor:
        """What is added to the result of a projection, float [B, T, F]; see `Projection.add_beside`."""
        del x, row_seeds
        down, down_bias, up, up_bias = map(
            tf.convert_to_tensor, (self.down, self.down_bias, self.up, self.up_bias)
        )
        return project(activate(self.activation, project(result, down, down_bias)), up, up_bias)
