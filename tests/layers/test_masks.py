import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.masks import BidirectionalMask, CausalMask, causal_mask


def test_masks_allow_the_past_of_the_own_segment_that_is_not_padding():
    padding = np.array([[False, True, True, True], [True, True, True, False]])
    segments = np.array([[1, 1, 2, 2], [1, 2, 2, 2]])
    mask = causal_mask(4, padding_mask=tf.constant(padding), segment_ids=tf.constant(segments)).numpy()
    for b, t, s in np.ndindex(2, 4, 4):
        assert mask[b, t, s] == (s <= t and padding[b, s] and segments[b, t] == segments[b, s])
    np.testing.assert_array_equal(causal_mask(4)[0], np.tril(np.ones([4, 4], bool)))


def test_masks_of_both_directions_allow_the_own_segment_that_is_not_padding():
    padding = np.array([[False, True, True, True], [True, True, True, False]])
    segments = np.array([[1, 1, 2, 2], [1, 2, 2, 2]])
    mask = BidirectionalMask(tf.constant(padding), tf.constant(segments)).dense(4).numpy()
    for b, t, s in np.ndindex(2, 4, 4):
        assert mask[b, t, s] == (padding[b, s] and segments[b, t] == segments[b, s])
    assert BidirectionalMask().dense(4).numpy().all()
    longer = BidirectionalMask(segment_ids=tf.constant(segments)).padded(4, 2).dense(6).numpy()
    np.testing.assert_array_equal(longer[:, :4, :4], segments[:, :, None] == segments[:, None, :])
    assert not longer[:, :, 4:].any()


@pytest.mark.parametrize("window", [1, 3, 9])
def test_a_window_hides_what_is_long_past(window):
    mask = CausalMask(window=window).dense(6)[0].numpy()
    for t, s in np.ndindex(6, 6):
        assert mask[t, s] == (t - window < s <= t)


@pytest.mark.parametrize("window", [1, 3, 9])
def test_a_window_of_both_directions_hides_what_is_far(window):
    mask = BidirectionalMask(window=window).dense(6)[0].numpy()
    for t, s in np.ndindex(6, 6):
        assert mask[t, s] == (abs(t - s) < window)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 5, 20])
@pytest.mark.parametrize("kind", [CausalMask, BidirectionalMask])
def test_the_ranges_hold_all_that_is_seen_and_no_block_in_vain(kind, window):
    length, size = 12, 3
    mask, count = kind(window=window), tf.constant(length // size)
    seen = np.broadcast_to(mask.dense(length)[0].numpy(), [length, length])
    for start in range(0, length, size):
        first, last = mask.keys_of(start, start + size, length)
        columns = np.flatnonzero(seen[start : start + size].any(0))
        assert (first, last) == (columns[0], columns[-1] + 1)
        block = tf.constant(start // size)
        for ranges, side in ((mask.key_blocks_of, seen), (mask.query_blocks_of, seen.T)):
            first, last = (int(x) for x in ranges(block, size, count))
            blocks = np.unique(np.flatnonzero(side[start : start + size].any(0)) // size)
            assert (first, last) == (blocks[0], blocks[-1] + 1)
