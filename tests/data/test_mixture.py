"""Mixtures: exact proportions at every row, a pure function of the row's number, epochs for each component."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data.fakes import write_store
from tfllm.data import DataError, RowMixture, RowStore, pipeline
from tfllm.data.mixture import LONGEST_PERIOD, turns, whole_weights
from tfllm.data.pipeline import evaluation_batches, training_batches

SIZES = (23, 40, 7, 40)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    found = []
    for number, rows in enumerate(SIZES):
        store = write_store(folder / str(number), num_rows=rows, seq_len=12)
        data = np.fromfile(store.path, np.uint16) % 250 + 250 * number  # so that no two stores have one row
        data.reshape(rows, 3, 12)[:, 2] = store.read(range(rows))["segment_ids"]
        data.tofile(store.path)
        found.append(store)
    return tuple(found)


@pytest.fixture(scope="module")
def mixture(stores):
    return RowMixture(stores, (0.5, 0.3, 0.15, 0.05))


def batches(dataset, number=None):
    return list(itertools.islice(dataset.as_numpy_iterator(), number))


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


AWKWARD = [
    (0.5, 0.3, 0.15, 0.05),
    (1 / 3, 1 / 3, 1 / 3),
    (1, 1, 1, 1, 1, 1, 1),
    (0.9, 0.05, 0.05),
    (0.7, 0.3),
    (0.12345, 0.6, 0.27655),
    (3, 5, 7, 11, 13),
    (1000, 1),
    (2,),
]


@pytest.mark.parametrize("weights", AWKWARD)
def test_proportions_are_exact_at_every_row(tmp_path, weights):
    rows = RowMixture(
        tuple(RowStore(tmp_path, n + 60_000, 2, "uint16", True, 0, 1, 1, 1) for n in range(len(weights))),
        weights,
    )
    numbers = tf.range(100_000, dtype=tf.int64)
    source_ids, _ = tf.function(lambda n: pipeline.shuffled_rows(rows, n, seed=0))(numbers)
    share = np.array(weights) / np.sum(weights)
    had = np.cumsum(source_ids.numpy()[:, None] == np.arange(len(weights)), axis=0)
    due = np.arange(1, 100_001)[:, None] * share
    assert np.abs(had - due).max() < 1


def test_proportions_stay_exact_far_into_the_sequence(tmp_path):
    """Row numbers of a long run: what the components had before is the period's count times the periods."""
    rows = RowMixture(
        tuple(RowStore(tmp_path, 10, 2, "uint16", True, 0, 1, 1, 1) for _ in "abc"), (0.6, 0.3, 0.1)
    )
    start = 10**12 + 7
    source_ids, row_ids = pipeline.shuffled_rows(rows, tf.range(start, start + 100, dtype=tf.int64), seed=0)
    early = pipeline.shuffled_rows(rows, tf.range(7, 107, dtype=tf.int64), seed=0)[0]
    np.testing.assert_array_equal(source_ids, early)
    for number in range(3):
        own = row_ids.numpy()[source_ids.numpy() == number]
        assert set(own) <= set(range(10))


@pytest.mark.parametrize("seed", range(20))
def test_random_proportions_are_exact_over_a_period(seed):
    rng = np.random.default_rng(seed)
    counts = whole_weights(
        tuple(int(n) for n in rng.integers(1, rng.choice([4, 50, 400]), rng.integers(2, 9)))
    )
    pattern = turns(counts)
    had = np.cumsum(pattern.sources[:, None] == np.arange(len(counts)), axis=0)
    due = np.arange(1, sum(counts) + 1)[:, None] * np.array(counts) / sum(counts)
    assert np.abs(had - due).max() <= 1 - 1 / (2 * len(counts) - 2) + 1e-9  # Tijdeman's bound
    np.testing.assert_array_equal(had[-1], counts)
    np.testing.assert_array_equal(pattern.ranks, had[np.arange(len(had)), pattern.sources] - 1)


def test_each_component_is_shuffled_by_its_own_epochs(mixture):
    found = batches(training_batches(mixture, global_batch_size=20, seed=3, num_steps=60))
    source_ids = np.concatenate([batch["source_ids"] for batch in found])
    row_ids = np.concatenate([batch["row_ids"] for batch in found])
    orders = []
    for number, size in enumerate(SIZES):
        own = row_ids[source_ids == number]
        epochs = [tuple(own[i : i + size]) for i in range(0, len(own) - size + 1, size)]
        assert epochs and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs)
        orders.append(epochs[0])
    assert orders[1] != orders[3]  # of one size, yet not in one order


def test_a_batch_holds_the_rows_it_names(mixture):
    for batch in batches(training_batches(mixture, global_batch_size=16, seed=1, num_steps=5)):
        assert len(set(batch["source_ids"])) > 1 and batch["token_ids"].shape == (16, 12)
        for place, (source, row) in enumerate(zip(batch["source_ids"], batch["row_ids"], strict=True)):
            for name, expected in mixture.stores[source].read([row]).items():
                np.testing.assert_array_equal(batch[name][place], expected[0])


def test_one_component_is_the_store_alone(stores):
    alone = training_batches(stores[0], global_batch_size=5, seed=2, num_steps=12)
    mixed = training_batches(RowMixture(stores[:1], (0.3,)), global_batch_size=5, seed=2, num_steps=12)
    assert_equal(batches(alone), batches(mixed))


def test_any_step_can_be_gone_on_from(mixture):
    settings = {"global_batch_size": 6, "seed": 5, "num_steps": 40}
    whole = batches(training_batches(mixture, **settings))
    for start in (1, 7, 19, 39, 40):
        assert_equal(batches(training_batches(mixture, start_step=start, **settings)), whole[start:])


@pytest.mark.parametrize("buckets", [None, [4, 8]])
def test_the_shares_of_a_mixture_are_its_batches(mixture, buckets):
    settings = {"global_batch_size": 6, "seed": 5, "num_steps": 10, "buckets": buckets}
    whole = batches(training_batches(mixture, **settings))
    every = batches(training_batches(mixture, num_shares=3, **settings))
    together = [
        {name: np.concatenate([share[name] for share in every[i : i + 3]]) for name in every[i]}
        for i in range(0, 30, 3)
    ]
    assert_equal(together, whole)


def test_evaluation_takes_each_row_of_each_store_once(mixture):
    found = batches(evaluation_batches(mixture, batch_size=16, num_shares=2))
    pairs = [pair for batch in found for pair in zip(batch["source_ids"], batch["row_ids"], strict=True)]
    expected = [(number, row) for number, size in enumerate(SIZES) for row in range(size)]
    assert pairs[: len(expected)] == expected
    assert set(pairs[len(expected) :]) == {(-1, -1)} and len(found) == 2 * -(-sum(SIZES) // 16)
    weight = sum(batch["loss_weights"].sum() for batch in found)
    assert weight == sum(
        (store.read(range(size))["segment_ids"] > 0).sum()
        for store, size in zip(mixture.stores, SIZES, strict=True)
    )


def test_weights_are_ratios_as_written():
    assert whole_weights((0.5, 0.3, 0.15, 0.05)) == (10, 6, 3, 1)
    assert whole_weights((1 / 3,) * 3) == (1, 1, 1)
    assert whole_weights((70, 30)) == whole_weights((0.7, 0.3)) == (7, 3)
    rounded = whole_weights((np.pi, np.e, 1e-3))
    assert sum(rounded) == LONGEST_PERIOD
    np.testing.assert_allclose(rounded[0] / rounded[1], np.pi / np.e, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.0), r"weight=0\.0 must be a positive"),
        ((0.5, -1.0), r"weight=-1\.0 must be a positive"),
        ((0.5, float("nan")), r"weight=nan must be a positive"),
        ((1.0, 1e-7), r"weight=1e-07 is less than a part in 100,000"),
        ((0.5,), "2 sources has 1 weights"),
    ],
)
def test_bad_weights_are_named(stores, weights, message):
    with pytest.raises(DataError, match=message):
        RowMixture(stores[:2], weights)


def test_stores_that_do_not_go_together_are_refused(stores, tmp_path):
    other = write_store(tmp_path, num_rows=4, seq_len=8)
    with pytest.raises(DataError, match="one seq_len, packing and tokenizer"):
        RowMixture((stores[0], other), (1, 1))


def test_the_identity_is_that_of_rows_and_proportions(stores):
    assert RowMixture(stores[:2], (0.7, 0.3)).identity == RowMixture(stores[:2], (7, 3)).identity
    assert RowMixture(stores[:2], (0.7, 0.3)).identity != RowMixture(stores[:2], (0.3, 0.7)).identity
