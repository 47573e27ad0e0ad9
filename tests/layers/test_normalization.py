import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.normalization import LayerNorm, NormOptions, RMSNorm

X = np.random.default_rng(0).normal(2.0, 3.0, [2, 5, 16]).astype(np.float32)


def built(norm):
    norm.build(X.shape)
    rng = np.random.default_rng(1)
    for weight in norm.weights:
        weight.assign(rng.normal(size=weight.shape))
    return norm


def test_rms_norm_is_its_formula():
    norm = built(RMSNorm(epsilon=0.3))
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.3) * norm.scale.numpy()
    np.testing.assert_allclose(norm(X), expected, atol=1e-5)


def test_a_unit_offset_is_added_to_the_scale():
    norm, plain = built(RMSNorm(unit_offset=True)), built(RMSNorm())
    plain.scale.assign(1.0 + norm.scale)
    np.testing.assert_allclose(norm(X), plain(X), atol=1e-6)
    new = RMSNorm(unit_offset=True)
    np.testing.assert_array_equal(new(X), RMSNorm()(X))
    assert not new.scale.numpy().any()


@pytest.mark.parametrize("use_bias", [True, False])
def test_layer_norm_is_keras_layer_norm(use_bias):
    norm = built(LayerNorm(epsilon=0.3, use_bias=use_bias))
    peer = keras.layers.LayerNormalization(epsilon=0.3, center=use_bias)
    peer.build(X.shape)
    peer.set_weights(norm.get_weights())
    assert len(norm.weights) == 1 + use_bias
    np.testing.assert_allclose(norm(X), peer(X), atol=1e-5)


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm"])
def test_norms_compute_in_float32_under_bfloat16(kind):
    x = tf.cast(X * 10 + 100, tf.bfloat16)
    half = NormOptions(kind=kind, use_bias=True).make("norm", "mixed_bfloat16")
    whole = NormOptions(kind=kind, use_bias=True).make("norm", "float32")
    result = half(x)
    assert result.dtype == tf.bfloat16
    # Equal to the last bit: only the result is rounded, nothing on the way.
    np.testing.assert_array_equal(result, tf.cast(whole(tf.cast(x, tf.float32)), tf.bfloat16))
    assert half.scale.dtype == "float32"


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm='batch' is not known"):
        NormOptions(kind="batch").make("norm", "float32")
