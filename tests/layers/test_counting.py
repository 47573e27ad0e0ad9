import numpy as np
import tensorflow as tf

from tfllm.data import positions_from_segments
from tfllm.layers.positions.counting import counted_positions, positions_of

IDS = tf.ones([3, 7], tf.int32)


def test_without_anything_they_are_places():
    np.testing.assert_array_equal(counted_positions(IDS), np.tile(np.arange(7), [3, 1]))


def test_padding_does_not_count():
    mask = tf.constant(np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1] * 7], bool))
    expected = [[0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 2, 2, 2, 2], [0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(counted_positions(IDS, mask), expected)


def test_each_segment_begins_anew_as_rows_are_packed():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(1, 5, [40, 37])).astype(np.int32)
    packed = positions_from_segments(segments)
    ids = tf.ones([40, 37], tf.int32)
    np.testing.assert_array_equal(counted_positions(ids, None, tf.constant(segments)), packed)
    spec = tf.TensorSpec([None, None], tf.int32)
    of_any_length = tf.function(
        lambda ids, segments: counted_positions(ids, None, segments),
        input_signature=[spec, spec],
        autograph=False,
    )
    np.testing.assert_array_equal(of_any_length(ids, tf.constant(segments)), packed)


def test_what_is_given_is_taken():
    given = tf.constant([[4, 5]])
    features = {"decoder_token_ids": IDS[:1, :2], "decoder_positions": given, "token_ids": IDS}
    assert positions_of(features, "decoder_") is given
    np.testing.assert_array_equal(positions_of({**features, "segment_ids": IDS * 2})[0], np.arange(7))
