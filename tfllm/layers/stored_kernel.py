"""Matrices that are only read, stored in fewer bytes than they are multiplied in."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_LARGEST = 127.0


class KernelPolicy(keras.DTypePolicy):
    """A policy whose matrices inside blocks are stored in a type of their own, and never trained.

    Args:
        name: What computes, and what stores all else, as of `keras.DTypePolicy`.
        kernel_dtype: bfloat16, or int8 with a scale for each output.
    """

    def __init__(self, name: str, kernel_dtype: str):
        super().__init__(name)
        self.kernel_dtype = kernel_dtype

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "kernel_dtype": self.kernel_dtype}


class Int8Kernel(keras.Variable):
    """A matrix int8 [D, F] that takes floats: it is rounded to 127 steps of the largest number of each column.

    Args:
        shape: D and F.
        name: As of `keras.Variable`.

    Attributes:
        scale: float32 [F], what a column is multiplied by to be what it was.
    """

    def __init__(self, shape: tuple[int, int], *, name: str):
        super().__init__("zeros", shape=shape, dtype="int8", trainable=False, autocast=False, name=name)
        self.scale = keras.Variable(
            "ones", shape=shape[1:], dtype="float32", trainable=False, autocast=False, name=f"{name}_scale"
        )

    def assign(self, value: Any) -> Any:
        """Takes a matrix float [D, F], or one int8 [D, F] as it is."""
        value = tf.convert_to_tensor(value)
        if value.dtype.is_floating:
            value, scale = _quantized(tf.cast(value, tf.float32))
            self.scale.assign(scale)
        return super().assign(value)


def stored_dtype(layer: keras.layers.Layer) -> str | None:
    """Return what the matrix of a layer is stored in, where that is not what its policy says of all variables."""
    dtype = getattr(layer.dtype_policy, "kernel_dtype", None)
    return dtype if in_block(layer.path) else None


def in_block(path: str) -> bool:
    """Return whether a layer of this path is in a block of the model."""
    return "/block_" in path


def floats(variable: Any) -> tf.Tensor:
    """Return the numbers that a variable stands for, float32 where it holds fewer bytes."""
    value = tf.convert_to_tensor(variable)
    if isinstance(variable, Int8Kernel):
        return tf.cast(value, tf.float32) * tf.convert_to_tensor(variable.scale)
    return tf.cast(value, tf.float32) if value.dtype.is_floating else value


def rounded(kernel: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return a matrix float [D, F] as it is when it has been stored in another type, in its own."""
    if dtype == "int8":
        value, scale = _quantized(tf.cast(kernel, tf.float32))
        return tf.cast(tf.cast(value, tf.float32) * scale, kernel.dtype)
    return tf.cast(tf.cast(kernel, dtype), kernel.dtype)


def _quantized(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    scale = tf.reduce_max(tf.abs(kernel), 0) / _LARGEST
    scale = tf.where(scale > 0.0, scale, 1.0)  # of a column of zeros
    return tf.cast(tf.round(kernel / scale), tf.int8), scale
