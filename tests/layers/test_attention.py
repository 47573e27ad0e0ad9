import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.attention import Attention, AttentionContext, AttentionOptions
from tfllm.layers.dense_attention import dense_attention
from tfllm.layers.masks import causal_mask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.positions.rotary import rotary_angles, rotate

B, T, D, H = 2, 6, 8, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=[B, T, D]).astype(np.float32)


def make(num_heads=4, num_kv_heads=None, use_bias=True):
    options = AttentionOptions(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=H, use_bias=use_bias, output_bias=use_bias
    )
    layer = Attention(options, name="a")
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return layer


def naive(layer, x, mask, positions=None):
    """Attention a head, a row and a query at a time, over the visible keys only."""
    n, k = layer.num_heads, layer.num_kv_heads

    def heads(projection, count):
        y = x @ projection.kernel.numpy() + (projection.bias.numpy() if projection.use_bias else 0)
        y = y.reshape(*x.shape[:2], count, H)
        return y if positions is None else rotate(y, rotary_angles(tf.constant(positions), H, 100.0)).numpy()

    query, key = heads(layer.query, n), heads(layer.key, k)
    positions = None
    value = heads(layer.value, k)
    mixed = np.zeros([*x.shape[:2], n, H])
    scores = np.zeros([x.shape[0], n, x.shape[1], x.shape[1]])
    for b in range(x.shape[0]):
        for h in range(n):
            shared = h // (n // k)  # neighbouring query heads share a key-value head
            for t in range(x.shape[1]):
                seen = np.flatnonzero(np.broadcast_to(mask, [x.shape[0], T, T])[b, t])
                logits = key[b, seen, shared] @ query[b, t, h] / np.sqrt(H)
                weights = np.exp(logits - logits.max())
                scores[b, h, t, seen] = weights / weights.sum()
                mixed[b, t, h] = scores[b, h, t, seen] @ value[b, seen, shared]
    output = layer._output
    flat = mixed.reshape(*x.shape[:2], n * H)
    return flat @ output.kernel.numpy() + (output.bias.numpy() if output.use_bias else 0), scores


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("num_kv_heads", [None, 2, 1])
def test_attention_equals_the_naive_one(num_kv_heads, use_bias):
    layer = make(num_kv_heads=num_kv_heads, use_bias=use_bias)
    mask = causal_mask(T).numpy()
    output, scores, cache = layer(X, context=AttentionContext(mask), return_scores=True)
    expected, expected_scores = naive(layer, X, mask)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert cache is None


def test_attention_equals_the_naive_one_with_rotation_padding_and_segments():
    layer = make(num_kv_heads=2)
    mask = causal_mask(
        T,
        padding_mask=tf.constant([[True] * T, [True] * (T - 2) + [False] * 2]),
        segment_ids=tf.constant([[1, 1, 2, 2, 2, 3], [1] * T]),
    ).numpy()
    positions = np.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]], np.int32)
    angles = rotary_angles(tf.constant(positions), H, 100.0)
    output, scores, _ = layer(X, context=AttentionContext(mask, angles), return_scores=True)
    expected, expected_scores = naive(layer, X, mask, positions)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_scale_soft_cap_and_normalized_heads_are_their_formulas():
    plain = make(num_kv_heads=2)
    options = AttentionOptions(
        num_heads=4,
        num_kv_heads=2,
        head_dim=H,
        use_bias=True,
        output_bias=True,
        scale=0.7,
        soft_cap=1.5,
        head_norm=NormOptions(),
    )
    layer = Attention(options, name="a")
    layer.build((None, None, D))
    for name in ("query", "key", "value", "_output"):
        getattr(layer, name).set_weights(getattr(plain, name).get_weights())
    scales = [RNG.normal(size=H).astype(np.float32) for _ in range(2)]
    layer.query_norm.scale.assign(scales[0])
    layer.key_norm.scale.assign(scales[1])
    _, scores, _ = layer(X, context=AttentionContext(causal_mask(T)), return_scores=True)

    def heads(projection, count, scale):
        y = (X @ projection.kernel.numpy() + projection.bias.numpy()).reshape(B, T, count, H)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * scale

    query, key = heads(plain.query, 4, scales[0]), np.repeat(heads(plain.key, 2, scales[1]), 2, axis=2)
    logits = 1.5 * np.tanh(np.einsum("btnh,bsnh->bnts", query, key) * 0.7 / 1.5)
    expected = np.where(np.tril(np.ones([T, T], bool)), np.exp(logits), 0)
    np.testing.assert_allclose(scores, expected / expected.sum(-1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("use_bias", "output_bias"), [(True, False), (False, True)])
def test_the_output_may_differ_in_its_bias(use_bias, output_bias):
    options = AttentionOptions(num_heads=2, head_dim=H, use_bias=use_bias, output_bias=output_bias)
    layer = Attention(options, name="a")
    layer.build((None, None, D))
    biases = {v.path for v in layer.variables if v.path.endswith("bias")}
    expected = {f"a/{name}/bias" for name in ("query", "key", "value")} if use_bias else {"a/output/bias"}
    assert biases == expected


def test_a_query_that_sees_nothing_stays_finite():
    output, scores, _ = make()(X, context=AttentionContext(np.zeros([1, T, T], bool)), return_scores=True)
    assert np.isfinite(output).all()
    np.testing.assert_allclose(np.sum(scores, -1), 1.0, atol=1e-6)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="num_heads=4 must be divisible by num_kv_heads=3"):
        make(num_kv_heads=3)


@pytest.mark.parametrize("num_kv_heads", [None, 2])
def test_what_is_remembered_of_another_sequence_is_read(num_kv_heads):
    layer = make(num_kv_heads=num_kv_heads)
    other = RNG.normal(size=[B, 5, D]).astype(np.float32)
    mask = np.array([[[True] * 5], [[True, False, True, True, False]]])
    output, scores, cache = layer(
        X, context=AttentionContext(mask), memory=layer.remember(other), return_scores=True
    )

    def heads(x, projection, count):
        return (x @ projection.kernel.numpy() + projection.bias.numpy()).reshape(B, -1, count, H)

    query, shared = heads(X, layer.query, 4), 4 // layer.num_kv_heads
    key, value = (
        np.repeat(heads(other, each, layer.num_kv_heads), shared, axis=2) for each in (layer.key, layer.value)
    )
    logits = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(H)
    weights = np.where(mask[:, None], np.exp(logits), 0)
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bnts,bsnh->btnh", weights, value).reshape(B, T, -1)
    np.testing.assert_allclose(scores, weights, atol=1e-5)
    np.testing.assert_allclose(output, mixed @ layer._output.kernel.numpy() + layer._output.bias, atol=1e-5)
    assert cache is None


def test_a_bias_of_each_query_head_goes_with_shared_keys():
    query, key, value = (
        tf.constant(RNG.normal(size=shape), tf.float32)
        for shape in ([B, T, 4, H], [B, 2, T, H], [B, 2, T, H])
    )
    bias = tf.constant(RNG.normal(size=[1, 4, T, T]), tf.float32)
    mixed, scores = dense_attention(query, key, value, causal_mask(T), scale=0.5, bias=bias)
    apart = (tf.repeat(x, 2, axis=1) for x in (key, value))
    expected, expected_scores = dense_attention(query, *apart, causal_mask(T), scale=0.5, bias=bias)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    np.testing.assert_allclose(tf.reshape(mixed, [B, T, 4, H]), tf.reshape(expected, [B, T, 4, H]), atol=1e-6)
