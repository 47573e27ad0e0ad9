"""Vectors of segments are those of rows that hold one segment each."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.pooling import ROW_POOLINGS, first_token, mean_pool, segment_vectors

LENGTHS = [[3, 1, 4], [8], []]
T, S, D = 10, 4, 5


def packed(padding="right", seed=0):
    """Rows of segments, NaN in padding, and each segment's states by row and place."""
    rng = np.random.default_rng(seed)
    states, ids = np.full([len(LENGTHS), T, D], np.nan, np.float32), np.zeros([len(LENGTHS), T], np.int32)
    alone = {}
    for row, lengths in enumerate(LENGTHS):
        start = T - sum(lengths) if padding == "left" else 0
        for segment, length in enumerate(lengths):
            states[row, start : start + length] = own = rng.normal(size=[length, D])
            ids[row, start : start + length] = segment + 1
            alone[row, segment] = np.float32(own)
            start += length
    return states, ids, alone


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("pooling", ROW_POOLINGS)
def test_each_segment_has_the_vector_it_has_alone(pooling, padding, jit_compile):
    states, ids, alone = packed(padding)
    pool = tf.function(segment_vectors, jit_compile=jit_compile, autograph=False)
    vectors = pool(tf.constant(states), tf.constant(ids), S, pooling)
    assert vectors.shape == (len(LENGTHS), S, D)
    expected = {"first": lambda x: x[0], "last": lambda x: x[-1], "mean": lambda x: x.mean(0)}[pooling]
    for row in range(len(LENGTHS)):
        for segment in range(S):
            own = alone.get((row, segment))
            value = np.zeros(D) if own is None else expected(own)
            np.testing.assert_allclose(vectors[row, segment], value, atol=1e-6)


def test_one_segment_is_pooled_as_rows_are():
    states, ids, _ = packed()
    states, real = tf.constant(np.nan_to_num(states)), ids > 0
    ones = tf.constant(real.astype(np.int32))
    np.testing.assert_allclose(
        segment_vectors(states, ones, 1, "mean")[:, 0], mean_pool(states, tf.constant(real)), atol=1e-6
    )
    first = first_token(states[:2], tf.constant(real[:2]))
    np.testing.assert_array_equal(segment_vectors(states[:2], ones[:2], 1, "first")[:, 0], first)


def test_gradients_reach_only_the_segment():
    states, ids, _ = packed()
    states = tf.constant(np.nan_to_num(states))
    for pooling in ROW_POOLINGS:
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = tf.reduce_sum(segment_vectors(states, tf.constant(ids), S, pooling)[0, 2])
        by = tf.convert_to_tensor(tape.gradient(loss, states)).numpy()
        touched = np.abs(by).sum(-1) > 0
        assert touched.any() and not touched[ids != 3].any()


def test_half_types_are_summed_in_float32():
    states = tf.cast(tf.fill([1, 4096, 1], 1.001), tf.float16)
    mean = segment_vectors(states, tf.ones([1, 4096], tf.int32), 1, "mean")
    assert mean.dtype == tf.float16 and float(mean[0, 0, 0]) == float(states[0, 0, 0])


def test_another_pooling_is_named():
    with pytest.raises(ValueError, match="pooling='max' is not known; use first, mean, last"):
        segment_vectors(tf.zeros([1, 2, 3]), tf.ones([1, 2], tf.int32), 1, "max")
