import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers import kv_cache

B, H = 2, 4
RNG = np.random.default_rng(0)


def test_a_cache_starts_with_the_prompt_and_zeros():
    keys, values = RNG.normal(size=[2, B, 3, 2, H]).astype(np.float32)
    cached = kv_cache.from_prefill(tf.constant(keys), tf.constant(values), 5)
    for ours, theirs in zip(cached, (keys, values), strict=True):
        assert ours.shape == (B, 2, 5, H)
        np.testing.assert_array_equal(ours[:, :, :3], theirs.transpose(0, 2, 1, 3))
        np.testing.assert_array_equal(ours[:, :, 3:], 0)


@pytest.mark.parametrize("slot", [0, 2, 4])
def test_a_write_replaces_one_slot_only(slot):
    old = tuple(tf.constant(x) for x in RNG.normal(size=[2, B, 2, 5, H]).astype(np.float32))
    new = RNG.normal(size=[2, B, 1, 2, H]).astype(np.float32)
    written = kv_cache.write(old, tf.constant(new[0]), tf.constant(new[1]), tf.constant(slot))
    for before, after, token in zip(old, written, new, strict=True):
        expected = before.numpy()
        expected[:, :, slot] = token[:, 0]
        np.testing.assert_array_equal(after, expected)


def test_loose_shapes_leave_rows_and_slots_open():
    pair = (tf.zeros([2, 3, 5, 4]),) * 2
    cache = ((kv_cache.BlockCache(pair), kv_cache.BlockCache(pair, pair)), tf.zeros([2, 7], tf.bool))
    shapes = kv_cache.loose_shapes(cache)
    assert shapes[0][0].own[0].as_list() == [None, 3, None, 4] and shapes[0][0].memory == ()
    assert shapes[0][1].memory[1].as_list() == [None, 3, None, 4]
    assert shapes[1].as_list() == [None, None]
