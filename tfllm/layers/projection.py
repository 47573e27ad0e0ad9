"""A matrix product over the last axis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from tfllm.layers.recompute import not_before
from tfllm.layers.sizes import sizes
from tfllm.layers.stored_kernel import Int8Kernel, stored_dtype


def project(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None, *, transpose_kernel: bool = False
) -> tf.Tensor:
    """Multiplies the last axis by a matrix, as one product of two matrices, in the type of `x`.

    `einsum("BTD,DF->BTF")` says the same, but its gradient contracts B and T together, and XLA on CPU
    lowers that to a broadcast of all four axes: forty times the memory and a hundredth of the speed.

    The gradients of kernel and bias are summed over rows in float32 whatever the type of `x`. So parts
    of a batch, on several devices or one after another, add up to the gradient of the whole.

    Args:
        x: float [B, T, D].
        kernel: float32 [D, F], or [F, D] when transposed.
        bias: float32 [F], added to the product.
        transpose_kernel: Multiply by the transpose.

    Returns:
        float [B, T, F].
    """
    rows, places, _ = sizes(x)
    width = kernel.shape[0 if transpose_kernel else 1]
    flat = tf.reshape(x, [-1, x.shape[-1]])
    product = _product(flat, kernel, bias, transpose_kernel=transpose_kernel)
    return tf.reshape(product, [rows, places, width])


def _product(
    flat: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, *, transpose_kernel: bool
) -> tf.Tensor:
    @tf.custom_gradient
    def multiply(
        flat: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        low = tf.cast(kernel, flat.dtype)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            by_flat = tf.matmul(upstream, low, transpose_b=not transpose_kernel)
            high, rows = tf.cast(upstream, kernel.dtype), tf.cast(flat, kernel.dtype)
            left, right = (high, rows) if transpose_kernel else (rows, high)
            by_kernel = tf.matmul(left, right, transpose_a=True)
            return [by_flat, by_kernel, *(_sum_of_rows(high) for _ in bias)]

        product = tf.matmul(flat, low, transpose_b=transpose_kernel)
        return product + tf.cast(bias[0], flat.dtype) if bias else product, gradient

    return multiply(flat, kernel, *([] if bias is None else [bias]))


def project_stored(
    x: tf.Tensor, kernel: tf.Tensor, scale: tf.Tensor | None = None, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """Multiplies the last axis by a matrix that has no gradient and is stored in few bytes.

    It is widened where it is multiplied, and once more in the backward pass, so that no wide copy lives in between.
    The scale multiplies the product, for whole numbers up to 127 are exact in any type that computes; in float16, where
    their sums could be infinite, it multiplies the matrix.

    Args:
        x: float [B, T, D].
        kernel: bfloat16 or int8 [D, F].
        scale: float32 [F], of the matrix's columns; None is 1.
        bias: float32 [F], added to the product; it may have a gradient.

    Returns:
        float [B, T, F].
    """
    rows, places, _ = sizes(x)
    flat = tf.reshape(x, [-1, x.shape[-1]])

    @tf.custom_gradient
    def multiply(
        flat: tf.Tensor, *bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            again, rest = _widened(not_before(upstream, kernel), scale, upstream.dtype)
            by_flat = tf.matmul(_scaled(upstream, rest), again, transpose_b=True)
            return [by_flat, *(_sum_of_rows(tf.cast(upstream, tf.float32)) for _ in bias)]

        wide, rest = _widened(kernel, scale, flat.dtype)
        product = _scaled(tf.matmul(flat, wide), rest)
        return product + tf.cast(bias[0], flat.dtype) if bias else product, gradient

    product = multiply(flat, *([] if bias is None else [bias]))
    return tf.reshape(product, [rows, places, kernel.shape[1]])


def _widened(
    kernel: tf.Tensor, scale: tf.Tensor | None, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """A stored matrix in another type, and the scale that its product is yet to be multiplied by."""
    if scale is None or dtype != tf.float16:
        return tf.cast(kernel, dtype), scale
    return tf.cast(tf.cast(kernel, tf.float32) * scale, dtype), None


def _scaled(x: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
    return x if scale is None else x * tf.cast(scale, x.dtype)


def _sum_of_rows(x: tf.Tensor) -> tf.Tensor:
    """float [N, F] -> [F]. As a product of matrices, for XLA on CPU takes five times as long over the reduction."""
    return tf.matmul(tf.ones([2, sizes(x)[0]], x.dtype), x)[0]


def new_weights(initializer_range: float) -> keras.initializers.Initializer | str:
    """Draws weights of a standard deviation; of zero it draws nothing, for weights that are read from a file."""
    return keras.initializers.RandomNormal(stddev=initializer_range) if initializer_range else "zeros"


class Projection(keras.layers.Layer):
    """Multiplies the last axis by a learned matrix, and adds a bias where asked for.

    Under a `KernelPolicy`, the matrix of one inside a block is stored as that says.

    Args:
        units: Width of the result.
        use_bias: Adds a learned offset.
        initializer_range: Standard deviation of the new kernel.
    """

    def __init__(self, *, units: int, use_bias: bool = False, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer_range = initializer_range
        self.beside: keras.layers.Layer | None = None

    def build(self, input_shape):
        """Makes `kernel`, float or int8 [D, F], and `bias`, float [F]."""
        shape, self._stored = (input_shape[-1], self.units), stored_dtype(self)
        drawn = new_weights(
            self.initializer_range
        )  # made in any case, for each is a step of the seeds of those after it
        if self._stored == "int8":
            self.kernel = Int8Kernel(shape, name="kernel")
        else:
            self.kernel = self.add_weight(
                name="kernel",
                shape=shape,
                dtype=self._stored,
                initializer="zeros" if self._stored else drawn,
                trainable=self._stored is None,
                autocast=False,
            )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros", autocast=False)

    def add_beside(self, layer: keras.layers.Layer) -> None:
        """Puts a layer beside the matrix, whose result is added.

        Args:
            layer: The layer, not built. It is called with float [B, T, D], what the matrix made of it, float
                [B, T, F], and `row_seeds`, and returns float [B, T, F].
        """
        self._tracker.unlock()  # Keras closes a layer that is built; its own LoRA opens it so too
        self.beside = layer
        self._tracker.lock()
        with contextlib.ExitStack() as scopes:  # so that its variables are named below the projection
            for name in self.path.split("/"):
                scopes.enter_context(keras.name_scope(name))
            layer.build((None, None, self.kernel.shape[0]))

    def remove_beside(self) -> None:
        """Takes away what stands beside the matrix."""
        self._tracker.unlock()
        self._layers.remove(self.beside)
        self.beside = None
        self._tracker.lock()

    def call(self, x: tf.Tensor, row_seeds: tf.Tensor | None = None) -> tf.Tensor:
        """Projects float [B, T, D] -> float [B, T, F]; `row_seeds` int32 [B] are for what stands beside the matrix."""
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else None
        kernel = tf.convert_to_tensor(self.kernel)
        if self._stored is None:
            result = project(x, kernel, bias)
        else:
            scale = tf.convert_to_tensor(self.kernel.scale) if self._stored == "int8" else None
            result = project_stored(x, kernel, scale, bias)
        return result if self.beside is None else result + self.beside(x, result, row_seeds)
