import numpy as np
import tensorflow as tf

from tfllm.layers.positions.learned import LearnedPositions
from tfllm.layers.positions.rotary import rotary_angles, rotate

RNG = np.random.default_rng(0)


def turned(x, positions, theta=100.0):
    return rotate(x, rotary_angles(tf.constant(positions), x.shape[-1], theta)).numpy()


def test_rotation_is_complex_multiplication():
    x = RNG.normal(size=[2, 5, 3, 8]).astype(np.float32)
    positions = RNG.integers(0, 50, [2, 5]).astype(np.int32)
    frequencies = 100.0 ** (-np.arange(0, 8, 2) / 8)
    turn = np.exp(1j * positions[..., None, None] * frequencies)
    pairs = (x[..., :4] + 1j * x[..., 4:]) * turn
    np.testing.assert_allclose(turned(x, positions), np.concatenate([pairs.real, pairs.imag], -1), atol=1e-5)


def test_scores_depend_on_the_distance_only():
    query, key = RNG.normal(size=[2, 1, 1, 1, 16]).astype(np.float32)

    def score(query_position, key_position):
        return float(np.sum(turned(query, [[query_position]]) * turned(key, [[key_position]])))

    for distance in (0, 1, 7):
        scores = [score(start + distance, start) for start in (0, 3, 100)]
        np.testing.assert_allclose(scores, scores[0], atol=1e-4)
    assert abs(score(5, 0) - score(0, 0)) > 1e-2


def test_position_zero_does_not_turn_and_lengths_are_kept():
    x = RNG.normal(size=[1, 4, 2, 8]).astype(np.float32)
    result = turned(x, [[0, 1, 2, 1000]])
    np.testing.assert_array_equal(result[:, 0], x[:, 0])
    np.testing.assert_allclose(np.linalg.norm(result, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_rotation_computes_in_float32():
    x = tf.cast(RNG.normal(size=[1, 3, 2, 8]), tf.bfloat16)
    result = rotate(x, rotary_angles(tf.constant([[0, 5, 900]]), 8, 1e4))
    whole = rotate(tf.cast(x, tf.float32), rotary_angles(tf.constant([[0, 5, 900]]), 8, 1e4))
    np.testing.assert_array_equal(result, tf.cast(whole, tf.bfloat16))


def test_the_part_behind_rotary_dim_stays():
    x = RNG.normal(size=[1, 5, 2, 8]).astype(np.float32)
    result = rotate(x, rotary_angles(tf.range(5)[None], 4, 100.0)).numpy()
    np.testing.assert_array_equal(result[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(result[..., :4], turned(x[..., :4], [[0, 1, 2, 3, 4]]))


def test_learned_positions_are_rows_of_their_table():
    layer = LearnedPositions(max_seq_len=7, hidden_dim=4, initializer_range=1.0)
    positions = np.array([[0, 6, 3]], np.int32)
    np.testing.assert_array_equal(layer(positions), layer.embeddings.numpy()[positions])


def test_an_offset_leaves_the_first_rows_of_the_table_out():
    layer = LearnedPositions(max_seq_len=4, hidden_dim=3, offset=2)
    layer.build((None, None))
    assert layer.embeddings.shape == (6, 3)
    np.testing.assert_array_equal(layer(tf.constant([[0, 3]]))[0], layer.embeddings.numpy()[[2, 5]])
