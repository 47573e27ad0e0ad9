import types

import numpy as np
import pytest
import tensorflow as tf

from tfllm.config.attention import relative_problems
from tfllm.layers.positions.relative import RelativeBias, bucket_problem, distance_buckets


def test_buckets_are_those_of_the_paper():
    """T5's own numbers: 32 buckets, 128 tokens. What `transformers` has for some distances."""
    both = np.array(distance_buckets(32, 128, bidirectional=True))
    past = np.array(distance_buckets(32, 128, bidirectional=False))
    distances = [-128, -127, -91, -90, -20, -12, -8, -7, -1, 0, 1, 7, 8, 11, 12, 64, 128]
    assert both[np.array(distances) + 128].tolist() == [
        15,
        15,
        15,
        14,
        10,
        9,
        8,
        7,
        1,
        0,
        17,
        23,
        24,
        24,
        25,
        30,
        31,
    ]
    assert past[np.array(distances) + 128].tolist() == [
        31,
        31,
        29,
        29,
        17,
        12,
        8,
        7,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("queries", "keys", "first"), [(5, 5, 0), (1, 9, 4), (1, 1, 0), (4, 7, 2), (30, 30, 0)]
)
def test_each_place_has_the_number_of_its_bucket(bidirectional, queries, keys, first):
    layer = RelativeBias(num_heads=3, num_buckets=8, max_distance=11, bidirectional=bidirectional)
    layer.build()
    table = np.random.default_rng(0).normal(size=[8, 3]).astype(np.float32)
    layer.embeddings.assign(table)
    distances = np.arange(keys)[None, :] - (np.arange(queries) + first)[:, None]
    buckets = np.array(distance_buckets(8, 11, bidirectional=bidirectional))[np.clip(distances, -11, 11) + 11]
    expected = np.transpose(table[buckets], [2, 0, 1])[None]
    upstream = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        bias = layer(num_queries=queries, num_keys=keys, first_query=first)
    np.testing.assert_array_equal(bias, expected)
    gradient = np.zeros([8, 3], np.float32)
    np.add.at(gradient, buckets, np.transpose(upstream[0], [1, 2, 0]))
    found = tape.gradient(bias, layer.embeddings.value, output_gradients=tf.constant(upstream))
    np.testing.assert_allclose(tf.convert_to_tensor(found), gradient, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_a_config_is_refused_where_the_layer_would_refuse(causal):
    """The config checks without TensorFlow, so the rule stands there too."""
    for buckets in range(2, 41):
        for distance in range(1, 42):
            sizes = {"relative_num_buckets": buckets, "relative_max_distance": distance}
            section = types.SimpleNamespace(positions="relative", **sizes)
            sides = (True, False) if causal else (True,)  # an encoder-decoder has one of each
            refused = any(bucket_problem(buckets, distance, bidirectional=side) for side in sides)
            assert refused == bool(list(relative_problems(section, "model", causal=causal))), sizes
