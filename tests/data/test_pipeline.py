import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data.fakes import ByteTokenizer, ListSource, words, write_store
from tfllm.data import DataError, pipeline, positions_from_segments, prepare_rows, reading
from tfllm.data.bucketing import checked_buckets, default_buckets
from tfllm.data.pipeline import evaluation_batches, training_batches


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("packed"), num_rows=23, seq_len=12)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return prepare_rows(
        source=ListSource(words(60)),
        tokenizer=ByteTokenizer(),
        seq_len=100,
        packing=False,
        cache_dir=tmp_path_factory.mktemp("unpacked"),
    )


def batches(dataset, number=None):
    return list(itertools.islice(dataset.as_numpy_iterator(), number))


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_batch_holds_its_rows(store):
    dataset = training_batches(store, global_batch_size=8, seed=3, num_steps=2)
    shapes = {name: (tuple(spec.shape), spec.dtype) for name, spec in dataset.element_spec.items()}
    long, short = (8, 12), (8,)
    assert shapes == {
        "token_ids": (long, tf.int32),
        "targets": (long, tf.int32),
        "segment_ids": (long, tf.int32),
        "positions": (long, tf.int32),
        "loss_weights": (long, tf.float32),
        "row_ids": (short, tf.int64),
        "source_ids": (short, tf.int32),
        "row_seeds": (short, tf.int32),
    }
    for batch in batches(dataset):
        for name, expected in store.read(batch["row_ids"]).items():
            np.testing.assert_array_equal(batch[name], expected)
        np.testing.assert_array_equal(batch["positions"], positions_from_segments(batch["segment_ids"]))
        np.testing.assert_array_equal(batch["loss_weights"], batch["segment_ids"] > 0)


def test_starting_at_a_step_gives_the_tail(store):
    whole = batches(training_batches(store, global_batch_size=5, seed=1, num_steps=14))
    assert len(whole) == 14
    for start in (0, 1, 4, 5, 9, 13, 14):
        tail = training_batches(store, global_batch_size=5, seed=1, start_step=start, num_steps=14)
        assert_equal(batches(tail), whole[start:])
    endless = training_batches(store, global_batch_size=5, seed=1, start_step=10**12)
    assert_equal(batches(endless, 2), batches(endless, 2))


def test_the_number_of_steps_and_the_batch_size_do_not_change_the_order(store):
    five = batches(training_batches(store, global_batch_size=5, seed=1), 8)
    eight = batches(training_batches(store, global_batch_size=8, seed=1), 5)
    for name in five[0]:
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for batch in five]), np.concatenate([batch[name] for batch in eight])
        )


@pytest.mark.parametrize("num_rows", [1, 2, 3, 23, 64, 65])
def test_each_epoch_is_a_permutation(tmp_path, num_rows):
    store = write_store(tmp_path, num_rows=num_rows, seq_len=2)
    rows = batches(training_batches(store, global_batch_size=num_rows, seed=9), 6)
    epochs = [tuple(batch["row_ids"]) for batch in rows]
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    if num_rows >= 23:
        assert len(set(epochs)) == 6 and tuple(range(num_rows)) not in epochs


def test_seeds_change_what_they_name(store):
    def first(**settings):
        return batches(training_batches(store, global_batch_size=20, **settings), 1)[0]

    one, other, rows_only = first(seed=1), first(seed=2), first(seed=1, row_seed=2)
    assert list(one["row_ids"]) != list(other["row_ids"])
    assert list(one["row_ids"]) == list(rows_only["row_ids"])
    assert not set(one["row_seeds"]) & set(other["row_seeds"])
    assert list(rows_only["row_seeds"]) == list(other["row_seeds"])
    assert first(seed=-1)["row_ids"].shape == first(seed=2**40)["row_ids"].shape == (20,)


def test_row_seeds_do_not_repeat_and_are_a_fixed_function():
    numbers = tf.concat([tf.range(20000, dtype=tf.int64), tf.range(20000, dtype=tf.int64) + 2**33], axis=0)
    seeds = pipeline.row_seeds(numbers, seed=5).numpy()
    assert len(set(seeds[:20000])) == len(set(seeds[20000:])) == 20000
    assert abs((seeds > 0).mean() - 0.5) < 0.02

    def hash32(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    expected = [hash32(7 ^ hash32(high ^ hash32(5))) for high in (0, 2)]
    np.testing.assert_array_equal(seeds[[7, 20007]].view(np.uint32), expected)


def test_batches_are_trimmed_to_buckets(unpacked):
    lengths = set()
    for batch in batches(training_batches(unpacked, global_batch_size=4, seed=0, num_steps=30)):
        length = batch["token_ids"].shape[1]
        longest = (batch["segment_ids"] > 0).sum(axis=1).max()
        assert length == min(bucket for bucket in default_buckets(100) if bucket >= longest)
        full = unpacked.read(batch["row_ids"])
        np.testing.assert_array_equal(batch["targets"], full["targets"][:, :length])
        assert batch["loss_weights"].sum() == (full["segment_ids"] > 0).sum()
        lengths.add(length)
    assert len(lengths) > 1
    whole = training_batches(unpacked, global_batch_size=4, seed=0, num_steps=3, buckets=[])
    assert whole.element_spec["token_ids"].shape == (4, 100)


def test_buckets_are_checked(store):
    assert default_buckets(256) == (32, 64, 128, 256) and default_buckets(100) == (32, 64, 100)
    assert default_buckets(20) == (20,)
    assert checked_buckets([8, 4, 8], 12) == (4, 8, 12)
    with pytest.raises(DataError, match=r"buckets=.*seq_len=12, but 13"):
        training_batches(store, global_batch_size=4, seed=0, buckets=[13])


@pytest.mark.parametrize("batch_size", [1, 4, 23, 40])
@pytest.mark.parametrize("buckets", [None, [6]])
def test_evaluation_takes_each_row_once(store, batch_size, buckets):
    dataset = evaluation_batches(store, batch_size=batch_size, buckets=buckets)
    found = batches(dataset)
    assert all(batch["token_ids"].shape == (batch_size, 12) for batch in found)
    row_ids = np.concatenate([batch["row_ids"] for batch in found])
    assert (
        list(row_ids[row_ids >= 0]) == list(range(23)) and len(row_ids) == -(-23 // batch_size) * batch_size
    )
    assert dataset.cardinality() == len(found)
    for name, expected in store.read(range(23)).items():
        everything = np.concatenate([batch[name] for batch in found])
        np.testing.assert_array_equal(everything[:23], expected)
        assert (everything[23:] == {"segment_ids": 0}.get(name, 258)).all()
    assert sum(batch["loss_weights"][batch["row_ids"] < 0].sum() for batch in found) == 0
    assert (
        sum(batch["loss_weights"].sum() for batch in found)
        == (store.read(range(23))["segment_ids"] > 0).sum()
    )


def test_evaluation_of_unpacked_rows_is_trimmed_and_whole(unpacked):
    found = batches(evaluation_batches(unpacked, batch_size=7))
    assert {batch["token_ids"].shape[1] for batch in found} <= set(default_buckets(100))
    assert sum(batch["loss_weights"].sum() for batch in found) == unpacked.num_tokens
    some = batches(evaluation_batches(unpacked, batch_size=7, num_rows=10))
    assert [row for batch in some for row in batch["row_ids"]] == [*range(10), *[-1] * 4]


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_rows_are_read_as_they_were_written(tmp_path, dtype):
    store = write_store(tmp_path, num_rows=300, seq_len=64, dtype=dtype)
    row_ids = np.random.default_rng(1).integers(0, 300, 50)
    read = tf.function(lambda ids: reading.read_rows(store, tf.zeros_like(ids), ids))
    for name, expected in store.read(row_ids).items():
        np.testing.assert_array_equal(read(tf.constant(row_ids))[name], expected)


def test_positions_in_the_graph_are_those_of_numpy():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(1, 6, [50, 17]), axis=1)
    segments[rng.random([50, 17]).cumsum(axis=1) > 6] = 0
    segments[0] = 0
    expected = positions_from_segments(segments)
    segments = segments.astype(np.int32)
    np.testing.assert_array_equal(pipeline.positions_from_segments(tf.constant(segments)), expected)
    mapped = tf.data.Dataset.from_tensors(segments).map(pipeline.positions_from_segments)
    np.testing.assert_array_equal(next(iter(mapped)), expected)


def merged(elements, num_shares):
    """The shares of each step, put together again."""
    steps = [elements[i : i + num_shares] for i in range(0, len(elements), num_shares)]
    return [{name: np.concatenate([share[name] for share in step]) for name in step[0]} for step in steps]


@pytest.mark.parametrize("num_shares", [2, 3, 6])
@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_the_shares_of_a_step_are_its_batch(store, unpacked, kind, num_shares):
    rows = store if kind == "packed" else unpacked
    settings = {"global_batch_size": 6, "seed": 4, "num_steps": 12, "row_seed": 8}
    whole = batches(training_batches(rows, **settings))
    every = batches(training_batches(rows, num_shares=num_shares, **settings))
    assert all(len(element["row_ids"]) == 6 // num_shares for element in every)
    assert_equal(merged(every, num_shares), whole)  # trimmed alike too, or it would not even concatenate
    if kind == "unpacked":
        assert len({element["token_ids"].shape[1] for element in every}) > 1

    def worker(**given):
        return batches(training_batches(rows, num_shares=num_shares, **given, **settings))

    alone = [worker(shares=range(share, share + 1)) for share in range(num_shares)]
    assert_equal([element for step in zip(*alone, strict=True) for element in step], every)
    last = worker(shares=range(num_shares - 2, num_shares), start_step=7)
    assert_equal(last, [element for step in zip(*alone[-2:], strict=True) for element in step][14:])


def test_the_shapes_of_shares_are_known(store):
    spec = training_batches(store, global_batch_size=8, seed=0, num_shares=4).element_spec
    assert spec["token_ids"].shape == (2, 12) and spec["row_seeds"].shape == (2,)
    endless = training_batches(store, global_batch_size=8, seed=0, num_shares=4, start_step=10**12)
    assert len(batches(endless, 9)) == 9


@pytest.mark.parametrize("batch_size", [4, 24, 40])
@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_the_shares_of_an_evaluation_end_together(store, unpacked, kind, batch_size):
    rows = store if kind == "packed" else unpacked
    whole = batches(evaluation_batches(rows, batch_size=batch_size))
    every = batches(evaluation_batches(rows, batch_size=batch_size, num_shares=4))
    assert_equal(merged(every, 4), whole)
    for share in range(4):
        own = evaluation_batches(rows, batch_size=batch_size, num_shares=4, shares=range(share, share + 1))
        assert own.cardinality() == len(whole)
        assert_equal(batches(own), every[share::4])


def test_shares_are_checked(store):
    with pytest.raises(DataError, match=r"training\.global_batch_size=8 .*num_shares=3; try 6 or 9"):
        training_batches(store, global_batch_size=8, seed=0, num_shares=3)
    with pytest.raises(DataError, match=r"batch_size=2 must be divisible by num_shares=3; try 3$"):
        evaluation_batches(store, batch_size=2, num_shares=3)
    for shares in (range(2, 5), range(-1, 1), range(1, 1)):
        with pytest.raises(DataError, match=r"shares=range.*some of range\(0, 4\)"):
            training_batches(store, global_batch_size=8, seed=0, num_shares=4, shares=shares)


def test_sizes_are_checked(store):
    with pytest.raises(DataError, match="global_batch_size=0"):
        training_batches(store, global_batch_size=0, seed=0)
    with pytest.raises(DataError, match="batch_size=0"):
        evaluation_batches(store, batch_size=0)
    with pytest.raises(DataError, match="start_step=5"):
        training_batches(store, global_batch_size=1, seed=0, start_step=5, num_steps=4)
