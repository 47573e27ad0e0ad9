"""Activations whose backward pass needs their inputs only.

Autodiff has XLA keep the tanh or the sigmoid of every layer until the backward pass, an array as wide as the
feed-forward network. Each gradient here computes it again, when the upstream gradient is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tfllm.layers.recompute import not_before

_Pair = tuple[tf.Tensor, tf.Tensor]

# gelu_tanh(x) = x (1 + tanh(_A (x + _B x^3))) / 2, Hendrycks & Gimpel 2016, section 2
_A = math.sqrt(2.0 / math.pi)
_B = 0.044715


@tf.custom_gradient
def gelu_tanh(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The tanh approximation of GELU: float, any shape -> the same."""
    return _gelu_tanh(x), lambda upstream: upstream * _gelu_tanh_again(not_before(upstream, x))[1]


@tf.custom_gradient
def geglu(gate: tf.Tensor, up: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], _Pair]]:
    """`gelu_tanh(gate) * up` (Shazeer 2020)."""

    def gradient(upstream: tf.Tensor) -> _Pair:
        value, slope = _gelu_tanh_again(not_before(upstream, gate))
        return upstream * up * slope, upstream * value

    return _gelu_tanh(gate) * up, gradient


@tf.custom_gradient
def swiglu(gate: tf.Tensor, up: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], _Pair]]:
    """`gate * sigmoid(gate) * up` (Shazeer 2020)."""

    def gradient(upstream: tf.Tensor) -> _Pair:
        again = not_before(upstream, gate)
        share = tf.sigmoid(again)
        value = again * share
        return upstream * up * (share + value * (1.0 - share)), upstream * value

    return gate * tf.sigmoid(gate) * up, gradient


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1.0 + tf.tanh(_A * (x + _B * x * x * x)))


def _gelu_tanh_again(x: tf.Tensor) -> _Pair:
    """Value and slope, by (1 + tanh(y)) / 2 = sigmoid(2 y)."""
    share = tf.sigmoid(2.0 * _A * (x + _B * x * x * x))
    value = x * share
    return value, share + value * (1.0 - share) * (2.0 * _A * (1.0 + 3.0 * _B * x * x))
