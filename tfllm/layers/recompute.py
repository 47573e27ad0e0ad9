"""Less memory for more arithmetic: what the backward pass needs, computed again instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recompute(function: Callable[..., tf.Tensor], *inputs: tf.Tensor | None) -> tf.Tensor:
    """Calls a function whose inside the backward pass computes again (Chen et al. 2016).

    `tf.recompute_grad` does the same, but adds its inputs to a value that compilers find to be zero, so
    that the second computation may be merged with the first, and takes no integers.

    Args:
        function: Of the inputs, and of variables and other tensors it refers to; those stay as they are.
            Called once here, and once more where a gradient is asked for. It must be pure.
        inputs: Tensors, the first float; no gradient flows to integers and booleans. None is passed on.

    Returns:
        What `function(*inputs)` returns.
    """
    with tf.GradientTape() as probe:
        output = function(*inputs)
    variables = probe.watched_variables()
    floats = [index for index, x in enumerate(inputs) if x is not None and x.dtype.is_floating]

    @tf.custom_gradient
    def attach(*values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        del values

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            again = [x if x is None else not_before(upstream, x) for x in inputs]
            sources = [again[index] for index in floats]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                result = function(*again)
            return tape.gradient(
                result,
                [*sources, *variables],
                output_gradients=upstream,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        return output, gradient

    return attach(*(inputs[index] for index in floats), *map(tf.convert_to_tensor, variables))


def not_before(upstream: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`x`, as a value that cannot be had before `upstream`, nor be told to be the same.

    Without it, the executor of plain graphs would compute again at once, in the forward pass, and XLA
    would find both computations equal and keep the first, or do the second early and hold the result. No
    number is both infinite and not a number, but no compiler pass knows; and a value that is not finite
    gives zero too, and so stays visible.

    Args:
        upstream: float, any shape but an empty one: a gradient.
        x: Numbers or booleans, any shape.
    """
    first = tf.reshape(upstream, [-1])[0]
    zero = tf.math.is_inf(first) & tf.math.is_nan(first)
    return x | zero if x.dtype.is_bool else x + tf.cast(zero, x.dtype)
