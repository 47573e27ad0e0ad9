"""Gradients by hand, beside autodiff of TensorFlow's own activations."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.activations import geglu, gelu_tanh, swiglu

_tf_gelu = functools.partial(tf.nn.gelu, approximate=True)
PEERS = {
    gelu_tanh: _tf_gelu,
    geglu: lambda gate, up: _tf_gelu(gate) * up,
    swiglu: lambda gate, up: tf.nn.silu(gate) * up,
}


def with_gradients(activation, arguments, upstream):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = activation(*arguments)
    return result, *tape.gradient(result, arguments, upstream)


def inputs(activation, dtype=tf.float32):
    count = 1 if activation is gelu_tanh else 2
    rng = np.random.default_rng(0)
    # From where everything is zero to where everything passes, and zero itself.
    gate = np.concatenate([np.linspace(-30, 30, 241), np.linspace(-4, 4, 400)])
    others = rng.normal(size=[2, gate.size])
    arguments = [tf.cast(x, dtype) for x in (gate, others[0])[:count]]
    return arguments, tf.cast(others[1], dtype)


@pytest.mark.parametrize("activation", PEERS)
@pytest.mark.parametrize("jit_compile", [None, True])
def test_values_and_gradients_are_tensorflows(activation, jit_compile):
    arguments, upstream = inputs(activation)
    doubles = [tf.cast(x, tf.float64) for x in arguments]
    theirs = with_gradients(PEERS[activation], doubles, tf.cast(upstream, tf.float64))
    # A few roundings of the share that passes, times all that it may multiply.
    size = np.prod([1.0 + np.abs(x) for x in (*arguments, upstream)], axis=0)
    ours = functools.partial(with_gradients, activation)
    if jit_compile:
        ours = tf.function(ours, jit_compile=True, autograph=False)
    for mine, other in zip(ours(arguments, upstream), theirs, strict=True):
        assert (np.abs(np.asarray(mine) - np.asarray(other)) / size).max() < 3e-7
        assert np.abs(other).max() > 1


@pytest.mark.parametrize("activation", PEERS)
def test_bfloat16_stays_bfloat16_and_close(activation):
    arguments, upstream = inputs(activation, tf.bfloat16)
    ours = with_gradients(activation, arguments, upstream)
    whole = with_gradients(
        PEERS[activation], [tf.cast(x, tf.float32) for x in arguments], tf.cast(upstream, tf.float32)
    )
    for mine, exact in zip(ours, whole, strict=True):
        assert mine.dtype == tf.bfloat16
        # 8 bits a rounding, about five roundings on the way; the cube alone loses one in 64 at x = 3.
        np.testing.assert_allclose(tf.cast(mine, tf.float32), exact, rtol=0.05, atol=0.1)
