"""LayerNorm and RMSNorm, computed in float32 whatever the policy."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf


class RMSNorm(keras.layers.Layer):
    """Root-mean-square normalization (Zhang & Sennrich 2019), as Llama uses it.

    Args:
        epsilon: Added to the mean square.
        unit_offset: The learned scale is what is added to one, as Gemma keeps it.
    """

    def __init__(self, *, epsilon: float = 1e-5, unit_offset: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.unit_offset = unit_offset

    def build(self, input_shape):
        """Makes `scale`, float [D]."""
        initializer = "zeros" if self.unit_offset else "ones"
        self.scale = self.add_weight(
            name="scale", shape=(input_shape[-1],), initializer=initializer, autocast=False
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalizes over the last axis: float [..., D] -> the same."""
        y = tf.cast(x, tf.float32)
        y = y * tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + self.epsilon)
        scale = tf.cast(self.scale, tf.float32)
        return tf.cast(y * (1.0 + scale if self.unit_offset else scale), x.dtype)


class LayerNorm(keras.layers.Layer):
    """Layer normalization (Ba et al. 2016).

    Args:
        epsilon: Added to the variance.
        use_bias: Adds a learned offset.
    """

    def __init__(self, *, epsilon: float = 1e-5, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.use_bias = use_bias

    def build(self, input_shape):
        """Makes `scale` and, where asked for, `bias`, float [D]."""
        self.scale = self.add_weight(
            name="scale", shape=(input_shape[-1],), initializer="ones", autocast=False
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(input_shape[-1],), initializer="zeros", autocast=False
            )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalizes over the last axis: float [..., D] -> the same."""
        y = tf.cast(x, tf.float32)
        y = y - tf.reduce_mean(y, axis=-1, keepdims=True)
        y = y * tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + self.epsilon)
        y = y * tf.cast(self.scale, tf.float32)
        if self.use_bias:
            y = y + tf.cast(self.bias, tf.float32)
        return tf.cast(y, x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormOptions:
    """Which norm, with what concerns it.

    Args:
        kind: layer_norm or rms_norm.
        epsilon: Added to the variance or mean square.
        use_bias: Of layer_norm: adds a learned offset.
        unit_offset: Of rms_norm: the learned scale is what is added to one.
    """

    kind: str = "rms_norm"
    epsilon: float = 1e-5
    use_bias: bool = False
    unit_offset: bool = False

    def make(self, name: str, dtype: keras.DTypePolicy) -> keras.layers.Layer:
        """Returns the layer.

        Raises:
            ValueError: when the kind is not known.
        """
        if self.kind == "rms_norm":
            return RMSNorm(epsilon=self.epsilon, unit_offset=self.unit_offset, name=name, dtype=dtype)
        if self.kind == "layer_norm":
            return LayerNorm(epsilon=self.epsilon, use_bias=self.use_bias, name=name, dtype=dtype)
        raise ValueError(f"norm={self.kind!r} is not known; use layer_norm or rms_norm")
