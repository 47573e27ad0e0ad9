import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers import stateless_random
from tfllm.layers.dropout import Dropout

ROWS, SIZE = 256, 1024


@pytest.fixture(scope="module")
def numbers():
    """Rows whose seeds are neighbours, the hardest case for a hash."""
    return stateless_random.uniform(tf.range(ROWS), SIZE).numpy()


def test_numbers_are_multiples_in_the_half_open_interval(numbers):
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_array_equal(numbers * 2**24, np.floor(numbers * 2**24))


def test_mean_and_variance_are_those_of_the_uniform_distribution(numbers):
    count = numbers.size
    assert abs(numbers.mean() - 0.5) < 5 * np.sqrt(1 / 12 / count)
    assert abs(numbers.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / count)
    # Each row and each column by itself too: 256 or 1024 means, each within 5 deviations.
    for axis, size in ((1, SIZE), (0, ROWS)):
        assert np.abs(numbers.mean(axis) - 0.5).max() < 5 * np.sqrt(1 / 12 / size)


def test_buckets_are_filled_evenly(numbers):
    counts = np.bincount((numbers * 1000).astype(int).ravel(), minlength=1000)
    expected = numbers.size / 1000
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 999 degrees of freedom: mean 999, deviation 44.7. Far too even would be wrong as well.
    assert abs(chi_square - 999) < 5 * 44.7


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_neighbouring_seeds_and_counters_do_not_correlate(numbers):
    limit = 5 / np.sqrt(numbers.size)
    for lag in (1, 2, 3, 16, 128):
        assert abs(correlation(numbers[:-lag], numbers[lag:])) < limit, f"seeds {lag} apart"
        assert abs(correlation(numbers[:, :-lag], numbers[:, lag:])) < limit, f"counters {lag} apart"
        assert abs(correlation(numbers[:-lag, :-lag], numbers[lag:, lag:])) < limit, f"diagonals {lag} apart"
    # Row against row, over all pairs.
    pairs = np.corrcoef(numbers) - np.eye(ROWS)
    assert np.abs(pairs).max() < 6 / np.sqrt(SIZE)


def test_pairs_fill_the_square_evenly(numbers):
    cells = (numbers * 16).astype(int)
    for first, second in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])):
        counts = np.bincount((first * 16 + second).ravel(), minlength=256)
        expected = first.size / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * np.sqrt(2 * 255)


def test_a_row_is_the_same_alone_compiled_and_longer(numbers):
    np.testing.assert_array_equal(stateless_random.uniform(tf.constant([7]), SIZE)[0], numbers[7])
    np.testing.assert_array_equal(stateless_random.uniform(tf.constant([7]), 10)[0], numbers[7, :10])
    compiled = tf.function(stateless_random.uniform, jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(tf.range(ROWS), SIZE), numbers)


def test_fold_in_is_pinned():
    """Runs repeat across releases only while these numbers stay."""
    folded = stateless_random.fold_in(tf.constant([0, 1, -1]), tf.constant([0, 7, 7]))
    np.testing.assert_array_equal(folded, _reference([0, 1, 2**32 - 1], [0, 7, 7]))


def _reference(seeds, data):
    def mix(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) % 2**32
        return x ^ (x >> 16)

    return [mix(mix(s) ^ (d * 0x9E3779B9 % 2**32)) for s, d in zip(seeds, data, strict=True)]


def test_fold_in_tells_seeds_and_purposes_apart():
    seeds = tf.range(200)[:, None]
    folded = stateless_random.fold_in(seeds, tf.range(200)[None, :]).numpy()
    assert len(np.unique(folded)) == folded.size


# Dropout


def mask_of(layer, seeds, shape=(20, 30)):
    return layer(tf.ones([len(seeds), *shape]), tf.constant(seeds)).numpy()


@pytest.fixture(scope="module")
def dropout():
    layer = Dropout(rate=0.3, name="one")
    layer(tf.ones([1, 2, 3]), tf.constant([1]))
    return layer


def test_rate_and_expectation_of_dropout(dropout):
    dropped = mask_of(dropout, list(range(200)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    deviation = np.sqrt(0.3 * 0.7 / dropped.size)
    assert abs((dropped == 0).mean() - 0.3) < 5 * deviation
    assert abs(dropped.mean() - 1) < 5 * deviation / 0.7


def test_a_mask_belongs_to_its_row(dropout):
    whole = mask_of(dropout, [5, 6, 7, 8])
    np.testing.assert_array_equal(np.concatenate([mask_of(dropout, [5]), mask_of(dropout, [6, 7, 8])]), whole)
    np.testing.assert_array_equal(mask_of(dropout, [8, 5]), whole[[3, 0]])


def test_a_mask_does_not_depend_on_how_far_a_row_is_padded(dropout):
    np.testing.assert_array_equal(mask_of(dropout, [5], (12, 30)), mask_of(dropout, [5])[:, :12])


def test_other_rows_and_layers_have_other_masks(dropout):
    other = Dropout(rate=0.3, name="two")
    masks = [mask_of(dropout, [5])[0], mask_of(dropout, [6])[0], mask_of(other, [5])[0]]
    for index, mask in enumerate(masks):
        for later in masks[index + 1 :]:
            agree = ((mask == 0) == (later == 0)).mean()
            assert abs(agree - (0.3**2 + 0.7**2)) < 0.1


def test_nothing_is_dropped_without_seeds_or_rate(dropout):
    x = tf.random.stateless_normal([2, 3, 4], [0, 1])
    assert dropout(x) is x
    np.testing.assert_array_equal(Dropout(rate=0.0)(x, tf.constant([1, 2])), x)
