import math

import numpy as np
import pytest

from tfllm.layers.feed_forward import FeedForward, FeedForwardOptions

_erf = np.vectorize(math.erf)


def gelu(x):
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


FORMULAS = {
    "gelu": (gelu, False),
    "gelu_tanh": (gelu_tanh, False),
    "relu": (lambda x: np.maximum(x, 0), False),
    "swiglu": (silu, True),
    "geglu": (gelu_tanh, True),
}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("activation", FORMULAS)
def test_every_activation_is_its_formula(activation, use_bias):
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, 3, 8])
    layer = FeedForward(FeedForwardOptions(intermediate_dim=12, activation=activation, use_bias=use_bias))
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)

    def affine(projection, x):
        return x @ projection.kernel.numpy() + (projection.bias.numpy() if use_bias else 0)

    act, gated = FORMULAS[activation]
    inside = act(affine(layer.gate, x)) * affine(layer.up, x) if gated else act(affine(layer.up, x))
    np.testing.assert_allclose(layer(x.astype(np.float32)), affine(layer.down, inside), atol=1e-5)
    assert len(layer.weights) == (2 + gated) * (1 + use_bias)


def test_the_two_gelus_differ():
    x = np.linspace(-3, 3)
    assert np.abs(gelu(x) - gelu_tanh(x)).max() > 1e-4


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation='tanh' is not known"):
        FeedForward(FeedForwardOptions(intermediate_dim=4, activation="tanh"))


def test_down_has_a_deviation_of_its_own():
    layer = FeedForward(
        FeedForwardOptions(intermediate_dim=200), initializer_range=0.5, output_initializer_range=0.1
    )
    layer.build((None, None, 100))
    deviations = [float(np.std(p.kernel)) for p in (layer.up, layer.down)]
    np.testing.assert_allclose(deviations, [0.5, 0.1], rtol=0.05)
